//! What no bytes may break: each function takes any, and panics only where efq is at fault. The fuzz targets and
//! their twins among the tests call the same.
#![allow(dead_code, reason = "each fuzz target uses one of them")]

use std::path::Path;

use bytes::Bytes;
use efq::onnx::{Checked, Model};
use efq::preset::{Origin, Preset};
use efq::settings::{Overrides, Settings};

/// Loading a model: an error or a model.
pub fn load(bytes: &[u8]) {
    let _ = efq::onnx::load_bytes(Bytes::copy_from_slice(bytes));
}

/// Loading, listing, planning, rewriting and reading back: what efq accepts, it writes so that it accepts it again.
pub fn rewrite(bytes: &[u8]) {
    let Ok(model) = efq::onnx::load_bytes(Bytes::copy_from_slice(bytes)) else { return };
    for preset in ["high_compression", "high_accuracy"] {
        rewrite_with(&model, preset);
    }
    let _ = efq::data::synthetic(&model, &efq::graph::inventory(&model), 1, 0);
}

fn rewrite_with(model: &Checked<Model>, preset: &str) {
    let inventory = efq::graph::inventory(model);
    let settings = Settings::new(&Preset::builtin(preset).unwrap(), &Overrides::default()).unwrap();
    let Ok(plan) = efq::plan::choose(model, "", &inventory, &settings) else { return };
    let done =
        efq::rewrite::rewrite(model, &inventory, &plan, &Default::default(), efq::rewrite::Metadata::none());
    let Ok(written) = done.and_then(|rewritten| rewritten.draft.to_bytes()) else { return };
    if let Err(error) = efq::onnx::load_bytes(written) {
        panic!("what was written is refused: {error}");
    }
}

/// Reading a preset: an error or a preset.
pub fn preset(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Preset::parse(text, Origin::File("fuzz.yaml".into()));
    }
}

/// Reading samples: an error, or samples that have every input in its size.
pub fn npz(bytes: &[u8]) {
    let model = efq::onnx::load_bytes(linear().into()).unwrap();
    let bytes = Bytes::copy_from_slice(bytes);
    for name in ["d.npz", "d.safetensors"] {
        let Ok(samples) = efq::data::load_bytes(&bytes, &Path::new(name).into(), &model) else { continue };
        for sample in &samples {
            let [(name, array)] = sample.inputs.as_slice() else { panic!("one input is asked for") };
            assert_eq!((name.as_str(), array.shape.as_slice(), array.bytes.len()), ("x", &[1, 2][..], 8));
        }
    }
}

/// `x [batch, 2] · w [2, 2]`, encoded.
fn linear() -> Vec<u8> {
    use efq::onnx::proto::{GraphProto, ModelProto, OperatorSetIdProto, tensor_proto::DataType};
    use efq::onnx::proto::{TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto};
    use prost::Message as _;
    let dim = |value| tensor_shape_proto::Dimension { denotation: None, value: Some(value) };
    let batch = dim(tensor_shape_proto::dimension::Value::DimParam("batch".into()));
    let width = dim(tensor_shape_proto::dimension::Value::DimValue(2));
    let value = |name: &str| {
        let shape = TensorShapeProto { dim: vec![batch.clone(), width.clone()] };
        let kind = type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape: Some(shape) };
        let kind = TypeProto { denotation: None, value: Some(type_proto::Value::TensorType(kind)) };
        ValueInfoProto { name: Some(name.into()), r#type: Some(kind), ..Default::default() }
    };
    let graph = GraphProto {
        node: vec![efq::onnx::node::build("MatMul", "", &["x", "w"], &["y"], vec![])],
        initializer: vec![efq::onnx::tensor::from_raw("w", DataType::Float, &[2, 2], vec![0; 16])],
        input: vec![value("x")],
        output: vec![value("y")],
        ..Default::default()
    };
    let model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(graph),
        ..Default::default()
    };
    model.encode_to_vec()
}
