//! The order of the rooms: each may use those below it and nothing above.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Free to all: they know no room but one another.
const GROUND: [&str; 7] = ["error", "limits", "linalg", "panics", "role", "progress", "settings"];

/// Every room, from the lowest, and what it may use beside the ground.
const ROOMS: &[(&str, &[&str])] = &[
    ("onnx", &[]),
    ("quant", &[]),
    ("preset", &[]),
    ("opset", &["onnx"]),
    // Its own tier: it reads weights as matrices (quant), and asks for nearest names (preset).
    ("graph", &["onnx", "quant", "preset"]),
    // The geometry of an embedding table (quant reads it) tells what sequences to make up.
    ("data", &["onnx", "quant", "graph", "preset"]),
    ("engine", &["onnx", "quant", "opset", "graph", "data"]),
    ("statistics", &[]),
    ("sensitivity", &["onnx", "quant", "graph", "data", "engine"]),
    ("plan", &["onnx", "quant", "preset", "graph", "data", "engine", "sensitivity"]),
    (
        "calibrate",
        &["onnx", "quant", "preset", "graph", "data", "engine", "statistics", "sensitivity", "plan"],
    ),
    ("rewrite", &["onnx", "quant", "preset", "opset", "graph", "plan", "calibrate"]),
    ("validate", &["onnx", "quant", "graph", "data", "engine"]),
    ("report", &["onnx", "quant", "preset", "graph", "plan", "validate"]),
    (
        "pipeline",
        &[
            "onnx",
            "quant",
            "preset",
            "opset",
            "graph",
            "data",
            "engine",
            "statistics",
            "sensitivity",
            "plan",
            "calibrate",
            "rewrite",
            "validate",
            "report",
        ],
    ),
    (
        "cli",
        &[
            "onnx",
            "quant",
            "preset",
            "opset",
            "graph",
            "data",
            "engine",
            "statistics",
            "sensitivity",
            "plan",
            "calibrate",
            "rewrite",
            "validate",
            "report",
            "pipeline",
        ],
    ),
];

/// Paths that a room must not take, though the room that they lead through is open to it: a plan knows types of tensors,
/// not messages.
const CLOSED: &[(&str, &[&str])] = &[("plan", &["proto::", "prost::"])];

/// What the ground itself may use.
const GROUND_USES: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("limits", &[]),
    ("linalg", &[]),
    ("panics", &[]),
    ("role", &[]),
    ("progress", &["error"]),
    ("settings", &["error", "role", "preset", "quant"]),
];

/// Every file of a room: the room, the file, its code without comments.
fn files() -> Vec<(String, String, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut pending = vec![source.clone()];
    while let Some(folder) = pending.pop() {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
                continue;
            }
            let shown = path.strip_prefix(&source).unwrap().display().to_string();
            let room = shown.split(['/', '\\', '.']).next().unwrap().to_owned();
            if !matches!(room.as_str(), "lib" | "main") {
                found.push((room, shown, code(&std::fs::read_to_string(&path).unwrap())));
            }
        }
    }
    found
}

#[test]
fn what_is_closed_to_a_room_is_not_named_in_it() {
    for (room, closed) in CLOSED {
        for (_, file, code) in files().iter().filter(|(of, ..)| of == room) {
            assert_eq!(closed.iter().find(|path| code.contains(**path)), None, "{file}");
        }
    }
}

#[test]
fn every_room_uses_only_those_below_it() {
    let mut uses: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for (room, shown, code) in files() {
        let found = uses.entry(room).or_default();
        found.extend(mentioned(&code).into_iter().map(|used| (used, shown.clone())));
    }
    let mut wrong = Vec::new();
    for (room, found) in &uses {
        let ground = GROUND_USES.iter().find(|(name, _)| name == room);
        let allowed = ROOMS.iter().find(|(name, _)| name == room).or(ground);
        let Some((_, allowed)) = allowed else {
            wrong.push(format!("{room} has no place in the order"));
            continue;
        };
        for (used, file) in found {
            let free = ground.is_none() && GROUND.contains(&used.as_str());
            let itself = used == room;
            // `crate::Error` and its like are the error room's.
            let shared = used.starts_with(char::is_uppercase);
            if !(free || itself || shared || allowed.contains(&used.as_str())) {
                wrong.push(format!("{file} uses {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let seen: BTreeSet<&str> = uses.keys().map(String::as_str).collect();
    for (room, _) in ROOMS.iter().chain(GROUND_USES) {
        assert!(seen.contains(room), "{room} is in the table, but not in src/");
    }
}

/// The table itself must run one way: a room may only use rooms that stand above it in the table.
#[test]
fn the_table_is_an_order() {
    for (at, (room, uses)) in ROOMS.iter().enumerate() {
        for used in *uses {
            let place = ROOMS.iter().position(|(name, _)| name == used);
            assert!(place.is_some_and(|place| place < at), "{room} uses {used}");
        }
    }
}

/// `text` without comments.
fn code(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or("")).collect();
    lines.join("\n")
}

/// The first names after `crate::` in `code`.
fn mentioned(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, mark) in code.match_indices("crate::") {
        // `$crate::` and names that only end so are none of ours.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + mark.len()..];
        match rest.strip_prefix('{') {
            None => found.extend(first_name(rest)),
            Some(list) => {
                let mut depth = 0;
                let mut start = true;
                for (at, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && !c.is_whitespace() => {
                            start = false;
                            found.extend(first_name(&list[at..]));
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

fn first_name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

#[test]
fn names_are_found_in_all_forms_of_use() {
    let text =
        "use crate::{\n    a::{b, c},\n    d::e, // crate::no\n};\nuse crate::f::g;\nlet x = crate::h::I;";
    let found: Vec<String> = mentioned(&code(text)).into_iter().collect();
    assert_eq!(found, ["a", "d", "f", "h"]);
}
