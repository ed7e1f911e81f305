//! Group 10: presets, options and plans.

use efq::onnx::proto::tensor_proto::DataType;

use crate::corpus::{Corpus, REWRITE};
use crate::support::{self, Folder, Net, noise};

#[test]
fn presets_rules_and_plans() {
    let mut corpus = Corpus::default();
    let mut add = |name: &str, args: &str, file: Option<(&str, &[u8])>| {
        corpus.case(name, args, |folder| {
            Net::linear(64, 64).save(&folder.join("m.onnx"));
            if let Some((path, bytes)) = file {
                folder.write(path, bytes);
            }
        });
    };
    let with = |more: &str| format!("{REWRITE} {more}");
    let preset = "rewrite m.onnx -p p.yaml -o out.onnx";
    add("unknown preset", "rewrite m.onnx -p automotive -o out.onnx", None);
    add("unknown preset of inspect", "inspect m.onnx -p nothing", None);
    add("unknown preset to show", "presets show hi_compression", None);
    add("missing preset file", preset, None);
    add("empty preset", preset, Some(("p.yaml", b"")));
    add("binary preset", preset, Some(("p.yaml", &[0xff, 0xfe, 0, 1])));
    add("alias", preset, Some(("p.yaml", b"name: &a x\ndescription: *a\n")));
    add("unknown key", preset, Some(("p.yaml", b"name: x\nblocksize: 64\n")));
    add("NaN", preset, Some(("p.yaml", b"name: x\naccuracy_target: .nan\n")));
    add("block of 48", preset, Some(("p.yaml", b"name: x\nblock_size: 48\n")));
    add("deep YAML", preset, Some(("p.yaml", "[".repeat(100_000).as_bytes())));
    add(
        "rule that matches nothing",
        preset,
        Some(("p.yaml", b"name: x\nrules:\n  - pattern: 'W*'\n    store: int8\n")),
    );
    add("keep of nothing, near", &with("--keep produkt"), None);
    add("keep of nothing, far", &with("--keep zzzzzz"), None);
    add("keep of a role that is not there", &with("--keep attention"), None);
    add("keep of no glob", &with("--keep a["), None);
    add("tensor without a way", &with("--tensor w"), None);
    add("tensor stored as int3", &with("--tensor w=int3"), None);
    add("tensor of nothing", &with("--tensor wq=int8"), None);
    add("target of 0", &with("--accuracy-target 0"), None);
    add("target of NaN", &with("--accuracy-target NaN"), None);
    add("cosine of 2", &with("--min-cosine 2"), None);
    add("missing plan", &with("--from-plan p.json"), None);
    add("plan of text", &with("--from-plan p.json"), Some(("p.json", b"hello")));
    add("plan of bytes", &with("--from-plan p.json"), Some(("p.json", &[0xff; 8])));
    add("deep plan", &with("--from-plan p.json"), Some(("p.json", "[".repeat(100_000).as_bytes())));
    let empty = br#"{"schema":1,"efq":"0.1.0","model_blake3":"0","preset":"x","decisions":[]}"#;
    add("plan of another model", &with("--from-plan p.json"), Some(("p.json", empty)));
    add(
        "plan of a later efq",
        &with("--from-plan p.json"),
        Some(("p.json", &String::from_utf8_lossy(empty).replace(":1,", ":2,").into_bytes())),
    );
    #[cfg(unix)]
    add("endless plan", &with("--from-plan /dev/zero"), None);
    insta::assert_snapshot!(corpus.report());
}

/// A plan is a file that may be edited: what it cannot mean is refused, and never written.
#[test]
fn plans_that_were_edited() {
    let net = Net::linear(64, 64)
        .input("ids", DataType::Int64, &["batch"])
        .output("rows", DataType::Float, &["batch", "64"])
        .floats("table", &[100, 64], &noise(6400, 2))
        .node("Gather", "rows", &["table", "ids"], &["rows"], vec![])
        .output("sum", DataType::Float, &["batch", "64"])
        .floats("vector", &[64], &noise(64, 3))
        .node("Add", "sum", &["rows", "vector"], &["sum"], vec![]);
    let folder = Folder::new();
    net.save(&folder.join("m.onnx"));
    support::done(&folder.efq(&[
        "rewrite",
        "m.onnx",
        "-p",
        "high_compression",
        "--dry-run",
        "--plan",
        "p.json",
    ]));
    let plan: serde_json::Value = serde_json::from_slice(&folder.read("p.json")).unwrap();
    let mut corpus = Corpus::default();
    let mut add = |name: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let mut edited = plan.clone();
        change(&mut edited);
        assert_ne!(edited, plan, "{name} changes nothing");
        corpus.case(name, &format!("{REWRITE} --from-plan p.json"), |folder| {
            net.save(&folder.join("m.onnx"));
            folder.write("p.json", edited.to_string());
        });
    };
    let linear = plan["decisions"][0]["uses"][0]["encoding"].clone();
    let rows = plan["decisions"][1]["uses"][0]["encoding"].clone();
    add("rows for a linear", &|p| p["decisions"][0]["uses"][0]["encoding"] = rows.clone());
    add("blocks for a table", &|p| p["decisions"][1]["uses"][0]["encoding"] = linear.clone());
    add("block of 48", &|p| p["decisions"][0]["uses"][0]["encoding"]["scheme"]["block"] = 48.into());
    for block in [0, 300] {
        add(&format!("table block of {block}"), &|p| {
            p["decisions"][1]["uses"][0]["encoding"]["format"]["block"] = block.into();
        });
    }
    add("5 bits", &|p| p["decisions"][0]["uses"][0]["encoding"]["scheme"]["bits"] = 5.into());
    add("one tensor less", &|p| drop(p["decisions"].as_array_mut().unwrap().pop()));
    add("other name", &|p| p["decisions"][0]["tensor"] = "v".into());
    add("one use less", &|p| p["decisions"][0]["uses"] = serde_json::json!([]));
    add("other matrix", &|p| {
        p["decisions"][0]["uses"][0]["matrix"] = serde_json::json!([u64::MAX, u64::MAX])
    });
    add("other size", &|p| p["decisions"][0]["bytes_before"] = 1.into());
    add("block of 0 for what is stored small", &|p| {
        let stored = serde_json::json!({"int4": {"block": 0, "half_scales": true}});
        p["decisions"][2]["stored"] = stored;
    });
    add("unknown field", &|p| p["decisions"][0]["note"] = "x".into());
    add("no schema", &|p| drop(p.as_object_mut().unwrap().remove("schema")));
    insta::assert_snapshot!(corpus.report());
}

/// What YAML can do beside saying things.
#[test]
fn presets_that_do_more() {
    let mut corpus = Corpus::default();
    let mut add = |name: &str, text: &[u8]| {
        corpus.case(name, "rewrite m.onnx -p p.yaml -o out.onnx", |folder| {
            Net::linear(64, 64).save(&folder.join("m.onnx"));
            folder.write("p.yaml", text);
        });
    };
    let bomb: String =
        (1..10).map(|at| format!("a{at}: &a{at} [{}]\n", format!("*a{},", at - 1).repeat(9))).collect();
    add("aliases of aliases", format!("name: x\na0: &a0 [x]\n{bomb}").as_bytes());
    add("alias of itself", b"name: &a [*a]\n");
    add("merge key", b"name: x\n<<: {block_size: 64}\n");
    add("tag", b"name: !!python/object/apply:os.system ['true']\n");
    add("binary", b"name: !!binary aGVsbG8=\n");
    add("key twice", b"name: x\nblock_size: 64\nblock_size: 32\n");
    add("second document", b"name: x\n---\nname: y\n");
    add("a list", b"- name: x\n");
    add("nothing but a number", b"7\n");
    add("negative block", b"name: x\nblock_size: -32\n");
    add("block of 2^64", b"name: x\nblock_size: 18446744073709551616\n");
    add("target of 101 %", b"name: x\naccuracy_target: 101\n");
    add("target of infinity", b"name: x\naccuracy_target: .inf\n");
    add("target of 1e999", b"name: x\naccuracy_target: 1e999\n");
    add("target below 0", b"name: x\naccuracy_target: -1\n");
    add("name of a list", b"name: [x]\n");
    add("name that moves the cursor", "name: \"\\e[2J\\u202e\"\nblok_size: 1\n".as_bytes());
    add("control characters", b"name: x\x1b[2J\n");
    add("NUL", b"name: x\0\n");
    add("UTF-16, big-endian", b"\xfe\xff\0n\0a\0m\0e\0:\0 \0x\0\n");
    add("not UTF-8", b"name: \xff\n");
    add("mark before the text, and nothing else", "\u{feff}".as_bytes());
    add("tabs", b"name: x\nrules:\n\t- pattern: 'w'\n");
    add("2 MB", &b"# comment\n".repeat(200_000));
    add(
        "100,000 rules",
        format!("name: x\nrules:\n{}", "  - {pattern: z, store: int8}\n".repeat(30_000)).as_bytes(),
    );
    add(
        "pattern of 100,000 stars",
        format!("name: x\nrules:\n  - pattern: '{}'\n    store: int8\n", "*".repeat(100_000)).as_bytes(),
    );
    add(
        "pattern of brackets",
        format!("name: x\nrules:\n  - pattern: '{}'\n    store: int8\n", "{a,".repeat(10_000)).as_bytes(),
    );
    insta::assert_snapshot!(corpus.report());
}

/// A mark before the text is no part of it.
#[test]
fn a_preset_may_begin_with_a_mark() {
    let mut corpus = Corpus::default();
    corpus.case("byte order mark", "rewrite m.onnx -p p.yaml --validate never -o out.onnx", |folder| {
        Net::linear(64, 64).save(&folder.join("m.onnx"));
        folder.write("p.yaml", "\u{feff}name: x\r\nblock_size: 64\r\n");
    });
    insta::assert_snapshot!(corpus.outcomes());
}

/// Options out of range.
#[test]
fn options_out_of_range() {
    let mut corpus = Corpus::default();
    for more in [
        "--accuracy-target -1",
        "--accuracy-target inf",
        "--accuracy-target 1e999",
        "--min-cosine nan",
        "--seed -1",
        "--seed 18446744073709551616",
        "--threads 0",
        "--threads -1",
        "--threads 99999999999999999999",
        "--block-size 0",
        "--block-size -32",
        "--keep",
        "--tensor =int8",
        "--tensor ==",
    ] {
        corpus.case(more, &format!("{REWRITE} {more}"), |folder| {
            Net::linear(64, 64).save(&folder.join("m.onnx"))
        });
    }
    insta::assert_snapshot!(corpus.report());
}
