//! `efq explain`: that its parts add up to what the rewritten model does, and what it tells.

mod support;

use std::path::Path;

use efq::data::{self, Source};
use efq::engine::{Runner, Variant};
use efq::onnx::load;
use efq::onnx::proto::tensor_proto::DataType;
use serde_json::Value;
use support::{Folder, Net, done, float, noise, npy_f32, npy_i64, npz};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/digits_vit.onnx");
const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/digits_vit.test.npz");

fn explained(folder: &Folder, original: &str, rewritten: &str, data: &str) -> Value {
    let args = ["explain", original, rewritten, "--data", data, "--format", "json"];
    serde_json::from_str(done(&folder.efq(&args))).unwrap()
}

/// The squared relative error of `output` between two models on the samples that are explained.
fn error(original: &Path, rewritten: &Path, samples: &Path, output: &str) -> f64 {
    let (before, after) = (load(original).unwrap(), load(rewritten).unwrap());
    let samples = data::load(&Source::new(samples), &before).unwrap().list;
    let runner = |model| Runner::new(model, output, Variant::Deployed).unwrap();
    let (before, after) = (runner(&before), runner(&after));
    let (mut error, mut signal) = (0.0, 0.0);
    for sample in samples.iter().take(24) {
        let (a, b) = (before.run(sample).unwrap().values, after.run(sample).unwrap().values);
        error += a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        signal += a.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>();
    }
    error / signal
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[test]
fn the_parts_add_up_and_the_next_step_takes_away_what_it_says() {
    let folder = Folder::new();
    let fixed = ["rewrite", FIXTURE, "-p", "high_accuracy", "--validate", "never", "-o"];
    done(&folder.efq(&[&fixed[..], &["a.onnx", "--seed", "3"]].concat()));
    let found = explained(&folder, FIXTURE, "a.onnx", SAMPLES);
    let tensors = found["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 16);
    assert!(tensors.iter().all(|tensor| tensor["encoding"] == "uint4 block 64"));
    let shares: f64 = tensors.iter().map(|tensor| number(&tensor["share"])).sum();
    assert!((shares - 1.0).abs() < 1e-9);
    let (sum, together) = (number(&found["sum"]), number(&found["together"]));
    // Fitting makes up for what the layers before lost, so all together lose less than the sum.
    assert!(sum > 0.2 * together && together > 0.2 * sum, "{sum} {together}");
    let run = error(FIXTURE.as_ref(), &folder.join("a.onnx"), SAMPLES.as_ref(), "logits");
    assert!((together / run - 1.0).abs() < 0.01, "{together} explained, {run} run");
    // Only what comes after another changed layer has an error in its input.
    let input = |tensor: &Value| number(&tensor["input"]);
    assert_eq!(tensors.iter().filter(|tensor| input(tensor) == 0.0).count(), 1);
    assert!(tensors.iter().all(|tensor| number(&tensor["kernel"]) > 0.0 && number(&tensor["weight"]) > 0.0));

    let plain = [&fixed[..], &["b.onnx", "--algorithm", "search"]].concat();
    done(&folder.efq(&plain));
    let before = explained(&folder, FIXTURE, "b.onnx", SAMPLES);
    let worst = &before["tensors"][0];
    let (name, mend) = (worst["tensor"].as_str().unwrap(), &worst["mend"]);
    assert_eq!(mend["encoding"], "int8 block 128");
    let rule = format!("{name}=int8");
    done(&folder.efq(&[&fixed[..], &["c.onnx", "--algorithm", "search", "--tensor", &rule]].concat()));
    let after = explained(&folder, FIXTURE, "c.onnx", SAMPLES);
    let mended = after["tensors"].as_array().unwrap().iter().find(|tensor| tensor["tensor"] == name).unwrap();
    assert_eq!(number(&mended["bytes"]) - number(&worst["bytes"]), number(&mend["bytes"]));
    let gone = number(&worst["error"]) - number(&mended["error"]);
    assert!((gone / number(&mend["removes"]) - 1.0).abs() < 0.1, "{gone} gone, {mend} predicted");
    assert_eq!(mended["mend"]["encoding"], "float");
}

/// A table, a Gemm with factors and a bias, a Relu and a product with a bias.
fn network() -> Net {
    Net::new()
        .input("ids", DataType::Int64, &["batch", "4"])
        .output("logits", DataType::Float, &["batch", "32"])
        .floats("table", &[300, 64], &noise(300 * 64, 1))
        .floats("up", &[256, 96], &noise(256 * 96, 2))
        .floats("up_bias", &[96], &noise(96, 3))
        .floats("down", &[96, 32], &noise(96 * 32, 4))
        .floats("down_bias", &[32], &noise(32, 5))
        .integers("flat", &[2], &[-1, 256])
        .node("Gather", "rows", &["table", "ids"], &["rows"], vec![])
        .node("Reshape", "reshape", &["rows", "flat"], &["x"], vec![])
        .node("Gemm", "gemm", &["x", "up", "up_bias"], &["h"], vec![float("alpha", 0.5), float("beta", 2.0)])
        .node("Relu", "relu", &["h"], &["r"], vec![])
        .node("MatMul", "product", &["r", "down"], &["p"], vec![])
        .node("Add", "sum", &["p", "down_bias"], &["logits"], vec![])
}

fn small() -> Folder {
    let folder = Folder::new();
    network().save(&folder.join("m.onnx"));
    let ids: Vec<i64> = (0..24 * 4).map(|at| at * 37 % 300).collect();
    std::fs::write(folder.join("x.npz"), npz(&[("ids", npy_i64(&[24, 4], &ids))])).unwrap();
    folder
}

#[test]
fn every_form_is_read_from_the_file() {
    let folder = small();
    let fixed =
        ["rewrite", "m.onnx", "-p", "high_compression", "--validate", "never", "--force", "-o", "o.onnx"];
    for more in [
        &["--calibration", "x.npz"][..],
        &["--emit", "matmulnbits"],
        &["--embeddings", "int8", "--symmetric"],
    ] {
        let told = done(&folder.efq(&[&fixed[..], more, &["--format", "json"]].concat())).to_owned();
        let report: Value = serde_json::from_str(&told).unwrap();
        let found = explained(&folder, "m.onnx", "o.onnx", "x.npz");
        for name in ["table", "up", "down"] {
            let of = |list: &Value, key: &str| -> Value {
                list.as_array().unwrap().iter().find(|tensor| tensor[key] == name).unwrap().clone()
            };
            let (planned, read) = (of(&report["tensors"], "name"), of(&found["tensors"], "tensor"));
            assert_eq!(
                (&planned["encoding"], &planned["bytes_after"]),
                (&read["encoding"], &read["bytes"]),
                "{more:?}"
            );
        }
        let run = error(&folder.join("m.onnx"), &folder.join("o.onnx"), &folder.join("x.npz"), "logits");
        let together = number(&found["together"]);
        assert!((together / run - 1.0).abs() < 0.02, "{more:?}: {together} explained, {run} run");
    }
}

#[test]
fn models_that_do_not_go_together_are_refused() {
    let folder = small();
    let mut told = String::new();
    let mut refused = |args: &[&str]| {
        let out = folder.efq(&[&["explain", "m.onnx"], args].concat());
        assert_eq!(out.out, "");
        told += &format!("{args:?}\n{} {}", out.code.unwrap(), out.err);
    };
    refused(&["m.onnx", "--data", "x.npz"]);
    Net::linear(64, 64).save(&folder.join("other.onnx"));
    refused(&["other.onnx"]);
    network()
        .with(|graph| {
            graph.node[5].output[0] = "y".into();
            graph.output[0].name = Some("y".into());
        })
        .save(&folder.join("renamed.onnx"));
    refused(&["renamed.onnx"]);
    network()
        .with(|graph| graph.initializer.retain(|tensor| tensor.name() != "down"))
        .floats("down", &[96, 1], &noise(96, 4))
        .save(&folder.join("shape.onnx"));
    refused(&["shape.onnx", "--data", "x.npz"]);
    refused(&["missing.onnx"]);
    std::fs::write(folder.join("y.npz"), npz(&[("x", npy_f32(&[2, 4], &noise(8, 1)))])).unwrap();
    refused(&["m.onnx", "--data", "y.npz"]);
    insta::assert_snapshot!(told);
}

#[test]
fn the_table_shows_the_worst_and_what_to_do() {
    use efq::report::{Data, Explained, Explanation, File, Mend};
    let file = |path: &str, bytes| File { path: path.into(), bytes, blake3: String::new(), opset: 21 };
    let tensor = |at: usize| {
        let error = 1e-4 / (at + 1) as f64;
        let table = at == 3;
        Explained {
            tensor: format!("encoder.layers.{at}.a_name_that_goes_on_and_on.weight"),
            role: efq::role::Role::Other,
            shape: vec![128, 512],
            encoding: if table { "int4 rows block 32" } else { "uint4 block 64" }.into(),
            bytes: Some(35_328),
            error,
            share: 0.0,
            weight: if table { 0.0 } else { error * 40.0 },
            kernel: if table { 0.0 } else { error * 4.0 },
            input: if at == 0 { 0.0 } else { 3e-3 },
            mend: (at != 1).then(|| Mend {
                encoding: if table { "int8 rows" } else { "int8 block 128" }.into(),
                bytes: if at == 2 { 900 } else { 31_232 },
                removes: error * 0.9,
            }),
        }
    };
    let mut tensors: Vec<Explained> = (0..14).map(tensor).collect();
    let sum: f64 = tensors.iter().map(|tensor| tensor.error).sum();
    tensors.iter_mut().for_each(|tensor| tensor.share = tensor.error / sum);
    let found = Explanation {
        schema: 1,
        original: file("m.onnx", 3_240_000),
        rewritten: file("m.int4.onnx", 529_400),
        output: "logits".into(),
        data: Data::File { path: "test.npz".into(), blake3: String::new(), labelled: true },
        samples: 24,
        tensors,
        sum,
        together: Some(2.5e-4),
        warnings: vec!["photos: left out, for they lie deeper than one folder: a/b/c.png".into()],
    };
    let shown = found.text(false);
    let mut lines = shown.lines().filter(|line| !line.starts_with("most"));
    assert!(lines.all(|line| line.chars().count() <= 100), "{shown}");
    insta::assert_snapshot!(shown);
    assert_eq!(found.text(true).matches("encoder.").count() + found.text(true).matches("encod…").count(), 15);
}
