//! Where weights lie: in files beside the model, in the forms of a Constant, sparse; and which files a command may write.

mod support;

use efq::onnx::proto::{
    AttributeProto, SparseTensorProto, attribute_proto::AttributeType, tensor_proto::DataType,
};
use efq::onnx::{load, node, tensor};
use support::{Folder, Net, Run, done, noise};

const REWRITE: [&str; 6] = ["rewrite", "m/m.onnx", "-p", "high_compression", "--validate", "never"];

fn rewrite(folder: &Folder, more: &[&str]) -> Run {
    folder.efq(&[&REWRITE[..], more].concat())
}

/// A model of which nothing can be rewritten, with its weight at `location`.
fn kept(folder: &Folder, location: &str) {
    let net = Net::linear(64, 64).with(|graph| graph.initializer.clear());
    let weight = [&[f32::NAN][..], &noise(4095, 1)].concat();
    let net = net.floats("w", &[64, 64], &weight);
    std::fs::create_dir_all(folder.join("m").join(location).parent().unwrap()).unwrap();
    net.save_external(&folder.join("m/m.onnx"), location, 1);
}

#[test]
fn a_model_does_not_say_where_its_weights_are_written() {
    for location in [".bashrc", ".ssh/authorized_keys"] {
        let folder = Folder::new();
        kept(&folder, location);
        std::fs::create_dir(folder.join("home")).unwrap();
        done(&rewrite(&folder, &["-o", "home/out.onnx"]));
        let files = |folder: &Folder| -> Vec<String> {
            folder.listing().into_keys().filter(|name| name.starts_with("home/")).collect()
        };
        assert_eq!(files(&folder), ["home/out.onnx", "home/out.onnx_data"]);
        let mine = folder.write(&format!("home/{location}"), "mine");
        done(&rewrite(&folder, &["-o", "home/out.onnx", "--force"]));
        assert_eq!(std::fs::read(&mine).unwrap(), b"mine", "{location}");
        // It stands on its own, and is what it was.
        let before = load(&folder.join("m/m.onnx")).unwrap();
        let after = load(&folder.join("home/out.onnx")).unwrap();
        assert_eq!(after.side_paths(), [folder.join("home/out.onnx_data").canonicalize().unwrap()]);
        assert_eq!(before.graph(), after.graph());
    }
    // Beside the source too.
    let folder = Folder::new();
    kept(&folder, "w.bin");
    done(&rewrite(&folder, &["-o", "m/out.onnx"]));
    let written = load(&folder.join("m/out.onnx")).unwrap();
    assert_eq!(written.side_paths(), [folder.join("m/out.onnx_data").canonicalize().unwrap()]);
}

#[test]
fn the_files_of_a_model_and_of_its_result_are_not_written_over() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.join("m/sub")).unwrap();
    Net::linear(64, 64).save_external(&folder.join("m/m.onnx"), "w.json", 1);
    #[cfg(unix)]
    {
        // The weights must have one name while they are read, so this one is of the model file.
        std::fs::hard_link(folder.join("m/m.onnx"), folder.join("hard.json")).unwrap();
        std::os::unix::fs::symlink(folder.join("m/w.json"), folder.join("soft.json")).unwrap();
    }
    let before = folder.listing();
    let refused = |run: Run, name: &str, what: &str| {
        assert_eq!(run.code, Some(2), "{run:?}");
        assert!(run.err.starts_with(&format!("error: {name}: {what}")), "{run:?}");
        assert!(folder.listing() == before, "{name}");
    };
    let input = "is an input, which efq never changes";
    let mut names = vec!["m/w.json", "./m/w.json", "m/sub/../w.json", "m/m.onnx"];
    if cfg!(unix) {
        names.extend(["hard.json", "soft.json"]);
    }
    for name in names {
        refused(rewrite(&folder, &["-o", "out.onnx", "--plan", name, "--force"]), name, input);
        refused(rewrite(&folder, &["-o", name, "--force"]), name, input);
        if name.ends_with("json") {
            let report = ["-p", "high_compression", "--report", name, "--force"];
            refused(folder.efq(&[&["validate", "m", "m"][..], &report].concat()), name, input);
            refused(folder.efq(&[&["pareto", "m"][..], &report].concat()), name, input);
        }
    }
    let twice = "two results would be written to it";
    for name in ["out.onnx_data", "./out.onnx_data", "m/../out.onnx_data"] {
        let options = ["-o", "out.onnx", "--external-data", "--plan", name];
        refused(rewrite(&folder, &options), name, twice);
        refused(rewrite(&folder, &[&options[..], &["--force"]].concat()), name, twice);
    }
    // What is no file of the model may be replaced.
    folder.write("m/other.json", "{}");
    done(&rewrite(&folder, &["-o", "out.onnx", "--plan", "m/other.json", "--force"]));
}

#[test]
fn a_result_that_is_not_smaller_says_where_the_bytes_went() {
    let folder = Folder::new();
    let mut net = Net::linear(64, 64).opset(11).ir(6);
    for at in 0..120 {
        let names = [&at, &(at + 1)].map(|at| if *at == 0 { "logits".to_owned() } else { format!("h{at}") });
        net = net.node("Softmax", "", &[&names[0]], &[&names[1]], vec![]);
    }
    let net = net.with(|graph| graph.output[0].name = Some("h120".to_owned()));
    folder.write("m/m.onnx", net.bytes());
    let told = |more: &[&str]| {
        let run = rewrite(&folder, more);
        let line = done(&run).lines().find(|line| line.contains("the result is not smaller"));
        line.unwrap_or_else(|| panic!("{run:?}")).to_owned()
    };
    let planned = told(&["--dry-run"]);
    assert!(planned.contains("weights took 16384 and take "), "{planned}");
    assert!(planned.contains("raising to opset 21 added ") && planned.contains("(120 Softmax)"), "{planned}");
    assert!(planned.contains("nodes, names, metadata and alignment added "), "{planned}");
    assert_eq!(told(&["-o", "out.onnx"]), planned);
}

fn tensors(folder: &Folder) -> Vec<(String, String, String)> {
    let run = rewrite(folder, &["--dry-run", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(done(&run)).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let row = |t: &serde_json::Value| (text(&t["name"]), text(&t["encoding"]), text(&t["reason"]));
    report["tensors"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn numbers_that_a_constant_lists_are_weights() {
    let folder = Folder::new();
    let list = |name: &str, kind: AttributeType| AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(kind as i32),
        ..Default::default()
    };
    let floats = AttributeProto { floats: noise(64 * 64, 3), ..list("value_floats", AttributeType::Floats) };
    let sizes = AttributeProto { ints: vec![64, 64], ..list("value_ints", AttributeType::Ints) };
    let net = Net::linear(64, 64).with(|graph| {
        graph.initializer.clear();
        let flat = node::build("Constant", "", &[], &["flat"], vec![floats]);
        let shape = node::build("Constant", "", &[], &["shape"], vec![sizes]);
        graph
            .node
            .splice(0..0, [flat, shape, node::build("Reshape", "", &["flat", "shape"], &["w"], vec![])]);
    });
    folder.write("m/m.onnx", net.bytes());
    let found = tensors(&folder);
    assert_eq!((found[0].0.as_str(), found[0].1.as_str()), ("flat", "int4 block 128"), "{found:?}");
    done(&rewrite(&folder, &["-o", "out.onnx"]));
    assert!(folder.read("out.onnx").len() * 5 < folder.read("m/m.onnx").len());
}

#[test]
fn sparse_weights_are_dense_where_that_is_smaller_and_listed_where_it_is_not() {
    let sparse = |name: &str, count: usize| SparseTensorProto {
        values: Some(tensor::from_raw(
            name,
            DataType::Float,
            &[count],
            noise(count, 3).iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
        )),
        indices: Some(tensor::from_raw(
            "",
            DataType::Int64,
            &[count],
            (0..count as i64).flat_map(i64::to_le_bytes).collect::<Vec<u8>>(),
        )),
        dims: vec![64, 64],
    };
    let folder = Folder::new();
    let attribute = AttributeProto {
        name: Some("sparse_value".to_owned()),
        r#type: Some(AttributeType::SparseTensor as i32),
        sparse_tensor: Some(sparse("", 90)),
        ..Default::default()
    };
    let net = Net::linear(64, 64)
        .with(|graph| {
            graph.initializer.clear();
            graph.sparse_initializer = vec![sparse("w", 64 * 64), sparse("few", 100)];
            graph.node.push(node::build("Constant", "", &[], &["stored"], vec![attribute]));
        })
        .node("MatMul", "", &["x", "few"], &["a"], vec![])
        .node("MatMul", "", &["x", "stored"], &["b"], vec![])
        .output("a", DataType::Float, &["batch", "64"])
        .output("b", DataType::Float, &["batch", "64"]);
    folder.write("m/m.onnx", net.bytes());
    let found = tensors(&folder);
    let reason = "sparse: as dense floats it would take more bytes";
    let named = |name: &str| found.iter().find(|row| row.0 == name).unwrap_or_else(|| panic!("{found:?}"));
    assert!(named("w").1.starts_with("int4"), "{found:?}");
    for name in ["few", "stored"] {
        assert_eq!((named(name).1.as_str(), named(name).2.as_str()), ("float", reason));
    }
    done(&rewrite(&folder, &["-o", "out.onnx"]));
    let written = load(&folder.join("out.onnx")).unwrap();
    assert_eq!(written.graph().sparse_initializer.len(), 1);
}

/// Gathered rows need no quantized kernel: they are computed in float32 and cast.
#[test]
fn tables_of_other_types_become_rows_and_keep_their_type() {
    let values = noise(300 * 33, 5);
    let wide: Vec<u8> = values.iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect();
    // The upper half of a float32.
    let short: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()[2..].to_vec()).collect();
    for (kind, raw) in [(DataType::Double, wide), (DataType::Bfloat16, short)] {
        for (wish, encoding) in [("int8", "int8 rows"), ("int4", "int4 rows block")] {
            let folder = Folder::new();
            let net = Net::new()
                .input("ids", DataType::Int64, &["n", "m"])
                .output("y", kind, &["n", "m", "33"])
                .tensor(tensor::from_raw("table", kind, &[300, 33], raw.clone()))
                .node("Gather", "rows", &["table", "ids"], &["y"], vec![]);
            folder.write("m/m.onnx", net.bytes());
            done(&rewrite(&folder, &["-o", "out.onnx", "--embeddings", wish]));
            let written = load(&folder.join("out.onnx")).unwrap();
            let last = written.graph().node.last().unwrap();
            assert_eq!((last.op_type(), last.name(), last.output[0].as_str()), ("Cast", "rows", "y"));
            assert_eq!(node::int(last, "to", 0), kind as i64);
            let report = done(&rewrite(&folder, &["--dry-run", "--embeddings", wish])).to_owned();
            assert!(report.contains(encoding), "{report}");
        }
    }
}

/// As huggingface_hub keeps what it fetched: names are links to files that lie elsewhere side by side.
#[cfg(unix)]
#[test]
fn a_cache_that_links_a_model_and_its_side_file_is_read() {
    use std::os::unix::fs::symlink;

    let folder = Folder::new();
    std::fs::create_dir_all(folder.join("blobs")).unwrap();
    std::fs::create_dir_all(folder.join("m")).unwrap();
    Net::linear(64, 64).save_external(&folder.join("blobs/one"), "two", 1);
    std::fs::rename(folder.join("blobs/two"), folder.join("blobs/three")).unwrap();
    symlink("../blobs/one", folder.join("m/m.onnx")).unwrap();
    symlink("../blobs/three", folder.join("m/two")).unwrap();
    done(&rewrite(&folder, &["-o", "o.onnx"]));
    // A file elsewhere is none of them.
    std::fs::rename(folder.join("blobs/three"), folder.join("secret")).unwrap();
    std::fs::remove_file(folder.join("m/two")).unwrap();
    symlink("../secret", folder.join("m/two")).unwrap();
    let said = rewrite(&folder, &["-o", "p.onnx"]).err;
    assert!(
        said.contains("'two': leads out of the model's folder through a link (put the file itself"),
        "{said}"
    );
}
