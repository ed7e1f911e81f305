//! Models that are quantized already, and what stands beside a product: what ONNX Runtime removes or moves.

mod support;

use efq::engine::fusion;
use efq::onnx::proto::{NodeProto, OperatorSetIdProto, tensor_proto::DataType};
use efq::onnx::{load, node, tensor};
use support::{Folder, Net, done, int, ints, noise};

const ARGS: [&str; 9] =
    ["rewrite", "m.onnx", "-p", "high_compression", "-o", "out.onnx", "--validate", "never", "--force"];

/// A quantized and a float product, the first of `x` between a QuantizeLinear and a DequantizeLinear.
fn qdq() -> Net {
    around(&[("Identity", &["xd"], vec![])], &[])
}

/// `x`, quantized and dequantized, through the nodes `before`, a product, and the nodes `after`; each takes the value
/// before it (where its first input is empty) and constants.
fn around(before: &[Step<'_>], after: &[Step<'_>]) -> Net {
    let mut net = plain().node("QuantizeLinear", "q", &["x", "s", "z"], &["xq"], vec![]).node(
        "DequantizeLinear",
        "dq",
        &["xq", "s", "z"],
        &["xd"],
        vec![],
    );
    net = chain(net, "xd", "xm", before);
    let net = net.node("MatMul", "product", &["xm", "w"], &["h"], vec![]);
    chain(net, "h", "y", after).node("MatMul", "other", &["x", "v"], &["z2"], vec![]).output(
        "z2",
        DataType::Float,
        &["batch", "64"],
    )
}

/// Input, output and constants.
fn plain() -> Net {
    Net::new()
        .input("x", DataType::Float, &["batch", "128"])
        .output("y", DataType::Float, &["a", "b"])
        .floats("w", &[128, 64], &noise(128 * 64, 1))
        .floats("v", &[128, 64], &noise(128 * 64, 2))
        .floats("b", &[64], &noise(64, 3))
        .floats("s", &[], &[0.03])
        .tensor(tensor::from_raw("z", DataType::Uint8, &[], vec![128]))
        .floats("one", &[], &[1.0])
        .floats("two", &[], &[2.0])
        .floats("zero", &[], &[0.0])
        .integers("ones", &[2], &[1, 1])
        .integers("first", &[1], &[0])
        .integers("last", &[1], &[i64::MAX])
        .integers("half", &[1], &[32])
        .integers("same", &[2], &[0, -1])
}

type Step<'a> = (&'a str, &'a [&'a str], Vec<efq::onnx::proto::AttributeProto>);

fn chain(mut net: Net, from: &str, to: &str, steps: &[Step<'_>]) -> Net {
    let mut value = from.to_owned();
    for (at, (op, inputs, attributes)) in steps.iter().enumerate() {
        let output = format!("{to}_{at}");
        let inputs: Vec<&str> = inputs
            .iter()
            .map(|name| if ["", "xd"].contains(name) { value.as_str() } else { *name })
            .collect();
        net = net.node(op, &output.clone(), &inputs, &[&output], attributes.clone());
        value = output;
    }
    net.node("Identity", to, &[&value], &[to], vec![])
}

fn row(report: &serde_json::Value, name: &str) -> (String, String) {
    let tensors = report["tensors"].as_array().unwrap();
    let tensor = tensors.iter().find(|tensor| tensor["name"] == name).unwrap();
    let text = |key: &str| tensor[key].as_str().unwrap().to_owned();
    (text("encoding"), text("reason"))
}

fn operators(graph: &efq::onnx::proto::GraphProto) -> Vec<&str> {
    graph.node.iter().map(NodeProto::op_type).collect()
}

/// Refused in one line that says which node shows it and what to do; inspected all the same.
#[test]
fn models_that_are_quantized_already_are_refused() {
    let blocks = |net: Net| {
        net.tensor(tensor::from_raw("q", DataType::Int4, &[64, 64], vec![0x21; 64 * 32]))
            .floats("scale", &[2, 64], &noise(128, 1))
            .node(
                "DequantizeLinear",
                "dq",
                &["q", "scale"],
                &["dense"],
                vec![int("axis", 0), int("block_size", 32)],
            )
            .node("MatMul", "fused", &["logits", "dense"], &["y"], vec![])
            .opset(21)
            .ir(10)
    };
    let contrib = |op: &str| {
        Net::linear(64, 64)
            .node(op, "made", &["logits"], &["y"], vec![])
            .with(|graph| graph.node[1].domain = Some("com.microsoft".into()))
            .with_model(|model| {
                let domain = Some("com.microsoft".to_owned());
                model.opset_import.push(OperatorSetIdProto { domain, version: Some(1) });
            })
    };
    let dynamic =
        Net::linear(64, 64).node("DynamicQuantizeLinear", "round", &["logits"], &["q", "s", "z"], vec![]);
    let body = |net: Net| {
        let inner = Net::new().node("QuantizeLinear", "inner", &["logits", "s"], &["t"], vec![]);
        let inner = inner.output("t", DataType::Uint8, &["a"]).model.graph.unwrap();
        let branches = ["then_branch", "else_branch"].map(|name| support::body(name, inner.clone())).to_vec();
        net.floats("s", &[], &[0.1]).tensor(tensor::from_raw("cond", DataType::Bool, &[], vec![1])).node(
            "If",
            "choice",
            &["cond"],
            &["y"],
            branches,
        )
    };
    let cases = [
        (qdq(), "node 'q' (QuantizeLinear)", "QDQ"),
        (blocks(Net::linear(64, 64)), "node 'dq' (DequantizeLinear)", "weights in blocks"),
        (
            contrib("MatMulNBits"),
            "node 'made' (MatMulNBits)",
            "weights in blocks, in operators of ONNX Runtime",
        ),
        (contrib("QLinearAdd"), "node 'made' (QLinearAdd)", "operators on integers"),
        (dynamic, "node 'round' (DynamicQuantizeLinear)", "dynamic quantization"),
        (body(Net::linear(64, 64)), "node 'inner' (QuantizeLinear) in then_branch of If 'choice'", "QDQ"),
        (Net::linear(64, 64).metadata("efq.version", "0.1.0"), "efq.version 0.1.0", "it is a result of efq"),
    ];
    for (net, subject, form) in cases {
        let folder = Folder::new();
        net.save(&folder.join("m.onnx"));
        for dry in [&[][..], &["--dry-run"]] {
            let run = folder.efq(&[&ARGS[..], dry].concat());
            let start = format!("error: m.onnx: {subject}: the model is quantized already: {form} (");
            assert!(run.err.starts_with(&start) && run.err.contains("--allow-requantize"), "{run:?}");
            assert_eq!((run.code, run.err.lines().count(), run.out.as_str()), (Some(3), 1, ""));
        }
        assert_eq!(folder.listing().len(), 1, "{subject}");
        let told = match form {
            "it is a result of efq" => "by efq 0.1.0".to_owned(),
            form => format!("{form}, {subject}"),
        };
        let shown = folder.efq(&["inspect", "m.onnx"]);
        assert!(done(&shown).contains(&format!("\nquantized already: {told}\n")), "{shown:?}");
        assert!(done(&shown).contains("refuses it without --allow-requantize"), "{shown:?}");
        let json = folder.efq(&["inspect", "m.onnx", "--format", "json"]);
        assert!(done(&json).contains(&format!("\"quantized\": \"{told}\"")), "{json:?}");
    }
}

/// A result of efq has nothing to become smaller, and no part of its table is taken for the weights of experts.
#[test]
fn a_result_is_inspected_for_what_it_is() {
    let folder = Folder::new();
    Net::new()
        .input("ids", DataType::Int64, &["batch", "length"])
        .output("y", DataType::Float, &["batch", "length", "64"])
        .floats("words", &[512, 64], &noise(512 * 64, 1))
        .floats("w", &[64, 64], &noise(64 * 64, 2))
        .node("Gather", "words_of", &["words", "ids"], &["a"], vec![])
        .node("MatMul", "product", &["a", "w"], &["y"], vec![])
        .save(&folder.join("m.onnx"));
    done(&folder.efq(&ARGS));
    let shown = folder.efq(&["inspect", "out.onnx", "-v"]);
    let text = done(&shown);
    assert!(text.contains("quantized already: by efq ") && text.contains("--allow-requantize"), "{text}");
    assert!(!text.contains("times smaller") && !text.contains("expert"), "{text}");
}

/// What is merely stored small is float when it runs.
#[test]
fn what_is_stored_small_is_not_quantized() {
    let small = |net: Net| {
        net.tensor(tensor::from_raw("v8", DataType::Int8, &[64, 64], vec![3; 64 * 64]))
            .floats("unit", &[], &[0.01])
            .node("Cast", "cast", &["v8"], &["v32"], vec![int("to", 1)])
            .node("Mul", "scale", &["v32", "unit"], &["v"], vec![])
            .node("MatMul", "second", &["logits", "v"], &["y"], vec![])
    };
    let folder = Folder::new();
    small(Net::linear(64, 64)).save(&folder.join("m.onnx"));
    done(&folder.efq(&ARGS));
    assert!(!done(&folder.efq(&["inspect", "m.onnx"])).contains("quantized already"));
}

/// ONNX Runtime moves a DequantizeLinear across what only arranges values, and the product behind it goes wrong with
/// 8-bit blocks (measured on 1.32); so it stays, and what has nothing to do with it is quantized.
#[test]
fn products_beside_quantized_activations_stay() {
    let moved: Vec<Step<'_>> = vec![
        ("Identity", &[""], vec![]),
        ("Dropout", &[""], vec![]),
        ("Cast", &[""], vec![int("to", 1)]),
        ("Mul", &["", "one"], vec![]),
        ("Mul", &["one", ""], vec![]),
        ("Div", &["", "one"], vec![]),
        ("Sub", &["", "zero"], vec![]),
        ("Add", &["zero", ""], vec![]),
        ("Expand", &["", "ones"], vec![]),
        ("Reshape", &["", "same"], vec![]),
        ("Transpose", &[""], vec![ints("perm", &[0, 1])]),
        ("Unsqueeze", &["", "first"], vec![]),
        ("Squeeze", &["", "first"], vec![]),
        ("Slice", &["", "first", "half", "first"], vec![]),
        ("MaxPool", &[""], vec![ints("kernel_shape", &[1, 1])]),
    ];
    let rest: Vec<Step<'_>> = vec![
        ("Relu", &[""], vec![]),
        ("Mul", &["", "two"], vec![]),
        ("Flatten", &[""], vec![]),
        ("Cast", &[""], vec![int("to", 10)]),
        ("Concat", &[""], vec![int("axis", 0)]),
        ("Gather", &["", "first"], vec![]),
    ];
    let quantize: Step<'_> = ("QuantizeLinear", &["", "s", "z"], vec![]);
    let bias: Step<'_> = ("Add", &["", "b"], vec![]);
    let stays = |net: &Net, stays: Option<&str>, what: &str| {
        let folder = Folder::new();
        net.save(&folder.join("m.onnx"));
        let run = folder.efq(&[&ARGS[..], &["--allow-requantize", "--dry-run", "--format", "json"]].concat());
        let report = serde_json::from_str(done(&run)).unwrap();
        let (encoding, reason) = row(&report, "w");
        match stays {
            Some(why) => assert_eq!((encoding.as_str(), reason.as_str()), ("float", why), "{what}"),
            None => assert!(encoding.starts_with("int4"), "{what}: {encoding}, {reason}"),
        }
        assert!(row(&report, "v").0.starts_with("int4"), "{what}");
        assert_eq!(row(&report, "z").1, "quantized already", "{what}");
    };
    let (before, after) = ("its activation is quantized already", "its output is quantized already");
    stays(&around(&[], &[]), Some(before), "directly");
    for step in &moved {
        stays(&around(std::slice::from_ref(step), &[]), Some(before), step.0);
        let twice = [step.clone(), ("Reshape", &["", "same"], vec![]), step.clone()];
        stays(&around(&twice, &[]), Some(before), step.0);
        let float: Step<'_> = ("Relu", &[""], vec![]);
        let next = [step.clone(), quantize.clone()];
        stays(&around(std::slice::from_ref(&float), &next), Some(after), step.0);
        let next = [bias.clone(), step.clone(), quantize.clone()];
        stays(&around(std::slice::from_ref(&float), &next), Some(after), step.0);
    }
    for step in &rest {
        stays(&around(std::slice::from_ref(step), &[]), None, step.0);
        let next = [step.clone(), quantize.clone()];
        stays(&around(&rest[..1], &next), None, step.0);
    }
}

/// What ONNX Runtime removes between a product of matrices and an addition does not keep it from making a Gemm of the
/// two, which is not fused (measured on 1.32).
#[test]
fn a_product_before_a_removed_node_and_an_addition_is_kept_apart() {
    let removed: Vec<(Vec<Step<'_>>, bool)> = vec![
        (vec![], true),
        (vec![("Identity", &[""], vec![])], true),
        (vec![("Dropout", &[""], vec![])], true),
        (vec![("Cast", &[""], vec![int("to", 1)])], true),
        (vec![("Mul", &["", "one"], vec![])], true),
        (vec![("Mul", &["one", ""], vec![])], true),
        (vec![("Div", &["", "one"], vec![])], true),
        (vec![("Sub", &["", "zero"], vec![])], true),
        (vec![("Expand", &["", "ones"], vec![])], true),
        (vec![("Slice", &["", "first", "last", "first"], vec![])], true),
        (vec![("Transpose", &[""], vec![]), ("Identity", &[""], vec![]), ("Transpose", &[""], vec![])], true),
        // Turned around where that saves a Transpose behind the addition.
        (vec![("Transpose", &[""], vec![])], true),
        (vec![("Identity", &[""], vec![]), ("Mul", &["", "one"], vec![])], true),
        (vec![("Mul", &["", "two"], vec![])], false),
        (vec![("Div", &["one", ""], vec![])], false),
        (vec![("Reshape", &["", "same"], vec![])], false),
    ];
    for (steps, joins) in removed {
        let mut all = steps.clone();
        all.push(("Add", &["", "r"], vec![]));
        let net = plain().input("r", DataType::Float, &["batch", "64"]);
        let net = chain(net.node("MatMul", "product", &["x", "w"], &["h"], vec![]), "h", "y", &all);
        let folder = Folder::new();
        net.save(&folder.join("m.onnx"));
        done(&folder.efq(&ARGS));
        let model = load(&folder.join("out.onnx")).unwrap();
        let guards = operators(model.graph()).iter().filter(|op| **op == "Sub").count();
        let own = steps.iter().filter(|step| step.0 == "Sub").count();
        let what: Vec<&str> = steps.iter().map(|step| step.0).collect();
        assert_eq!(guards - own, usize::from(joins), "{what:?}");
        assert_eq!(fusion(&model).fused.len(), 1, "{what:?}");
        // Without the guard it is told that nothing is fused.
        let mut bare = model.proto.clone();
        let graph = bare.graph.as_mut().unwrap();
        for node in &mut graph.node {
            if node::is(node, "Sub") && node.input[1].ends_with("_subtrahend") {
                *node = node::build("Identity", "bare", &[&node.input[0]], &[&node.output[0]], vec![]);
            }
        }
        folder.write("bare.onnx", prost::Message::encode_to_vec(&bare));
        let found = fusion(&load(&folder.join("bare.onnx")).unwrap());
        assert_eq!(found.fused.len(), usize::from(!joins), "{what:?}: {:?}", found.unfused);
    }
}

/// A weight on the left is transposed around, and those nodes may meet others and vanish.
#[test]
fn a_product_from_the_left_before_an_addition_is_kept_apart() {
    let net = |steps: &[Step<'_>]| {
        let net = plain()
            .input("c", DataType::Float, &["128", "batch"])
            .input("r", DataType::Float, &["batch", "64"])
            .floats("u", &[64, 128], &noise(64 * 128, 1))
            .node("MatMul", "product", &["u", "c"], &["h"], vec![]);
        let folder = Folder::new();
        chain(net, "h", "y", steps).save(&folder.join("m.onnx"));
        done(&folder.efq(&ARGS));
        let model = load(&folder.join("out.onnx")).unwrap();
        assert_eq!(fusion(&model).fused.len(), 1);
        operators(model.graph()).join(" ")
    };
    let added = [("Transpose", &[""][..], vec![]), ("Add", &["", "r"], vec![])];
    let kept = "DequantizeLinear Transpose MatMul Sub Transpose Transpose Add";
    assert!(net(&added).contains(kept), "{}", net(&added));
}
