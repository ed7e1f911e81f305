//! What the runtime computes in another way than ONNX Runtime is refused by name, and what cannot be compared is no
//! error: the model is written all the same.

mod support;

use efq::data::{Array, Label, Sample};
use efq::engine::{Runner, Variant};
use efq::onnx::proto::{AttributeProto, attribute_proto::AttributeType, tensor_proto::DataType};
use efq::onnx::{Checked, Model, load};
use support::{Folder, Net, done, float, int, noise};

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::String as i32),
        s: Some(value.as_bytes().to_vec().into()),
        ..Default::default()
    }
}

fn texts(name: &str, values: &[&str]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Strings as i32),
        strings: values.iter().map(|value| value.as_bytes().to_vec().into()).collect(),
        ..Default::default()
    }
}

fn checked(net: &Net) -> Checked<Model> {
    let folder = Folder::new();
    net.save(&folder.join("m.onnx"));
    load(&folder.join("m.onnx")).unwrap()
}

/// Measured against ONNX Runtime 1.32: all of these give other values in the runtime.
#[test]
fn what_the_runtime_computes_wrongly_is_refused_by_name() {
    let of = |op: &str, inputs: &[&str], attributes: Vec<AttributeProto>, opset: i64| {
        let net = Net::new()
            .input("x", DataType::Float, &["1", "3", "8", "8"])
            .output("y", DataType::Float, &["a", "b", "c", "d"])
            .floats("wi", &[1, 64, 8], &noise(512, 1))
            .floats("wr", &[1, 64, 16], &noise(1024, 2))
            .floats("double", &[4], &[1.0, 1.0, 2.0, 2.0])
            .floats("part", &[4], &[1.0, 1.0, 1.7, 0.6])
            .floats("triple", &[4], &[1.0, 1.0, 3.0, 3.0])
            .opset(opset);
        checked(&net.node(op, "node", inputs, &["y"], attributes))
    };
    let refusal = |model: &Checked<Model>| match Runner::new(model, "y", Variant::WeightsOnly) {
        Err(error) => error.to_string(),
        Ok(_) => String::new(),
    };
    let corners = || text("coordinate_transformation_mode", "align_corners");
    let cells: [(&str, &str, &[&str]); 3] = [
        ("LSTM", "Sigmoid", &["Sigmoid", "Tanh", "Relu"]),
        ("GRU", "Sigmoid", &["HardSigmoid", "Tanh"]),
        ("RNN", "Tanh", &["Relu"]),
    ];
    let mut wrong = vec![
        ("LSTM", vec!["x", "wi", "wr"], vec![int("input_forget", 1)], 18, "LSTM with input_forget"),
        ("Celu", vec!["x"], vec![float("alpha", 2.0)], 18, "Celu with alpha other than 1"),
        ("GlobalLpPool", vec!["x"], vec![], 18, "GlobalLpPool"),
        (
            "Resize",
            vec!["x", "", "part"],
            vec![text("mode", "linear"), corners()],
            18,
            "Resize with align_corners and these scales",
        ),
        ("Resize", vec!["x", "triple"], vec![], 10, "Resize of opset 10 with these scales"),
        (
            "Resize",
            vec!["x", "part"],
            vec![text("mode", "nearest")],
            10,
            "Resize of opset 10 with these scales",
        ),
        (
            "GridSample",
            vec!["x", "x"],
            vec![text("mode", "cubic"), text("padding_mode", "border")],
            20,
            "GridSample of cubic mode with border padding",
        ),
    ];
    let names: Vec<String> = cells
        .iter()
        .flat_map(|(op, ..)| [format!("{op} with clip"), format!("{op} with other activations")])
        .collect();
    for (at, (op, _, activations)) in cells.iter().enumerate() {
        let inputs = vec!["x", "wi", "wr"];
        wrong.push((op, inputs.clone(), vec![float("clip", 0.3)], 18, &names[2 * at]));
        wrong.push((op, inputs, vec![texts("activations", activations)], 18, &names[2 * at + 1]));
    }
    for (op, inputs, attributes, opset, what) in wrong {
        let said = refusal(&of(op, &inputs, attributes, opset));
        assert_eq!(said, format!("node 'node' ({op}): the runtime does not compute {what} right"));
    }
    let right = [
        ("LSTM", vec!["x", "wi", "wr"], vec![texts("activations", &["Sigmoid", "Tanh", "tanh"])], 18),
        ("Celu", vec!["x"], vec![], 18),
        ("Resize", vec!["x", "", "double"], vec![text("mode", "linear"), corners()], 18),
        ("Resize", vec!["x", "", "part"], vec![text("mode", "linear")], 18),
        ("Resize", vec!["x", "double"], vec![], 10),
        ("Resize", vec!["x", "part"], vec![text("mode", "linear")], 10),
    ];
    for (op, inputs, attributes, opset) in right {
        let said = refusal(&of(op, &inputs, attributes, opset));
        assert!(!said.contains("does not compute"), "{op}: {said}");
    }
}

/// Mod of integers has the sign of the divisor, in every type.
#[test]
fn the_rest_of_a_division_has_the_sign_of_the_divisor() {
    for kind in [DataType::Int64, DataType::Int32, DataType::Int8] {
        for divisor in [3i64, -3] {
            let raw = match kind {
                DataType::Int64 => divisor.to_le_bytes().to_vec(),
                DataType::Int32 => (divisor as i32).to_le_bytes().to_vec(),
                _ => (divisor as i8).to_le_bytes().to_vec(),
            };
            let net = Net::new()
                .input("x", DataType::Float, &["9"])
                .output("y", DataType::Float, &["9"])
                .tensor(efq::onnx::tensor::from_raw("d", kind, &[], raw))
                .node("Cast", "there", &["x"], &["i"], vec![int("to", kind as i64)])
                .node("Mod", "rest", &["i", "d"], &["r"], vec![])
                .node("Cast", "back", &["r"], &["y"], vec![int("to", 1)]);
            let values: Vec<f32> = (-4..5).map(|value| value as f32).collect();
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let x = Array { data_type: DataType::Float, shape: vec![9], bytes: bytes.into() };
            let sample = Sample { inputs: vec![("x".to_owned(), x)], label: Label::None };
            let found = Runner::new(&checked(&net), "y", Variant::WeightsOnly).unwrap().run(&sample).unwrap();
            let expected: Vec<f32> = (-4..5i64)
                .map(|value| match (value % divisor, divisor > 0) {
                    (rest, true) if rest < 0 => rest + divisor,
                    (rest, false) if rest > 0 => rest + divisor,
                    (rest, _) => rest,
                } as f32)
                .collect();
            assert_eq!(found.values, expected, "{kind:?} {divisor}");
        }
    }
}

/// `w` decides how many values of the output there are.
fn counted() -> Net {
    Net::new()
        .input("x", DataType::Float, &["batch", "64"])
        .output("y", DataType::Float, &["axes", "found"])
        .floats("w", &[64, 64], &noise(4096, 1))
        .node("MatMul", "product", &["x", "w"], &["h"], vec![])
        .node("Relu", "positive", &["h"], &["p"], vec![])
        .node("NonZero", "find", &["p"], &["i"], vec![])
        .node("Cast", "cast", &["i"], &["y"], vec![int("to", 1)])
}

#[test]
fn outputs_whose_sizes_hang_on_values_are_not_compared() {
    let folder = Folder::new();
    counted().save(&folder.join("m.onnx"));
    let args = ["rewrite", "m.onnx", "-p", "high_compression", "-o", "out.onnx", "--algorithm", "search"];
    let json = [&args[..], &["--format", "json"]].concat();
    let report: serde_json::Value = serde_json::from_str(done(&folder.efq(&json))).unwrap();
    assert_eq!(report["validation"]["status"], "unavailable");
    let reason = report["validation"]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("sample ")
            && reason.ends_with(" from the rewritten model: sizes that hang on values cannot be compared"),
        "{reason}"
    );
    assert!(folder.join("out.onnx").exists());
    let validated = folder.efq(&["validate", "m.onnx", "out.onnx", "-p", "high_compression"]);
    assert!(done(&validated).contains("could not be validated: "), "{validated:?}");
    // Asked for, it is an error.
    let run = folder.efq(&[&args[..], &["--validate", "always", "--force"]].concat());
    assert_eq!(run.code, Some(3), "{run:?}");
}
