//! Group 6: operators with other inputs and attributes than they should have.

use efq::onnx::proto::{
    AttributeProto, OperatorSetIdProto, SparseTensorProto, TrainingInfoProto, attribute_proto::AttributeType,
    tensor_proto::DataType,
};
use efq::onnx::tensor;

use crate::corpus::{Corpus, REWRITE};
use crate::support::{Net, body, float, int, ints, noise, value};

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

/// A model with one node between `x` and `y`, both `[batch, 64]`, and constants to choose from: `w` and `v` of 64 by
/// 64, `row` of 64, `scalar`, `deep` of rank 5, `shape` of two integers, `codes` and `scales` of a quantized weight.
fn one(op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> Net {
    let deep = &noise(4096, 3);
    Net::new()
        .input("x", DataType::Float, &["batch", "64"])
        .input("ids", DataType::Int64, &["batch"])
        .input("c", DataType::Bool, &[])
        .output("y", DataType::Float, &["batch", "64"])
        .floats("w", &[64, 64], &noise(4096, 1))
        .floats("v", &[64, 64], &noise(4096, 2))
        .floats("row", &[64], &noise(64, 4))
        .floats("scalar", &[], &[1.0])
        .floats("deep", &[1, 1, 1, 64, 64], deep)
        .integers("shape", &[2], &[64, 64])
        .integers("shapes", &[2], &[-1, -1])
        .integers("far", &[1], &[i64::MIN])
        .tensor(tensor::from_raw("codes", DataType::Int4, &[64, 64], vec![0x21; 64 * 32]))
        .tensor(tensor::from_raw("bytes", DataType::Uint8, &[64, 2, 16], vec![0x21; 2048]))
        .floats("scales", &[2, 64], &noise(128, 5))
        .node(op, "node", inputs, &["h"], attributes)
        .node("MatMul", "last", &["h", "v"], &["y"], vec![])
        .opset(21)
        .ir(10)
}

/// The same with the weight of the last product made by the node.
fn behind(op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> Net {
    one(op, inputs, attributes).with(|graph| graph.node[1].input = vec!["x".into(), "h".into()])
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::String as i32),
        s: Some(value.as_bytes().to_vec().into()),
        ..Default::default()
    }
}

/// Inputs that are missing, too many, or of a rank that the operator does not take; attributes out of range, of
/// another type, or of none: what is not understood is left alone or refused.
#[test]
fn operators_that_lie() {
    let mut corpus = Corpus::default();
    let mut add = |name: &str, net: Net| {
        // The graph itself, and judged: neither may end efq.
        corpus.case(name, &format!("{REWRITE} --validate never"), |folder| net.save(&folder.join("m.onnx")));
        corpus.case(&format!("{name}, run"), REWRITE, |folder| net.save(&folder.join("m.onnx")));
    };
    for inputs in [&[][..], &["x"], &["", "w"], &["x", ""], &["x", "w", "v"], &["w", "w"], &["w", "x"]] {
        for op in ["MatMul", "Gemm", "Gather", "Einsum"] {
            add(&format!("{op} of {inputs:?}"), one(op, inputs, vec![]));
        }
    }
    for weight in ["row", "scalar", "deep", "shape", "codes"] {
        add(&format!("MatMul by {weight}"), one("MatMul", &["x", weight], vec![]));
        add(&format!("Gemm by {weight}"), one("Gemm", &["x", weight], vec![]));
        add(&format!("Gather from {weight}"), one("Gather", &[weight, "ids"], vec![]));
    }
    for bias in ["w", "row", "scalar", "deep", "shape", "codes", "x"] {
        add(&format!("Gemm with the bias {bias}"), one("Gemm", &["x", "w", bias], vec![int("transB", 1)]));
    }
    for (name, attribute) in [
        ("transB of 2", int("transB", 2)),
        ("transB of 2^63-1", int("transB", i64::MAX)),
        ("transB as a float", float("transB", 1.0)),
        ("alpha as an integer", int("alpha", 2)),
        ("alpha of 0", float("alpha", 0.0)),
        ("alpha of infinity", float("alpha", f32::INFINITY)),
        ("alpha of 1e38", float("alpha", 1e38)),
        ("beta of NaN", float("beta", f32::NAN)),
        ("beta of 1e38", float("beta", 1e38)),
        ("an attribute without a name", int("", 1)),
    ] {
        add(name, one("Gemm", &["x", "w", "row"], vec![attribute]));
    }
    for axis in [1, 2, -1, -3, i64::MIN, i64::MAX] {
        add(&format!("Gather along {axis}"), one("Gather", &["w", "ids"], vec![int("axis", axis)]));
        let axis = int("axis", axis);
        add(
            &format!("DequantizeLinear along {}", axis.i()),
            behind("DequantizeLinear", &["codes", "scales"], vec![axis, int("block_size", 32)]),
        );
    }
    for block in [0, -1, 3, 31, 64, i64::MAX, i64::MIN] {
        let attributes = vec![int("axis", 0), int("block_size", block)];
        add(&format!("blocks of {block}"), behind("DequantizeLinear", &["codes", "scales"], attributes));
    }
    for scales in ["", "row", "scalar", "deep", "shape", "codes", "x"] {
        let attributes = vec![int("axis", 0), int("block_size", 32)];
        add(&format!("scales in {scales:?}"), behind("DequantizeLinear", &["codes", scales], attributes));
    }
    for (k, n, bits, block) in [
        (64, 64, 4, 32),
        (63, 64, 4, 32),
        (64, 1 << 40, 4, 32),
        (i64::MAX, i64::MAX, 4, 32),
        (-64, 64, 4, 32),
        (0, 0, 4, 32),
        (64, 64, 0, 32),
        (64, 64, 2, 32),
        (64, 64, 64, 32),
        (64, 64, 4, 0),
        (64, 64, 4, -1),
        (64, 64, 4, 3),
        (64, 64, 4, i64::MAX),
    ] {
        let attributes = vec![int("K", k), int("N", n), int("bits", bits), int("block_size", block)];
        for inputs in [&["x", "bytes", "scales"][..], &["x", "bytes"], &["x", "codes", "row", "scalar"]] {
            let mut net = one("MatMulNBits", inputs, attributes.clone());
            net.graph().node[0].domain = Some("com.microsoft".into());
            add(&format!("MatMulNBits of {inputs:?} with {:?}", [k, n, bits, block]), net);
        }
    }
    for perm in [&[][..], &[0], &[0, 0], &[1, 0, 2], &[-1, 0], &[5, 6], &[i64::MAX, 0]] {
        add(&format!("Transpose by {perm:?}"), behind("Transpose", &["w"], vec![ints("perm", perm)]));
    }
    for to in [0, 1, 8, 99, -1, i64::MAX] {
        add(&format!("Cast to {to}"), behind("Cast", &["w"], vec![int("to", to)]));
    }
    for shape in ["shape", "shapes", "far", "scalar", "row", "x", ""] {
        for op in ["Reshape", "Squeeze", "Unsqueeze", "Expand"] {
            add(&format!("{op} by {shape:?}"), behind(op, &["w", shape], vec![]));
        }
    }
    for equation in [
        "",
        ",",
        "->",
        "ij,jk->ik",
        "ij,jk",
        "ij,jk->iik",
        "ij,jj->ij",
        "ij,kl->ijkl",
        "...j,jk->...k",
        "ij,jk,kl->il",
        "i j , j k -> i k",
        "12,23->13",
        "\u{e9}j,jk->\u{e9}k",
        "ij,jk->",
        "ij,jk->ik->",
        "....j,jk->k",
    ] {
        add(&format!("Einsum {equation:?}"), one("Einsum", &["x", "w"], vec![text("equation", equation)]));
    }
    add(
        "Einsum of 100,000 letters",
        one("Einsum", &["x", "w"], vec![text("equation", &"ij".repeat(50_000))]),
    );
    for op in
        ["Conv", "LSTM", "GRU", "If", "Loop", "Scan", "Constant", "ConstantOfShape", "Split", "Frobnicate"]
    {
        add(&format!("{op} of nothing"), one(op, &[], vec![]));
        add(&format!("{op} of a weight"), one(op, &["w"], vec![]));
        add(&format!("{op} of everything"), one(op, &["x", "w", "v", "row", "deep", "shape"], vec![]));
    }
    add("ConstantOfShape of 2^63", behind("ConstantOfShape", &["far"], vec![]));
    add("a body without anything", one("If", &["c"], vec![body("then_branch", Default::default())]));
    add(
        "Scan of 2^63 inputs",
        one("Scan", &["x"], vec![body("body", Default::default()), int("num_scan_inputs", i64::MAX)]),
    );
    add("Constant of two values", one("Constant", &[], vec![int("value_int", 1), float("value_float", 1.0)]));
    insta::assert_snapshot!(corpus.outcomes());
}

/// What the model says of itself.
#[test]
fn operator_sets() {
    let mut corpus = Corpus::default();
    for (opset, ir) in
        [(999, 8), (i64::MAX, 8), (17, 0), (17, -1), (17, 999), (17, i64::MAX), (7, 1), (28, 14)]
    {
        corpus.net(&format!("opset {opset}, IR {ir}"), Net::linear(64, 64).opset(opset).ir(ir));
    }
    let import = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version };
    corpus
        .net(
            "unknown domain",
            Net::linear(64, 64).with_model(|m| m.opset_import.push(import("acme", Some(1)))),
        )
        .net(
            "a domain without a version",
            Net::linear(64, 64).with_model(|m| m.opset_import.push(import("acme", None))),
        )
        .net(
            "training",
            Net::linear(64, 64).with_model(|m| {
                m.training_info.push(TrainingInfoProto { algorithm: m.graph.clone(), ..Default::default() })
            }),
        );
    insta::assert_snapshot!(corpus.outcomes());
}
