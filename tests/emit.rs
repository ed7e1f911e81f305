//! The forms in which blocked weights are written: standard nodes, and ONNX Runtime's own MatMulNBits.

mod support;

use efq::data::{Array, Label, Sample};
use efq::engine::{Runner, Variant, fusion};
use efq::onnx::proto::tensor_proto::DataType;
use efq::onnx::{Checked, Model, load, node, tensor};
use support::{Folder, Net, done, int, noise, npy_f32, npz};

const NBITS: &[&str] = &["--emit", "matmulnbits"];

/// Rewrites `net` with `more`; gives the folder and the result.
fn rewritten(net: &Net, more: &[&str]) -> (Folder, Checked<Model>) {
    let folder = Folder::new();
    net.save(&folder.join("m.onnx"));
    let model = rewritten_in(&folder, "out.onnx", more);
    (folder, model)
}

fn rewritten_in(folder: &Folder, target: &str, more: &[&str]) -> Checked<Model> {
    let fixed = ["rewrite", "m.onnx", "-p", "high_compression", "-o", target, "--validate", "never"];
    let vectors: &[&str] = if more.contains(&"--from-plan") { &[] } else { &["--unfused", "keep"] };
    done(&folder.efq(&[&fixed, vectors, more].concat()));
    load(&folder.join(target)).unwrap()
}

fn run(model: &Checked<Model>, output: &str, variant: Variant, x: &Array) -> Vec<f32> {
    let sample = Sample { inputs: vec![("x".to_owned(), x.clone())], label: Label::None };
    Runner::new(model, output, variant).unwrap().run(&sample).unwrap().values
}

fn array(dims: &[usize], seed: u64) -> Array {
    let values = noise(dims.iter().product(), seed);
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Array { data_type: DataType::Float, shape: dims.to_vec(), bytes: bytes.into() }
}

#[track_caller]
fn same(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-30f32, |largest, value| largest.max(value.abs()));
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart <= 1e-6 * largest, "apart by {apart} of {largest}");
}

/// Two layers behind one another, the first with a bias as an Add, the second a Gemm; nothing divides evenly.
fn two_layers() -> Net {
    Net::new()
        .input("x", DataType::Float, &["batch", "100"])
        .output("logits", DataType::Float, &["batch", "37"])
        .floats("w", &[100, 150], &noise(15000, 1))
        .floats("b", &[150], &noise(150, 2))
        .floats("v", &[37, 150], &noise(5550, 3))
        .floats("c", &[37], &noise(37, 4))
        .node("MatMul", "one", &["x", "w"], &["h"], vec![])
        .node("Add", "add", &["h", "b"], &["i"], vec![])
        .node("Gemm", "two", &["i", "v", "c"], &["logits"], vec![int("transB", 1)])
}

#[test]
fn the_node_is_declared_with_all_that_it_needs() {
    let (folder, model) =
        rewritten(&two_layers(), &[NBITS, &["--asymmetric", "--report", "r.json"]].concat());
    let operators: Vec<&str> = model.graph().node.iter().map(|node| node.op_type()).collect();
    assert_eq!(operators, ["MatMulNBits", "Add", "MatMulNBits", "Add"]);
    let import = model.proto.opset_import.iter().find(|import| import.domain() == "com.microsoft");
    assert_eq!(import.map(|import| import.version()), Some(1));
    assert_eq!((model.opset(), model.proto.ir_version()), (17, 8), "neither is raised");

    let product = &model.graph().node[0];
    assert_eq!((product.domain(), product.name(), product.output[0].as_str()), ("com.microsoft", "one", "h"));
    let number = |name| node::int(product, name, -1);
    assert_eq!((number("K"), number("N"), number("bits")), (100, 150, 4));
    assert_eq!((number("block_size"), number("accuracy_level")), (128, 4));
    let stored = |at: usize| {
        let name = &product.input[at];
        let found = model.graph().initializer.iter().find(|tensor| tensor.name() == name).unwrap();
        (tensor::data_type(found).unwrap(), tensor::shape(found).unwrap())
    };
    assert_eq!(stored(1), (DataType::Uint8, vec![150, 1, 64]));
    // Of the type of the activation: whatever the preset says of scales.
    assert_eq!(stored(2), (DataType::Float, vec![150, 1]));
    assert_eq!(stored(3), (DataType::Uint8, vec![150, 1]));

    let report: serde_json::Value = serde_json::from_slice(&folder.read("r.json")).unwrap();
    assert_eq!(report["fusion"]["fused"], 2);
    let tensor = |name: &str| {
        let tensors = report["tensors"].as_array().unwrap().iter();
        tensors.clone().find(|tensor| tensor["name"] == name).unwrap().clone()
    };
    assert_eq!(tensor("w")["encoding"], "uint4 block 128 in MatMulNBits");
    assert_eq!(tensor("w")["bytes_after"], 150 * 64 + 150 * 4 + 150);
}

/// Both forms hold the same codes and scales, and deployed both round activations to int8 in the same blocks.
#[test]
fn both_forms_compute_the_same() {
    let net = two_layers();
    let x = array(&[5, 100], 9);
    for more in [
        &["--block-size", "16"][..],
        &["--block-size", "32", "--asymmetric"],
        &["--tensor", "*=int8"],
        &["--block-size", "32", "--tensor", "w=int8", "--asymmetric"],
    ] {
        let (folder, standard) = rewritten(&net, &[more, &["--scales", "fp32"]].concat());
        let direct = rewritten_in(&folder, "direct.onnx", &[more, NBITS].concat());
        for variant in [Variant::WeightsOnly, Variant::Deployed] {
            same(&run(&direct, "logits", variant, &x), &run(&standard, "logits", variant, &x));
        }
        let alone = run(&direct, "logits", Variant::WeightsOnly, &x);
        assert_ne!(alone, run(&direct, "logits", Variant::Deployed, &x), "no int8 step");
    }
}

/// What fitting to activations leaves to the bias is added to the bias, once.
#[test]
fn a_fitted_weight_corrects_its_bias_in_both_forms() {
    let net = two_layers();
    let folder = Folder::new();
    net.save(&folder.join("m.onnx"));
    let values: Vec<f32> = noise(256 * 100, 5).iter().map(|value| value + 0.3).collect();
    folder.write("c.npz", npz(&[("x", npy_f32(&[256, 100], &values))]));
    let more = ["--calibration", "c.npz", "--algorithm", "gptq", "--block-size", "32"];
    let standard = rewritten_in(&folder, "standard.onnx", &[&more, &["--scales", "fp32"][..]].concat());
    let direct = rewritten_in(&folder, "direct.onnx", &[&more, NBITS].concat());
    let names = |model: &Model| -> Vec<String> {
        let corrected = model.graph().initializer.iter().map(|tensor| tensor.name().to_owned());
        corrected.filter(|name| name.ends_with("_corrected")).collect()
    };
    assert_eq!(names(&direct), ["b_corrected"]);
    assert_eq!(names(&standard), names(&direct));
    let x = array(&[5, 100], 9);
    let [standard, direct] = [&standard, &direct].map(|model| run(model, "logits", Variant::WeightsOnly, &x));
    same(&direct, &standard);
}

#[test]
fn accuracy_levels_below_4_round_nothing() {
    let (folder, model) = rewritten(&Net::linear(64, 64), NBITS);
    assert_eq!(fusion(&model).fused[0].rounded, Some(64));
    let mut proto = model.proto.clone();
    let product = &mut proto.graph.as_mut().unwrap().node[0];
    product.attribute.retain(|attribute| attribute.name() != "accuracy_level");
    let path = folder.write("float.onnx", prost::Message::encode_to_vec(&proto));
    let float = load(&path).unwrap();
    assert_eq!((fusion(&float).fused.len(), fusion(&float).fused[0].rounded), (1, None));
    let x = array(&[3, 64], 9);
    let [deployed, alone] =
        [Variant::Deployed, Variant::WeightsOnly].map(|variant| run(&float, "logits", variant, &x));
    assert_eq!(deployed, alone);
    assert_eq!(alone, run(&model, "logits", Variant::WeightsOnly, &x));
}

#[test]
fn half_precision_has_half_precision_scales() {
    let net = Net::new()
        .input("x", DataType::Float16, &["batch", "64"])
        .output("y", DataType::Float16, &["batch", "40"])
        .halves("w", &[64, 40], &noise(2560, 3))
        .halves("c", &[1, 40], &noise(40, 4))
        .node("Gemm", "layer", &["x", "w", "c"], &["y"], vec![]);
    let (_folder, model) = rewritten(&net, NBITS);
    let types: Vec<i32> = model.graph().initializer.iter().filter_map(|tensor| tensor.data_type).collect();
    let half = DataType::Float16 as i32;
    assert_eq!(types, [DataType::Uint8 as i32, half, half], "codes, scales and bias");
    let product = model.graph().node.iter().find(|node| node.op_type() == "MatMulNBits").unwrap();
    assert_eq!(node::int(product, "accuracy_level", 0), 1);
}

#[test]
fn a_model_that_cannot_be_raised_is_told_the_way_out_and_takes_it() {
    // `spatial=0` of BatchNormalization was given up with opset 9.
    let net = Net::linear(64, 64)
        .opset(8)
        .floats("p", &[64], &[1.0; 64])
        .with(|graph| {
            graph.output[0].name = Some("z".into());
        })
        .node("BatchNormalization", "norm", &["logits", "p", "p", "p", "p"], &["z"], vec![int("spatial", 0)]);
    let folder = Folder::new();
    net.save(&folder.join("m.onnx"));
    let run = folder.efq(&["rewrite", "m.onnx", "-p", "high_compression", "-o", "out.onnx"]);
    assert_eq!((run.code, run.out.as_str()), (Some(3), ""));
    insta::assert_snapshot!(run.err);
    let model = rewritten_in(&folder, "out.onnx", NBITS);
    assert_eq!((model.opset(), model.proto.ir_version()), (8, 8));
    let operators: Vec<&str> = model.graph().node.iter().map(|node| node.op_type()).collect();
    assert_eq!(operators, ["MatMulNBits", "BatchNormalization"]);
}

/// IR 3 lists every initializer as an input; the first IR that need not is enough.
#[test]
fn ir_3_becomes_4_and_nothing_else() {
    let net = Net::linear(64, 64).ir(3).opset(8).input("w", DataType::Float, &["64", "64"]);
    let (_folder, model) = rewritten(&net, NBITS);
    assert_eq!((model.opset(), model.proto.ir_version()), (8, 4));
    let inputs: Vec<&str> = model.graph().input.iter().map(|input| input.name()).collect();
    assert_eq!(inputs, ["x"]);
}

#[test]
fn a_table_of_4_bits_below_opset_11_takes_8() {
    let net = Net::new()
        .opset(9)
        .input("ids", DataType::Int64, &["n"])
        .output("y", DataType::Float, &["n", "64"])
        .floats("table", &[300, 64], &noise(19200, 5))
        .floats("w", &[64, 64], &noise(4096, 6))
        .node("Gather", "rows", &["table", "ids"], &["row"], vec![])
        .node("MatMul", "layer", &["row", "w"], &["y"], vec![]);
    let (_folder, model) = rewritten(&net, &[NBITS, &["--embeddings", "int4"]].concat());
    assert_eq!(model.opset(), 9);
    let codes = model.graph().initializer.iter().find(|tensor| tensor.name() == "table_quantized").unwrap();
    assert_eq!(tensor::shape(codes).unwrap(), [300, 64]);
}

/// A plan says the form, so that it gives the same bytes without the option; another type of scales is refused.
#[test]
fn a_plan_keeps_the_form() {
    let folder = Folder::new();
    two_layers().save(&folder.join("m.onnx"));
    rewritten_in(&folder, "one.onnx", &[NBITS, &["--plan", "plan.json"]].concat());
    rewritten_in(&folder, "two.onnx", &["--from-plan", "plan.json"]);
    assert_eq!(folder.read("one.onnx"), folder.read("two.onnx"));
    let edited = String::from_utf8(folder.read("plan.json")).unwrap().replace("fp32", "fp16");
    folder.write("edited.json", edited);
    let run = folder.efq(&[
        "rewrite",
        "m.onnx",
        "-p",
        "high_compression",
        "-o",
        "three.onnx",
        "--from-plan",
        "edited.json",
    ]);
    assert_eq!(run.code, Some(2));
    insta::assert_snapshot!(run.err);
}

#[test]
fn what_is_no_matmulnbits_that_efq_knows_is_named() {
    let (folder, model) = rewritten(&Net::linear(64, 64), NBITS);
    let with = |change: &dyn Fn(&mut efq::onnx::proto::GraphProto)| {
        let mut proto = model.proto.clone();
        change(proto.graph.as_mut().unwrap());
        folder.write("odd.onnx", prost::Message::encode_to_vec(&proto));
        let run = folder.efq(&["validate", "m.onnx", "odd.onnx", "-p", "high_compression"]);
        format!(
            "{:?} {}{}",
            run.code,
            run.err,
            run.out.lines().find(|l| l.contains("could not")).unwrap_or("")
        )
    };
    let set = |graph: &mut efq::onnx::proto::GraphProto, name: &str, value: i64| {
        for attribute in graph.node[0].attribute.iter_mut().filter(|attribute| attribute.name() == name) {
            attribute.i = Some(value);
        }
    };
    insta::assert_snapshot!(
        [
            with(&|graph| set(graph, "bits", 2)),
            with(&|graph| set(graph, "block_size", -1)),
            with(&|graph| set(graph, "N", i64::MAX)),
            with(&|graph| graph.node[0].input = vec!["x".into(), "x".into(), "w_scale".into()]),
            with(&|graph| graph.node[0].input.truncate(1)),
            with(&|graph| graph.node[0].input.extend(["".into(), "w_scale".into()])),
        ]
        .join("\n")
    );
}

fn least(report: &serde_json::Value) -> &str {
    report["fusion"]["least_onnxruntime"].as_str().unwrap()
}

/// As measured on 1.22, 1.24, 1.25 and 1.32.
#[test]
fn the_least_runtime_follows_from_what_is_in_the_model() {
    let layer = |dims: &[&str], bias: bool| {
        let net = Net::new().input("x", DataType::Float, dims).output("y", DataType::Float, &["n"]);
        let net = net.floats("w", &[96, 80], &noise(96 * 80, 1)).floats("b", &[80], &noise(80, 2));
        let net = net.node("MatMul", "layer", &["x", "w"], &[if bias { "p" } else { "y" }], vec![]);
        if bias { net.node("Add", "add", &["p", "b"], &["y"], vec![]) } else { net }
    };
    let (matrix, cube, fixed) = (&["n", "96"][..], &["n", "m", "96"][..], &["2", "3", "96"][..]);
    for (net, more, expected) in [
        (layer(matrix, false), &[][..], "1.20"),
        (layer(cube, true), &[], "1.20"),
        (layer(matrix, true), &[], "1.25"),
        (layer(fixed, true), &[], "1.25"),
        (layer(cube, false), &["--tensor", "*=int8"], "1.25"),
        (layer(matrix, true), NBITS, "1.22"),
        (layer(cube, false), &["--tensor", "*=int8", "--emit", "matmulnbits"], "1.22"),
        (layer(matrix, false).opset(23).ir(11), &[], "1.24"),
        (layer(matrix, false).opset(26).ir(13), &[], "1.25"),
    ] {
        let (folder, _) = rewritten(&net, &[more, &["--report", "r.json"]].concat());
        let report: serde_json::Value = serde_json::from_slice(&folder.read("r.json")).unwrap();
        assert_eq!(least(&report), expected, "{more:?}");
    }
}

/// ONNX Runtime 1.32 loads opset 28, but has no DequantizeLinear there; it loads no later one, and no IR after 14.
#[test]
fn what_no_known_runtime_loads_is_refused_or_said() {
    let folder = Folder::new();
    let told = |opset: i64, ir: i64, more: &[&str]| {
        Net::linear(64, 64).opset(opset).ir(ir).save(&folder.join("m.onnx"));
        let fixed = ["rewrite", "m.onnx", "-p", "high_compression", "--validate", "never", "-o", "out.onnx"];
        let run = folder.efq(&[&fixed[..], &["--force", "--report", "r.json"], more].concat());
        let report: Option<serde_json::Value> =
            (run.code == Some(0)).then(|| serde_json::from_slice(&folder.read("r.json")).unwrap());
        (report.map_or(String::new(), |report| least(&report).to_owned()), run)
    };
    assert_eq!(told(27, 10, &[]).0, "1.32");
    let (_, run) = told(28, 10, &[]);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert_eq!(
        run.err,
        "error: m.onnx: opset: no known ONNX Runtime has a DequantizeLinear above opset 27, this model has 28 \
         (--emit matmulnbits does without)\n"
    );
    assert_eq!(told(28, 10, NBITS).0, "1.32");
    let (least, run) = told(29, 10, &[NBITS, &["--target", "ort-1.32"]].concat());
    assert_eq!(least, "none known");
    assert!(run.out.contains("in the fused form (no known ONNX Runtime)"), "{run:?}");
    assert!(run.out.contains("note: no known ONNX Runtime loads opset 29 with IR 10"), "{run:?}");
    assert_eq!(told(21, 15, &[]).0, "none known");
}

/// 1.20 and 1.22 have no kernel for a Cast of 4-bit codes, 1.23 has.
#[test]
fn a_cast_of_int4_asks_for_its_runtime() {
    let net = Net::linear(64, 64)
        .input("c", DataType::Float, &["1", "64", "8", "8"])
        .output("z", DataType::Float, &["1", "64", "6", "6"])
        .floats("kernel", &[64, 64, 3, 3], &noise(64 * 64 * 9, 4))
        .node("Conv", "conv", &["c", "kernel"], &["z"], vec![]);
    let more = ["--tensor", "kernel=int4", "--target", "ort-1.22", "--report", "r.json"];
    let (folder, model) = rewritten(&net, &more);
    assert!(model.graph().node.iter().any(|node| node.op_type() == "Cast"));
    let report: serde_json::Value = serde_json::from_slice(&folder.read("r.json")).unwrap();
    assert_eq!(least(&report), "1.23");
    let warning = "ONNX Runtime 1.22 does not load a Cast of 4-bit codes: 1.23 is the first that does";
    assert_eq!(report["warnings"][0], warning);
}

#[test]
fn a_target_that_would_not_fuse_is_warned_of() {
    let warned = |net: &Net, more: &[&str]| {
        let (folder, _) = rewritten(net, &[more, &["--report", "r.json"]].concat());
        let report: serde_json::Value = serde_json::from_slice(&folder.read("r.json")).unwrap();
        let warnings: Vec<&str> =
            report["warnings"].as_array().unwrap().iter().flat_map(|w| w.as_str()).collect();
        warnings.join("\n")
    };
    let int8 = ["--tensor", "*=int8", "--target", "ort-1.24"];
    insta::assert_snapshot!(
        [
            warned(&two_layers(), &int8),
            warned(&Net::linear(64, 64).opset(26).ir(13), &["--target", "ort-1.24"]),
        ]
        .join("\n")
    );
    assert_eq!(warned(&two_layers(), &[&int8, NBITS].concat()), "");
    assert_eq!(warned(&two_layers(), &["--tensor", "*=int8", "--target", "ort-1.25"]), "");
    let folder = Folder::new();
    Net::linear(64, 64).save(&folder.join("m.onnx"));
    let run =
        folder.efq(&["rewrite", "m.onnx", "-p", "high_accuracy", "-o", "o.onnx", "--target", "ort-1.2"]);
    assert_eq!(run.code, Some(2));
    insta::assert_snapshot!(run.err);
}

/// Since IR 4 an initializer that is also an input is a default, which ONNX Runtime fuses never.
#[test]
fn weights_that_callers_may_replace_are_left_alone_until_they_are_frozen() {
    let net = Net::linear(64, 64)
        .floats("v", &[64, 64], &noise(4096, 7))
        .node("MatMul", "second", &["logits", "v"], &["out"], vec![])
        .with(|graph| graph.output[0].name = Some("out".into()))
        .input("w", DataType::Float, &["64", "64"]);
    let folder = Folder::new();
    net.save(&folder.join("m.onnx"));
    let told = |target: &str, more: &[&str]| {
        let model = rewritten_in(&folder, target, &[more, &["--report", "r.json", "--force"]].concat());
        let report: serde_json::Value = serde_json::from_slice(&folder.read("r.json")).unwrap();
        let inputs: Vec<String> = model.graph().input.iter().map(|input| input.name().to_owned()).collect();
        let reason = report["tensors"][0]["reason"].as_str().unwrap().to_owned();
        (inputs, fusion(&model).fused.len(), reason, report["warnings"].to_string())
    };
    let both = vec!["x".to_owned(), "w".to_owned()];
    let obstacle = "also a graph input, so a caller may replace it: --freeze-inputs makes it a constant";
    assert_eq!(told("left.onnx", &[]), (both, 1, obstacle.to_owned(), "[]".to_owned()));
    let warning =
        r#"["--freeze-inputs: 1 graph inputs became constants; callers can no longer replace them"]"#;
    let (inputs, fused, _, warnings) = told("frozen.onnx", &["--freeze-inputs"]);
    assert_eq!((inputs, fused, warnings.as_str()), (vec!["x".to_owned()], 2, warning));
    done(&folder.efq(&["validate", "m.onnx", "frozen.onnx", "-p", "high_compression", "--min-cosine", "0"]));
}
