//! What efq is given and cannot work with: each case ends with the documented exit code and one line, overwrites
//! nothing and leaves nothing behind.

mod support;

use std::time::Duration;

use efq::onnx::proto::{
    FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto, TensorProto,
    TypeProto, ValueInfoProto, tensor_proto::DataType, type_proto,
};
use efq::onnx::{node, tensor};
use proptest::prelude::*;
use prost::Message as _;
use support::{
    Folder, Net, Run, body, constant, external, float, int, noise, npy, npy_f32, npy_header, npy_i64, npz,
    value,
};

const REWRITE: &str = "rewrite m.onnx -p balanced_production -o out.onnx";
const DATA: &str = "rewrite m.onnx -p balanced_production -o out.onnx --data d.npz";

/// Cases and what they said.
#[derive(Default)]
struct Corpus {
    cases: Vec<(String, Folder, Vec<String>)>,
}

impl Corpus {
    /// Runs `args` in a folder that `make` fills.
    fn case(&mut self, name: &str, args: &str, make: impl FnOnce(&Folder)) -> &mut Self {
        let folder = Folder::new();
        make(&folder);
        let args = args.split_whitespace().map(str::to_owned).collect();
        self.cases.push((name.to_owned(), folder, args));
        self
    }

    /// Rewrites a file of these bytes.
    fn bytes(&mut self, name: &str, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.case(name, REWRITE, |folder| drop(folder.write("m.onnx", bytes)))
    }

    fn net(&mut self, name: &str, net: Net) -> &mut Self {
        self.bytes(name, net.bytes())
    }

    /// Rewrites a MatMul of 64 by 64 with these samples.
    fn data(&mut self, name: &str, npz: Vec<u8>) -> &mut Self {
        self.case(name, DATA, |folder| {
            Net::linear(64, 64).save(&folder.join("m.onnx"));
            folder.write("d.npz", npz);
        })
    }

    /// Runs every case; gives what each said, in their order. Panics with all that broke a promise.
    fn report(&mut self) -> String {
        use rayon::prelude::*;
        let results: Vec<_> =
            self.cases.par_iter().map(|(name, folder, args)| said(name, folder, args)).collect();
        let (said, broken): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        let broken: Vec<String> = broken.into_iter().filter_map(Result::err).collect();
        assert!(broken.is_empty(), "{}", broken.join("\n"));
        said.into_iter().flatten().collect::<Vec<_>>().join("\n")
    }
}

/// Runs one case and holds it against what every case promises.
fn said(name: &str, folder: &Folder, args: &[String]) -> Result<String, String> {
    let before = folder.listing();
    let run = bounded(folder, args);
    let wrong = |what: &str| Err(format!("{name}: {what}: {run:?}"));
    let Some(code @ 1..=4) = run.code else { return wrong("not a documented exit code") };
    if folder.listing() != before {
        let after = folder.listing();
        let changed: Vec<_> = after
            .iter()
            .filter(|(name, bytes)| before.get(*name) != Some(bytes))
            .map(|(name, _)| name)
            .collect();
        return wrong(&format!("changed {changed:?} of {:?}", after.keys()));
    }
    if !run.out.is_empty() {
        return wrong("standard output");
    }
    let lines: Vec<&str> = run.err.lines().collect();
    let [line] = lines.as_slice() else { return wrong("more or less than one line") };
    match line.strip_prefix("error: ") {
        Some(what) if !what.contains(char::is_control) => Ok(format!("{name} [{code}]\n  {what}")),
        _ => wrong("no plain error"),
    }
}

/// Runs the binary with 3 GiB of address space and half a minute.
fn bounded(folder: &Folder, args: &[String]) -> Run {
    let plain = folder.command(args);
    let mut command = if cfg!(unix) {
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", "ulimit -v 3145728 && exec \"$0\" \"$@\""])
            .arg(plain.get_program())
            .args(plain.get_args());
        shell.current_dir(folder.path()).stdin(std::process::Stdio::null());
        shell
    } else {
        plain
    };
    command.env_remove("RUST_BACKTRACE");
    let output = assert_cmd::Command::from_std(command).timeout(Duration::from_secs(30)).output().unwrap();
    folder.run_of(&output)
}

#[test]
fn files_of_another_kind() {
    let model = Net::linear(64, 64).bytes();
    let random: Vec<u8> = noise(4096, 7).iter().map(|value| value.to_bits() as u8).collect();
    let mut corpus = Corpus::default();
    corpus
        .case("missing", REWRITE, |_| ())
        .bytes("empty", "")
        .bytes("one byte", [8])
        .bytes("git-LFS pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
        .bytes("HTML", "<!DOCTYPE html><html><body>404</body></html>")
        .bytes("JSON", "{\"error\": \"not found\"}")
        .bytes("zip", "PK\x03\x04and so on")
        .bytes("HDF5", b"\x89HDF\r\n\x1a\n")
        .bytes("GGUF", "GGUF\x03\x00\x00\x00")
        .bytes("random", random)
        .bytes("cut in the weights", &model[..model.len() / 2])
        .bytes("cut in the last field", &model[..model.len() - 1])
        .bytes("number of 11 bytes", [&[0x08][..], &[0xff; 10], &[0x01]].concat())
        .bytes("length past the end", [0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f])
        .bytes("field 0", [0x00, 0x01])
        .bytes("group", [0x0b, 0x0c])
        .bytes("end of a group", [0x0c])
        .bytes("wire type 7", [0x0f, 0x00])
        .bytes("field of another wire type", [0x38, 0x01])
        .bytes("not UTF-8", [0x08, 0x08, 0x12, 0x02, 0xff, 0xfe])
        .bytes("nothing but a version", [0x08, 0x08])
        .case("folder without a model", "inspect m", |folder| std::fs::create_dir(folder.join("m")).unwrap())
        .case("folder with two models", "inspect m", |folder| {
            folder.write("m/b.onnx", &model);
            folder.write("m/a.onnx", &model);
        })
        .case("missing folder", "inspect no/where.onnx", |_| ());
    #[cfg(unix)]
    corpus
        .case("device", "inspect /dev/null", |_| ())
        .case("pipe", "inspect pipe", |folder| pipe(folder, "pipe"));
    insta::assert_snapshot!(corpus.report());
}

#[cfg(unix)]
fn pipe(folder: &Folder, name: &str) {
    assert!(std::process::Command::new("mkfifo").arg(folder.join(name)).status().unwrap().success());
}

#[test]
fn depth_and_width() {
    let nested = |depth: usize| {
        let mut graph = GraphProto {
            node: vec![node::build("Identity", "", &["x"], &["deep"], vec![])],
            output: vec![value("deep", DataType::Float, &[])],
            ..Default::default()
        };
        for level in 0..depth {
            let out = format!("o{level}");
            let branch = vec![body("then_branch", graph)];
            graph = GraphProto {
                node: vec![node::build("If", "", &["c"], &[&out], branch)],
                output: vec![value(&out, DataType::Float, &[])],
                ..Default::default()
            };
        }
        Net::linear(64, 64).input("c", DataType::Bool, &[]).with(|main| main.node.extend(graph.node)).bytes()
    };
    let deep_type = || {
        let mut kind = TypeProto::default();
        for _ in 0..60 {
            let sequence = type_proto::Sequence { elem_type: Some(Box::new(kind)) };
            kind = TypeProto {
                denotation: None,
                value: Some(type_proto::Value::SequenceType(Box::new(sequence))),
            };
        }
        let input = ValueInfoProto { name: Some("deep".into()), r#type: Some(kind), ..Default::default() };
        Net::linear(64, 64).with(|graph| graph.input.push(input)).bytes()
    };
    let function = |name: &str, calls: &str| FunctionProto {
        name: Some(name.into()),
        domain: Some("local".into()),
        node: vec![NodeProto { domain: Some("local".into()), ..node::build(calls, "", &[], &["y"], vec![]) }],
        ..Default::default()
    };
    let graph_field = |field: u8, count: usize| {
        let inner = [field, 0x00].repeat(count);
        let mut bytes = vec![0x08, 0x08, 0x42, 0x02, 0x10, 0x11, 0x3a];
        prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
        bytes.extend(inner);
        bytes
    };
    let mut corpus = Corpus::default();
    corpus
        .bytes("bodies 32 deep", nested(32))
        .bytes("bodies 500 deep", nested(500))
        .bytes("type 60 deep", deep_type())
        .net(
            "function that calls itself",
            Net::linear(64, 64).with_model(|model| model.functions.push(function("f", "f"))),
        )
        .net(
            "ring of functions",
            Net::linear(64, 64)
                .with_model(|model| model.functions.extend([function("f", "g"), function("g", "f")])),
        )
        .bytes("1,000,001 nodes", graph_field(0x0a, 1_000_001))
        .bytes("10,000,000 nodes", graph_field(0x0a, 10_000_000))
        .bytes("10,000,000 initializers", graph_field(0x2a, 10_000_000))
        .net(
            "name of 65,537 bytes",
            Net::linear(64, 64).with(|graph| graph.initializer[0].name = Some("n".repeat(65_537))),
        );
    insta::assert_snapshot!(corpus.report());
    // What ONNX Runtime loads, efq loads.
    let folder = Folder::new();
    folder.write("m.onnx", nested(31));
    assert_eq!(folder.efq(&["inspect", "m.onnx"]).code, Some(0));
}

#[test]
fn sizes_and_payloads() {
    let stored = |change: fn(&mut TensorProto)| {
        let mut net = Net::linear(64, 64);
        change(&mut net.graph().initializer[0]);
        net
    };
    let mut corpus = Corpus::default();
    corpus
        .net("product that wraps to 0", stored(|w| w.dims = vec![1 << 32, 1 << 32]))
        .net("product that wraps to 4", stored(|w| w.dims = vec![4_194_305, 4_194_305, 211_106_198_978_564]))
        .net(
            "bits that wrap to 0",
            stored(|w| {
                *w = TensorProto {
                    dims: vec![1 << 58],
                    ..tensor::from_raw("w", DataType::Double, &[], vec![])
                };
            }),
        )
        .net(
            "bits of complex numbers that wrap",
            stored(|w| {
                *w = TensorProto {
                    dims: vec![1 << 57],
                    ..tensor::from_raw("w", DataType::Complex128, &[], vec![])
                };
            }),
        )
        .net("negative", stored(|w| w.dims = vec![-64, 64]))
        .net("least integer", stored(|w| w.dims = vec![i64::MIN, 0]))
        .net("rank 65", stored(|w| w.dims = vec![1; 65]))
        .net("a byte short", stored(|w| w.raw_data = w.raw_data.as_ref().map(|raw| raw.slice(1..))))
        .net(
            "a byte long",
            stored(|w| {
                let long = [w.raw_data.as_ref().unwrap(), &[0u8][..]].concat();
                w.raw_data = Some(long.into());
            }),
        )
        .net(
            "odd count of nibbles",
            Net::linear(64, 64).tensor(tensor::from_raw("q", DataType::Int4, &[3], vec![0])),
        )
        .net("no payload", stored(|w| w.raw_data = None))
        .net(
            "field of another type",
            stored(|w| {
                w.raw_data = None;
                w.int64_data = vec![0; 64 * 64];
            }),
        )
        .net("two payloads", stored(|w| w.float_data = vec![0.0; 64 * 64]))
        .net("data type 0", stored(|w| w.data_type = Some(0)))
        .net("data type 99", stored(|w| w.data_type = Some(99)))
        .net("data type of 2^31-1", stored(|w| w.data_type = Some(i32::MAX)))
        .net(
            "strings of another count",
            Net::linear(64, 64).tensor(TensorProto {
                string_data: vec![bytes::Bytes::from("a")],
                raw_data: None,
                ..tensor::from_raw("s", DataType::String, &[2], vec![])
            }),
        )
        .net(
            "constant node that lies",
            Net::linear(64, 64).with(|graph| {
                graph.node.push(constant("c", tensor::from_raw("c", DataType::Float, &[2], vec![0; 4])));
            }),
        );
    insta::assert_snapshot!(corpus.report());
}

#[test]
fn names_and_links() {
    let net = |change: fn(&mut GraphProto)| Net::linear(64, 64).with(change);
    let model = |change: fn(&mut ModelProto)| Net::linear(64, 64).with_model(change);
    let mut corpus = Corpus::default();
    corpus
        .net("two initializers of one name", net(|g| g.initializer.push(g.initializer[0].clone())))
        .net("initializer without a name", net(|g| g.initializer[0].name = None))
        .net(
            "output of the name of an initializer",
            net(|g| {
                g.node.push(node::build("Relu", "r", &["x"], &["w"], vec![]));
            }),
        )
        .net("two inputs of one name", net(|g| g.input.push(g.input[0].clone())))
        .net(
            "value assigned twice",
            net(|g| g.node.push(node::build("Relu", "", &["x"], &["logits"], vec![]))),
        )
        .net(
            "cycle",
            net(|g| {
                g.node[0].input[0] = "b".into();
                g.node.push(node::build("Relu", "back", &["logits"], &["b"], vec![]));
            }),
        )
        .net("loop of one node", net(|g| g.node[0].input[0] = "logits".into()))
        .net("dangling input", net(|g| g.node[0].input[0] = "nowhere".into()))
        .net("graph output that nothing makes", net(|g| g.output[0].name = Some("y".into())))
        .net("attribute twice", net(|g| g.node[0].attribute = vec![int("a", 1), int("a", 2)]))
        .net(
            "names that would move the cursor",
            net(|g| {
                g.node[0].name = Some(
                    "\u{1b}[2J\u{1b}]8;;http://x\u{7}a\r\nb\u{9b}31m\u{202e}\u{200b}\u{61c}\u{2028}".into(),
                );
                g.node[0].input[0] = "<script>|`::error::%0A\u{e0041}".into();
            }),
        )
        .net("name of 20,000 letters", net(|g| g.node[0].input[0] = "long".repeat(5000)))
        .net("no graph", model(|m| m.graph = None))
        .net("no operator set", model(|m| m.opset_import.clear()))
        .net("operator set 0", model(|m| m.opset_import[0].version = Some(0)))
        .net("operator set -1", model(|m| m.opset_import[0].version = Some(-1)))
        .net("operator set 6", model(|m| m.opset_import[0].version = Some(6)))
        .net(
            "operator set twice",
            model(|m| {
                m.opset_import.push(OperatorSetIdProto { domain: Some("ai.onnx".into()), version: Some(18) });
            }),
        );
    insta::assert_snapshot!(corpus.report());
}

#[test]
fn external_data() {
    let mut corpus = Corpus::default();
    let mut add = |name: &str, entries: &[(&str, &str)], make: &dyn Fn(&Folder)| {
        let mut net = Net::linear(64, 64);
        external(&mut net.graph().initializer[0], entries);
        corpus.case(name, "rewrite m/m.onnx -p balanced_production -o out.onnx", |folder| {
            folder.write("m/w.bin", vec![0; 64 * 64 * 4]);
            folder.write("secret", vec![0; 64 * 64 * 4]);
            folder.write("m/m.onnx", net.bytes());
            make(folder);
        });
    };
    let nothing = |_: &Folder| ();
    for location in [
        "../secret",
        "a/../../secret",
        "/etc/passwd",
        "C:\\x",
        "\\\\host\\x",
        "file://x",
        "~",
        "%2e%2e/secret",
        "w.bin\0",
        "w.bin\n",
        "w.bin:stream",
        "",
        ".",
        "*/_ORT_MEM_ADDR_/*",
    ] {
        add(&format!("location {location:?}"), &[("location", location)], &nothing);
    }
    let at = |key: &'static str, value: &'static str| [("location", "w.bin"), (key, value)];
    add("missing file", &[("location", "gone.bin")], &nothing);
    add("no location", &[("offset", "0")], &nothing);
    add("offset past the end", &at("offset", "16385"), &nothing);
    add("range past the end", &at("offset", "1"), &nothing);
    add("sum that wraps", &at("offset", "18446744073709551615"), &nothing);
    add("negative offset", &at("offset", "-1"), &nothing);
    add("offset in hexadecimal", &at("offset", "0x0"), &nothing);
    add("offset as a float", &at("offset", "1e3"), &nothing);
    add("length of another shape", &at("length", "16380"), &nothing);
    add("key twice", &[("location", "w.bin"), ("location", "w.bin")], &nothing);
    add("unknown key", &at("__class__", "x"), &nothing);
    add("file too short", &at("offset", "0"), &|folder| drop(folder.write("m/w.bin", vec![0; 16383])));
    add("empty file", &at("offset", "0"), &|folder| drop(folder.write("m/w.bin", "")));
    add("folder", &[("location", "sub")], &|folder| std::fs::create_dir(folder.join("m/sub")).unwrap());
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        let link = |to: &'static str, name: &'static str| {
            move |folder: &Folder| symlink(folder.join(to), folder.join(name)).unwrap()
        };
        add("link out of the folder", &[("location", "link")], &link("secret", "m/link"));
        add("folder that is a link", &[("location", "up/secret")], &link("", "m/up"));
        add("link to a device", &[("location", "zero")], &|folder| {
            symlink("/dev/zero", folder.join("m/zero")).unwrap()
        });
        add("pipe", &[("location", "pipe")], &|folder| pipe(folder, "m/pipe"));
        add("hard link", &[("location", "hard")], &|folder| {
            std::fs::hard_link(folder.join("secret"), folder.join("m/hard")).unwrap();
        });
    }
    insta::assert_snapshot!(corpus.report());
}

#[test]
fn models_with_nothing_to_do() {
    let image = Net::new()
        .input("x", DataType::Float, &["batch", "3", "8", "8"])
        .output("y", DataType::Float, &["batch", "64", "6", "6"])
        .floats("kernel", &[64, 3, 3, 3], &noise(64 * 27, 1))
        .node("Conv", "conv", &["x", "kernel"], &["y"], vec![]);
    let quantized = || {
        Net::new()
            .input("x", DataType::Float, &["batch", "64"])
            .output("y", DataType::Float, &["batch", "64"])
            .tensor(tensor::from_raw("w_q", DataType::Int4, &[64, 64], vec![0x21; 64 * 32]))
            .floats("w_s", &[2, 64], &noise(128, 1))
            .node(
                "DequantizeLinear",
                "dq",
                &["w_q", "w_s"],
                &["w"],
                vec![int("axis", 0), int("block_size", 32)],
            )
            .node("MatMul", "product", &["x", "w"], &["y"], vec![])
            .opset(21)
            .ir(10)
    };
    let bare = Net::new().input("x", DataType::Float, &["2"]).output("y", DataType::Float, &["2"]).node(
        "Relu",
        "relu",
        &["x"],
        &["y"],
        vec![],
    );
    let contrib = Net::linear(64, 64).with(|graph| {
        graph.initializer[0] = tensor::from_raw("w", DataType::Uint8, &[64, 2, 16], vec![1; 2048]);
        graph.node[0].op_type = Some("MatMulNBits".into());
        graph.node[0].domain = Some("com.microsoft".into());
    });
    let indices = image.clone().integers("indices", &[4096], &[0; 4096]);
    let mut corpus = Corpus::default();
    corpus
        .net("only a Conv", image)
        .net("quantized already", quantized())
        .net("quantized already, as ONNX Runtime's operator", contrib)
        .net("a Conv and a larger table of indices", indices)
        .net("no weights", bare)
        .net(
            "no nodes",
            Net::new()
                .input("x", DataType::Float, &["2"])
                .output("x2", DataType::Float, &["2"])
                .with(|g| g.output[0].name = Some("x".into())),
        )
        .net(
            "weight that a caller may replace",
            Net::linear(64, 64).with(|g| g.input.push(value("w", DataType::Float, &["64", "64"]))),
        )
        .net("both operands", Net::linear(64, 64).with(|g| g.node[0].input[0] = "w".into()))
        .net(
            "integers",
            Net::linear(64, 64).with(|g| g.initializer[0].data_type = Some(DataType::Int32 as i32)),
        )
        .net("three dimensions", Net::linear(64, 64).with(|g| g.initializer[0].dims = vec![1, 64, 64]))
        .net(
            "transposed activation",
            Net::linear(64, 64).with(|g| {
                g.node[0].op_type = Some("Gemm".into());
                g.node[0].attribute = vec![int("transA", 1)];
            }),
        )
        .net(
            "factor that is not finite",
            Net::linear(64, 64).with(|g| {
                g.node[0].op_type = Some("Gemm".into());
                g.node[0].attribute = vec![float("alpha", f32::NAN)];
            }),
        )
        .net("no operands", Net::linear(64, 64).with(|g| g.node[0].input.clear()))
        .net(
            "sparse weight",
            Net::linear(64, 64).with(|g| {
                let values = g.initializer.remove(0);
                g.sparse_initializer.push(SparseTensorProto {
                    values: Some(values),
                    indices: None,
                    dims: vec![64, 64],
                });
            }),
        );
    insta::assert_snapshot!(corpus.report());
}

#[test]
fn samples() {
    let good = || npy_f32(&[4, 64], &noise(256, 3));
    let x = |array: Vec<u8>| npz(&[("x", array)]);
    let mut corpus = Corpus::default();
    corpus
        .case("missing", DATA, |folder| Net::linear(64, 64).save(&folder.join("m.onnx")))
        .data("empty", vec![])
        .data("no zip", b"x,y\n1,2\n".to_vec())
        .data("cut short", npz(&[("x", good())]).split_off(40))
        .data("empty archive", npz(&[]))
        .data("another name", npz(&[("X", good())]))
        .data("one name too many", npz(&[("x", good()), ("mask", npy_i64(&[4], &[1; 4]))]))
        .data("another width", x(npy_f32(&[4, 63], &noise(252, 3))))
        .data("another rank", x(npy_f32(&[2, 2, 1, 64], &noise(256, 3))))
        .data("a number", x(npy_f32(&[], &[1.0])))
        .data("no sample", x(npy_f32(&[0, 64], &[])))
        .data("fewer labels", npz(&[("x", good()), ("labels", npy_i64(&[3], &[0; 3]))]))
        .data("labels of floats", npz(&[("x", good()), ("labels", npy_f32(&[4], &[f32::NAN; 4]))]))
        .data("labels of three dimensions", npz(&[("x", good()), ("labels", npy_i64(&[4, 1, 1], &[0; 4]))]))
        .data("text", x(npy("<U8", "(4,)", &[0; 128])))
        .data("objects", x(npy("|O", "(4,)", b"\x80\x04.")))
        .data(
            "structure",
            x(npy_header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4,), }", &[0; 16])),
        )
        .data("big-endian", x(npy(">f4", "(4, 64)", &[0; 1024])))
        .data(
            "column-major",
            x(npy_header("{'descr': '<f4', 'fortran_order': True, 'shape': (4, 64), }", &[0; 1024])),
        )
        .data("shape that lies", x(npy("<f4", "(4, 65)", &[0; 1024])))
        .data("negative size", x(npy("<f4", "(-1, 64)", &[0; 1024])))
        .data("size of 2^64", x(npy("<f4", "(18446744073709551616, 64)", &[0; 1024])))
        .data("sizes that wrap", x(npy("<f4", "(4294967296, 4294967296)", &[])))
        .data("32 GiB in 80 bytes", x(npy("<f4", "(134217728, 64)", &[])))
        .data("expression", x(npy_header("{'descr': __import__('os').abort(), 'shape': (4, 64), }", &[])))
        .data("header of 9,000 brackets", x(npy_header(&"[".repeat(9_000), &[])))
        .data("header of 60,000 brackets", x(npy_header(&"[".repeat(60_000), &[])))
        .data(
            "header of 20 MB of brackets",
            x({
                let count = 20_000_000;
                let mut bytes = b"\x93NUMPY\x02\x00".to_vec();
                bytes.extend((count as u32).to_le_bytes());
                bytes.resize(12 + count, b'[');
                bytes
            }),
        )
        .data("header of 4 GiB", x(b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec()))
        .data("no header", x(b"\x93NUMPY\x01\x00".to_vec()))
        .data("no npy", x(b"hello".to_vec()))
        .data("2 GiB of zeros", {
            let mut member = npy("<f4", "(8388608, 64)", &[]);
            member.resize(member.len() + (256 << 20), 0);
            x(member)
        })
        .data("member above", npz(&[("../x", good())]));
    let free =
        Net::linear(64, 64).with(|graph| graph.input[0] = value("x", DataType::Float, &["batch", "length"]));
    corpus
        .case("2^60 samples of nothing", DATA, |folder| {
            free.save(&folder.join("m.onnx"));
            folder.write("d.npz", npz(&[("x", npy("<f4", "(1152921504606846976, 0)", &[]))]));
        })
        .case("fixed batch", DATA, |folder| {
            let net =
                Net::linear(64, 64).with(|graph| graph.input[0] = value("x", DataType::Float, &["8", "64"]));
            net.save(&folder.join("m.onnx"));
            folder.write("d.npz", npz(&[("x", good())]));
        })
        .case("output of no such name", &format!("{DATA} --output-name logit"), |folder| {
            Net::linear(64, 64).save(&folder.join("m.onnx"));
            folder.write("d.npz", npz(&[("x", good())]));
        });
    for (name, file, bytes) in [
        ("folder without samples", "d.npz/readme.txt", b"hello".to_vec()),
        ("sample file that is no tensor", "d.npz/test_data_set_0/input_0.pb", b"hello".to_vec()),
        (
            "sample tensor that lies",
            "d.npz/test_data_set_0/input_0.pb",
            TensorProto { dims: vec![1, 64], ..tensor::from_raw("x", DataType::Float, &[], vec![0; 4]) }
                .encode_to_vec(),
        ),
    ] {
        corpus.case(name, DATA, |folder| {
            Net::linear(64, 64).save(&folder.join("m.onnx"));
            folder.write(file, bytes);
        });
    }
    #[cfg(unix)]
    corpus.case("pipe", DATA, |folder| {
        Net::linear(64, 64).save(&folder.join("m.onnx"));
        pipe(folder, "d.npz");
    });
    insta::assert_snapshot!(corpus.report());
}

#[test]
fn targets() {
    let mut corpus = Corpus::default();
    let mut add = |name: &str, more: &str, make: &dyn Fn(&Folder)| {
        corpus.case(
            name,
            &format!("rewrite m.onnx -p balanced_production --validate never {more}"),
            |folder| {
                Net::linear(64, 64).save(&folder.join("m.onnx"));
                make(folder);
            },
        );
    };
    let nothing = |_: &Folder| ();
    let taken = |name: &'static str| move |folder: &Folder| drop(folder.write(name, "mine"));
    add("output is the input", "-o m.onnx", &nothing);
    add("output is the input, forced", "-o ./m.onnx --force", &nothing);
    add("output exists", "-o out.onnx", &taken("out.onnx"));
    add("side file exists", "-o out.onnx --external-data", &taken("out.onnx_data"));
    add("output in a missing folder", "-o no/out.onnx", &nothing);
    add("output is a folder", "-o sub", &|folder| std::fs::create_dir(folder.join("sub")).unwrap());
    add("output is a folder, forced", "-o sub --force", &|folder| {
        std::fs::create_dir(folder.join("sub")).unwrap()
    });
    add("folder of the output is a file", "-o file/out.onnx", &taken("file"));
    add("report exists", "-o out.onnx --report r.json", &taken("r.json"));
    add("report of another ending", "-o out.onnx --report r.txt", &nothing);
    add("report without an ending", "-o out.onnx --report r", &nothing);
    add("report in a missing folder", "-o out.onnx --report no/r.md", &nothing);
    add("plan exists", "-o out.onnx --plan p.json", &taken("p.json"));
    add("plan in a missing folder", "--dry-run --plan no/p.json", &nothing);
    add("plan is the input, forced", "-o out.onnx --plan m.onnx --force", &nothing);
    add("plan is the output", "-o out.onnx --plan out.onnx", &nothing);
    add("plan is the output, forced", "-o out.onnx --plan ./out.onnx --force", &nothing);
    add("report is the plan", "-o out.onnx --plan p.json --report p.json", &nothing);
    add("report twice", "-o out.onnx --report r.json --report r.json", &nothing);
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        add("output is a link to the input, forced", "-o link.onnx --force", &|folder| {
            symlink("m.onnx", folder.join("link.onnx")).unwrap();
        });
        add("output is a dangling link", "-o link.onnx", &|folder| {
            symlink("gone", folder.join("link.onnx")).unwrap()
        });
    }
    let external =
        |folder: &Folder| Net::linear(64, 64).save_external(&folder.join("m.onnx"), "out.onnx_data", 1);
    add("side file is the input's", "-o out.onnx --external-data --force", &external);
    add("report is the data, forced", "-o out.onnx --data d.json --report d.json --force", &|folder| {
        folder.write("d.json", npz(&[("x", npy_f32(&[4, 64], &noise(256, 3)))]));
    });
    insta::assert_snapshot!(corpus.report());
}

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
    let empty = br#"{"schema":1,"efq":"0.1.0","model_sha256":"0","preset":"x","decisions":[]}"#;
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
        .node("Gather", "rows", &["table", "ids"], &["rows"], vec![]);
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
    add("unknown field", &|p| p["decisions"][0]["note"] = "x".into());
    add("no schema", &|p| drop(p.as_object_mut().unwrap().remove("schema")));
    insta::assert_snapshot!(corpus.report());
}

#[test]
fn models_that_do_not_go_together() {
    let mut corpus = Corpus::default();
    let mut add = |name: &str, other: Net, more: &str| {
        corpus.case(name, &format!("validate m.onnx o.onnx -p balanced_production {more}"), |folder| {
            Net::linear(64, 64).save(&folder.join("m.onnx"));
            other.save(&folder.join("o.onnx"));
        });
    };
    add(
        "other output",
        Net::linear(64, 64).with(|g| {
            g.output[0].name = Some("y".into());
            g.node[0].output[0] = "y".into();
        }),
        "",
    );
    add(
        "other input",
        Net::linear(64, 64).with(|g| {
            g.input[0].name = Some("z".into());
            g.node[0].input[0] = "z".into();
        }),
        "",
    );
    add("other shape", Net::linear(64, 65), "");
    add("report of another ending", Net::linear(64, 64), "--report r.html");
    corpus.case("rewritten is missing", "validate m.onnx o.onnx -p balanced_production", |folder| {
        Net::linear(64, 64).save(&folder.join("m.onnx"));
    });
    corpus.case("cannot be run, and must be", &format!("{REWRITE} --validate always"), |folder| {
        let net = Net::linear(64, 64).node("Frobnicate", "custom", &["x"], &["frobnicated"], vec![]).with(
            |graph| {
                graph.node[1].domain = Some("acme".into());
                graph.node[0].input[0] = "frobnicated".into();
                graph.node.reverse();
            },
        );
        net.save(&folder.join("m.onnx"));
    });
    insta::assert_snapshot!(corpus.report());
}

/// Standard output that cannot be written is an error with its own line; a reader that left is none.
#[cfg(target_os = "linux")]
#[test]
fn standard_output_that_is_full_or_closed() {
    let folder = Folder::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = folder.command(&["presets"]).stdout(full).output().unwrap();
    let run = folder.run_of(&output);
    assert_eq!((run.code, run.err.lines().count()), (Some(3), 1), "{run:?}");
    assert!(run.err.starts_with("error: standard output: "), "{run:?}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = folder.command(&["presets"]).stdout(writer).output().unwrap();
    assert_eq!(folder.run_of(&output), Run { code: Some(0), out: String::new(), err: String::new() });
}

/// A small model with most kinds of fields, for the damage below.
fn sample_model() -> Vec<u8> {
    Net::linear(4, 3)
        .input("c", DataType::Bool, &[])
        .integers("shape", &[2], &[-1, 3])
        .node("Reshape", "flat", &["logits", "shape"], &["flat"], vec![])
        .node(
            "If",
            "choice",
            &["c"],
            &["chosen"],
            vec![body(
                "then_branch",
                GraphProto {
                    node: vec![node::build("Identity", "", &["flat"], &["then"], vec![])],
                    output: vec![value("then", DataType::Float, &["a", "3"])],
                    ..Default::default()
                },
            )],
        )
        .output("chosen", DataType::Float, &["a", "3"])
        .metadata("key", "value")
        .bytes()
}

/// Loading, listing, planning and rewriting in memory: an error or a result, never a panic.
fn survives(bytes: Vec<u8>) {
    let Ok(model) = efq::onnx::load_bytes(bytes.into()) else { return };
    let inventory = efq::graph::inventory(&model);
    let preset = efq::preset::Preset::builtin("high_compression").unwrap();
    let settings = efq::settings::Settings::new(&preset, &Default::default()).unwrap();
    let Ok(plan) = efq::plan::choose(&model, "", &inventory, &settings) else { return };
    if let Ok(rewritten) = efq::rewrite::rewrite(&model, &inventory, &plan, &Default::default(), &[]) {
        let _ = rewritten.draft.to_bytes();
    }
    let _ = efq::data::synthetic(&model, &inventory, 1, 0);
}

#[test]
fn a_model_cut_anywhere_is_an_error_or_smaller() {
    let whole = sample_model();
    assert!(efq::onnx::load_bytes(whole.clone().into()).is_ok());
    for end in 0..whole.len() {
        survives(whole[..end].to_vec());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_models_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = sample_model();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        survives(bytes);
    }

    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        survives(bytes);
    }

    #[test]
    fn damaged_samples_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), inner: bool) {
        let mut array = npy_f32(&[2, 64], &noise(128, 1));
        let model = efq::onnx::load_bytes(Net::linear(64, 64).bytes().into()).unwrap();
        let damage = |bytes: &mut Vec<u8>| {
            for (at, byte) in &changes {
                let at = at.index(bytes.len().min(256));
                bytes[at] = *byte;
            }
        };
        if inner {
            damage(&mut array);
        }
        let mut file = npz(&[("x", array)]);
        if !inner {
            damage(&mut file);
        }
        let folder = Folder::new();
        let path = folder.write("d.npz", file);
        if let Ok(samples) = support::samples_at(&path, &model) {
            prop_assert!(samples.list.iter().all(|sample| sample.inputs.len() == 1));
        }
    }
}
