//! How many dimensions a value has, as far as the graph says so cheaply.

use super::index::Index;
use super::operand::operand;
use crate::onnx::node;
use crate::onnx::proto::{TypeProto, ValueInfoProto, type_proto};

/// The rank of `value`, looking back over at most `steps` nodes; `None` where it is not known.
pub fn rank(index: &Index<'_>, value: &str, steps: usize) -> Option<usize> {
    let graph = index.graph();
    let declared = graph.input.iter().chain(&graph.value_info).find(|info| info.name() == value);
    if let Some(rank) = declared.and_then(declared_rank) {
        return Some(rank);
    }
    if let Some(found) = operand(index, value) {
        return Some(found.dims.len());
    }
    let (_, producer) = index.producer(value).filter(|_| steps > 0)?;
    if !node::is_default_domain(producer) {
        return None;
    }
    let of = |at: usize| rank(index, producer.input.get(at)?, steps - 1);
    match producer.op_type() {
        "Gemm" | "Flatten" => Some(2),
        "Relu" | "Gelu" | "Tanh" | "Sigmoid" | "Erf" | "Cast" | "Identity" | "Dropout" | "Softmax"
        | "LogSoftmax" | "LeakyRelu" | "Elu" | "Clip" | "HardSwish" | "Transpose" | "LayerNormalization"
        | "Sqrt" | "Neg" => of(0),
        "MatMul" if operand(index, producer.input.get(1)?).is_some_and(|w| w.dims.len() == 2) => of(0),
        "Reshape" => operand(index, producer.input.get(1)?).and_then(|shape| shape.dims.first().copied()),
        _ => None,
    }
}

fn declared_rank(info: &ValueInfoProto) -> Option<usize> {
    match &info.r#type {
        Some(TypeProto { value: Some(type_proto::Value::TensorType(kind)), .. }) => {
            Some(kind.shape.as_ref()?.dim.len())
        }
        _ => None,
    }
}
