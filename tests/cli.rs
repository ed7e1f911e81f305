//! What people and scripts read: help, lists, tables, JSON, files, exit codes.

mod support;

use std::collections::BTreeSet;

use efq::onnx::proto::tensor_proto::DataType;
use serde_json::Value;
use support::{Folder, Net, done, int, ints, noise, npy_f32, npy_i64, npz};

const WIDTH: usize = 100;

/// Standard output of a run that must end well and say nothing on standard error.
fn told(args: &[&str]) -> String {
    let run = Folder::new().efq(args);
    assert_eq!(run.err, "", "{args:?}");
    done(&run).to_owned()
}

/// Asserts on texts without what changes from build to build and from one processor to another.
fn shown(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(&regex_of(env!("CARGO_PKG_VERSION")), "VERSION");
    settings.add_filter("tract [0-9.]+", "tract VERSION");
    settings.add_filter("[0-9a-f]{64}", "DIGEST");
    settings.add_filter("blake3 [0-9a-f]{12}…", "blake3 …");
    // Figures of the runtime, whose sums are ordered by the processor.
    settings.add_filter(
        "(?m)^( (?:loss of|95 %|accuracy|relative L2|mean cosine|KL|predictions).*?)  +-?[0-9].*$",
        "${1}  FIGURES",
    );
    settings.add_filter(
        "(?m)^(\\| (?:loss of|95 %|accuracy|relative L2|mean cosine|KL|predictions)[^|]*\\|).*$",
        "${1} FIGURES |",
    );
    // Errors of weights that were fitted to what the runtime computed.
    settings.add_filter("(?m)^( onnx::MatMul_[^|]*?)  +[0-9.]+  +0[.][0-9]{4}$", "${1}  FIGURES");
    settings.add_filter("(?m)^([|] onnx::MatMul_.*?)[|] [0-9.]+ [|] 0[.][0-9]{4} [|]$", "${1}| FIGURES |");
    settings.add_filter("leaves [0-9]+ %", "leaves FIGURE %");
    settings.add_filter("(the loss of accuracy is ).*? points", "${1}FIGURE points");
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn regex_of(text: &str) -> String {
    text.replace('.', "\\.")
}

/// Tables fit a screen.
fn narrow(text: &str) {
    for line in text.lines().filter(|line| line.starts_with(' ')) {
        assert!(line.chars().count() <= WIDTH, "{line}");
    }
}

/// The fixture's files in a folder of their own.
fn fixture() -> Folder {
    let folder = Folder::new();
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    for (from, to) in [("digits_vit.onnx", "digits.onnx"), ("digits_vit.test.npz", "digits.npz")] {
        std::fs::copy(fixtures.join(from), folder.join(to)).unwrap();
    }
    folder
}

#[test]
fn help() {
    shown("help", &told(&["--help"]));
    for command in
        ["rewrite", "validate", "analyze", "explain", "pareto", "inspect", "presets", "completions"]
    {
        shown(&format!("help_{command}"), &told(&[command, "--help"]));
        // The short form tells no other options.
        let options = |text: &str| -> BTreeSet<String> {
            text.split_whitespace()
                .filter(|word| word.starts_with("--"))
                .map(|word| word.trim_end_matches([',', '.', ')', ']']).to_owned())
                .collect()
        };
        assert_eq!(options(&told(&[command, "-h"])), options(&told(&[command, "--help"])), "{command}");
    }
    assert_eq!(told(&["--version"]), format!("efq {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(told(&["-V"]), told(&["--version"]));
}

#[test]
fn presets() {
    let list = told(&["presets"]);
    narrow(&list);
    shown("presets", &list);
    let json: Value = serde_json::from_str(&told(&["presets", "--format", "json"])).unwrap();
    let names: Vec<&str> = json.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, efq::preset::builtin_names().collect::<Vec<_>>());
    for name in efq::preset::builtin_names() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("presets/{name}.yaml"));
        let json: Value =
            serde_json::from_str(&told(&["presets", "show", name, "--format", "json"])).unwrap();
        assert_eq!(json["name"], name);
        assert_eq!(told(&["presets", "show", name]), std::fs::read_to_string(file).unwrap());
    }
    // What is shown is a preset of one's own, and means the same.
    let folder = Folder::new();
    network().save(&folder.join("m.onnx"));
    folder.write("mine.yaml", told(&["presets", "show", "high_compression"]));
    let dry = |preset: &str| {
        done(&folder.efq(&["rewrite", "m.onnx", "-p", preset, "--dry-run", "--format", "json"])).to_owned()
    };
    assert_eq!(dry("mine.yaml"), dry("high_compression"));
    let json = told(&["presets", "show", "high_compression", "--format", "json"]);
    folder.write("json.yaml", json);
    assert_eq!(dry("json.yaml"), dry("high_compression"));
}

#[test]
fn completions() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = told(&["completions", shell]);
        for word in ["rewrite", "validate", "analyze", "inspect", "presets", "from-plan", "external-data"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
}

/// What clap refuses: one line that says what was expected.
#[test]
fn usage() {
    let cases: &[&str] = &[
        "rewrit m.onnx",
        "rewrite",
        "rewrite m.onnx -p high_accuracy",
        "rewrite m.onnx more.onnx -p high_accuracy -o out.onnx",
        "rewrite m.onnx -p high_accuracy -p high_accuracy -o out.onnx",
        "rewrite m.onnx -p high_accuracy -o out.onnx --block-size 48",
        "rewrite m.onnx -p high_accuracy -o out.onnx --block-size",
        "rewrite m.onnx -p high_accuracy -o out.onnx --blok-size 32",
        "rewrite m.onnx -p high_accuracy -o out.onnx --force=yes",
        "rewrite m.onnx -p high_accuracy -o out.onnx --symmetric --asymmetric",
        "rewrite m.onnx -p high_accuracy -o out.onnx --from-plan p.json --keep w",
        "rewrite m.onnx -p high_accuracy -o out.onnx --seed=-1",
        "rewrite m.onnx -p high_accuracy -o out.onnx --seed 99999999999999999999",
        "rewrite m.onnx -p high_accuracy -o out.onnx --seed -1",
        "rewrite m.onnx -p high_accuracy -o out.onnx --accuracy-target much",
        "rewrite m.onnx -p high_accuracy -o out.onnx --target-loss -1",
        "rewrite m.onnx -p high_accuracy -o out.onnx --target-bpw -1",
        "rewrite m.onnx -p high_accuracy -o out.onnx --min-cosine -0.5",
        "inspect m.onnx --threads 0",
        "inspect m.onnx --threads 30000",
        "inspect m.onnx -q -v",
        "inspect m.onnx --format yaml",
        "presets show",
        "presets shw",
        "completions tcsh",
        "completions bash --format json",
    ];
    let folder = Folder::new();
    let said: Vec<String> = cases
        .iter()
        .map(|args| {
            let run = folder.efq(&args.split_whitespace().collect::<Vec<_>>());
            assert_eq!((run.code, run.out.as_str(), run.err.lines().count()), (Some(2), "", 1), "{args}");
            format!("$ efq {args}\n{}", run.err)
        })
        .collect();
    shown("usage", &said.join("\n"));
    // Without any word, the help is the answer.
    let bare = folder.efq::<&str>(&[]);
    assert_eq!((bare.code, bare.out.as_str()), (Some(2), ""));
    assert!(bare.err.contains("Usage: efq"), "{}", bare.err);
}

/// What cannot be written is told before any work, with the option that named it.
#[test]
fn results_that_cannot_be_written_name_their_option() {
    let folder = Folder::new();
    Net::linear(256, 64).save(&folder.join("m.onnx"));
    folder.write("r.json", "something");
    let refused = |args: &str| {
        let run = folder.efq(&args.split_whitespace().collect::<Vec<_>>());
        assert!(run.code != Some(0) && run.out.is_empty(), "{run:?}");
        run.err
    };
    let taken = "r.json: exists already (--force replaces it, --report names another file)";
    for command in ["validate m.onnx m.onnx", "pareto m.onnx", "rewrite m.onnx -o out.onnx"] {
        let said = refused(&format!("{command} -p high_compression --report r.json"));
        assert!(said.contains(taken), "{said}");
    }
    let plan = refused("rewrite m.onnx -p high_compression -o out.onnx --plan r.json");
    assert!(plan.contains("--plan names another file"), "{plan}");
    if cfg!(target_os = "linux") {
        let nowhere = "efq cannot write into the folder '/proc': its file system takes no new files";
        for more in ["-o /proc/a.onnx", "-o out.onnx --report /proc/r.json"] {
            let said = refused(&format!("rewrite m.onnx -p high_compression {more}"));
            assert!(said.contains(nowhere), "{said}");
        }
    }
    assert_eq!(folder.listing().len(), 2, "something was left");
}

/// One run for each way to end, with what it says.
#[test]
fn exit_codes() {
    let folder = Folder::new();
    Net::linear(256, 64).save(&folder.join("m.onnx"));
    Net::linear(256, 64).with(|graph| graph.initializer[0].raw_data = None).save(&folder.join("broken.onnx"));
    Net::linear(256, 64)
        .with(|graph| {
            let noise = noise(256 * 64, 9).iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
            graph.initializer[0].raw_data = Some(noise.into());
        })
        .save(&folder.join("other.onnx"));
    folder.write("there.onnx", "something");
    let labels: Vec<i64> = (0..40).map(|at| at % 64).collect();
    let inputs = ("x", npy_f32(&[40, 256], &noise(40 * 256, 3)));
    folder.write("d.npz", npz(&[inputs.clone(), ("labels", npy_i64(&[40], &labels))]));
    folder.write("plain.npz", npz(&[inputs]));
    folder.write("short.npz", npz(&[("y", npy_f32(&[1, 2], &[0.0; 2]))]));
    let cases: &[(i32, &str)] = &[
        (0, "rewrite m.onnx -p high_compression -o a.onnx --validate never"),
        (0, "rewrite m.onnx -p high_compression -o b.onnx"),
        (0, "rewrite m.onnx -p high_compression -o c.onnx -q"),
        (0, "validate m.onnx m.onnx -p medical_grade --data d.npz --strict"),
        (1, "validate m.onnx other.onnx -p high_compression --data plain.npz"),
        (2, "rewrite m.onnx -p high_acuracy -o out.onnx"),
        (2, "rewrite m.onnx -p missing.yaml -o out.onnx"),
        (2, "inspect m.onnx -p high_acuracy"),
        (2, "presets show medical"),
        (2, "rewrite m.onnx -p high_accuracy -o there.onnx"),
        (2, "rewrite m.onnx -p high_accuracy -o out.onnx --keep lm_hed"),
        (2, "rewrite m.onnx -p high_accuracy -o out.onnx --accuracy-target=-1"),
        (2, "validate m.onnx m.onnx -p high_accuracy --report r.txt"),
        (3, "rewrite missing.onnx -p high_accuracy -o out.onnx"),
        (3, "inspect there.onnx"),
        (3, "rewrite broken.onnx -p high_accuracy -o out.onnx"),
        (3, "validate m.onnx m.onnx -p high_accuracy --data missing.npz"),
        (3, "validate m.onnx m.onnx -p high_accuracy --data short.npz"),
        (4, "rewrite m.onnx -p high_compression -o d.onnx --strict"),
        (4, "validate m.onnx a.onnx -p medical_grade --data d.npz --strict --accuracy-target 2"),
    ];
    let said: Vec<String> = cases
        .iter()
        .map(|(code, args)| {
            let run = folder.efq(&args.split_whitespace().collect::<Vec<_>>());
            assert_eq!(run.code, Some(*code), "{args}: {run:?}");
            assert!(run.err.lines().count() <= 1, "{args}: {}", run.err);
            let verdict = run.out.lines().find(|line| {
                ["PASSED", "FAILED", "UNDECIDED", "NOT VERIFIED"]
                    .iter()
                    .any(|outcome| line.starts_with(outcome))
            });
            format!(
                "$ efq {args}\n{}{}[{code}]\n",
                run.err,
                verdict.map_or(String::new(), |line| format!("{line}\n"))
            )
        })
        .collect();
    shown("exit_codes", &said.join("\n"));
    assert_eq!(folder.read("there.onnx"), b"something");
}

/// An encoder with every role that efq knows.
fn network() -> Net {
    let mut net = Net::new()
        .input("input_ids", DataType::Int64, &["length"])
        .input("position_ids", DataType::Int64, &["length"])
        .input("token_type_ids", DataType::Int64, &["length"])
        .output("logits", DataType::Float, &["length", "40"]);
    let sizes: &[(&str, &[usize])] = &[
        ("tokens", &[200, 64]),
        ("positions", &[20, 64]),
        ("types", &[2, 64]),
        ("norm", &[64]),
        ("shift", &[64]),
        ("query", &[64, 64]),
        ("key", &[64, 64]),
        ("value", &[64, 64]),
        ("mixed", &[64, 64]),
        ("qkv", &[64, 192]),
        ("out", &[64, 64]),
        ("out_bias", &[64]),
        ("up", &[64, 256]),
        ("down", &[256, 64]),
        ("kernel", &[64, 64, 1]),
        ("gates", &[1, 256, 64]),
        ("state", &[1, 256, 64]),
        ("experts", &[2, 64, 64]),
        ("whole", &[64, 64]),
        ("head", &[64, 40]),
        ("unused", &[64]),
    ];
    for (at, (name, dims)) in sizes.iter().enumerate() {
        net = net.floats(name, dims, &noise(dims.iter().product(), at as u64));
    }
    let linear = |net: Net, name: &str, input: &str, weight: &str, output: &str| {
        net.node("MatMul", name, &[input, weight], &[output], vec![])
    };
    net = net
        .node("Gather", "/embed/tokens", &["tokens", "input_ids"], &["e0"], vec![])
        .node("Gather", "/embed/positions", &["positions", "position_ids"], &["e1"], vec![])
        .node("Gather", "/embed/types", &["types", "token_type_ids"], &["e2"], vec![])
        .node("Add", "/embed/sum", &["e0", "e1"], &["e3"], vec![])
        .node("Add", "/embed/all", &["e3", "e2"], &["e4"], vec![])
        .node("LayerNormalization", "/norm", &["e4", "norm", "shift"], &["x"], vec![]);
    net = linear(net, "/attn/q", "x", "query", "q");
    net = linear(net, "/attn/k", "x", "key", "k");
    net = linear(net, "/attn/v", "x", "value", "v");
    net = net
        .node("Transpose", "/attn/turn", &["k"], &["kt"], vec![])
        .node("MatMul", "/attn/scores", &["q", "kt"], &["s"], vec![])
        .node("Softmax", "/attn/softmax", &["s"], &["p"], vec![])
        .node("MatMul", "/attn/mix", &["p", "v"], &["c"], vec![]);
    net = linear(net, "/attn/out", "c", "mixed", "o");
    net = net.node("Add", "/residual", &["o", "x"], &["y"], vec![]);
    net = linear(net, "/fused/qkv", "y", "qkv", "z");
    net = net
        .node("Split", "/fused/split", &["z"], &["z0", "z1", "z2"], vec![int("axis", 1)])
        .node("Transpose", "/fused/turn", &["z1"], &["zt"], vec![])
        .node("MatMul", "/fused/scores", &["z0", "zt"], &["zs"], vec![])
        .node("Softmax", "/fused/softmax", &["zs"], &["zp"], vec![])
        .node("MatMul", "/fused/mix", &["zp", "z2"], &["zc"], vec![])
        .node("Gemm", "/fused/out", &["zc", "out", "out_bias"], &["zo"], vec![])
        .node("Add", "/fused/residual", &["zo", "y"], &["w"], vec![]);
    net = linear(net, "/ff/up", "w", "up", "u");
    net = net.node("Relu", "/ff/act", &["u"], &["ua"], vec![]);
    net = linear(net, "/ff/down", "ua", "down", "d");
    net = net.node("Add", "/ff/residual", &["d", "w"], &["f"], vec![]);
    net = linear(net, "/plain", "f", "whole", "g");
    net.node("Sin", "/sin", &["g"], &["g2"], vec![])
        .node("Unsqueeze", "/image", &["g2", "one"], &["i"], vec![])
        .integers("one", &[1], &[0])
        .node("Transpose", "/image/turn", &["i"], &["it"], vec![ints("perm", &[0, 2, 1])])
        .node("Conv", "/conv", &["it", "kernel"], &["j"], vec![])
        .node("LSTM", "/lstm", &["j", "gates", "state"], &["l"], vec![int("hidden_size", 64)])
        .node("MatMul", "/experts", &["l", "experts"], &["m"], vec![])
        .node("Cos", "/cos", &["m"], &["n"], vec![])
        .node("MatMul", "/head", &["n", "head"], &["logits"], vec![])
}

#[test]
fn inspect() {
    let folder = Folder::new();
    network().save(&folder.join("m.onnx"));
    let short = folder.efq(&["inspect", "m.onnx"]);
    let long = folder.efq(&["inspect", "m.onnx", "-v", "-p", "high_compression"]);
    let text = format!(
        "$ efq inspect m.onnx\n{}\n$ efq inspect m.onnx -v -p high_compression\n{}",
        done(&short),
        done(&long)
    );
    narrow(&text);
    shown("inspect", &text);
    assert_eq!(done(&folder.efq(&["inspect", "m.onnx", "-q"])), "");
    let json: Value =
        serde_json::from_str(done(&folder.efq(&["inspect", "m.onnx", "--format", "json"]))).unwrap();
    shown("inspect_json", &keys(&json));
    let roles: BTreeSet<&str> =
        json["tensors"].as_array().unwrap().iter().map(|tensor| tensor["role"].as_str().unwrap()).collect();
    let all: BTreeSet<&str> = efq::role::Role::ALL.into_iter().map(efq::role::Role::name).collect();
    assert_eq!(roles, all);
    let shares = json["tensors"].as_array().unwrap().iter().map(|tensor| tensor["share"].as_f64().unwrap());
    assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9);
    assert_eq!(folder.listing().len(), 1, "inspect wrote");
}

#[test]
fn analyze() {
    let folder = Folder::new();
    Net::linear(256, 64).save(&folder.join("m.onnx"));
    let text = folder.efq(&["analyze", "m.onnx"]);
    narrow(done(&text));
    shown("analyze", &text.out);
    folder.write("d.npz", npz(&[("x", npy_f32(&[8, 256], &noise(2048, 3)))]));
    let json = folder.efq(&["analyze", "m.onnx", "--data", "d.npz", "--format", "json"]);
    let json: Value = serde_json::from_str(done(&json)).unwrap();
    shown("analyze_json", &keys(&json));
    assert_eq!(json["measured_at_output"], true);
    let at_output: Vec<f64> = json["tensors"][0]["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["output_error"].as_f64().unwrap())
        .collect();
    let [wide, narrow, symmetric, eight] = at_output.as_slice() else { panic!("{at_output:?}") };
    assert!(eight * 5.0 < *narrow && narrow < wide && wide < symmetric, "{at_output:?}");
    assert_eq!(folder.listing().len(), 2, "analyze wrote");
}

/// What it says of a preset is what the gate of `efq rewrite` says, and of what it measured.
#[test]
fn analyze_judges_as_the_gate_does() {
    let folder = Folder::new();
    Net::linear(256, 64)
        .floats("v", &[64, 64], &noise(4096, 12))
        .node("MatMul", "second", &["logits", "v"], &["y"], vec![])
        .with(|graph| graph.output.clear())
        .output("y", DataType::Float, &["batch", "64"])
        .save(&folder.join("m.onnx"));
    folder.write("d.npz", npz(&[("x", npy_f32(&[20, 256], &noise(5120, 3)))]));
    let analyzed = folder.efq(&["analyze", "m.onnx", "--data", "d.npz", "--algorithm", "rtn"]);
    let text = done(&analyzed);
    narrow(text);
    assert!(text.contains("scales chosen by rtn") && text.contains("every linear by rtn"), "{text}");
    let line = text.lines().find(|line| line.contains("medical_grade")).unwrap();
    assert!(line.contains(" to ") && line.trim_end().ends_with("undecided"), "{text}");
    let refused = folder.efq(&["analyze", "m.onnx", "--algorithm", "gptq"]);
    assert_eq!(refused.code, Some(2));
    let values = "--algorithm <ALGORITHM>: 'gptq' is not among its values (one of rtn, percentile, search)";
    assert!(refused.err.contains(values), "{refused:?}");
}

/// Size against loss, as table, JSON and plot, with what the samples leave open.
#[test]
fn pareto() {
    let folder = Folder::new();
    let net = Net::new()
        .input("x", DataType::Float, &["batch", "128"])
        .output("logits", DataType::Float, &["batch", "32"])
        .floats("up", &[128, 96], &noise(128 * 96, 1))
        .floats("down", &[96, 32], &noise(96 * 32, 2))
        .node("MatMul", "up", &["x", "up"], &["h"], vec![])
        .node("Tanh", "act", &["h"], &["t"], vec![])
        .node("MatMul", "down", &["t", "down"], &["logits"], vec![]);
    net.save(&folder.join("m.onnx"));
    folder.write("x.npz", npz(&[("x", npy_f32(&[40, 128], &noise(40 * 128, 3)))]));
    let fixed = "pareto m.onnx -p high_compression --head auto --data x.npz --calibration x.npz --points 4";
    let run = |more: &str| {
        let args: Vec<&str> =
            fixed.split(' ').chain(more.split(' ')).filter(|word| !word.is_empty()).collect();
        folder.efq(&args)
    };
    let text = run("--report f.svg");
    narrow(done(&text));
    let mut lines = text.out.lines();
    assert!(lines.next().unwrap().starts_with("m.onnx  61."), "{}", text.out);
    let head: Vec<&str> = lines.nth(1).unwrap().split_whitespace().collect();
    assert_eq!(head.join(" "), "size smaller relative L2 weights alone loss");
    assert!(text.out.ends_with(
        "note: 40 of 40 samples that judge are calibration samples too: the verdict is optimistic\n"
    ));
    let plot = String::from_utf8(folder.read("f.svg")).unwrap();
    let json: Value =
        serde_json::from_str(done(&run("--format json --report f.json --max-memory 1GB"))).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&folder.read("f.json")).unwrap(), json);
    let points = json["points"].as_array().unwrap();
    assert!(points.len() >= 3, "{json}");
    assert_eq!(plot.matches("<circle").count(), points.len());
    assert!(text.out.lines().filter(|line| line.contains(" x ")).count() == points.len(), "{}", text.out);
    for pair in points.windows(2) {
        let of = |at: usize, key: &str| pair[at][key].as_f64().unwrap();
        assert!(of(0, "bytes") < of(1, "bytes") && of(0, "rel_l2") > of(1, "rel_l2"), "{json}");
    }
    assert_eq!(json["real_samples"], true);
    assert_eq!(json["warnings"].as_array().unwrap().len(), 1, "{json}");
}

/// The report of a rewrite in its forms.
#[test]
fn reports() {
    let folder = fixture();
    let fixed =
        ["rewrite", "digits.onnx", "-p", "balanced_production", "--data", "digits.npz", "-o", "out.onnx"];
    let run = folder.efq(&[&fixed[..], &["--report", "r.json", "--report", "r.md"]].concat());
    narrow(done(&run));
    shown("report_text", &run.out);
    shown("report_markdown", &String::from_utf8(folder.read("r.md")).unwrap());
    let json: Value = serde_json::from_slice(&folder.read("r.json")).unwrap();
    shown("report_json", &keys(&json));
    let parsed: efq::report::Report = serde_json::from_value(json).unwrap();
    assert_eq!(parsed.fusion.fused, parsed.fusion.total);

    // The forms that standard output can have, without running the model again.
    let again = [&fixed[..], &["--force", "--validate", "never"]].concat();
    let verbose = folder.efq(&[&again[..], &["-v"]].concat());
    assert_eq!(verbose.err, "warning: not validated\n");
    narrow(done(&verbose));
    shown("report_verbose", &verbose.out);
    let quiet = folder.efq(&[&again[..], &["-q"]].concat());
    assert_eq!((quiet.code, quiet.out.as_str(), quiet.err.as_str()), (Some(0), "", ""));
    let printed = folder.efq(&[&again[..], &["--format", "json", "--report", "p.json"]].concat());
    assert_eq!(done(&printed).as_bytes(), folder.read("p.json"));
    // Not verified is an error only where that is asked for, and never in a dry run.
    let strict = folder.efq(&[&again[..], &["--strict"]].concat());
    let told = "error: not validated, and --strict asks for a verdict\n";
    assert_eq!((strict.code, strict.err.as_str()), (Some(4), told));
    let dry = folder.efq(&["rewrite", "digits.onnx", "-p", "balanced_production", "--dry-run"]);
    assert_eq!((dry.code, dry.err.as_str()), (Some(0), ""));
}

/// Names stand in JSON as they are, and nowhere else; a long one does not break a table.
#[test]
fn names() {
    let name = format!("w|`<b>\u{1b}[31m{}", "/layer".repeat(40));
    let folder = Folder::new();
    let net = Net::linear(256, 64).with(|graph| {
        graph.initializer[0].name = Some(name.clone());
        graph.node[0].input[1] = name.clone();
    });
    net.save(&folder.join("m.onnx"));
    let fixed = ["rewrite", "m.onnx", "-p", "high_compression", "-o", "out.onnx", "--validate", "never"];
    let run = folder.efq(&[&fixed[..], &["-v", "--report", "r.json", "--report", "r.md"]].concat());
    let inspected = folder.efq(&["inspect", "m.onnx"]);
    let analyzed = folder.efq(&["analyze", "m.onnx"]);
    let json: Value = serde_json::from_slice(&folder.read("r.json")).unwrap();
    assert_eq!(json["tensors"][0]["name"], name);
    let markdown = String::from_utf8(folder.read("r.md")).unwrap();
    for text in [done(&run), done(&inspected), done(&analyzed), &markdown] {
        assert!(!text.contains('\u{1b}'), "{text}");
        narrow(text);
    }
    shown("long_names", &inspected.out);
}

/// Holding two models against each other reports the same fields, whatever the verdict.
#[test]
fn validate() {
    let folder = Folder::new();
    Net::linear(256, 64).save(&folder.join("m.onnx"));
    done(&folder.efq(&[
        "rewrite",
        "m.onnx",
        "-p",
        "high_compression",
        "-o",
        "out.onnx",
        "--validate",
        "never",
    ]));
    folder.write("d.npz", npz(&[("x", npy_f32(&[8, 256], &noise(2048, 3)))]));
    let before = folder.listing();
    let run = folder.efq(&[
        "validate",
        "m.onnx",
        "out.onnx",
        "-p",
        "high_compression",
        "--data",
        "d.npz",
        "--format",
        "json",
    ]);
    assert!(matches!(run.code, Some(0 | 1)), "{run:?}");
    let report: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(
        (&report["action"], &report["validation"]["status"]),
        (&"validate".into(), &"measured".into())
    );
    assert_eq!(
        (&report["original"]["path"], &report["result"]["path"]),
        (&"m.onnx".into(), &"out.onnx".into())
    );
    assert_eq!(report["fusion"]["fused"], 1);
    assert_eq!(report["validation"]["data"]["source"], "file");
    assert!(folder.listing() == before, "validate wrote");
    let synthetic = folder.efq(&[
        "validate",
        "m.onnx",
        "out.onnx",
        "-p",
        "high_compression",
        "--seed",
        "7",
        "--format",
        "json",
    ]);
    let report: Value = serde_json::from_str(&synthetic.out).unwrap();
    assert_eq!(
        report["validation"]["data"],
        serde_json::json!({ "source": "synthetic", "seed": 7, "made": "values" })
    );
}

/// Colour is for terminals.
#[test]
fn no_colour_in_files() {
    let folder = Folder::new();
    assert!(!folder.efq(&["--help"]).out.contains('\u{1b}'));
    assert!(!folder.efq(&["rewrite"]).err.contains('\u{1b}'));
}

/// The paths of all keys of `value`, one a line.
fn keys(value: &Value) -> String {
    fn walk(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    walk(value, &format!("{path}.{key}"), found);
                }
            }
            Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
                items.iter().for_each(|item| walk(item, &format!("{path}[]"), found));
            }
            _ => {
                let kind = match value {
                    Value::Null => "null",
                    Value::Bool(_) => "true or false",
                    Value::Number(_) => "number",
                    Value::String(_) => "text",
                    _ => "list",
                };
                found.insert(format!("{path}: {kind}"));
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(value, "", &mut found);
    found.into_iter().collect::<Vec<_>>().join("\n")
}
