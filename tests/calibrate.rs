//! Fitting weights to activations: what it gains, that it never loses in silence, and that a budget holds.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use efq::data::{self, Sample, Source};
use efq::engine::{Runner, Variant};
use efq::graph::{inventory, measured_output};
use efq::onnx::load;
use efq::onnx::proto::{AttributeProto, attribute_proto, tensor_proto::DataType};
use efq::pipeline::{self, RewriteOptions, When};
use efq::preset::Preset;
use efq::progress::{Progress, Silent};
use efq::settings::{Budget, Overrides, Settings};
use serde_json::Value;
use support::{Folder, Net, done, int, ints, noise, npy_f32, npz};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/digits_vit.onnx");
const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/digits_vit.test.npz");

/// Relative L2 distance of the outputs of two models over `samples`.
fn distance(original: &std::path::Path, rewritten: &std::path::Path, samples: &[Sample]) -> f64 {
    let (original, rewritten) = (load(original).unwrap(), load(rewritten).unwrap());
    let output = measured_output(&original, &inventory(&original), None).unwrap();
    let a = Runner::new(&original, &output.name, Variant::Deployed).unwrap();
    let b = Runner::new(&rewritten, &output.name, Variant::Deployed).unwrap();
    let (mut error, mut signal) = (0.0, 0.0);
    for sample in samples {
        for (x, y) in a.run(sample).unwrap().values.iter().zip(&b.run(sample).unwrap().values) {
            error += f64::from(y - x).powi(2);
            signal += f64::from(*x).powi(2);
        }
    }
    (error / signal).sqrt()
}

/// The samples of the fixture, those at even places to fit to, the others to judge.
fn halves(folder: &Folder) -> Vec<Sample> {
    let model = load(FIXTURE.as_ref()).unwrap();
    let all = data::load(&Source::new(SAMPLES), &model).unwrap().list;
    let taken: Vec<&Sample> = all.iter().step_by(2).take(96).collect();
    keep(folder, "calib.npz", &taken, 1.0);
    keep(folder, "one.npz", &taken[..1], 1.0);
    keep(folder, "loud.npz", &taken[..1], 100.0);
    all.into_iter().skip(1).step_by(2).take(128).collect()
}

/// Writes samples down, `factor` times as large.
fn keep(folder: &Folder, file: &str, samples: &[&Sample], factor: f32) {
    let (name, first) = &samples[0].inputs[0];
    let values: Vec<f32> = samples
        .iter()
        .flat_map(|sample| sample.inputs[0].1.bytes.as_chunks::<4>().0.to_vec())
        .map(|bytes| factor * f32::from_le_bytes(bytes))
        .collect();
    let shape: Vec<usize> =
        std::iter::once(samples.len()).chain(first.shape.iter().skip(1).copied()).collect();
    folder.write(file, npz(&[(name.as_str(), npy_f32(&shape, &values))]));
}

fn rewrite(folder: &Folder, output: &str, more: &[&str]) -> Value {
    let fixed =
        ["rewrite", FIXTURE, "-p", "high_accuracy", "-o", output, "--validate", "never", "--format", "json"];
    serde_json::from_str(done(&folder.efq(&[&fixed, more].concat()))).unwrap()
}

#[test]
fn real_samples_and_made_up_ones_both_beat_search_on_other_samples() {
    let folder = Folder::new();
    let judges = halves(&folder);
    rewrite(&folder, "search.onnx", &["--algorithm", "search"]);
    let bare = rewrite(&folder, "bare.onnx", &[]);
    let fitted = rewrite(&folder, "fitted.onnx", &["--calibration", "calib.npz"]);
    let weighted =
        rewrite(&folder, "weighted.onnx", &["--calibration", "calib.npz", "--algorithm", "weighted"]);
    let of = |name: &str| distance(FIXTURE.as_ref(), &folder.join(name), &judges);
    let (search, made_up, real) = (of("search.onnx"), of("bare.onnx"), of("fitted.onnx"));
    let diagonal = of("weighted.onnx");
    assert!(real < diagonal && diagonal < 0.97 * search, "{diagonal} of {real} to {search}");
    let named = |name: &str| {
        weighted["fitting"]["layers"].as_array().unwrap().iter().any(|layer| layer["algorithm"] == name)
    };
    assert!(named("weighted") && !named("gptq"), "{}", weighted["fitting"]);
    assert!(real < 0.55 * search, "{real} against {search}");
    assert!(made_up < 0.9 * search, "{made_up} against {search}");
    assert_eq!(fitted["fitting"]["data"]["source"], "file");
    assert_eq!(fitted["fitting"]["samples"], 96);
    assert_eq!(bare["fitting"]["data"]["source"], "synthetic");
    assert!(bare["fitting"]["layers"].as_array().unwrap().len() >= 16);
}

/// A single sample, and one that is like no other, are no worse than none.
#[test]
fn a_sample_is_no_worse_than_none() {
    let folder = Folder::new();
    let judges = halves(&folder);
    rewrite(&folder, "search.onnx", &["--algorithm", "search"]);
    rewrite(&folder, "bare.onnx", &[]);
    let one = rewrite(&folder, "one.onnx", &["--calibration", "one.npz"]);
    rewrite(&folder, "loud.onnx", &["--calibration", "loud.npz"]);
    let of = |name: &str| distance(FIXTURE.as_ref(), &folder.join(name), &judges);
    let (search, bare) = (of("search.onnx"), of("bare.onnx"));
    assert!(of("one.onnx") < 1.05 * bare, "{} against {bare}", of("one.onnx"));
    assert!(of("loud.onnx") < 1.02 * search, "{} against {search}", of("loud.onnx"));
    assert!(one["warnings"].to_string().contains("1 calibration sample is few"), "{}", one["warnings"]);
}

#[test]
fn the_bytes_do_not_depend_on_threads_and_a_plan_repeats_them() {
    let folder = Folder::new();
    halves(&folder);
    rewrite(&folder, "a.onnx", &["--calibration", "calib.npz", "--plan", "p.json"]);
    let args = ["rewrite", FIXTURE, "-p", "high_accuracy", "-o", "b.onnx", "--validate", "never"];
    let mut one = folder.command(&[&args[..], &["--calibration", "calib.npz"]].concat());
    assert!(one.env("RAYON_NUM_THREADS", "1").output().unwrap().status.success());
    assert_eq!(folder.read("a.onnx"), folder.read("b.onnx"));
    folder.write("moved/again.npz", folder.read("calib.npz"));
    let moved = rewrite(&folder, "c.onnx", &["--calibration", "moved/again.npz", "--from-plan", "p.json"]);
    assert_eq!(folder.read("a.onnx"), folder.read("c.onnx"));
    assert!(!moved["warnings"].to_string().contains("the plan"), "{moved:?}");
}

#[test]
fn a_plan_that_is_repeated_with_other_samples_or_another_preset_says_so() {
    let folder = Folder::new();
    halves(&folder);
    rewrite(&folder, "a.onnx", &["--dry-run", "--calibration", "one.npz", "--plan", "p.json"]);
    let warnings = |more: &[&str]| {
        let report = rewrite(&folder, "b.onnx", &[&["--dry-run", "--from-plan", "p.json"], more].concat());
        report["warnings"].to_string()
    };
    let made_up = warnings(&["--plan", "b.json"]);
    let told = "the plan's weights were fitted to one.npz (blake3 ";
    assert!(
        made_up.contains(told) && made_up.contains("those of this run to made-up samples (seed 0)"),
        "{made_up}"
    );
    assert!(made_up.contains("--calibration one.npz repeats them"), "{made_up}");
    let seed = warnings(&["--calibration", "one.npz", "--seed", "1"]);
    assert!(seed.contains(told) && seed.contains("seed 1 beside it"), "{seed}");
    let plan: Value = serde_json::from_slice(&folder.read("b.json")).unwrap();
    assert_eq!(plan["fitted_to"], serde_json::json!({ "source": "made_up", "seed": 0 }));
    let other = ["rewrite", FIXTURE, "-p", "medical_grade", "--from-plan", "p.json", "--dry-run"];
    let other = done(&folder.efq(&[&other[..], &["--calibration", "one.npz"]].concat())).to_owned();
    assert!(other.contains("the plan was made under high_accuracy"), "{other}");
    assert!(!other.contains("fitted to"), "{other}");
    let old = String::from_utf8(folder.read("p.json")).unwrap();
    let mut old: Value = serde_json::from_str(&old).unwrap();
    old.as_object_mut().unwrap().remove("fitted_to");
    old["efq"] = "0.0.9".into();
    folder.write("p.json", old.to_string());
    let old = warnings(&[]);
    assert!(
        old.contains("does not say what its weights were fitted to") && old.contains("by efq 0.0.9"),
        "{old}"
    );
}

/// One bad sample costs that sample only.
/// Activations that memory does not hold go to a file: nothing is left out, and nothing else comes out.
#[test]
fn less_memory_fits_as_well() {
    let folder = Folder::new();
    let judges = halves(&folder);
    let wide = rewrite(&folder, "wide.onnx", &["--calibration", "calib.npz"]);
    let narrow = rewrite(&folder, "narrow.onnx", &["--calibration", "calib.npz", "--max-memory", "110MB"]);
    for field in ["samples", "beside", "rows"] {
        assert_eq!(wide["fitting"][field], narrow["fitting"][field], "{field}");
    }
    let of = |name: &str| distance(FIXTURE.as_ref(), &folder.join(name), &judges);
    let (wide, narrow) = (of("wide.onnx"), of("narrow.onnx"));
    assert!((narrow / wide - 1.0).abs() < 0.05, "{narrow} against {wide}");
    // The order of sums is another, so there were several batches.
    assert_ne!(
        std::fs::read(folder.join("wide.onnx")).unwrap(),
        std::fs::read(folder.join("narrow.onnx")).unwrap()
    );
}

/// Where memory does not hold the moments of all pairs of inputs, those of bands do nearly as well.
#[test]
fn inputs_too_many_for_memory_are_fitted_band_by_band() {
    let folder = Folder::new();
    let (k, count) = (640, 1024);
    Net::linear(k, 32).save(&folder.join("m.onnx"));
    let (shared, own) = (noise(count * 5, 2), noise(count * k, 3));
    let values: Vec<f32> =
        (0..count * k).map(|at| shared[at / k * 5 + at % k / 128] + 0.2 * own[at]).collect();
    folder.write("x.npz", npz(&[("x", npy_f32(&[count, k], &values))]));
    let layer = |more: &[&str]| {
        let fixed = [
            "rewrite",
            "m.onnx",
            "-p",
            "high_compression",
            "-o",
            "out.onnx",
            "--force",
            "--tensor",
            "w=int4",
            "--accuracy-target",
            "50",
        ];
        let data = ["--calibration", "x.npz", "--data", "x.npz", "--format", "json", "--keep-output"];
        let report: Value =
            serde_json::from_str(done(&folder.efq(&[&fixed[..], &data, more].concat()))).unwrap();
        let layer = &report["fitting"]["layers"][0];
        assert_eq!(layer["algorithm"], "gptq", "{layer}");
        let share = layer["error"].as_f64().unwrap() / layer["error_by_search"].as_f64().unwrap();
        (share, report["validation"]["weights_only"]["rel_l2"].as_f64().unwrap())
    };
    let whole = layer(&[]);
    let bands = layer(&["--max-memory", "100MB"]);
    assert_ne!(whole, bands);
    assert!(whole.0 < 0.8 && bands.0 < 0.8, "{whole:?} {bands:?}");
    assert!(bands.1 < 1.3 * whole.1, "{whole:?} {bands:?}");
}

#[test]
fn samples_that_hold_nan_are_left_out() {
    let folder = Folder::new();
    Net::linear(64, 96).save(&folder.join("m.onnx"));
    let mut values = noise(40 * 64, 1);
    values[5 * 64 + 3] = f32::NAN;
    folder.write("x.npz", npz(&[("x", npy_f32(&[40, 64], &values))]));
    let args = ["rewrite", "m.onnx", "-p", "high_compression", "-o", "o.onnx", "--validate", "never"];
    let run = folder.efq(&[&args[..], &["--calibration", "x.npz", "--format", "json"]].concat());
    let report: Value = serde_json::from_str(done(&run)).unwrap();
    assert_eq!(report["fitting"]["samples"], 39, "{report}");
    assert!(
        report["fitting"]["layers"][0]["error_by_search"].is_number()
            || report["fitting"]["layers"][0]["fallback"] == "no better on held-out samples",
        "{report}"
    );
    assert!(report["warnings"].to_string().contains("1 of 40 calibration samples hold NaN"), "{report}");
}

/// What an option needs is asked for before anything is done.
#[test]
fn options_that_lack_what_they_work_on_are_refused() {
    let folder = Folder::new();
    Net::linear(64, 96).save(&folder.join("m.onnx"));
    folder.write("x.npz", npz(&[("x", npy_f32(&[20, 64], &noise(20 * 64, 1)))]));
    let fixed = ["rewrite", "m.onnx", "-p", "high_accuracy", "-o", "o.onnx"];
    let unread = "the algorithm that was asked for does without samples (leave it out, or --algorithm auto)";
    let (calibration, statistics) = (format!("--calibration: {unread}"), format!("--statistics: {unread}"));
    let cases: [(&[&str], &str); 10] = [
        (&["--target-loss", "1"], "--target-loss: is held by measuring"),
        (
            &["--target-loss", "1", "--data", "x.npz", "--validate", "never"],
            "--target-loss: is held by measuring",
        ),
        (&["--target-size", "10kB", "--dry-run"], "--dry-run: plans without measuring"),
        (&["--tokenizer", "t.json"], "--tokenizer: is for samples, and there are none"),
        (&["--algorithm", "rtn", "--calibration", "x.npz"], &calibration),
        (&["--algorithm", "search", "--statistics", "s.safetensors"], &statistics),
        (
            &["--target-loss", "0", "--data", "x.npz"],
            "--target-loss: a number above 0 and up to 100 is expected",
        ),
        (&["--target-bpw", "0"], "--target-bpw: a number above 0 and up to 64 is expected"),
        (
            &["--target-loss", "1", "--accuracy-target", "2", "--data", "x.npz"],
            "--accuracy-target: is what --target-loss sets too (leave one of them out)",
        ),
        (
            &["--target-size", "10kB", "--from-plan", "p.json"],
            "--target-size <SIZE>: does not go together with --from-plan",
        ),
    ];
    for (more, expected) in cases {
        let run = folder.efq(&[&fixed, more].concat());
        assert_eq!(run.code, Some(2), "{more:?} {run:?}");
        assert!(run.err.contains(expected), "{more:?} {run:?}");
    }
    let pareto = ["pareto", "m.onnx", "-p", "high_compression", "--data", "x.npz"];
    for (more, expected) in [
        (
            ["--target-bpw", "4"],
            "--target-bpw: is one budget, and several are tried (leave it out, or efq rewrite)",
        ),
        (["--calibration", "x.npz"], calibration.as_str()),
    ] {
        let run = folder.efq(&[&pareto[..], &more, &["--algorithm", "search"]].concat());
        assert_eq!(run.code, Some(2), "{more:?} {run:?}");
        assert!(run.err.contains(expected), "{more:?} {run:?}");
    }
}

/// Samples that no weight of the plan needs are told of.
#[test]
fn samples_without_a_weight_to_fit_are_told() {
    let folder = Folder::new();
    Net::linear(64, 96).save(&folder.join("m.onnx"));
    folder.write("x.npz", npz(&[("x", npy_f32(&[20, 64], &noise(20 * 64, 1)))]));
    let args = "rewrite m.onnx -p high_compression -o o.onnx --validate never --format json --tensor w=int8";
    let args: Vec<&str> = args.split(' ').chain(["--calibration", "x.npz"]).collect();
    let report: Value = serde_json::from_str(done(&folder.efq(&args))).unwrap();
    let told = report["warnings"].to_string();
    let fitted = !report["fitting"].is_null();
    assert!(fitted != told.contains("--calibration was not looked at"), "{report}");
}

#[test]
fn activations_that_are_not_finite_or_never_change_leave_search_with_its_reason() {
    let folder = Folder::new();
    let (k, n) = (64, 96);
    Net::linear(k, n).save(&folder.join("m.onnx"));
    for (file, value) in [("infinite.npz", f32::NEG_INFINITY), ("zero.npz", 0.0)] {
        let x = npy_f32(&[20, k], &vec![value; 20 * k]);
        std::fs::write(folder.join(file), npz(&[("x", x)])).unwrap();
        let out = format!("{file}.onnx");
        let args = [
            "rewrite",
            "m.onnx",
            "-p",
            "high_compression",
            "-o",
            &out,
            "--validate",
            "never",
            "--calibration",
            file,
        ];
        let report: Value =
            serde_json::from_str(done(&folder.efq(&[&args[..], &["--format", "json"]].concat()))).unwrap();
        let layer = &report["fitting"]["layers"][0];
        assert_eq!(layer["algorithm"], "search", "{report}");
        assert!(layer["fallback"].is_string(), "{report}");
    }
}

#[test]
fn samples_that_judge_and_fit_are_told() {
    let folder = Folder::new();
    let x = npy_f32(&[20, 64], &noise(20 * 64, 4));
    std::fs::write(folder.join("x.npz"), npz(&[("x", x)])).unwrap();
    Net::linear(64, 96).save(&folder.join("m.onnx"));
    let out = folder.efq(&[
        "rewrite",
        "m.onnx",
        "-p",
        "high_compression",
        "-o",
        "o.onnx",
        "--data",
        "x.npz",
        "--calibration",
        "x.npz",
        "--keep-output",
    ]);
    let text = &out.out;
    assert!(text.contains("20 of 20 samples that judge are calibration samples too"), "{text}");
}

#[test]
fn a_budget_of_bytes_holds_and_more_bytes_lose_less() {
    let folder = Folder::new();
    let judges = halves(&folder);
    let mut before = f64::INFINITY;
    for size in [520_000u64, 700_000, 1_000_000] {
        let out = format!("{size}.onnx");
        let args = ["rewrite", FIXTURE, "-p", "high_compression", "-o", &out, "--validate", "never"];
        let text = size.to_string();
        done(&folder.efq(&[&args[..], &["--calibration", "calib.npz", "--target-size", &text]].concat()));
        let bytes = folder.read(&out).len() as u64;
        assert!(bytes <= size && bytes > size * 9 / 10, "{bytes} of {size}");
        let now = distance(FIXTURE.as_ref(), &folder.join(&out), &judges);
        assert!(now < before, "{now} after {before} at {size} bytes");
        before = now;
    }
}

/// Weights with the same values are stored once, and count once.
#[test]
fn bits_per_weight_are_those_of_what_is_stored() {
    let folder = Folder::new();
    let size = 256;
    let same = noise(size * size, 2);
    let net = Net::new()
        .input("x", DataType::Float, &["batch", "256"])
        .output("y", DataType::Float, &["batch", "256"])
        .floats("free", &[size, size], &noise(size * size, 1))
        .floats("kept_first", &[size, size], &same)
        .floats("kept_second", &[size, size], &same)
        .node("MatMul", "", &["x", "free"], &["a"], vec![])
        .node("Tanh", "", &["a"], &["b"], vec![])
        .node("MatMul", "", &["b", "kept_first"], &["c"], vec![])
        .node("Tanh", "", &["c"], &["d"], vec![])
        .node("MatMul", "", &["d", "kept_second"], &["y"], vec![]);
    net.save(&folder.join("m.onnx"));
    // INT8 at block 32 beside one of the others.
    let payload = size * size * 4 + size * size + size / 32 * size * 2;
    let bits = format!("{}", payload as f64 * 8.0 / (3 * size * size) as f64 + 1e-6);
    let args = "rewrite m.onnx -p high_compression -o o.onnx --keep kept* --algorithm search";
    let args = format!("{args} --validate never --format json --target-bpw {bits}");
    let report: Value =
        serde_json::from_str(done(&folder.efq(&args.split(' ').collect::<Vec<_>>()))).unwrap();
    assert_eq!(report["tensors"][0]["encoding"], "int8 block 32", "{report}");
    assert!(folder.read("o.onnx").len() < payload + 4096);
}

#[test]
fn a_budget_of_bits_counts_what_is_stored() {
    let folder = Folder::new();
    halves(&folder);
    for bits in [5.0, 6.0] {
        let text = bits.to_string();
        let args = ["--force", "--calibration", "calib.npz", "--target-bpw", &text, "--unfused", "keep"];
        let report = rewrite(&folder, "o.onnx", &args);
        let (mut payload, mut elements) = (0, 0);
        for tensor in report["tensors"].as_array().unwrap() {
            payload += tensor["bytes_after"].as_u64().unwrap();
            elements +=
                tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product::<u64>();
        }
        let spent = 8.0 * payload as f64 / elements as f64;
        assert!(spent <= bits * 1.002 && spent > 0.95 * bits, "{spent} of {bits}");
    }
    let args = [
        "rewrite",
        FIXTURE,
        "-p",
        "high_accuracy",
        "-o",
        "x.onnx",
        "--validate",
        "never",
        "--algorithm",
        "search",
    ];
    let least = |bits: &str| folder.efq(&[&args[..], &["--target-bpw", bits]].concat());
    let refused = least("1.5");
    assert_eq!(refused.code, Some(2), "{refused:?}");
    let told =
        refused.err.split_once("budget of 1.5 bits per weight: the least that can be reached is ").unwrap().1;
    let (bits, bytes) = told.split_once(" bits per weight: ").unwrap();
    assert!(bytes.contains(" bytes, "), "{told}");
    // What is told can be had.
    done(&least(bits));
}

#[test]
fn a_budget_that_cannot_hold_says_what_can() {
    let folder = Folder::new();
    let out = folder.efq(&[
        "rewrite",
        FIXTURE,
        "-p",
        "high_compression",
        "-o",
        "o.onnx",
        "--validate",
        "never",
        "--target-size",
        "100kB",
        "--algorithm",
        "search",
    ]);
    assert_eq!(out.code, Some(2));
    let text = &out.err;
    assert!(text.contains("the least that can be reached is"), "{text}");
    assert!(text.contains("kB: "), "{text}");
    assert!(!folder.join("o.onnx").exists());
}

/// What is told to do about it is not done yet.
#[test]
fn a_budget_that_cannot_hold_names_what_would_leave_more_to_it() {
    let folder = Folder::new();
    let refused = |more: &str| {
        let fixed = "rewrite FIXTURE -o o.onnx --validate never --algorithm search --target-size 100kB";
        let args: Vec<&str> = fixed.split(' ').chain(more.split(' ')).collect();
        let args: Vec<&str> = args.iter().map(|arg| if *arg == "FIXTURE" { FIXTURE } else { arg }).collect();
        let run = folder.efq(&args);
        assert_eq!((run.code, folder.join("o.onnx").exists()), (Some(2), false), "{run:?}");
        run.err.split_once(" fixed by rules ").unwrap().1.to_owned()
    };
    assert_eq!(refused("-p high_compression"), "(a larger one)\n");
    assert_eq!(refused("-p high_accuracy"), "(to leave more to it: --head auto, --unfused int8)\n");
    let kept = refused("-p high_compression --keep *");
    assert!(kept.contains("fewer --tensor and --keep"), "{kept}");
}

/// What options say of blocks holds under a budget too.
#[test]
fn a_budget_keeps_to_the_blocks_that_were_asked_for() {
    let folder = Folder::new();
    let encodings = |more: &[&str]| -> Vec<String> {
        let fixed =
            ["rewrite", FIXTURE, "-p", "high_compression", "-o", "o.onnx", "--force", "--format", "json"];
        let budget = ["--target-size", "640kB", "--algorithm", "search", "--validate", "never"];
        let report: Value =
            serde_json::from_str(done(&folder.efq(&[&fixed[..], &budget, more].concat()))).unwrap();
        let tensors = report["tensors"].as_array().unwrap().iter();
        let found = tensors.map(|tensor| tensor["encoding"].as_str().unwrap_or_default().to_owned());
        found.filter(|encoding| encoding.starts_with("int4 block")).collect()
    };
    let free = encodings(&[]);
    assert!(free.iter().any(|encoding| !encoding.contains("block 64")), "{free:?}");
    let held = encodings(&["--block-size", "64", "--symmetric"]);
    assert!(!held.is_empty() && held.iter().all(|encoding| encoding.contains("block 64")), "{held:?}");
    let model = load(&folder.join("o.onnx")).unwrap();
    let zero_points = model.graph().node.iter().filter(|node| {
        node.op_type() == "DequantizeLinear" && node.input.get(2).is_some_and(|name| !name.is_empty())
    });
    assert_eq!(zero_points.count(), 0);
}

/// The stages of a run.
#[derive(Default)]
struct Told(std::sync::Mutex<Vec<String>>);

impl Progress for Told {
    fn stage(&self, name: &str, _: u64) {
        self.0.lock().unwrap().push(name.to_owned());
    }
}

/// Holds that these budgets are refused with `told`, once the model was read.
fn are_refused_at_once(preset: &str, budgets: [Budget; 2], told: &str) {
    let folder = Folder::new();
    let preset = Preset::builtin(preset).unwrap();
    for budget in budgets {
        let overrides = Overrides { budget: Some(budget), ..Overrides::default() };
        let options = RewriteOptions {
            output: Some(folder.join("o.onnx")),
            ..RewriteOptions::new(FIXTURE, Settings::new(&preset, &overrides).unwrap())
        };
        let stages = Told::default();
        let error = efq::pipeline::rewrite(&options, &stages).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
        assert_eq!(*stages.0.lock().unwrap(), ["reading"]);
    }
}

#[test]
fn a_budget_that_cannot_hold_is_refused_before_anything_is_run() {
    let budgets = [Budget::Size(100_000), Budget::BitsPerWeight(1.5)];
    are_refused_at_once("high_compression", budgets, "the least that can be reached is");
}

#[test]
fn a_budget_that_holds_the_whole_model_is_refused_before_anything_is_run() {
    let budgets = [Budget::Size(100_000_000), Budget::BitsPerWeight(64.0)];
    are_refused_at_once("high_accuracy", budgets, "holds the whole model, 3244071 bytes");
}

#[test]
fn statistics_are_kept_and_take_the_place_of_samples() {
    let folder = Folder::new();
    let judges = halves(&folder);
    rewrite(&folder, "search.onnx", &["--algorithm", "search"]);
    let options = ["--calibration", "calib.npz", "--statistics", "kept.safetensors"];
    rewrite(&folder, "fitted.onnx", &options);
    let first = std::fs::read(folder.join("kept.safetensors")).unwrap();
    let report = rewrite(&folder, "again.onnx", &["--statistics", "kept.safetensors", "--block-size", "64"]);
    assert_eq!(report["fitting"]["samples"], 96);
    assert_eq!(report["fitting"]["data"]["path"], "calib.npz");
    assert_eq!(report["fitting"]["statistics"]["path"], "kept.safetensors");
    let of = |name: &str| distance(FIXTURE.as_ref(), &folder.join(name), &judges);
    let (search, fitted, again) = (of("search.onnx"), of("fitted.onnx"), of("again.onnx"));
    assert!(again < 0.7 * search && fitted < search, "{search} {fitted} {again}");

    let out =
        folder.efq(&[&["rewrite", FIXTURE, "-p", "high_accuracy", "-o", "x.onnx"][..], &options].concat());
    let told = &out.err;
    assert_eq!(out.code, Some(2), "{told}");
    assert!(told.contains("holds statistics already (leave --calibration out to use them"), "{told}");
    rewrite(&folder, "fitted.onnx", &[&options[..], &["--force", "--threads", "1"]].concat());
    assert_eq!(std::fs::read(folder.join("kept.safetensors")).unwrap(), first);

    Net::linear(64, 96).save(&folder.join("other.onnx"));
    let other = ["rewrite", "other.onnx", "-p", "high_compression", "-o", "x.onnx"];
    let out = folder.efq(&[&other[..], &["--statistics", "kept.safetensors"]].concat());
    let told = &out.err;
    assert_eq!(out.code, Some(3), "{told}");
    assert!(told.contains("kept.safetensors: statistics: are of another model"), "{told}");
    assert!(!folder.join("x.onnx").exists());
}

/// A listener that asks to stop when the model is written.
struct Stops(AtomicBool);

impl Progress for Stops {
    fn stage(&self, name: &str, _: u64) {
        self.0.fetch_or(name == "writing", Ordering::SeqCst);
    }

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What carries a run out once more after it failed finds no statistics in its way.
#[test]
fn a_run_that_fails_keeps_no_statistics() {
    let folder = Folder::new();
    Net::linear(64, 96).save(&folder.join("m.onnx"));
    folder.write("c.npz", npz(&[("x", npy_f32(&[40, 64], &noise(40 * 64, 1)))]));
    let preset = Preset::builtin("high_compression").unwrap();
    let settings = Settings::new(&preset, &Overrides::default()).unwrap();
    let options = RewriteOptions {
        output: Some(folder.join("o.onnx")),
        calibration: Some(Source::new(folder.join("c.npz"))),
        statistics: Some(folder.join("s.safetensors")),
        validate: When::Never,
        ..RewriteOptions::new(folder.join("m.onnx"), settings)
    };
    let before = folder.listing();
    let error = pipeline::rewrite(&options, &Stops(AtomicBool::new(false))).unwrap_err();
    assert_eq!(error.kind(), efq::Kind::Interrupted, "{error}");
    assert_eq!(folder.listing(), before);
    pipeline::rewrite(&options, &Silent).unwrap();
    let names: Vec<String> = folder.listing().into_keys().collect();
    assert_eq!(names, ["c.npz", "m.onnx", "o.onnx", "s.safetensors"]);
}

/// One number that is added to every column takes over the mean of the error as a vector does.
#[test]
fn a_bias_of_one_value_is_corrected() {
    let folder = Folder::new();
    let values: Vec<f32> = noise(600 * 64, 3).iter().enumerate().map(|(at, v)| v + (at % 7) as f32).collect();
    folder.write("c.npz", npz(&[("x", npy_f32(&[600, 64], &values))]));
    let mut outputs = Vec::new();
    for (name, dims) in [("number", &[][..]), ("one", &[1]), ("vector", &[96])] {
        let count = dims.iter().product();
        let mut net = Net::linear(64, 96).floats("b", dims, &vec![0.5; count]);
        net.graph().node[0].output[0] = "p".into();
        let net = net.node("Add", "", &["p", "b"], &["logits"], vec![]);
        for (emit, output) in [("qdq", "q"), ("matmulnbits", "n")] {
            let (from, to) = (format!("{name}.onnx"), format!("{name}_{output}.onnx"));
            net.save(&folder.join(&from));
            let args =
                format!("rewrite {from} -o {to} -p high_compression --head int4 --emit {emit} --force");
            let args = format!("{args} --calibration c.npz --validate never");
            done(&folder.efq(&args.split(' ').collect::<Vec<_>>()));
            let model = load(&folder.join(&to)).unwrap();
            let stored = model.graph().initializer.iter().find(|tensor| tensor.name() == "b_corrected");
            assert_eq!(stored.unwrap().dims, [96], "{to}");
            assert!(!model.graph().node.iter().any(|node| node.op_type() == "Sub"), "{to}");
            let samples = data::load(&Source::new(folder.join("c.npz")), &model).unwrap().list;
            let runner = Runner::new(&model, "logits", Variant::Deployed).unwrap();
            outputs.push(runner.run(&samples[1]).unwrap().values);
        }
    }
    assert!(outputs.windows(3).all(|three| three[0] == three[2]));
}

/// An Einsum by heads, a weight on the left, and a Gemm of a transposed activation.
fn arranged() -> Net {
    let equation = AttributeProto {
        name: Some("equation".into()),
        r#type: Some(attribute_proto::AttributeType::String as i32),
        s: Some(b"bsd,dhk->bhsk".to_vec().into()),
        ..Default::default()
    };
    Net::new()
        .input("x", DataType::Float, &["n", "8", "64"])
        .output("y", DataType::Float, &["rows", "24"])
        .floats("heads", &[64, 4, 16], &noise(64 * 64, 1))
        .floats("left", &[48, 8], &noise(48 * 8, 2))
        .floats("last", &[48, 24], &noise(48 * 24, 3))
        .floats("bias", &[24], &noise(24, 4))
        .integers("shape", &[2], &[48, -1])
        .node("Einsum", "", &["x", "heads"], &["e"], vec![equation])
        .node("Relu", "", &["e"], &["r"], vec![])
        .node("MatMul", "", &["left", "r"], &["l"], vec![])
        .node("Transpose", "", &["l"], &["t"], vec![ints("perm", &[2, 0, 1, 3])])
        .node("Reshape", "", &["t", "shape"], &["f"], vec![])
        .node("Gemm", "", &["f", "last", "bias"], &["y"], vec![int("transA", 1)])
}

#[test]
fn products_of_arranged_operands_are_fitted() {
    let folder = Folder::new();
    arranged().save(&folder.join("m.onnx"));
    // A few directions carry nearly all, as in real networks.
    let (base, mix, rest) = (noise(64 * 8 * 6, 7), noise(6 * 64, 8), noise(64 * 8 * 64, 9));
    let value = |at: usize| {
        let base = base.iter().skip(at / 64 * 6).take(6);
        let mixed = base.zip(mix.iter().skip(at % 64).step_by(64)).map(|(a, b)| a * b).sum::<f32>();
        20.0 * mixed + 0.05 * rest[at]
    };
    let values: Vec<f32> = (0..64 * 8 * 64).map(value).collect();
    std::fs::write(folder.join("c.npz"), npz(&[("x", npy_f32(&[64, 8, 64], &values))])).unwrap();
    let rewrite = |output: &str, more: &[&str]| -> Value {
        let fixed = "rewrite m.onnx -p high_compression --head int4 --validate never --format json -o";
        let fixed: Vec<&str> = fixed.split(' ').chain([output]).collect();
        serde_json::from_str(done(&folder.efq(&[&fixed, more].concat()))).unwrap()
    };
    let entered = |report: &Value| {
        let layers = report["fitting"]["layers"].as_array().unwrap().clone();
        assert_eq!(layers.len(), 3, "{layers:?}");
        let of = |layer: &Value| layer["fallback"].as_str().is_some_and(|why| why.contains("does not enter"));
        assert!(!layers.iter().any(of), "{layers:?}");
        let heads = layers.iter().find(|layer| layer["tensor"] == "heads").unwrap();
        assert!(heads["fallback"].is_null(), "{heads:?}");
    };
    rewrite("search.onnx", &["--algorithm", "search"]);
    entered(&rewrite("fitted.onnx", &["--calibration", "c.npz", "--statistics", "s.safetensors"]));
    entered(&rewrite("kept.onnx", &["--statistics", "s.safetensors"]));
    let original = load(&folder.join("m.onnx")).unwrap();
    let samples = data::load(&Source::new(folder.join("c.npz")), &original).unwrap().list;
    let of = |name: &str| distance(&folder.join("m.onnx"), &folder.join(name), &samples);
    let (search, own) = (of("search.onnx"), of("fitted.onnx"));
    assert!(own < search, "{own} against {search}");
}
