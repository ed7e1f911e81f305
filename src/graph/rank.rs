//! How many dimensions a value has, as far as the graph says so cheaply.

use super::index::Index;
use super::operand::operand;
use crate::onnx::proto::{NodeProto, TypeProto, ValueInfoProto, type_proto};
use crate::onnx::{node, walk};

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
    let (at, producer) = index.producer(value).filter(|_| steps > 0)?;
    let index = &index.of(at);
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
        "If" => returned(producer, value, 0),
        // The first output of a Loop's body is its condition.
        "Loop" => returned(producer, value, 1),
        "Scan" => returned(producer, value, 0),
        "Reshape" => operand(index, producer.input.get(1)?).and_then(|shape| shape.dims.first().copied()),
        _ => None,
    }
}

/// The rank that a body of `node` declares for the result `value`; of a Loop or Scan, for a value that goes round.
fn returned(node: &NodeProto, value: &str, skip: usize) -> Option<usize> {
    let at = node.output.iter().position(|name| name == value)?;
    let body = walk::graphs_of(node).next()?;
    let carried = match node.op_type() {
        "Loop" => node.input.len().saturating_sub(2),
        "Scan" => {
            node.input.len().saturating_sub(usize::try_from(node::int(node, "num_scan_inputs", 0)).ok()?)
        }
        _ => node.output.len(),
    };
    let own = declared_rank(body.output.get(at + skip)?)?;
    // The others are stacked.
    Some(if at < carried { own } else { own + 1 })
}

fn declared_rank(info: &ValueInfoProto) -> Option<usize> {
    match &info.r#type {
        Some(TypeProto { value: Some(type_proto::Value::TensorType(kind)), .. }) => {
            Some(kind.shape.as_ref()?.dim.len())
        }
        _ => None,
    }
}
