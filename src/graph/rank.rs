//! How many dimensions a value has, as far as the graph says so cheaply.

use std::collections::{HashMap, HashSet};

use super::einsum::result_rank;
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
        "Einsum" => result_rank(producer, of),
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

/// The ranks of the values that hang on the graph's inputs, in one pass over nodes in their order. What hangs on
/// constants alone has sizes that ONNX Runtime knows as well, and no entry.
pub fn ranks<'g>(index: &Index<'g>) -> HashMap<&'g str, usize> {
    let graph = index.graph();
    let declared = graph.input.iter().chain(&graph.value_info);
    let mut found: HashMap<&str, usize> =
        declared.filter_map(|info| Some((info.name(), declared_rank(info)?))).collect();
    found.extend(graph.initializer.iter().map(|tensor| (tensor.name(), tensor.dims.len())));
    let inputs = graph.input.iter().map(|input| input.name());
    let mut varying: HashSet<&str> = inputs.filter(|name| index.initializer(name).is_none()).collect();
    for node in &graph.node {
        let of = |at: usize| found.get(node.input.get(at)?.as_str()).copied();
        let widest = || (0..node.input.len()).map(of).try_fold(0, |widest, rank| Some(widest.max(rank?)));
        let rank = match node.op_type() {
            "MatMulNBits" => of(0),
            _ if !node::is_default_domain(node) => None,
            "Gemm" | "Flatten" => Some(2),
            "Einsum" => result_rank(node, of),
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Min" | "Max" | "Where" => widest(),
            "MatMul" => of(0).zip(of(1)).filter(|(a, b)| *a > 1 && *b > 1).map(|(a, b)| a.max(b)),
            "Gather" => of(0).zip(of(1)).and_then(|(data, ids)| (data + ids).checked_sub(1)),
            "Reshape" => node.input.get(1).and_then(|shape| length(index, shape)),
            "Shape" => Some(1),
            "Expand" => of(0).zip(node.input.get(1).and_then(|s| length(index, s))).map(|(a, b)| a.max(b)),
            "Unsqueeze" => of(0).zip(axes(index, node)).map(|(rank, axes)| rank + axes),
            "Squeeze" => of(0).zip(axes(index, node)).and_then(|(rank, axes)| rank.checked_sub(axes)),
            "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceL2" => {
                match node::int(node, "keepdims", 1) {
                    1 => of(0),
                    _ => of(0).zip(axes(index, node)).and_then(|(rank, axes)| rank.checked_sub(axes)),
                }
            }
            "MaxPool" | "AveragePool" | "GlobalMaxPool" | "GlobalAveragePool" => of(0),
            "Constant" => node.output.first().and_then(|name| Some(operand(index, name)?.dims.len())),
            "Relu" | "Gelu" | "Tanh" | "Sigmoid" | "Erf" | "Cast" | "Identity" | "Dropout" | "Softmax"
            | "LogSoftmax" | "LeakyRelu" | "Elu" | "Clip" | "HardSwish" | "HardSigmoid" | "Transpose"
            | "LayerNormalization" | "Sqrt" | "Reciprocal" | "Neg" | "Abs" | "Exp" | "Log" | "Sin"
            | "Cos" | "Slice" | "Split" | "Concat" | "Pad" | "DequantizeLinear" | "Conv"
            | "BatchNormalization" => of(0),
            _ => None,
        };
        let varies = node.input.iter().any(|name| varying.contains(name.as_str()));
        if varies {
            varying.extend(node.output.iter().map(String::as_str));
        }
        if let Some(rank) = rank {
            found.extend(node.output.iter().map(|name| (name.as_str(), rank)));
        }
    }
    found.retain(|name, _| varying.contains(name));
    found
}

/// Elements of a shape that is constant, or put together of constants and of single sizes.
fn length(index: &Index<'_>, shape: &str) -> Option<usize> {
    let constant = |name: &str| operand(index, name)?.dims.first().copied();
    if let Some(length) = constant(shape) {
        return Some(length);
    }
    let (_, concat) = index.producer(shape).filter(|(_, node)| node::is(node, "Concat"))?;
    let parts = concat.input.iter().map(|part| match index.producer(part) {
        Some((_, single)) if node::is(single, "Unsqueeze") => axes(index, single),
        _ => constant(part),
    });
    parts.sum()
}

/// How many dimensions an Unsqueeze adds, or a Squeeze or a reduction removes.
fn axes(index: &Index<'_>, node: &NodeProto) -> Option<usize> {
    match node::ints(node, "axes") {
        Some(axes) => Some(axes.len()),
        None => node.input.get(1).and_then(|axes| operand(index, axes)?.dims.first().copied()),
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
