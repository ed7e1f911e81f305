//! Tensors that no fused product takes, stored small and run as float: whatever holds them.

mod support;

use efq::data::{Array, Label, Sample};
use efq::engine::{Runner, Variant};
use efq::onnx::proto::{AttributeProto, GraphProto, TensorProto, attribute_proto, tensor_proto::DataType};
use efq::onnx::{Checked, Model, load, node, tensor};
use serde_json::Value;
use support::{Folder, Net, body, constant, done, noise, value};

const FILTER: [usize; 4] = [16, 8, 3, 3];

fn filter() -> Vec<f32> {
    noise(FILTER.iter().product(), 3)
}

fn stored(name: &str) -> TensorProto {
    let raw: Vec<u8> = filter().iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor::from_raw(name, DataType::Float, &FILTER, raw)
}

/// `y` of 16 channels of `x` of 8.
fn images(kind: DataType) -> Net {
    Net::new().input("x", kind, &["n", "8", "6", "6"]).output("y", kind, &["n", "16", "4", "4"])
}

fn rewritten(net: &Net, more: &[&str]) -> (Checked<Model>, Value) {
    let folder = Folder::new();
    net.save(&folder.join("m.onnx"));
    let fixed = "rewrite m.onnx -p high_accuracy -o out.onnx --validate never --format json";
    let report = folder.efq(&[&fixed.split(' ').collect::<Vec<_>>(), more].concat());
    let report = serde_json::from_str(done(&report)).unwrap();
    (load(&folder.join("out.onnx")).unwrap(), report)
}

fn run(model: &Checked<Model>, kind: DataType, shape: &[usize]) -> Vec<f32> {
    let values = noise(shape.iter().product(), 7);
    let bytes: Vec<u8> = match kind {
        DataType::Float16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    let x = Array { data_type: kind, shape: shape.to_vec(), bytes: bytes.into() };
    let runner = Runner::new(model, "y", Variant::WeightsOnly).unwrap();
    runner.run(&Sample { inputs: [("x".to_owned(), x)].into(), label: Label::None }).unwrap().values
}

/// Asserts that the tensor `w` is stored as `form`, is smaller, and that the model computes nearly the same.
#[track_caller]
fn is_stored(net: &Net, kind: DataType, shape: &[usize], rule: &str, form: &str) {
    let (model, report) = rewritten(net, &["--tensor", rule]);
    let found = report["tensors"].as_array().unwrap().iter().find(|tensor| tensor["name"] == "w").unwrap();
    assert_eq!(found["encoding"], form, "{found:#}");
    assert_eq!(found["reason"], format!("--tensor '{rule}': stored small, runs as float"));
    assert!(report["result"]["bytes"].as_u64() < report["original"]["bytes"].as_u64());
    let original = efq::onnx::load_bytes(net.bytes().into()).unwrap();
    let (before, after) = (run(&original, kind, shape), run(&model, kind, shape));
    let square = |values: Vec<f32>| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    let lost = square(before.iter().zip(&after).map(|(a, b)| a - b).collect()) / square(before);
    assert!(lost > 1e-8 && lost < 0.04, "{lost}");
}

#[test]
fn filters_of_half_precision_of_constant_nodes_and_of_bodies() {
    let shape = [2, 8, 6, 6];
    let conv = |net: Net| net.node("Conv", "", &["x", "w"], &["y"], vec![]);
    let half = conv(images(DataType::Float16).halves("w", &FILTER, &filter()));
    is_stored(&half, DataType::Float16, &shape, "w=int8", "int8, runs as float");
    is_stored(&half, DataType::Float16, &shape, "w=int4", "int4, runs as float");
    let node = images(DataType::Float).with(|graph| graph.node.push(constant("w", stored("w"))));
    is_stored(&conv(node), DataType::Float, &shape, "w=int4", "int4, runs as float");
    let branch = |held: Vec<TensorProto>, operator: &str| GraphProto {
        name: Some("body".into()),
        node: vec![
            node::build("Conv", "", &["x", if held.is_empty() { "v" } else { "w" }], &["c"], vec![]),
            node::build(operator, "", &["c"], &["r"], vec![]),
        ],
        initializer: held,
        output: vec![value("r", DataType::Float, &["n", "16", "4", "4"])],
        ..Default::default()
    };
    let raw = [1u8].to_vec();
    let choice = images(DataType::Float)
        .tensor(tensor::from_raw("c0", DataType::Bool, &[], raw))
        .tensor(stored("v"))
        .node(
            "If",
            "choice",
            &["c0"],
            &["y"],
            vec![
                body("then_branch", branch(vec![stored("w")], "Relu")),
                body("else_branch", branch(vec![], "Neg")),
            ],
        );
    is_stored(&choice, DataType::Float, &shape, "w=int8", "int8, runs as float");
}

fn einsum(equation: &str) -> AttributeProto {
    AttributeProto {
        name: Some("equation".into()),
        r#type: Some(attribute_proto::AttributeType::String as i32),
        s: Some(equation.as_bytes().to_vec().into()),
        ..Default::default()
    }
}

#[test]
fn experts_of_any_rank_and_operator() {
    let net = |x: &[&str], y: &[&str], w: &[usize]| {
        let net = Net::new().input("x", DataType::Float, x).output("y", DataType::Float, y);
        net.floats("w", w, &noise(w.iter().product(), 4))
    };
    let four = net(&["2", "4", "n", "32"], &["2", "4", "n", "16"], &[2, 4, 32, 16]);
    let four = four.node("MatMul", "", &["x", "w"], &["y"], vec![]);
    is_stored(&four, DataType::Float, &[2, 4, 3, 32], "expert=int4", "int4, runs as float");
    let sum = net(&["b", "4", "n", "32"], &["b", "4", "n", "16"], &[4, 32, 16]);
    let sum = sum.node("Einsum", "", &["x", "w"], &["y"], vec![einsum("becd,edf->becf")]);
    is_stored(&sum, DataType::Float, &[2, 4, 3, 32], "expert=int8", "int8, runs as float");
    let gathered = net(&["n", "32"], &["1", "n", "16"], &[4, 32, 16])
        .integers("i", &[1, 1], &[2])
        .node("GatherND", "", &["w", "i"], &["e"], vec![])
        .node("MatMul", "", &["x", "e"], &["y"], vec![]);
    is_stored(&gathered, DataType::Float, &[3, 32], "expert=int8", "int8, runs as float");
}

/// A rule that names a tensor says that it may be stored small, whatever it is for; and why not, where it cannot be.
#[test]
fn what_a_rule_names_is_stored_or_the_reason_is_told() {
    let scaled = images(DataType::Float)
        .with(|graph| graph.output[0] = value("y", DataType::Float, &["n", "8", "6", "6"]));
    let scaled = scaled.floats("w", &[8, 6, 6], &noise(288, 5)).node("Mul", "", &["x", "w"], &["y"], vec![]);
    is_stored(&scaled, DataType::Float, &[2, 8, 6, 6], "w=int8", "int8, runs as float");
    let conv = images(DataType::Float).tensor(stored("w")).node("Conv", "", &["x", "w"], &["y"], vec![]);
    let (_, report) = rewritten(&conv, &["--tensor", "w=int4", "--emit", "matmulnbits"]);
    let why = "--tensor 'w=int4': stored as int8, as --emit matmulnbits leaves the opset below 21, which has no INT4, runs as float";
    assert_eq!(report["tensors"][0]["reason"], why);
}
