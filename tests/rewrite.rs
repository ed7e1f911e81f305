//! What a rewrite does to a model: which nodes and tensors come out, that they compute what the weights in the
//! file say, and that everything else stays as it was.

mod support;

use std::path::Path;

use efq::data::{Array, Label, Sample};
use efq::engine::{Runner, Variant, fusion};
use efq::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto::DataType};
use efq::onnx::{Checked, Model, load, node, tensor};
use prost::Message as _;
use serde_json::Value;
use support::{Folder, Net, body, constant, done, float, int, ints, noise, npy_f32, npy_i64, npz, value};

const DRY: &[&str] = &["rewrite", "m.onnx", "-p", "high_compression", "--dry-run", "--format", "json"];

/// Rewrites `net` without running it; gives the folder with `m.onnx`, `out.onnx` and `r.json`, and the result.
fn rewritten(net: &Net, more: &[&str]) -> (Folder, Checked<Model>) {
    let folder = Folder::new();
    net.save(&folder.join("m.onnx"));
    let fixed = [
        "rewrite",
        "m.onnx",
        "-p",
        "high_compression",
        "-o",
        "out.onnx",
        "--validate",
        "never",
        "--report",
        "r.json",
    ];
    done(&folder.efq(&[&fixed, more].concat()));
    assert_eq!(folder.read("m.onnx"), net.bytes(), "the original was touched");
    let model = load(&folder.join("out.onnx")).unwrap();
    (folder, model)
}

fn report(folder: &Folder) -> Value {
    serde_json::from_slice(&folder.read("r.json")).unwrap()
}

/// Tensor and encoding of each weight that a dry run reports.
fn encodings(net: &Net, more: &[&str]) -> Vec<(String, String)> {
    let folder = Folder::new();
    net.save(&folder.join("m.onnx"));
    let report: Value = serde_json::from_str(done(&folder.efq(&[DRY, more].concat()))).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    report["tensors"].as_array().unwrap().iter().map(|t| (text(&t["name"]), text(&t["encoding"]))).collect()
}

fn initializer<'m>(model: &'m Model, name: &str) -> &'m TensorProto {
    let found = model.graph().initializer.iter().find(|tensor| tensor.name() == name);
    found.unwrap_or_else(|| panic!("no initializer '{name}'"))
}

fn names(model: &Model) -> Vec<&str> {
    model.graph().initializer.iter().map(|tensor| tensor.name()).collect()
}

fn operators(model: &Model) -> Vec<&str> {
    model.graph().node.iter().map(|node| node.op_type()).collect()
}

fn producer<'m>(model: &'m Model, value: &str) -> Option<&'m NodeProto> {
    model.graph().node.iter().find(|node| node.output.iter().any(|output| output == value))
}

/// The values of a matrix that DequantizeLinear makes, by its definition in ONNX and without the crate's decoder.
fn dequantized(model: &Model, value: &str) -> Vec<f32> {
    let node = producer(model, value).unwrap_or_else(|| panic!("nothing makes '{value}'"));
    assert_eq!((node.op_type(), node::int(node, "axis", 1)), ("DequantizeLinear", 0));
    let codes = initializer(model, &node.input[0]);
    let (rows, columns) = (codes.dims[0] as usize, codes.dims[1] as usize);
    let block = node::int(node, "block_size", 0) as usize;
    let (shape, scales) = constant_scales(model, &node.input[1]);
    assert_eq!(shape, [rows.div_ceil(block) as i64, columns as i64]);
    assert!(scales.iter().all(|scale| scale.is_finite() && *scale != 0.0), "scales of '{value}'");
    let zeros = node.input.get(2).map(|name| integers(initializer(model, name)));
    let codes = integers(codes);
    (0..rows * columns)
        .map(|at| {
            let group = at / columns / block * columns + at % columns;
            (codes[at] - zeros.as_ref().map_or(0, |zeros| zeros[group])) as f32 * scales[group]
        })
        .collect()
}

/// Shape and values of scales, behind a Cast or behind a Cast and a Mul by their unit.
fn constant_scales(model: &Model, value: &str) -> (Vec<i64>, Vec<f32>) {
    let Some(node) = producer(model, value) else {
        let tensor = initializer(model, value);
        return (tensor.dims.clone(), tensor::floats(tensor).unwrap());
    };
    let (dims, values) = match producer(model, &node.input[0]) {
        None => {
            let tensor = initializer(model, &node.input[0]);
            let whole = matches!(tensor.data_type(), 2 | 3);
            let values = if whole {
                integers(tensor).into_iter().map(|code| code as f32).collect()
            } else {
                tensor::floats(tensor).unwrap()
            };
            (tensor.dims.clone(), values)
        }
        Some(_) => constant_scales(model, &node.input[0]),
    };
    if node.op_type() == "Cast" {
        return (dims, values);
    }
    assert_eq!(node.op_type(), "Mul");
    let unit = tensor::floats(initializer(model, &node.input[1])).unwrap()[0];
    (dims, values.into_iter().map(|value| value * unit).collect())
}

/// Integers of 4 or 8 bits.
fn integers(tensor: &TensorProto) -> Vec<i32> {
    let raw = tensor.raw_data.as_ref().unwrap();
    let count = tensor.dims.iter().product::<i64>() as usize;
    let nibble = |at: usize| i32::from(raw[at / 2] >> (at % 2 * 4) & 15);
    let read: &dyn Fn(usize) -> i32 = match DataType::try_from(tensor.data_type()).unwrap() {
        DataType::Uint4 => &nibble,
        DataType::Int4 => &|at| if nibble(at) > 7 { nibble(at) - 16 } else { nibble(at) },
        DataType::Uint8 => &|at| i32::from(raw[at]),
        DataType::Int8 => &|at| i32::from(raw[at] as i8),
        other => panic!("codes of type {other:?}"),
    };
    (0..count).map(read).collect()
}

fn array(dims: &[usize], values: &[f32]) -> Array {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Array { data_type: DataType::Float, shape: dims.to_vec(), bytes: bytes.into() }
}

fn id_array(values: &[i64]) -> Array {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Array { data_type: DataType::Int64, shape: vec![values.len()], bytes: bytes.into() }
}

fn run(model: &Checked<Model>, output: &str, inputs: &[(&str, Array)]) -> Vec<f32> {
    let inputs = inputs.iter().map(|(name, array)| ((*name).to_owned(), array.clone())).collect();
    let runner = Runner::new(model, output, Variant::WeightsOnly).unwrap();
    runner.run(&Sample { inputs, label: Label::None }).unwrap().values
}

#[track_caller]
fn close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-30f32, |largest, value| largest.max(value.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= tolerance * largest, "{what}: {found} for {expected} at {at}");
    }
}

/// Relative L2 distance.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |value: f32| f64::from(value).powi(2);
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (error / expected.iter().map(|b| square(*b)).sum::<f64>()).sqrt()
}

fn product(x: &[f32], w: &[f32], rows: usize, k: usize, n: usize) -> Vec<f32> {
    let cell = |at: usize| {
        (0..k).map(|i| f64::from(x[at / n * k + i]) * f64::from(w[i * n + at % n])).sum::<f64>() as f32
    };
    (0..rows * n).map(cell).collect()
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|at| values[at % rows * columns + at / rows]).collect()
}

/// A prime count of columns and a ragged last block: nothing divides evenly.
const ROWS: usize = 3;
const K: usize = 150;
const N: usize = 37;

/// Scales of 8 bits take half the bytes of those of 16, lose little, and the layers stay fused.
#[test]
fn scales_of_8_bits_count_units_of_their_tensor() {
    let net = Net::linear(512, 256);
    let w = tensor::floats(initializer(&Model::from_proto(net.model.clone()), "w")).unwrap();
    let mut stored = Vec::new();
    for (form, scales) in
        [("--asymmetric", "fp16"), ("--asymmetric", "int8"), ("--symmetric", "fp16"), ("--symmetric", "int8")]
    {
        let (folder, model) = rewritten(&net, &["--block-size", "32", "--scales", scales, form]);
        let product = producer(&model, "logits").unwrap();
        let error = distance(&dequantized(&model, &product.input[1]), &w);
        let found = report(&folder);
        assert_eq!(
            (&found["fusion"]["fused"], &found["fusion"]["total"]),
            (&1.into(), &1.into()),
            "{scales}"
        );
        let told = found["tensors"][0]["relative_error"].as_f64().unwrap();
        assert!((told - error).abs() < 1e-5, "{scales}: told {told}, found {error}");
        stored.push((found["tensors"][0]["bytes_after"].as_u64().unwrap(), error));
    }
    for pair in stored.chunks_exact(2) {
        let [(halves, exact), (bytes, rounded)] = pair else { unreachable!() };
        // 16 blocks of 256 columns, a byte less each; four bytes are the unit.
        assert_eq!(halves - bytes, 16 * 256 - 4);
        assert!(*rounded < exact * 1.05 && *rounded < 0.1, "{rounded} after {exact}");
    }
}

/// ONNX Runtime makes a Gemm of a MatMul of matrices and an Add of one row; a product whose rank nothing tells may
/// be such a one.
#[test]
fn a_product_of_unknown_rank_is_kept_from_becoming_a_gemm() {
    let net = |dims: &[&str], activation: &str| {
        Net::new()
            .input("x", DataType::Float, dims)
            .input("shape", DataType::Int64, &["sizes"])
            .output("y", DataType::Float, &[])
            .with(|graph| graph.output[0].r#type = None)
            .floats("w", &[64, 48], &noise(64 * 48, 3))
            .floats("b", &[1, 48], &noise(48, 4))
            .node("Reshape", "reshape", &["x", "shape"], &["reshaped"], vec![])
            .node("MatMul", "product", &[activation, "w"], &["p"], vec![])
            .node("Add", "add", &["p", "b"], &["y"], vec![])
    };
    let guarded = |net: &Net| {
        let (folder, model) = rewritten(net, &["--head", "int4"]);
        let found = report(&folder);
        assert_eq!((&found["fusion"]["fused"], &found["fusion"]["total"]), (&1.into(), &1.into()));
        operators(&model).contains(&"Sub")
    };
    assert!(guarded(&net(&["batch", "64"], "reshaped")), "of unknown rank");
    assert!(guarded(&net(&["batch", "64"], "x")), "of matrices");
    assert!(!guarded(&net(&["batch", "time", "64"], "x")), "of rank 3");
}

/// A Gemm in all its forms computes alpha · X · W' + beta · C, with W' as the file says, and is fused.
#[test]
fn every_gemm_becomes_the_plain_one() {
    use rayon::prelude::*;
    let biases: &[(&str, &[usize])] = &[
        ("none", &[]),
        ("empty", &[]),
        ("scalar", &[]),
        ("one", &[1]),
        ("vector", &[N]),
        ("row", &[1, N]),
        ("column", &[ROWS, 1]),
        ("matrix", &[ROWS, N]),
        ("computed", &[N]),
        ("identity", &[N]),
    ];
    let mut cases = Vec::new();
    for trans in [0, 1] {
        for alpha in [1.0, -0.5] {
            for beta in [1.0, 0.25, 0.0] {
                cases.extend(biases.iter().map(|(bias, dims)| (trans, alpha, beta, *bias, *dims)));
            }
        }
    }
    cases.into_par_iter().for_each(|(trans, alpha, beta, bias, dims)| gemm(trans, alpha, beta, bias, dims));
}

fn gemm(trans: i64, alpha: f32, beta: f32, bias: &str, dims: &[usize]) {
    let what = format!("transB {trans}, alpha {alpha}, beta {beta}, bias {bias}");
    let w = noise(K * N, 5);
    let stored = if trans == 1 { transposed(&w, K, N) } else { w.clone() };
    let c = noise(dims.iter().product(), 6);
    let mut net = Net::new()
        .input("x", DataType::Float, &[&ROWS.to_string(), &K.to_string()])
        .output("y", DataType::Float, &[&ROWS.to_string(), &N.to_string()])
        .floats("w", if trans == 1 { &[N, K] } else { &[K, N] }, &stored);
    if !matches!(bias, "none" | "empty") {
        net = net.floats("c", dims, &c);
    }
    let inputs: &[&str] = match bias {
        "none" => &["x", "w"],
        "empty" => &["x", "w", ""],
        "computed" => {
            net =
                net.node("Neg", "minus", &["c"], &["d"], vec![]).node("Neg", "plus", &["d"], &["e"], vec![]);
            &["x", "w", "e"]
        }
        "identity" => {
            net = net.node("Identity", "same", &["c"], &["d"], vec![]);
            &["x", "w", "d"]
        }
        _ => &["x", "w", "c"],
    };
    let mut attributes = vec![int("transB", trans), float("alpha", alpha), float("beta", beta)];
    // Defaults may be written or left out.
    attributes.retain(|attribute| attribute.f != Some(1.0));
    net = net.node("Gemm", "layer", inputs, &["y"], attributes);
    let original = efq::onnx::load_bytes(net.bytes().into()).unwrap();

    let (_folder, model) = rewritten(&net, &["--scales", "fp32", "--algorithm", "search"]);
    let found = fusion(&model);
    assert_eq!((found.fused.len(), found.unfused.as_slice()), (1, &[][..]), "{what}");
    assert!(!names(&model).contains(&"w"), "{what}: the weight is still there");
    assert_eq!(
        names(&model).iter().filter(|name| **name == "c").count() == 1,
        used_as_is(bias, beta),
        "{what}: {:?}",
        names(&model)
    );

    let x = noise(ROWS * K, 7);
    let samples = [("x", array(&[ROWS, K], &x))];
    let c_at = |at: usize| match dims {
        _ if beta == 0.0 || matches!(bias, "none" | "empty") => 0.0,
        [] | [1] => c[0],
        [N] | [1, N] => c[at % N],
        [ROWS, 1] => c[at / N],
        _ => c[at],
    };
    let with_bias = |product: Vec<f32>, factor: f32| -> Vec<f32> {
        product.into_iter().enumerate().map(|(at, value)| factor * value + beta * c_at(at)).collect()
    };
    let wide: Vec<f32> = w.iter().map(|value| alpha * value).collect();
    close(
        &run(&original, "y", &samples),
        &with_bias(product(&x, &wide, ROWS, K, N), 1.0),
        1e-5,
        &format!("{what}: original"),
    );

    let user = &model.graph().node[found.fused[0].node];
    let back = dequantized(&model, &user.input[1]);
    assert!(distance(&back, &wide) < 0.12, "{what}: {}", distance(&back, &wide));
    let computed = run(&model, "y", &samples);
    close(&computed, &with_bias(product(&x, &back, ROWS, K, N), 1.0), 1e-5, &what);

    let (_folder, direct) = rewritten(&net, &["--emit", "matmulnbits", "--algorithm", "search"]);
    let products = operators(&direct).iter().filter(|operator| **operator == "MatMulNBits").count();
    assert_eq!((products, fusion(&direct).fused.len()), (1, 1), "{what}: {:?}", operators(&direct));
    close(&run(&direct, "y", &samples), &computed, 1e-6, &format!("{what}: MatMulNBits"));
}

/// Whether the bias stays under its own name.
fn used_as_is(bias: &str, beta: f32) -> bool {
    match bias {
        "column" | "matrix" => beta != 0.0,
        // The nodes that compute it are none of efq's, used or not.
        "computed" => true,
        _ => false,
    }
}

/// A weight is found behind what exporters put between it and its use, and nothing of that stays.
#[test]
fn chains_before_a_matmul() {
    let w = noise(K * N, 8);
    let flat = transposed(&w, K, N);
    let start = || {
        Net::new().input("x", DataType::Float, &["batch", &K.to_string()]).output(
            "y",
            DataType::Float,
            &["batch", &N.to_string()],
        )
    };
    let turn = || vec![ints("perm", &[1, 0])];
    let to_float = || vec![int("to", DataType::Float as i64)];
    let double: Vec<u8> = w.iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect();
    let brain: Vec<u8> = w.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect();
    let cases: Vec<(&str, Net)> = vec![
        ("direct", start().floats("a", &[K, N], &w)),
        ("transpose", start().floats("b", &[N, K], &flat).node("Transpose", "", &["b"], &["a"], turn())),
        (
            "transpose by default",
            start().floats("b", &[N, K], &flat).node("Transpose", "", &["b"], &["a"], vec![]),
        ),
        ("identity", start().floats("b", &[K, N], &w).node("Identity", "", &["b"], &["a"], vec![])),
        ("half, cast", start().halves("b", &[K, N], &w).node("Cast", "", &["b"], &["a"], to_float())),
        (
            "bfloat, cast",
            start().tensor(tensor::from_raw("b", DataType::Bfloat16, &[K, N], brain)).node(
                "Cast",
                "",
                &["b"],
                &["a"],
                to_float(),
            ),
        ),
        (
            "double, cast",
            start().tensor(tensor::from_raw("b", DataType::Double, &[K, N], double)).node(
                "Cast",
                "",
                &["b"],
                &["a"],
                to_float(),
            ),
        ),
        (
            "reshape",
            start().floats("b", &[K * N], &w).integers("s", &[2], &[-1, N as i64]).node(
                "Reshape",
                "",
                &["b", "s"],
                &["a"],
                vec![],
            ),
        ),
        (
            "squeeze",
            start().floats("b", &[1, K, N], &w).integers("s", &[1], &[0]).node(
                "Squeeze",
                "",
                &["b", "s"],
                &["a"],
                vec![],
            ),
        ),
        (
            "unsqueeze and squeeze",
            start()
                .floats("b", &[K, N], &w)
                .integers("s", &[1], &[1])
                .node("Unsqueeze", "", &["b", "s"], &["d"], vec![])
                .node("Squeeze", "", &["d"], &["a"], vec![]),
        ),
        (
            "cast, identity, transpose",
            start()
                .halves("b", &[N, K], &flat)
                .node("Cast", "", &["b"], &["d"], to_float())
                .node("Identity", "", &["d"], &["e"], vec![])
                .node("Transpose", "", &["e"], &["a"], turn()),
        ),
        (
            "constant node",
            start().with(|graph| {
                let raw: Vec<u8> = w.iter().flat_map(|value| value.to_le_bytes()).collect();
                graph.node.push(constant("a", tensor::from_raw("", DataType::Float, &[K, N], raw)));
            }),
        ),
        (
            "typed field",
            start().tensor(TensorProto {
                raw_data: None,
                float_data: w.clone(),
                ..tensor::from_raw("a", DataType::Float, &[K, N], vec![])
            }),
        ),
    ];
    let x = noise(2 * K, 9);
    for (what, net) in cases {
        let net = net.node("MatMul", "layer", &["x", "a"], &["y"], vec![]);
        let (_folder, model) = rewritten(&net, &[]);
        let mut found = operators(&model);
        found.retain(|op| *op != "Cast");
        assert_eq!(found, ["DequantizeLinear", "MatMul"], "{what}");
        assert_eq!(fusion(&model).fused.len(), 1, "{what}");
        assert!(
            names(&model).iter().all(|name| name.ends_with("_quantized") || name.ends_with("_scale")),
            "{what}: {:?}",
            names(&model)
        );
        let back = dequantized(&model, &model.graph().node.last().unwrap().input[1]);
        assert!(distance(&back, &w) < 0.12, "{what}");
        let sample = [("x", array(&[2, K], &x))];
        close(&run(&model, "y", &sample), &product(&x, &back, 2, K, N), 1e-5, what);
    }
}

/// The nodes of a file need not be sorted; what is replaced goes all the same.
#[test]
fn a_chain_in_reverse_order_goes_too() {
    let net = Net::linear(64, 64)
        .floats("b", &[64, 64], &noise(4096, 2))
        .node("Identity", "second", &["d"], &["a"], vec![])
        .node("Transpose", "first", &["b"], &["d"], vec![])
        .with(|graph| {
            graph.node[0].input[1] = "a".into();
            graph.initializer.remove(0);
        });
    let (_folder, model) = rewritten(&net, &[]);
    assert!(!names(&model).contains(&"b"), "{:?}", names(&model));
    assert_eq!(fusion(&model).fused.len(), 1);
}

#[test]
fn a_shared_weight_gets_private_copies() {
    let net = Net::linear(64, 64).node("MatMul", "again", &["logits", "w"], &["y"], vec![]).output(
        "y",
        DataType::Float,
        &["batch", "64"],
    );
    let (folder, model) = rewritten(&net, &["--algorithm", "search"]);
    assert_eq!(fusion(&model).fused.len(), 2);
    let mut stored = names(&model);
    stored.sort_unstable();
    assert_eq!(stored, ["w_quantized", "w_quantized_2", "w_scale", "w_scale_2"]);
    assert_eq!(initializer(&model, "w_quantized").raw_data, initializer(&model, "w_quantized_2").raw_data);
    let copy = 64 * 64 / 2 + 64 * 2;
    assert_eq!(report(&folder)["tied_bytes"], copy);
}

#[test]
fn a_weight_that_is_used_elsewhere_stays_whole() {
    let net = Net::linear(64, 64);
    let cases = [
        ("graph output", net.clone().output("w", DataType::Float, &["64", "64"])),
        (
            "another operator",
            net.clone().node("Add", "sum", &["logits", "w"], &["y"], vec![]).output(
                "y",
                DataType::Float,
                &["64", "64"],
            ),
        ),
        (
            "body",
            net.clone().input("c", DataType::Bool, &[]).output("y", DataType::Float, &["64", "64"]).node(
                "If",
                "choice",
                &["c"],
                &["y"],
                vec![body(
                    "then_branch",
                    GraphProto {
                        node: vec![node::build("Identity", "", &["w"], &["then"], vec![])],
                        output: vec![value("then", DataType::Float, &["64", "64"])],
                        ..Default::default()
                    },
                )],
            ),
        ),
    ];
    for (what, net) in cases {
        let net = net
            .floats("v", &[64, 64], &noise(4096, 4))
            .node("MatMul", "other", &["x", "v"], &["z"], vec![])
            .output("z", DataType::Float, &["batch", "64"]);
        let (_folder, model) = rewritten(&net, &[]);
        assert_eq!(initializer(&model, "w"), &net.model.graph.as_ref().unwrap().initializer[0], "{what}");
        assert_eq!(fusion(&model).fused.len(), 1, "{what}");
    }
}

fn embedding() -> Net {
    Net::new()
        .input("ids", DataType::Int64, &["length"])
        .output("rows", DataType::Float, &["length", "64"])
        .floats("table", &[100, 64], &noise(6400, 2))
        .node("Gather", "lookup", &["table", "ids"], &["rows"], vec![])
}

#[test]
fn an_embedding_is_gathered_and_then_scaled() {
    let net = embedding();
    let (_folder, model) = rewritten(&net, &["--embeddings", "int8"]);
    assert_eq!(operators(&model), ["Gather", "Cast", "Gather", "Cast", "Mul"]);
    assert_eq!((model.opset(), model.proto.ir_version()), (17, 8), "nothing needs a higher operator set");
    let codes = integers(initializer(&model, "table_quantized"));
    let scales = tensor::floats(initializer(&model, "table_scale")).unwrap();
    assert_eq!((codes.len(), scales.len()), (6400, 100));
    let ids = [0, 99, 7, 7, -1];
    let expected: Vec<f32> = ids
        .iter()
        .flat_map(|id| {
            let row = if *id < 0 { id + 100 } else { *id } as usize;
            codes[row * 64..][..64].iter().map(move |code| (row, *code))
        })
        .map(|(row, code)| code as f32 * scales[row])
        .collect();
    let found = run(&model, "rows", &[("ids", id_array(&ids))]);
    close(&found, &expected, 1e-6, "rows of the table");
    let original =
        run(&efq::onnx::load_bytes(net.bytes().into()).unwrap(), "rows", &[("ids", id_array(&ids))]);
    assert!(distance(&found, &original) < 0.01);
}

/// The rows of a 4-bit table by the layout that `docs/architecture.md` describes, without the crate's decoder.
fn unpacked(model: &Model, weight: &str, width: usize) -> Vec<Vec<f32>> {
    let table = initializer(model, &format!("{weight}_quantized"));
    let scale = initializer(model, &format!("{weight}_scale"));
    let [rows, pairs, block] = [0, 1, 2].map(|axis| table.dims[axis] as usize);
    assert_eq!(table.data_type(), DataType::Int8 as i32);
    assert_eq!(scale.dims, [rows as i64, 2 * pairs as i64, 1]);
    let (codes, scales) = (integers(table), tensor::floats(scale).unwrap());
    assert!(scales.iter().all(|scale| scale.is_finite() && *scale != 0.0), "scales of '{weight}'");
    let row = |row: usize| {
        let bytes = &codes[row * pairs * block..][..pairs * block];
        let levels = bytes.iter().map(|byte| (byte & 15) - 8).chain(bytes.iter().map(|byte| byte >> 4));
        let values = levels.enumerate().map(|(at, level)| {
            let group = at / block;
            let scale = scales[row * 2 * pairs + group];
            // The scales of the low nibbles are stored 16 times as large.
            level as f32 * if group < pairs { scale / 16.0 } else { scale }
        });
        values.take(width).collect()
    };
    (0..rows).map(row).collect()
}

#[test]
fn a_table_of_4_bits_is_gathered_and_then_taken_apart() {
    const PACKED: [&str; 10] =
        ["Gather", "Cast", "Mul", "Floor", "Sub", "Sub", "Concat", "Gather", "Cast", "Mul"];
    // Width, block asked for, block and pairs that come out.
    for (width, asked, block, pairs) in
        [(64, "128", 32, 1), (64, "16", 16, 2), (100, "32", 25, 2), (33, "16", 9, 2), (7, "256", 4, 1)]
    {
        // Without value_info: the rank of the ids is declared, or has to be asked for.
        for (rank, dims) in [(Some(1), vec![5]), (Some(2), vec![1, 5]), (Some(0), vec![]), (None, vec![5])] {
            let what = format!("width {width}, blocks of {asked}, ids {rank:?}");
            let rows = 2000;
            let declared = &["a", "b"][..rank.unwrap_or(1)];
            let table = noise(rows * width, 2);
            let net = Net::new()
                .input("ids", DataType::Int64, declared)
                .output("rows", DataType::Float, &[declared, &["w"]].concat())
                .floats("table", &[rows, width], &table);
            let net = match rank {
                // What a Tile gives has the rank of its input, which efq does not look up.
                None => net.integers("once", &[1], &[1]).node("Tile", "t", &["ids", "once"], &["i"], vec![]),
                Some(_) => net.node("Identity", "t", &["ids"], &["i"], vec![]),
            };
            let net = net.node("Gather", "lookup", &["table", "i"], &["rows"], vec![]);
            let (folder, model) = rewritten(&net, &["--block-size", asked]);
            assert_eq!((model.opset(), model.proto.ir_version()), (17, 8), "{what}");
            let mut expected = vec![if rank.is_none() { "Tile" } else { "Identity" }];
            expected.extend(PACKED);
            expected.extend(["Shape", "Concat"].iter().filter(|_| rank.is_none()));
            expected.push("Reshape");
            expected.extend((2 * block * pairs != width).then_some("Slice"));
            assert_eq!(operators(&model), expected, "{what}");
            assert_eq!(model.graph().node.last().unwrap().name(), "lookup");
            assert_eq!(report(&folder)["tensors"][0]["encoding"], format!("int4 rows block {block}"));
            let bytes = rows * pairs * block + rows * 2 * pairs * 2;
            assert_eq!(report(&folder)["tensors"][0]["bytes_after"], bytes, "{what}");

            let ids = &[0, 1999, 7, 7, -1][..dims.iter().product()];
            let raw: Vec<u8> = ids.iter().flat_map(|id: &i64| id.to_le_bytes()).collect();
            let ids_array = Array { data_type: DataType::Int64, shape: dims.clone(), bytes: raw.into() };
            let found = run(&model, "rows", &[("ids", ids_array)]);
            let decoded = unpacked(&model, "table", width);
            let at = |id: &i64| if *id < 0 { (id + rows as i64) as usize } else { *id as usize };
            let meant: Vec<f32> = ids.iter().flat_map(|id| decoded[at(id)].clone()).collect();
            assert_eq!(found, meant, "{what}");
            let back: Vec<f32> = decoded.concat();
            assert!(distance(&back, &table) < 0.13, "{what}: {}", distance(&back, &table));
        }
    }
}

#[test]
fn a_table_of_4_bits_needs_operator_set_11() {
    let at = |opset| {
        let (_folder, model) = rewritten(&embedding().opset(opset), &[]);
        (model.opset(), model.proto.ir_version())
    };
    assert_eq!(at(10), (21, 10));
    assert_eq!(at(11), (11, 8));
}

#[test]
fn a_half_precision_table_stays_half_precision() {
    let halves = |values: &[f32]| values.iter().map(|v| half::f16::from_f32(*v)).collect::<Vec<_>>();
    let table = noise(6400, 2);
    let net = Net::new()
        .input("ids", DataType::Int64, &["length"])
        .output("rows", DataType::Float16, &["length", "64"])
        .halves("table", &[100, 64], &table)
        .node("Gather", "lookup", &["table", "ids"], &["rows"], vec![]);
    let (_folder, model) = rewritten(&net, &[]);
    assert_eq!(initializer(&model, "table_scale").data_type(), DataType::Float16 as i32);
    let found = run(&model, "rows", &[("ids", id_array(&[3, -2]))]);
    let decoded = unpacked(&model, "table", 64);
    let meant = halves(&[decoded[3].clone(), decoded[98].clone()].concat());
    assert_eq!(halves(&found), meant);
}

#[test]
fn a_table_that_4_bits_do_not_shrink_takes_8() {
    let net = network().floats("kinds", &[16, 64], &noise(1024, 9)).node(
        "Gather",
        "kind",
        &["kinds", "ids"],
        &["kind_rows"],
        vec![],
    );
    let net = net.output("kind_rows", DataType::Float, &["length", "64"]);
    let folder = Folder::new();
    net.save(&folder.join("m.onnx"));
    let report: Value = serde_json::from_str(done(&folder.efq(DRY))).unwrap();
    let tensors = report["tensors"].as_array().unwrap();
    let kinds = tensors.iter().find(|tensor| tensor["name"] == "kinds").unwrap();
    assert_eq!(kinds["encoding"], "int8 rows");
    assert_eq!(kinds["reason"], "high_compression: embeddings, no larger as int8");
}

/// What a plan says of bytes is counted again.
#[test]
fn figures_of_a_plan_are_not_taken_on_trust() {
    let folder = Folder::new();
    network().save(&folder.join("m.onnx"));
    done(&folder.efq(&[DRY, &["--plan", "p.json"]].concat()));
    let mut plan: Value = serde_json::from_slice(&folder.read("p.json")).unwrap();
    for decision in plan["decisions"].as_array_mut().unwrap() {
        decision["bytes_after"] = 7.into();
    }
    folder.write("edited.json", plan.to_string());
    done(&folder.efq(&[DRY, &["--from-plan", "edited.json", "--plan", "again.json"]].concat()));
    assert_eq!(folder.read("again.json"), folder.read("p.json"));
    let rows = efq::plan::Encoding::Rows {
        scales: efq::quant::ScaleStorage::F16,
        algorithm: efq::quant::Algorithm::Search,
    };
    assert_eq!((rows.bytes(usize::MAX, 2), rows.bytes(10, 2)), (None, Some(40)));
}

/// A product takes no weight of another type than its activation.
#[test]
fn a_plan_with_wide_scales_for_half_precision_is_refused() {
    let folder = Folder::new();
    Net::new()
        .input("x", DataType::Float16, &["batch", "64"])
        .output("y", DataType::Float16, &["batch", "64"])
        .halves("w", &[64, 64], &noise(4096, 1))
        .node("MatMul", "", &["x", "w"], &["y"], vec![])
        .save(&folder.join("m.onnx"));
    done(&folder.efq(&[DRY, &["--plan", "p.json", "--head", "int4"]].concat()));
    let plan = String::from_utf8(folder.read("p.json")).unwrap();
    assert!(plan.contains(r#""scales": "fp16""#), "{plan}");
    folder.write("wide.json", plan.replace("fp16", "fp32"));
    let fixed = ["rewrite", "m.onnx", "-p", "high_compression", "-o", "o.onnx", "--validate", "never"];
    let run = folder.efq(&[&fixed[..], &["--from-plan", "wide.json"]].concat());
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.err.contains("'w' cannot be stored as int4 block 128"), "{run:?}");
    done(&folder.efq(&[&fixed[..], &["--from-plan", "p.json"]].concat()));
}

#[test]
fn a_table_of_4_bits_is_raised_to_8_and_then_kept() {
    let net = network();
    let folder = Folder::new();
    net.save(&folder.join("m.onnx"));
    done(&folder.efq(&[DRY, &["--plan", "p.json"]].concat()));
    let model = load(&folder.join("m.onnx")).unwrap();
    let text = String::from_utf8(folder.read("p.json")).unwrap();
    let mut plan = efq::plan::Plan::from_json(&text, &model, model.digest()).unwrap();
    let at = plan.decisions.iter().position(|decision| decision.tensor == "table").unwrap();
    let mut passed =
        vec![(plan.decisions[at].uses[0].encoding.name(), plan.decisions[at].bytes_after as i64)];
    for to in plan.decisions[at].uses[0].encoding.ladder(100).skip(1) {
        let step = efq::plan::raise_to(&mut plan, (at, 0), to, "the test wants it").unwrap();
        let decision = &plan.decisions[at];
        passed.push((decision.uses[0].encoding.name(), decision.bytes_after as i64));
        assert_eq!(passed[passed.len() - 1].1 - passed[passed.len() - 2].1, step.bytes);
    }
    let expected = [("int4 rows block 32", 3200 + 400), ("int8 rows", 6400 + 200), ("float", 25600)];
    assert_eq!(passed, expected.map(|(name, bytes)| (name.to_owned(), bytes)));
}

#[test]
fn a_tied_table_is_stored_for_each_use() {
    let tied = embedding()
        .node("Transpose", "turn", &["table"], &["head"], vec![])
        .node("MatMul", "predict", &["rows", "head"], &["logits"], vec![])
        .output("logits", DataType::Float, &["length", "100"]);
    let (folder, model) = rewritten(&tied, &["--embeddings", "int8", "--algorithm", "search"]);
    assert_eq!(
        operators(&model),
        ["Gather", "Cast", "Gather", "Cast", "Mul", "Cast", "DequantizeLinear", "MatMul"]
    );
    assert!(!names(&model).contains(&"table"));
    assert_eq!(report(&folder)["tensors"][0]["encoding"], "int8 rows + int4 block 128");
    let head = |model: &Model| dequantized(model, &model.graph().node.last().unwrap().input[1]);
    assert!(distance(&head(&model), &transposed(&noise(6400, 2), 100, 64)) < 0.13);

    let (folder, packed) = rewritten(&tied, &["--algorithm", "search"]);
    assert!(!names(&packed).contains(&"table"));
    let shown = report(&folder);
    assert_eq!(shown["tensors"][0]["encoding"], "int4 rows block 32 + int4 block 128");
    let (table, blocks) = (3200 + 100 * 2 * 2, 3200 + 100 * 2);
    assert_eq!(shown["tensors"][0]["bytes_after"], table + blocks);
    // What is stored more than once is all but the smaller copy.
    assert_eq!(shown["tied_bytes"], table);
    assert_eq!(head(&packed), head(&model), "the head does not depend on how the table is stored");
    let rows = unpacked(&packed, "table", 64);
    assert_eq!(run(&packed, "rows", &[("ids", id_array(&[5]))]), rows[5]);

    // A table that is kept is not stored a second time for the head, whatever the head could be.
    for head in ["int4", "int8"] {
        assert_eq!(
            encodings(&tied, &["--keep", "token_embeddings", "--tensor", &format!("predict={head}")]),
            [("table".to_owned(), "float".to_owned())]
        );
    }
    // Nor is a head that is kept given a second table.
    assert_eq!(encodings(&tied, &["--tensor", "predict=float"]), [("table".to_owned(), "float".to_owned())]);
}

/// Two layers between an embedding and a head, for rules.
fn network() -> Net {
    embedding()
        .floats("up", &[64, 128], &noise(8192, 3))
        .floats("down", &[128, 64], &noise(8192, 4))
        .floats("classes", &[64, 40], &noise(2560, 5))
        .node("MatMul", "/ff/up", &["rows", "up"], &["h"], vec![])
        .node("Relu", "act", &["h"], &["a"], vec![])
        .node("MatMul", "/ff/down", &["a", "down"], &["b"], vec![])
        .node("Add", "residual", &["b", "rows"], &["r"], vec![])
        .node("MatMul", "/head", &["r", "classes"], &["logits"], vec![])
        .output("logits", DataType::Float, &["length", "40"])
}

#[test]
fn rules_and_options_choose_the_encoding() {
    let check = |more: &[&str], expected: [&str; 4]| {
        let found = encodings(&network(), more);
        let names = ["table", "up", "down", "classes"];
        let expected: Vec<_> =
            names.iter().zip(expected).map(|(name, how)| ((*name).to_owned(), how.to_owned())).collect();
        assert_eq!(found, expected, "{more:?}");
    };
    let int4 = "int4 block 128";
    let rows = "int4 rows block 32";
    check(&[], [rows, int4, int4, int4]);
    check(&["--keep", "up"], [rows, "float", int4, int4]);
    check(&["--keep", "/ff/*"], [rows, "float", "float", int4]);
    check(&["--keep", "feed_forward", "--keep", "lm_head"], [rows, "float", "float", "float"]);
    check(&["--keep", "embeddings"], ["float", int4, int4, int4]);
    check(&["--embeddings", "keep", "--head", "int8"], ["float", int4, int4, "int8 block 128"]);
    check(&["--head", "keep"], [rows, int4, int4, "float"]);
    check(&["--tensor", "down=int8", "--tensor", "*=float"], ["float", "float", "int8 block 128", "float"]);
    check(&["--tensor", "*=float", "--tensor", "down=int8"], ["float"; 4]);
    check(&["--tensor", "up=int4", "--keep", "*"], ["float", int4, "float", "float"]);
    check(&["--tensor", "table=int8", "--keep", "embeddings"], ["int8 rows", int4, int4, int4]);
    check(&["--tensor", "table=int4", "--embeddings", "keep"], [rows, int4, int4, int4]);
    check(&["--tensor", "token_embeddings=int4", "--keep", "*"], [rows, "float", "float", "float"]);
    check(&["--embeddings", "int8"], ["int8 rows", int4, int4, int4]);
    check(&["--embeddings", "int4", "--block-size", "16"], {
        ["int4 rows block 16", "int4 block 16", "int4 block 16", "int4 block 16"]
    });
    check(&["--block-size", "32"], [rows, "int4 block 32", "int4 block 32", "int4 block 32"]);
    check(&["--block-size", "adaptive"], [rows, int4, int4, "int4 block 64"]);
    check(
        &["--asymmetric", "--scales", "fp32"],
        [rows, "uint4 block 128", "uint4 block 128", "uint4 block 128"],
    );
    check(&["--algorithm", "rtn"], [rows, int4, int4, int4]);
}

#[test]
fn a_preset_file_rules_over_roles_names_and_operators() {
    let folder = Folder::new();
    network().save(&folder.join("m.onnx"));
    folder.write("mine.yaml", "name: mine\nsymmetric: true\nblock_size: 16\nkeep: [token_embeddings]\nrules:\n  - pattern: '*/down'\n    operator: MatMul\n    store: int8\n  - role: lm_head\n    store: int4\n    block_size: 256\n    symmetric: false\n");
    let run = folder.efq(&["rewrite", "m.onnx", "-p", "mine.yaml", "--dry-run", "--format", "json"]);
    let report: Value = serde_json::from_str(done(&run)).unwrap();
    let told: Vec<(&str, &str)> = report["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| (t["encoding"].as_str().unwrap(), t["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ("float", "mine keeps token_embeddings"),
            ("int4 block 16", "mine: linear"),
            ("int8 block 128", "mine.yaml:6"),
            ("uint4 block 256", "mine.yaml:9"),
        ]
    );
    // A table takes the block of its rule, and never a zero point.
    folder.write("table.yaml", "name: mine\nembeddings: keep\nrules:\n  - operator: Gather\n    store: int4\n    block_size: 16\n    symmetric: false\n");
    let run = folder.efq(&["rewrite", "m.onnx", "-p", "table.yaml", "--dry-run", "--format", "json"]);
    let report: Value = serde_json::from_str(done(&run)).unwrap();
    assert_eq!(report["tensors"][0]["encoding"], "int4 rows block 16");
    assert_eq!(report["tensors"][0]["reason"], "table.yaml:4");
}

/// What a dry run foretells, comes: bytes, encodings, opset.
#[test]
fn a_dry_run_tells_the_exact_bytes() {
    for net in [
        Net::linear(64, 64),
        network(),
        embedding(),
        Net::linear(K, N).opset(13).ir(7),
        Net::linear(K, N).opset(22).ir(10),
    ] {
        for more in [
            &[][..],
            &["--external-data"],
            &["-p", "balanced_production"],
            &["--scales", "fp32", "--asymmetric"],
        ] {
            let args = |rest: &[&'static str]| {
                let preset: &[&str] =
                    if more.first() == Some(&"-p") { &[] } else { &["-p", "high_compression"] };
                [&["rewrite", "m.onnx", "--validate", "never", "--format", "json"], preset, more, rest]
                    .concat()
            };
            let folder = Folder::new();
            net.save(&folder.join("m.onnx"));
            let before = folder.listing();
            let told: Value = serde_json::from_str(done(&folder.efq(&args(&["--dry-run"])))).unwrap();
            assert_eq!(folder.listing(), before, "a dry run wrote");
            let came: Value = serde_json::from_str(done(&folder.efq(&args(&["-o", "o.onnx"])))).unwrap();
            let written: u64 = folder
                .listing()
                .iter()
                .filter(|(name, _)| name.starts_with('o'))
                .map(|(_, bytes)| bytes.as_ref().unwrap().len() as u64)
                .sum();
            assert_eq!((&told["action"], &came["action"]), (&"dry-run".into(), &"rewrite".into()));
            assert_eq!(came["result"]["bytes"], written, "{more:?}");
            assert_eq!(told["result"]["bytes"], came["result"]["bytes"], "{more:?}");
            assert_eq!(told["result"]["opset"], came["result"]["opset"], "{more:?}");
            for (told, came) in
                told["tensors"].as_array().unwrap().iter().zip(came["tensors"].as_array().unwrap())
            {
                assert_eq!(
                    (&told["encoding"], &told["bytes_after"], &told["reason"]),
                    (&came["encoding"], &came["bytes_after"], &came["reason"])
                );
            }
        }
    }
}

/// The same request gives the same bytes: with a plan, with other threads, and a second time.
#[test]
fn results_repeat_to_the_byte() {
    let folder = Folder::new();
    let net = Net::linear(700, 300)
        .floats("v", &[300, 600], &noise(180_000, 12))
        .node("MatMul", "second", &["logits", "v"], &["y"], vec![])
        .output("y", DataType::Float, &["batch", "600"]);
    net.save(&folder.join("m.onnx"));
    let rewrite = |output: &str, more: &[&str]| {
        let fixed =
            ["rewrite", "m.onnx", "-p", "balanced_production", "--validate", "never", "-q", "-o", output];
        assert_eq!(done(&folder.efq(&[&fixed, more].concat())), "");
        folder.read(output)
    };
    let first = rewrite("a.onnx", &["--plan", "a.json", "--threads", "1"]);
    assert!(first == rewrite("b.onnx", &["--threads", "2"]), "another count of threads");
    assert!(first == rewrite("c.onnx", &["--from-plan", "a.json", "--plan", "c.json"]), "from the plan");
    assert!(folder.read("a.json") == folder.read("c.json"), "the plan is not what it was");
    done(&folder.efq(&[
        "rewrite",
        "m.onnx",
        "-p",
        "balanced_production",
        "--dry-run",
        "--plan",
        "d.json",
        "-q",
    ]));
    assert!(folder.read("a.json") == folder.read("d.json"), "the plan of a dry run");
    // The settings of the plan count, not those of the preset beside it.
    let other = [
        "rewrite",
        "m.onnx",
        "-p",
        "high_compression",
        "--validate",
        "never",
        "-q",
        "-o",
        "e.onnx",
        "--from-plan",
        "a.json",
    ];
    done(&folder.efq(&other));
    assert!(first == folder.read("e.onnx"), "another preset beside the plan");
    let metadata = load(&folder.join("a.onnx")).unwrap();
    let entry = |key: &str| {
        metadata.proto.metadata_props.iter().find(|entry| entry.key() == key).unwrap().value().to_owned()
    };
    assert_eq!(entry("efq.plan_blake3"), blake3::hash(folder.read("a.json").as_ref()).to_hex().to_string());
}

#[test]
fn a_plan_that_was_edited_is_followed() {
    let folder = Folder::new();
    network().save(&folder.join("m.onnx"));
    done(&folder.efq(&["rewrite", "m.onnx", "-p", "high_compression", "--dry-run", "--plan", "p.json"]));
    let text = String::from_utf8(folder.read("p.json")).unwrap();
    let mut plan: Value = serde_json::from_str(&text).unwrap();
    plan["decisions"][1]["uses"][0]["encoding"] = serde_json::json!({ "as": "float" });
    folder.write("p.json", plan.to_string());
    done(&folder.efq(&[
        "rewrite",
        "m.onnx",
        "-p",
        "high_compression",
        "-o",
        "out.onnx",
        "--from-plan",
        "p.json",
        "--validate",
        "never",
    ]));
    let model = load(&folder.join("out.onnx")).unwrap();
    assert!(names(&model).contains(&"up") && !names(&model).contains(&"down"));
}

#[test]
fn side_files_are_read_and_written() {
    let folder = Folder::new();
    let net = network();
    let reference = {
        net.save(&folder.join("whole.onnx"));
        let args = [
            "rewrite",
            "whole.onnx",
            "-p",
            "high_compression",
            "--validate",
            "never",
            "-o",
            "reference.onnx",
        ];
        done(&folder.efq(&args));
        load(&folder.join("reference.onnx")).unwrap()
    };
    std::fs::create_dir_all(folder.join("m/onnx/sub")).unwrap();
    net.save_external(&folder.join("m/onnx/model.onnx"), "sub/weights.bin", 1);
    let before = folder.listing();
    let weights = |model: &Model| {
        let mut found: Vec<_> = model
            .graph()
            .initializer
            .iter()
            .map(|t| (t.name().to_owned(), tensor::payload(t).unwrap()))
            .collect();
        found.sort();
        found
    };
    // A folder as exporters leave it, with weights beside the model, and the result in one file.
    done(&folder.efq(&["rewrite", "m", "-p", "high_compression", "--validate", "never", "-o", "one.onnx"]));
    assert_eq!(weights(&load(&folder.join("one.onnx")).unwrap()), weights(&reference));
    // And in two.
    done(&folder.efq(&[
        "rewrite",
        "m",
        "-p",
        "high_compression",
        "--validate",
        "never",
        "-o",
        "two.onnx",
        "--external-data",
    ]));
    let two = load(&folder.join("two.onnx")).unwrap();
    assert_eq!(two.side_paths(), [folder.join("two.onnx_data").canonicalize().unwrap()]);
    assert_eq!(weights(&two), weights(&reference));
    assert_eq!(fusion(&two), fusion(&reference));
    // Starts are aligned for mapping.
    let proto = ModelProto::decode(folder.read("two.onnx").as_slice()).unwrap();
    let offsets = proto.graph.unwrap().initializer.into_iter().flat_map(|tensor| tensor.external_data);
    let offsets: Vec<u64> =
        offsets.filter(|entry| entry.key() == "offset").map(|entry| entry.value().parse().unwrap()).collect();
    assert!(offsets.len() >= 4 && offsets.iter().all(|offset| offset % 64 == 0), "{offsets:?}");
    // A forced repetition replaces both files and gives the same bytes.
    let written = folder.listing();
    done(&folder.efq(&[
        "rewrite",
        "m",
        "-p",
        "high_compression",
        "--validate",
        "never",
        "-o",
        "two.onnx",
        "--external-data",
        "--force",
    ]));
    assert!(folder.listing() == written);
    for (name, bytes) in before {
        assert!(folder.listing().get(&name) == Some(&bytes), "{name} was touched");
    }
}

#[test]
fn a_folder_may_hold_the_model_in_three_places() {
    for place in ["m/model.onnx", "m/onnx/model.onnx", "m/decoder.onnx"] {
        let folder = Folder::new();
        folder.write(place, network().bytes());
        let run = folder.efq(&["inspect", "m"]);
        assert!(done(&run).starts_with(place), "{run:?}");
    }
}

/// Everything but the weights is as it was.
#[test]
fn the_interface_stays() {
    let net = network().metadata("author", "someone").metadata("efq.version", "0.0.0").with_model(|model| {
        model.doc_string = Some("about".into());
        model.model_version = Some(7);
        model.graph.as_mut().unwrap().doc_string = Some("the graph".into());
    });
    let (folder, model) = rewritten(&net, &["--allow-requantize"]);
    let (before, after) = (&net.model, &model.proto);
    let (old, new) = (before.graph.as_ref().unwrap(), after.graph.as_ref().unwrap());
    assert_eq!(
        (&new.input, &new.output, &new.name, &new.doc_string),
        (&old.input, &old.output, &old.name, &old.doc_string)
    );
    assert_eq!(
        (&after.producer_name, &after.doc_string, after.model_version),
        (&before.producer_name, &before.doc_string, before.model_version)
    );
    assert_eq!((model.opset(), after.ir_version()), (21, 10));
    // Nodes keep their names; the last of a group that stands for one takes its name.
    for node in &old.node {
        assert!(
            new.node.iter().any(|found| found.name() == node.name() && found.output == node.output),
            "{}",
            node.name()
        );
    }
    let mut metadata: Vec<(&str, &str)> =
        after.metadata_props.iter().map(|entry| (entry.key(), entry.value())).collect();
    metadata.sort_unstable();
    let source = blake3::hash(&net.bytes()).to_hex().to_string();
    let [author, plan, preset, sha, version] = metadata.as_slice() else { panic!("{metadata:?}") };
    assert_eq!((*author, *preset), (("author", "someone"), ("efq.preset", "high_compression")));
    assert_eq!(
        (*sha, *version),
        (("efq.source_blake3", source.as_str()), ("efq.version", env!("CARGO_PKG_VERSION")))
    );
    assert_eq!((plan.0, plan.1.len()), ("efq.plan_blake3", 64));
    // No initializer without a use, and what is reported is what lies there.
    let used: Vec<&String> = new.node.iter().flat_map(|node| &node.input).collect();
    assert!(names(&model).iter().all(|name| used.iter().any(|input| input == name)));
    let report = report(&folder);
    assert_eq!(report["result"]["blake3"], blake3::hash(&folder.read("out.onnx")).to_hex().to_string());
    assert_eq!(report["original"]["blake3"], source.as_str());
    assert_eq!(report["result"]["bytes"], folder.read("out.onnx").len());
    let stored: u64 = new.initializer.iter().map(|tensor| tensor::payload_len(tensor).unwrap() as u64).sum();
    let told: u64 = report["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tensor| tensor["bytes_after"].as_u64().unwrap())
        .sum();
    // The zeros that keep a product apart from the Relu behind it, and the numbers with which the rows of a table are
    // taken apart, belong to no tensor of the original.
    let apart: u64 = new
        .initializer
        .iter()
        .filter(|tensor| tensor.name().ends_with("_subtrahend") || tensor.name().starts_with("rows_"))
        .map(|tensor| tensor::payload_len(tensor).unwrap() as u64)
        .sum();
    assert_eq!(told + apart, stored);
    assert_eq!((report["fusion"]["fused"].as_u64(), report["fusion"]["total"].as_u64()), (Some(3), Some(3)));
}

#[test]
fn operator_sets_are_raised_to_21_and_no_further() {
    for (opset, ir, expected) in [
        (7, 3, (21, 10)),
        (9, 4, (21, 10)),
        (10, 5, (21, 10)),
        (12, 7, (21, 10)),
        (13, 7, (21, 10)),
        (19, 9, (21, 10)),
        (21, 10, (21, 10)),
        (23, 11, (23, 11)),
    ] {
        let (_folder, model) = rewritten(&Net::linear(64, 64).opset(opset).ir(ir), &[]);
        assert_eq!((model.opset(), model.proto.ir_version()), expected);
    }
}

/// Before IR 4 every initializer was a graph input too; such weights are weights.
#[test]
fn weights_that_ir_3_lists_as_inputs_are_removed_from_them() {
    let net = Net::linear(64, 64).ir(3).opset(8).input("w", DataType::Float, &["64", "64"]);
    let (folder, model) = rewritten(&net, &[]);
    let inputs: Vec<&str> = model.graph().input.iter().map(|input| input.name()).collect();
    assert_eq!(inputs, ["x"]);
    assert_eq!(
        report(&folder)["warnings"][0],
        "1 weights were graph inputs, as IR 3 wants it; callers can no longer replace them"
    );
}

#[test]
fn names_that_are_taken_are_not_taken_again() {
    let net = Net::linear(64, 64)
        .floats("w_quantized", &[64], &noise(64, 2))
        .node("Add", "w_scale", &["logits", "w_quantized"], &["w_dequantized"], vec![])
        .node("Neg", "w_DequantizeLinear", &["w_dequantized"], &["y"], vec![])
        .output("y", DataType::Float, &["batch", "64"]);
    let (_folder, model) = rewritten(&net, &[]);
    assert_eq!(fusion(&model).fused.len(), 1);
    let mut seen = std::collections::HashSet::new();
    let nodes = model.graph().node.iter();
    assert!(nodes.clone().all(|node| seen.insert(node.name())), "two nodes of one name");
    let x = noise(64, 3);
    let back = dequantized(&model, &nodes.clone().find(|node| node.op_type() == "MatMul").unwrap().input[1]);
    let added: Vec<f32> =
        product(&x, &back, 1, 64, 64).iter().zip(noise(64, 2)).map(|(a, b)| -(a + b)).collect();
    close(&run(&model, "y", &[("x", array(&[1, 64], &x))]), &added, 1e-5, "the sum");
}

/// Weights of any finite size come back finite, within the step of their block; others stay and are named.
#[test]
fn numbers_of_every_size() {
    let mut outlier = noise(4096, 3);
    outlier[77] = 1e30;
    let mut negative = noise(4096, 3);
    negative.iter_mut().step_by(3).for_each(|value| *value = -0.0);
    let scaled = |factor: f32| noise(4096, 3).iter().map(|value| value * factor).collect::<Vec<_>>();
    let cases = [
        ("zero", vec![0.0; 4096]),
        ("constant", vec![0.7; 4096]),
        ("negative zeros", negative),
        ("outlier", outlier),
        ("beyond float16", scaled(1e7)),
        ("the largest", vec![1e30; 4096]),
        ("both extremes", (0..4096).map(|at| if at % 2 == 0 { 1e30 } else { -1e30 }).collect()),
        ("small", scaled(1e-7)),
        ("subnormal", scaled(1e-39)),
        ("the smallest", vec![f32::from_bits(1); 4096]),
    ];
    for (what, values) in cases {
        for more in [
            &["--asymmetric"][..],
            &["--symmetric"],
            &["--algorithm", "rtn"],
            &["--algorithm", "percentile"],
            &["--tensor", "w=int8"],
        ] {
            let net =
                Net::linear(64, 64).with(|graph| graph.initializer.clear()).floats("w", &[64, 64], &values);
            let (_folder, model) = rewritten(&net, more);
            let back = dequantized(&model, &model.graph().node.last().unwrap().input[1]);
            assert!(back.iter().all(|value| value.is_finite()), "{what} {more:?}");
            if !more.contains(&"percentile") {
                let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                let worst =
                    values.iter().zip(&back).map(|(a, b)| (a / 2.0 - b / 2.0).abs()).fold(0.0, f32::max);
                // Half the widest step of 4 bits over the range, and some for the search.
                assert!(worst <= largest * 0.16 + f32::MIN_POSITIVE, "{what} {more:?}: {worst} of {largest}");
            }
        }
    }
    let not_finite = "a value that is not finite at [2,2]";
    let too_large = "values so large that sums of codes leave float32";
    let wrong = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(|value| (value, not_finite));
    for (wrong, reason) in wrong.into_iter().chain([(1e38, too_large), (f32::MIN, too_large)]) {
        let mut values = noise(4096, 3);
        values[130] = wrong;
        let net = network()
            .floats("broken", &[64, 64], &values)
            .node("MatMul", "bad", &["rows", "broken"], &["z"], vec![])
            .output("z", DataType::Float, &["length", "64"]);
        let (folder, model) = rewritten(&net, &[]);
        assert!(names(&model).contains(&"broken"));
        let report = report(&folder);
        assert_eq!(report["tensors"][4]["reason"], reason);
        assert_eq!(report["fusion"]["fused"], 3);
    }
}

/// Without samples to fit to, a weight is looked at while it is written. The plan is that of a look before.
#[test]
fn weights_that_are_read_once_are_planned_by_their_values() {
    let scaled = |factor: f32| noise(4096, 3).into_iter().map(|value| value * factor).collect::<Vec<f32>>();
    let mut broken = noise(4096, 3);
    broken[130] = f32::NAN;
    for (what, values) in [
        ("ordinary", scaled(1.0)),
        ("fine", scaled(1e-7)),
        ("wide", scaled(1e7)),
        ("huge", scaled(1e37)),
        ("broken", broken),
    ] {
        let net = network()
            .floats("other", &[64, 64], &values)
            .node("MatMul", "more", &["rows", "other"], &["z"], vec![])
            .output("z", DataType::Float, &["length", "64"]);
        for algorithm in ["rtn", "percentile", "search"] {
            for emit in ["qdq", "matmulnbits"] {
                let asked = ["--algorithm", algorithm, "--emit", emit, "--plan", "done.json"];
                let (folder, model) = rewritten(&net, &asked);
                let dry = ["rewrite", "m.onnx", "-p", "high_compression", "--dry-run"];
                let asked = ["--algorithm", algorithm, "--emit", emit, "--plan", "dry.json"];
                done(&folder.efq(&[&dry[..], &asked].concat()));
                let case = format!("{what} {algorithm} {emit}");
                let plan: Value = serde_json::from_slice(&folder.read("done.json")).unwrap();
                assert_eq!(
                    plan,
                    serde_json::from_slice::<Value>(&folder.read("dry.json")).unwrap(),
                    "{case}"
                );
                assert_eq!(names(&model).contains(&"other"), matches!(what, "broken" | "huge"), "{case}");
            }
        }
    }
    // What stays in float is not read for its codes; why it does is known all the same.
    for keep in [&["--keep", "second"][..], &[]] {
        let net = Net::linear(64, 64)
            .with(|graph| graph.initializer.clear())
            .floats("w", &[64, 64], &[f32::NAN; 4096])
            .floats("v", &[64, 64], &noise(4096, 3))
            .node("MatMul", "second", &["x", "w"], &["z"], vec![])
            .node("MatMul", "third", &["x", "v"], &["u"], vec![])
            .output("z", DataType::Float, &["batch", "64"])
            .output("u", DataType::Float, &["batch", "64"]);
        let asked = [&["--algorithm", "rtn", "--plan", "done.json"][..], keep].concat();
        let (folder, _) = rewritten(&net, &asked);
        let dry = ["rewrite", "m.onnx", "-p", "high_compression", "--dry-run", "--plan", "dry.json"];
        done(&folder.efq(&[&dry[..], &["--algorithm", "rtn"], keep].concat()));
        assert_eq!(folder.read("done.json"), folder.read("dry.json"), "{keep:?}");
    }
    // Of a plan that changes nothing, what such a model could not take does not matter.
    let newest = Net::linear(64, 64).opset(28).with(|graph| graph.initializer.clear());
    rewritten(&newest.floats("w", &[64, 64], &[f32::NAN; 4096]), &["--algorithm", "rtn"]);
    // A plan of another model of the same form is told to be one.
    let folder = Folder::new();
    let net = |values: &[f32]| {
        Net::linear(64, 64).with(|graph| graph.initializer.clear()).floats("w", &[64, 64], values)
    };
    net(&noise(4096, 3)).save(&folder.join("m.onnx"));
    let dry = [
        "rewrite",
        "m.onnx",
        "-p",
        "high_compression",
        "--algorithm",
        "rtn",
        "--dry-run",
        "--plan",
        "p.json",
    ];
    done(&folder.efq(&dry));
    let broken = net(&[f32::INFINITY; 4096]);
    broken.save(&folder.join("b.onnx"));
    let digest = blake3::hash(&broken.bytes()).to_hex();
    // Scales of 8 bits are made of the whole weight, not as it is read.
    for scales in ["fp16", "int8"] {
        done(&folder.efq(&[&dry[..], &["--scales", scales, "--force"]].concat()));
        let mut plan: Value = serde_json::from_slice(&folder.read("p.json")).unwrap();
        plan["model_blake3"] = digest.as_str().into();
        folder.write("p.json", plan.to_string().as_bytes());
        let args = "rewrite b.onnx -p high_compression --from-plan p.json -o o.onnx --validate never";
        let run = folder.efq(&args.split(' ').collect::<Vec<_>>());
        assert_eq!(run.code, Some(2), "{run:?}");
        let told = "b.onnx: 'w': holds a value that is not finite at [0,0], which its plan did not foresee";
        assert!(run.err.contains(told), "{run:?}");
    }
}

#[test]
fn half_precision_layers_stay_half_precision() {
    let net = Net::new()
        .input("x", DataType::Float16, &["batch", "64"])
        .output("y", DataType::Float16, &["batch", "40"])
        .halves("w", &[64, 40], &noise(2560, 3))
        .halves("c", &[1, 40], &noise(40, 4))
        .node("Gemm", "layer", &["x", "w", "c"], &["y"], vec![float("alpha", 0.5), float("beta", 0.5)]);
    let (_folder, model) = rewritten(&net, &[]);
    assert_eq!(operators(&model), ["DequantizeLinear", "MatMul", "Sub"]);
    assert_eq!(fusion(&model).fused.len(), 1);
    for (name, kind) in
        [("w_quantized", DataType::Int4), ("w_scale", DataType::Float16), ("y_subtrahend", DataType::Float16)]
    {
        assert_eq!(initializer(&model, name).data_type, Some(kind as i32), "{name}");
    }
    let back = dequantized(&model, &model.graph().node[1].input[1]);
    let half: Vec<f32> = noise(2560, 3).iter().map(|value| value / 2.0).collect();
    assert!(distance(&back, &half) < 0.13);
}

#[test]
fn a_model_of_which_all_is_kept_is_copied() {
    let net = network();
    let cases: [(&Net, &[&str], &str); 3] = [
        (&net, &["--keep", "*"], "kept"),
        (&Net::linear(4, 4), &[], "too small"),
        (
            &Net::linear(64, 64).with(|graph| graph.initializer.clear()).floats(
                "w",
                &[64, 64],
                &[f32::NAN; 4096],
            ),
            &[],
            "not finite",
        ),
    ];
    for (net, more, what) in cases {
        let (folder, _) = rewritten(net, more);
        assert!(folder.read("out.onnx") == net.bytes(), "{what}");
        let report = report(&folder);
        assert_eq!(report["warnings"][0], "every tensor is kept, so the model is copied as it is", "{what}");
        assert_eq!(report["validation"]["status"], "skipped", "{what}");
    }
}

#[test]
fn a_rewritten_model_has_nothing_left() {
    let (folder, _) = rewritten(&Net::linear(64, 64), &[]);
    let args = ["rewrite", "out.onnx", "-p", "high_compression", "-o", "again.onnx"];
    for (more, what) in [
        (&[][..], concat!("efq.version ", env!("CARGO_PKG_VERSION"), ": the model is quantized already: ")),
        (&["--allow-requantize"], "nothing to rewrite: "),
    ] {
        let run = folder.efq(&[&args[..], more].concat());
        assert_eq!(run.code, Some(3), "{run:?}");
        assert!(run.err.starts_with(&format!("error: out.onnx: {what}")), "{run:?}");
    }
}

/// A model that cannot be run is rewritten all the same, and that is said.
#[test]
fn what_cannot_be_validated_is_rewritten() {
    let foreign = Net::linear(64, 64)
        .node("Frobnicate", "custom\u{1b}[31m", &["logits"], &["extra"], vec![])
        .with(|graph| {
            graph.node[1].domain = Some("acme".into());
            graph.output = vec![value("extra", DataType::Float, &["batch", "64"])];
        });
    let counts = Net::linear(64, 64).node("ArgMax", "best", &["logits"], &["class"], vec![]).with(|graph| {
        graph.output = vec![value("class", DataType::Int64, &["1", "64"])];
    });
    let cases = [
        (&foreign, "node 'custom\\u{1b}[31m' (Frobnicate): the runtime does not know acme.Frobnicate"),
        (&counts, "outputs: none of the model's is floating-point, so nothing can be measured"),
    ];
    for (net, reason) in cases {
        let folder = Folder::new();
        net.save(&folder.join("m.onnx"));
        let run = folder.efq(&[
            "rewrite",
            "m.onnx",
            "-p",
            "high_compression",
            "-o",
            "out.onnx",
            "--report",
            "r.json",
        ]);
        assert!(done(&run).contains(&format!("could not be validated: {reason}\n")), "{run:?}");
        assert_eq!(run.err, "warning: could not be validated\n");
        assert_eq!(report(&folder)["validation"]["status"], "unavailable");
        assert_eq!(fusion(&load(&folder.join("out.onnx")).unwrap()).fused.len(), 1);
        let run =
            folder.efq(&["rewrite", "m.onnx", "-p", "high_compression", "-o", "strict.onnx", "--strict"]);
        assert_eq!(
            (run.code, run.err.as_str()),
            (Some(4), "error: could not be validated, and --strict asks for a verdict\n")
        );
    }
}

#[test]
fn an_overwrite_is_asked_for() {
    let folder = Folder::new();
    let net = network();
    net.save(&folder.join("m.onnx"));
    for name in ["out.onnx", "r.json", "r.md", "p.json"] {
        folder.write(name, "mine");
    }
    let args = [
        "rewrite",
        "m.onnx",
        "-p",
        "high_compression",
        "--validate",
        "never",
        "-o",
        "out.onnx",
        "--report",
        "r.json",
        "--report",
        "r.md",
        "--plan",
        "p.json",
    ];
    assert_eq!(folder.efq(&args).code, Some(2));
    assert!(["out.onnx", "r.json", "r.md", "p.json"].iter().all(|name| folder.read(name) == b"mine"));
    done(&folder.efq(&[&args[..], &["--force"]].concat()));
    load(&folder.join("out.onnx")).unwrap();
    let parsed: efq::report::Report = serde_json::from_slice(&folder.read("r.json")).unwrap();
    assert_eq!((parsed.action.as_str(), parsed.tensors.len()), ("rewrite", 4));
    assert!(folder.read("r.md").starts_with(b"# "));
    assert_eq!(folder.listing().len(), 5, "{:?}", folder.listing().keys());
    // A link is replaced, not followed.
    #[cfg(unix)]
    {
        folder.write("other", "precious");
        std::os::unix::fs::symlink("other", folder.join("link.onnx")).unwrap();
        done(&folder.efq(&[
            "rewrite",
            "m.onnx",
            "-p",
            "high_compression",
            "--validate",
            "never",
            "-o",
            "link.onnx",
            "--force",
        ]));
        assert_eq!(folder.read("other"), b"precious");
        assert!(folder.join("link.onnx").symlink_metadata().unwrap().is_file());
    }
}

#[test]
fn what_onnx_does_not_define_is_named() {
    let folder = Folder::new();
    // Field 99 of the model, a number.
    folder.write("m.onnx", [Net::linear(64, 64).bytes(), vec![0x98, 0x06, 0x01]].concat());
    let run =
        folder.efq(&["rewrite", "m.onnx", "-p", "high_compression", "-o", "out.onnx", "--validate", "never"]);
    assert!(
        done(&run).contains("note: fields that ONNX does not define are dropped: field 99 of ModelProto\n"),
        "{run:?}"
    );
}

/// Samples with a free batch, and a folder of ONNX test data, are the same samples.
#[test]
fn samples_come_as_npz_or_as_a_folder() {
    let model = efq::onnx::load_bytes(Net::linear(64, 64).bytes().into()).unwrap();
    let values = noise(3 * 64, 9);
    let folder = Folder::new();
    let labelled = folder
        .write("d.npz", npz(&[("x", npy_f32(&[3, 64], &values)), ("labels", npy_i64(&[3], &[5, 0, 63]))]));
    for at in 0..3 {
        let tensor = tensor::from_raw(
            "x",
            DataType::Float,
            &[1, 64],
            values[at * 64..][..64].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
        );
        folder.write(&format!("sets/test_data_set_{at}/input_0.pb"), tensor.encode_to_vec());
    }
    let archive = support::samples_at(&labelled, &model).unwrap();
    let sets = support::samples_at(&folder.join("sets"), &model).unwrap();
    assert_eq!(archive.list.len(), 3);
    for (a, b) in archive.list.iter().zip(&sets.list) {
        assert_eq!(a.inputs, b.inputs);
    }
    assert_eq!(
        archive.list.iter().map(|sample| sample.label.clone()).collect::<Vec<_>>(),
        [5, 0, 63].map(Label::Class)
    );
    assert!(archive.are_real() && archive.labelled() && !sets.labelled());
}

/// A bool of numpy may hold any byte; only 0 and 1 reach the runtime.
#[test]
fn bools_are_zero_or_one() {
    let net = Net::linear(64, 64).input("flags", DataType::Bool, &["batch"]);
    let model = efq::onnx::load_bytes(net.bytes().into()).unwrap();
    let folder = Folder::new();
    let file = npz(&[
        ("x", npy_f32(&[3, 64], &noise(192, 9))),
        ("flags", support::npy("|b1", "(3,)", &[0, 1, 255])),
    ]);
    let samples = support::samples_at(&folder.write("d.npz", file), &model).unwrap();
    let flags: Vec<u8> = samples.list.iter().map(|sample| sample.inputs[1].1.bytes[0]).collect();
    assert_eq!(flags, [0, 1, 1]);
}

/// Made-up samples are the same for a seed, and others for another.
#[test]
fn synthetic_samples_follow_the_seed_and_the_tables() {
    let model = efq::onnx::load_bytes(network().bytes().into()).unwrap();
    let known = efq::graph::inventory(&model);
    let made = |seed| efq::data::synthetic(&model, &known, 4, seed).unwrap();
    assert_eq!(made(1).list, made(1).list);
    assert_ne!(made(1).list, made(2).list);
    assert!(!made(1).are_real());
    for sample in made(3).list {
        let ids = sample.inputs[0].1.bytes.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
        assert!(ids.into_iter().all(|id| (0..100).contains(&id)));
    }
}

/// Many layers take time in proportion: nothing looks at the whole graph for each.
#[test]
fn three_thousand_layers_take_linear_time() {
    let mut net =
        Net::new().input("v0", DataType::Float, &["batch", "16"]).floats("c", &[1, 16], &noise(16, 1));
    for at in 0..3000 {
        let names = [format!("v{at}"), format!("w{at}"), format!("v{}", at + 1)];
        net = net.floats(&names[1], &[16, 16], &noise(256, at));
        net = net.node("Gemm", &format!("n{at}"), &[&names[0], &names[1], "c"], &[&names[2]], vec![]);
    }
    let net = net.output("v3000", DataType::Float, &["batch", "16"]);
    let start = std::time::Instant::now();
    let (_folder, model) = rewritten(&net, &["--block-size", "16"]);
    assert_eq!(fusion(&model).fused.len(), 3000);
    // Seconds where nothing else runs; half an hour if each layer walked all others.
    assert!(start.elapsed().as_secs() < 300, "{:?}", start.elapsed());
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_it_and_leaves_nothing() {
    let folder = Folder::new();
    let mut net = Net::new().input("x", DataType::Float, &["batch", "1024"]).output(
        "y3",
        DataType::Float,
        &["batch", "1024"],
    );
    for at in 0..4 {
        let input = if at == 0 { "x".to_owned() } else { format!("y{}", at - 1) };
        net = net.floats(&format!("w{at}"), &[1024, 1024], &noise(1 << 20, at));
        net = net.node("MatMul", "", &[&input, &format!("w{at}")], &[&format!("y{at}")], vec![]);
    }
    net.save(&folder.join("m.onnx"));
    let args =
        ["rewrite", "m.onnx", "-p", "medical_grade", "-o", "out.onnx", "--threads", "1", "--head", "int4"];
    let child = folder
        .command(&args)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let staged = || {
        folder
            .path()
            .read_dir()
            .unwrap()
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with(".efq-"))
    };
    let start = std::time::Instant::now();
    while !staged() {
        assert!(start.elapsed().as_secs() < 240, "it never began to write");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let run = folder.run_of(&child.wait_with_output().unwrap());
    assert_eq!((run.code, run.out.as_str()), (Some(130), ""), "{run:?}");
    assert_eq!(run.err, "error: interrupted: stopped at your request\n");
    assert_eq!(folder.listing().keys().collect::<Vec<_>>(), ["m.onnx"]);
}

/// The real model: rewritten, it computes what the original does with the weights that the file says.
#[test]
fn a_vision_transformer_computes_with_the_weights_in_its_file() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let folder = Folder::new();
    let bytes = std::fs::read(fixtures.join("digits_vit.onnx")).unwrap();
    folder.write("m.onnx", &bytes);
    folder.write("d.npz", reduced(&fixtures.join("digits_vit.test.npz"), 2000, 24));
    let run = folder.efq(&[
        "rewrite",
        "m.onnx",
        "-p",
        "balanced_production",
        "-o",
        "out.onnx",
        "--data",
        "d.npz",
        "--algorithm",
        "search",
        "--no-repair",
        "--keep-output",
        "--report",
        "r.json",
    ]);
    assert!(matches!(run.code, Some(0 | 1)), "{run:?}");
    let model = load(&folder.join("out.onnx")).unwrap();
    assert_eq!((fusion(&model).fused.len(), fusion(&model).unfused.len()), (17, 0));
    let report = report(&folder);
    assert_eq!(report["validation"]["deployed"]["samples"], 24);
    assert_eq!(report["validation"]["data"]["labelled"], true);
    assert!(folder.read("out.onnx").len() * 6 < bytes.len());

    // Put the dequantized weights into the original.
    let mut proto = ModelProto::decode(bytes.as_slice()).unwrap();
    let graph = proto.graph.as_mut().unwrap();
    let mut changed = 0;
    for efq::engine::Fused { node: at, .. } in fusion(&model).fused {
        let user = &model.graph().node[at];
        let back = dequantized(&model, &user.input[1]);
        let stands_for = |node: &&NodeProto| {
            node.name() == user.name() || format!("{}_MatMul", node.output[0]) == user.name()
        };
        let node = graph.node.iter().find(stands_for).unwrap();
        let turned = node::int(node, "transB", 0) != 0;
        let weight = graph.initializer.iter_mut().find(|tensor| tensor.name() == node.input[1]).unwrap();
        let dims: Vec<usize> = weight.dims.iter().map(|dim| *dim as usize).collect();
        let values = if turned { transposed(&back, dims[1], dims[0]) } else { back };
        assert!(distance(&values, &tensor::floats(weight).unwrap()) < 0.12, "{}", weight.name());
        *weight = tensor::from_raw(
            weight.name(),
            DataType::Float,
            &dims,
            values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
        );
        changed += 1;
    }
    assert_eq!(changed, 17);
    let original = efq::onnx::load_bytes(proto.encode_to_vec().into()).unwrap();
    let samples = support::samples_at(&folder.join("d.npz"), &original).unwrap();
    let [a, b] = [&original, &model].map(|model| Runner::new(model, "logits", Variant::WeightsOnly).unwrap());
    for sample in &samples.list {
        close(&b.run(sample).unwrap().values, &a.run(sample).unwrap().values, 1e-4, "logits");
    }
}

/// The first `keep` of `count` samples of an archive.
fn reduced(path: &Path, count: usize, keep: usize) -> Vec<u8> {
    use std::io::Read as _;
    let mut archive = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut members = Vec::new();
    for at in 0..archive.len() {
        let mut member = archive.by_index(at).unwrap();
        let name = member.name().unwrap().strip_suffix(".npy").unwrap().to_owned();
        let mut data = Vec::new();
        member.read_to_end(&mut data).unwrap();
        let start = 10 + usize::from(u16::from_le_bytes([data[8], data[9]]));
        let header = String::from_utf8(data[10..start].to_vec()).unwrap();
        let shorter = header.trim_end().replace(&format!("({count},"), &format!("({keep},"));
        assert_ne!(shorter, header.trim_end(), "{name}");
        let size = (data.len() - start) / count;
        members.push((name, support::npy_header(&shorter, &data[start..start + keep * size])));
    }
    let members: Vec<(&str, Vec<u8>)> =
        members.iter().map(|(name, data)| (name.as_str(), data.clone())).collect();
    npz(&members)
}
