//! Samples that a user gives and that are of no use: what cannot be run is told by its file, what does not count is left out,
//! and nothing stands in for them in silence.

mod support;

use efq::onnx::node;
use efq::onnx::proto::{GraphProto, tensor_proto::DataType};
use serde_json::Value;
use support::{Folder, Net, Run, body, done, noise, npy_f32, npy_i64, npz, value};

/// A model of 64 words and so many positions, which it counts itself.
fn counting(positions: usize) -> Net {
    Net::new()
        .input("input_ids", DataType::Int64, &["batch", "length"])
        .output("logits", DataType::Float, &["batch", "length", "64"])
        .floats("words", &[64, 64], &noise(64 * 64, 1))
        .floats("places", &[positions, 64], &noise(positions * 64, 2))
        .floats("inner", &[64, 64], &noise(64 * 64, 3))
        .floats("head", &[64, 64], &noise(64 * 64, 4))
        .integers("zero", &[], &[0])
        .integers("one", &[], &[1])
        .node("Shape", "shape", &["input_ids"], &["shape"], vec![])
        .node("Gather", "size", &["shape", "one"], &["size"], vec![])
        .node("Range", "range", &["zero", "size", "one"], &["range"], vec![])
        .node("Gather", "words_of", &["words", "input_ids"], &["a"], vec![])
        .node("Gather", "places_of", &["places", "range"], &["b"], vec![])
        .node("Add", "sum", &["a", "b"], &["c"], vec![])
        .node("MatMul", "first", &["c", "inner"], &["d"], vec![])
        .node("Tanh", "bend", &["d"], &["e"], vec![])
        .node("MatMul", "last", &["e", "head"], &["logits"], vec![])
}

/// `count` samples of `length` ids.
fn ids(count: usize, length: usize) -> Vec<u8> {
    let values: Vec<i64> = (0..count * length).map(|at| (at * 7 % 61) as i64).collect();
    npz(&[("input_ids", npy_i64(&[count, length], &values))])
}

fn args(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

fn json(run: &Run) -> Value {
    serde_json::from_str(done(run)).unwrap()
}

/// Whatever runs the samples: the error is theirs, and nothing is written.
#[test]
fn samples_longer_than_the_positions_are_told_by_their_file() {
    let folder = Folder::new();
    counting(24).save(&folder.join("m.onnx"));
    folder.write("long.npz", ids(20, 40));
    folder.write("good.npz", ids(20, 24));
    let told = "error: long.npz: 'input_ids': 40 positions in sample 0, the model takes 24 (20 of 20 samples have more: cut or \
                split them)\n";
    for line in [
        "rewrite m.onnx -p high_compression -o o.onnx --data good.npz --calibration long.npz --strict -q",
        "rewrite m.onnx -p high_compression -o o.onnx --calibration long.npz --algorithm gptq --statistics s",
        "rewrite m.onnx -p high_compression -o o.onnx --data long.npz",
        "rewrite m.onnx -p high_compression -o o.onnx --data long.npz --target-loss 1",
        "rewrite m.onnx -p high_compression -o o.onnx --data long.npz --target-bpw 8",
        "pareto m.onnx -p high_compression --points 2 --data good.npz --calibration long.npz",
        "pareto m.onnx -p high_compression --points 2 --data long.npz",
        "validate m.onnx m.onnx -p high_compression --data long.npz",
        "analyze m.onnx --data long.npz",
        "explain m.onnx m.onnx --data long.npz",
    ] {
        let run = folder.efq(&args(line));
        assert_eq!((run.code, run.err.as_str()), (Some(3), told), "{line}");
        assert!(!folder.join("o.onnx").exists() && !folder.join("s").exists(), "{line}");
    }
    let fits = "validate m.onnx m.onnx -p high_compression --data good.npz";
    done(&folder.efq(&args(fits)));
    // So few positions that made-up samples are longer too.
    counting(12).save(&folder.join("m.onnx"));
    let run = folder.efq(&args(fits));
    let told = "error: good.npz: 'input_ids': 24 positions in sample 0, the model takes 12 (20 of 20 samples have more: cut or \
                split them)\n";
    assert_eq!((run.code, run.err.as_str()), (Some(3), told));
}

/// What no sample can change is not their fault: the work goes on without them, and the report warns of it.
#[test]
fn samples_that_cannot_be_fitted_to_are_a_warning() {
    let folder = Folder::new();
    let product = |name: &str| {
        let output = vec![value(name, DataType::Float, &["rows", "64"])];
        let node = vec![node::build("MatMul", "", &["x", "w"], &[name], vec![])];
        GraphProto { name: Some("body".into()), node, output, ..Default::default() }
    };
    let bodies = vec![body("then_branch", product("a")), body("else_branch", product("b"))];
    Net::new()
        .input("x", DataType::Float, &["rows", "64"])
        .input("c", DataType::Bool, &[])
        .output("y", DataType::Float, &["rows", "64"])
        .floats("w", &[64, 64], &noise(64 * 64, 1))
        .node("If", "choice", &["c"], &["y"], bodies)
        .save(&folder.join("m.onnx"));
    let (x, c) = (npy_f32(&[40, 64], &noise(40 * 64, 2)), npy_i64(&[40], &[1; 40]));
    folder.write("d.npz", npz(&[("x", x), ("c", c)]));
    let line = "rewrite m.onnx -p high_compression -o o.onnx --data d.npz --calibration d.npz --statistics s.safetensors \
                --min-cosine 0.1 --force";
    let report = json(&folder.efq(&args(&format!("{line} --format json"))));
    let warnings = report["warnings"].to_string();
    let why = "calibration: every linear layer stands in a body, which calibration does not enter";
    for told in ["no weight was fitted to --calibration d.npz", "--statistics s.safetensors was not written"]
    {
        assert!(warnings.contains(&format!("{told}: {why}")), "{report:#}");
    }
    assert_eq!(report["validation"]["deployed"]["outcome"], "passed", "{report:#}");
    assert!(!folder.join("s.safetensors").exists());
    let strict = folder.efq(&args(&format!("{line} --strict -q")));
    let told = "error: no weight was fitted to the samples of --calibration, which --strict does not pass\n";
    assert_eq!((strict.code, strict.err.as_str()), (Some(4), told), "{strict:?}");
}

/// A copy of a sample that is fitted to would judge that fit.
#[test]
fn copies_of_calibration_samples_are_left_out() {
    let folder = Folder::new();
    Net::linear(64, 96).save(&folder.join("m.onnx"));
    let of = |distinct: usize| {
        let values = noise(distinct * 64, 2).repeat(40 / distinct);
        folder.write("x.npz", npz(&[("x", npy_f32(&[40, 64], &values))]));
        let line = "rewrite m.onnx -p high_compression -o o.onnx --validate never --calibration x.npz --force --format json";
        json(&folder.efq(&args(line)))
    };
    let (twice, one, each) = (of(20), of(1), of(40));
    let told = |report: &Value| {
        let warnings = report["warnings"].as_array().unwrap();
        let left_out = warnings.iter().filter_map(Value::as_str).find(|told| told.contains("left out"));
        (report["fitting"]["samples"].clone(), left_out.map(str::to_owned))
    };
    let copies = |count: usize| {
        (
            Value::from(40 - count),
            Some(format!("{count} of 40 calibration samples are copies of others and were left out")),
        )
    };
    assert_eq!((told(&twice), told(&one)), (copies(20), copies(39)));
    assert_eq!(told(&each), (Value::from(40), None));
    assert_eq!([&twice, &one].map(|report| &report["fitting"]["judged_by_real"]), [true, false]);
}

/// NaN in samples that judge is theirs and not the original's, but for a model that asks for it; so is an infinity that
/// reaches the output.
#[test]
fn samples_without_numbers_do_not_judge() {
    let folder = Folder::new();
    Net::linear(64, 96).save(&folder.join("m.onnx"));
    let mut values = noise(40 * 64, 1);
    values[5 * 64 + 3] = f32::NAN;
    values[9 * 64] = f32::INFINITY;
    folder.write("x.npz", npz(&[("x", npy_f32(&[40, 64], &values))]));
    let judged = |model: &str| {
        let line = format!("validate {model} {model} -p high_compression --data x.npz --format json");
        let report = json(&folder.efq(&args(&line)));
        let deployed = &report["validation"]["deployed"];
        (report["warnings"].to_string(), deployed["samples"].clone(), deployed["skipped"].clone())
    };
    let told = "[\"2 of 40 samples of --data hold NaN or infinity and were left out\"]";
    assert_eq!(judged("m.onnx"), (told.to_owned(), 38.into(), 0.into()));
    let analyzed = json(&folder.efq(&args("analyze m.onnx --data x.npz --format json")));
    assert_eq!(analyzed["warnings"].to_string(), told);
    Net::linear(64, 96)
        .floats("low", &[], &[-1.0])
        .floats("high", &[], &[1.0])
        .with(|graph| graph.node[0].input[0] = "within".into())
        .node("Clip", "", &["x", "low", "high"], &["within"], vec![])
        .with(|graph| graph.node.swap(0, 1))
        .save(&folder.join("clip.onnx"));
    let nan = told.replace("2 of", "1 of");
    assert_eq!(judged("clip.onnx"), (nan, 39.into(), 0.into()));
    Net::linear(64, 96)
        .floats("zero", &[], &[0.0])
        .floats("low", &[], &[-1.0])
        .floats("high", &[], &[1.0])
        .with(|graph| graph.node.clear())
        .node("IsNaN", "", &["x"], &["missing"], vec![])
        .node("Where", "", &["missing", "zero", "x"], &["filled"], vec![])
        .node("Clip", "", &["filled", "low", "high"], &["within"], vec![])
        .node("MatMul", "product", &["within", "w"], &["logits"], vec![])
        .save(&folder.join("filled.onnx"));
    assert_eq!(judged("filled.onnx"), ("[]".to_owned(), 40.into(), 0.into()));
}

/// Samples without numbers show nothing, whatever a runtime makes of them: the largest of NaN and 0 may be 0.
#[test]
fn samples_without_numbers_judge_and_fit_nothing() {
    let folder = Folder::new();
    Net::linear(64, 96)
        .node("Relu", "relu", &["logits"], &["z"], vec![])
        .output("z", DataType::Float, &["batch", "96"])
        .save(&folder.join("m.onnx"));
    let mut values = noise(40 * 64, 4);
    values.iter_mut().skip(3).step_by(64).for_each(|value| *value = f32::NAN);
    folder.write("all.npz", npz(&[("x", npy_f32(&[40, 64], &values))]));
    values.truncate(20 * 64);
    values.extend(noise(20 * 64, 5));
    folder.write("half.npz", npz(&[("x", npy_f32(&[40, 64], &values))]));
    let base = ["rewrite", "m.onnx", "-p", "high_compression", "--output-name", "z", "--keep-output", "-o"];
    for option in ["--data", "--calibration"] {
        let run = folder.efq(&[&base[..], &["a.onnx", option, "all.npz"]].concat());
        assert_eq!(run.code, Some(3), "{run:?}");
        assert!(
            run.err.contains("error: all.npz: all 40") && run.err.contains("hold NaN or infinity"),
            "{run:?}"
        );
    }
    let run = folder.efq(&[&base[..], &["h.onnx", "--data", "half.npz"]].concat());
    assert!(run.out.contains("20 of 40 samples of --data hold NaN or infinity and were left out"), "{run:?}");
}

/// An original to which the labels are less likely than to who does not look was not made for them.
#[test]
fn labels_that_are_worse_than_a_blind_guess_are_told() {
    let folder = Folder::new();
    let loud: Vec<f32> = noise(64 * 64, 4).iter().map(|value| 60.0 * value).collect();
    counting(24)
        .with(|graph| graph.initializer.retain(|tensor| tensor.name() != "head"))
        .floats("head", &[64, 64], &loud)
        .save(&folder.join("m.onnx"));
    counting(24).save(&folder.join("even.onnx"));
    let values: Vec<i64> = (0..20 * 24).map(|at| at * 7 % 61).collect();
    let save = |file: &str, label: &dyn Fn(i64) -> i64| {
        let labels: Vec<i64> = (0..20 * 24).map(label).collect();
        let arrays = [("input_ids", npy_i64(&[20, 24], &values)), ("labels", npy_i64(&[20, 24], &labels))];
        folder.write(file, npz(&arrays));
    };
    save("any.npz", &|at| at * 11 % 59);
    save("two.npz", &|at| i64::from(at % 4 == 0));
    let blind = "that of a blind guess 64: the labels";
    let by_share = "that of a guess by how often each occurs 1.75: the labels";
    for (line, guess) in [
        ("validate m.onnx m.onnx -p high_compression --data any.npz", blind),
        ("validate even.onnx even.onnx -p high_compression --data two.npz", by_share),
        (
            "rewrite m.onnx -p high_compression -o o.onnx --data any.npz --keep-output --accuracy-target 99",
            blind,
        ),
    ] {
        let report = json(&folder.efq(&args(&format!("{line} --format json"))));
        let warnings = report["warnings"].to_string();
        assert!(warnings.contains("the original's perplexity of the labels is "), "{report:#}");
        assert!(warnings.contains(guess), "{report:#}");
    }
}
