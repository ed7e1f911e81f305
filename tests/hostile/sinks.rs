//! Group 8: names that mean something where they are shown: terminals, Markdown, JSON, CI logs.

use efq::onnx::proto::tensor_proto::DataType;

use crate::support::{Folder, Net, noise, value};

/// Names with what terminals, Markdown, HTML, shells, spreadsheets and CI logs act on.
fn names() -> Vec<String> {
    [
        "\u{1b}[2J\u{1b}[31mred",
        "\u{1b}]8;;http://x\u{7}link\u{1b}]8;;\u{7}",
        "\u{9b}31mc1",
        "a\rb\nc\u{85}d\u{2028}e\u{2029}f",
        "\u{202e}right to left\u{202c}\u{2066}\u{200b}\u{200f}\u{feff}",
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "a|b`c`*d*_e_[f](http://x)![g](http://y)",
        "# heading",
        "\n::error::annotation",
        "::set-output name=a::b",
        "%0A::error::c",
        "##[error]d",
        "##vso[task.complete]e",
        "=cmd|' /C calc'!A0",
        "$(touch owned)`touch owned`",
        "\"quoted\" \\ 'single'",
        "\u{0}\u{1}\u{7f}",
        "../../escape",
        "{\"json\": 1}",
        "",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A chain of products, each by a weight of such a name.
fn net() -> Net {
    let mut net = Net::new().input("x", DataType::Float, &["batch", "64"]);
    let mut from = "x".to_owned();
    for (at, name) in names().into_iter().filter(|name| !name.is_empty()).enumerate() {
        let to = format!("{name} out");
        net = net.floats(&name, &[64, 64], &noise(4096, at as u64)).node(
            "MatMul",
            &format!("{name} node"),
            &[&from, &name],
            &[&to],
            vec![],
        );
        from = to;
    }
    net.metadata("\u{1b}[31m", "::error::").with(|graph| {
        graph.name = Some("\u{1b}[31m::error::".into());
        graph.output.push(value(&from, DataType::Float, &["batch", "64"]));
    })
}

/// Lines that a terminal and a CI log take for text and nothing else.
fn is_plain(text: &str) {
    for line in text.lines() {
        let bad = |c: char| {
            c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        };
        assert!(!line.contains(bad), "{line:?}");
        let is_command =
            line.trim_start().starts_with("::") || line.contains("##[") || line.contains("##vso[");
        assert!(!is_command, "a command of a CI log: {line:?}");
    }
}

#[test]
fn names_are_shown_as_text() {
    let folder = Folder::new();
    net().save(&folder.join("m.onnx"));
    let runs: [&[&str]; 6] = [
        &["inspect", "m.onnx"],
        &["inspect", "m.onnx", "-p", "high_compression", "--verbose"],
        &[
            "rewrite",
            "m.onnx",
            "-p",
            "high_compression",
            "-o",
            "out.onnx",
            "--report",
            "r.md",
            "--report",
            "r.json",
        ],
        &["rewrite", "m.onnx", "-p", "high_compression", "--dry-run", "--verbose", "--plan", "p.json"],
        &["rewrite", "m.onnx", "-p", "high_compression", "-o", "o", "--keep", "\u{1b}[31mnothing"],
        &["validate", "m.onnx", "out.onnx", "-p", "high_compression", "--verbose"],
    ];
    for args in runs {
        let run = folder.efq(args);
        assert!(run.code.is_some_and(|code| code <= 2), "{run:?}");
        is_plain(&run.out);
        is_plain(&run.err);
    }
    assert!(!folder.join("owned").exists());
    let markdown = String::from_utf8(folder.read("r.md")).unwrap();
    is_plain(&markdown);
    let mut width = None;
    for line in markdown.lines() {
        // What is not behind a backslash acts: no tag, no emphasis, no code, no cell too many.
        let mut acting = String::new();
        let mut escaped = false;
        for c in line.chars() {
            if !escaped && c != '\\' {
                acting.push(c);
            }
            escaped = !escaped && c == '\\';
        }
        assert!(
            !acting.contains("<script") && !acting.contains("<img") && !acting.contains("](http"),
            "{line}"
        );
        width =
            if line.starts_with('|') { Some(acting.matches('|').count()) } else { None }.inspect(|cells| {
                assert!(width.is_none_or(|width| width == *cells), "{line}");
            });
    }
}

/// JSON keeps every name as it is.
#[test]
fn json_gives_names_back() {
    let folder = Folder::new();
    net().save(&folder.join("m.onnx"));
    for args in [
        &["inspect", "m.onnx", "--format", "json"][..],
        &["rewrite", "m.onnx", "-p", "high_compression", "--dry-run", "--format", "json"],
    ] {
        let run = folder.efq(args);
        assert_eq!(run.code, Some(0), "{run:?}");
        let raw = |c: char| c.is_control() && c != '\n';
        assert!(!run.out.contains(raw), "raw control characters in JSON");
        let json: serde_json::Value = serde_json::from_str(&run.out).unwrap();
        let mut found = Vec::new();
        strings(&json, &mut found);
        for name in names().iter().filter(|name| !name.is_empty()) {
            assert!(found.contains(name), "{name:?} is not in {args:?}");
        }
    }
}

fn strings(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => found.push(text.clone()),
        serde_json::Value::Array(list) => list.iter().for_each(|value| strings(value, found)),
        serde_json::Value::Object(map) => map.values().for_each(|value| strings(value, found)),
        _ => {}
    }
}
