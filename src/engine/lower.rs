//! Model → what the runtime can run: 4-bit and blocked weights, those of MatMulNBits too, decoded to float32,
//! functions inlined, sparse tensors made dense, half precision made float32, the measured output alone, and the
//! int8 step of the fused kernels where it is asked for.

use std::collections::{HashMap, HashSet};

use super::{Variant, activation, fusion, nbits, refuse, stages, widen};
use crate::error::{Error, Result};
use crate::graph::{Index, Scales, sweep};
use crate::onnx::proto::{
    GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto::DataType,
};
use crate::onnx::{Checked, Model, inline_all, node, node_subject, sparse, tensor, walk};
use crate::quant::{CodeKind, decode};

/// The model that computes `output` and nothing else.
///
/// # Errors
/// As [`lower_whole`].
pub(super) fn lower(model: &Checked<Model>, output: &str, variant: Variant) -> Result<ModelProto> {
    let mut proto = decoded(model, output, variant)?;
    keep_needed(&mut proto);
    plain(&mut proto)?;
    Ok(proto)
}

/// The same with every node, also those that `output` does not need.
///
/// # Errors
/// [`crate::error::Kind::Unsupported`] for quantized weights of a form that is not decoded here, and for what
/// the runtime does not know or computes wrongly.
pub(super) fn lower_whole(model: &Checked<Model>, output: &str) -> Result<ModelProto> {
    let mut proto = decoded(model, output, Variant::WeightsOnly)?;
    plain(&mut proto)?;
    Ok(proto)
}

/// `model` up to `output` with its weights decoded to float32, under the names that they have in its graph.
///
/// # Errors
/// As for a [`super::Runner`].
pub fn floats(model: &Checked<Model>, output: &str) -> Result<Model> {
    lower(model, output, Variant::WeightsOnly).map(Model::from_proto)
}

/// `model` with `output` as its only one, its weights decoded, and the int8 steps of `variant`.
fn decoded(model: &Checked<Model>, output: &str, variant: Variant) -> Result<ModelProto> {
    let index = Index::new(model.graph(), model.proto.ir_version());
    let mut decoded: HashMap<usize, TensorProto> = HashMap::new();
    for here in index.all() {
        for (at, node) in here.nodes().filter(|(_, node)| node::is(node, "DequantizeLinear")) {
            decoded.extend(dequantized(&here, node)?.map(|tensor| (at, tensor)));
        }
        for (at, node) in here.nodes().filter(|(_, node)| node::is(node, "Cast")) {
            decoded.extend(codes_as_floats(&here, node)?.map(|tensor| (at, tensor)));
        }
    }
    let rounded: HashMap<usize, usize> = match variant {
        Variant::WeightsOnly => HashMap::new(),
        Variant::Deployed => {
            fusion(model).fused.iter().filter_map(|fused| Some((fused.node, fused.rounded?))).collect()
        }
    };
    let mut proto = model.proto.clone();
    let Some(graph) = &mut proto.graph else { return Ok(proto) };
    replace(graph, &index, &mut 0, &mut decoded, &rounded)?;
    graph.output = vec![ValueInfoProto { name: Some(output.to_owned()), ..Default::default() }];
    graph.value_info.clear();
    proto.metadata_props.clear();
    sweep(&mut proto);
    Ok(proto)
}

/// Puts the decoded weights and the int8 steps into `graph`, whose first node has the number `next`, and its bodies.
fn replace(
    graph: &mut GraphProto,
    index: &Index<'_>,
    next: &mut usize,
    decoded: &mut HashMap<usize, TensorProto>,
    rounded: &HashMap<usize, usize>,
) -> Result<()> {
    let first = *next;
    *next += graph.node.len();
    for body in graph.node.iter_mut().flat_map(walk::graphs_of_mut) {
        replace(body, index, next, decoded, rounded)?;
    }
    let mut nodes = Vec::with_capacity(graph.node.len());
    let mut stepped: HashSet<(String, usize)> = HashSet::new();
    for (at, mut node) in std::mem::take(&mut graph.node).into_iter().enumerate() {
        if let Some(tensor) = decoded.remove(&(first + at)) {
            graph.initializer.push(tensor);
            continue;
        }
        if let (Some(block), Some(input)) = (rounded.get(&(first + at)), node.input.first_mut()) {
            let name = format!("{input}/efq_int8_{block}");
            // Sites that share an input and a block share the step, as their results do.
            if stepped.insert((input.clone(), *block)) {
                nodes.push(activation::node(input, &name, *block));
            }
            *input = name;
        }
        if nbits::is_nbits(&node) {
            let (weight, product) = nbits::lowered(&index.of(first + at), &node)?;
            graph.initializer.push(weight);
            nodes.extend(product);
            continue;
        }
        nodes.push(node);
    }
    graph.node = nodes;
    Ok(())
}

/// What the runtime knows in the place of what it does not.
fn plain(proto: &mut ModelProto) -> Result<()> {
    if let Some(made) = inline_all(proto) {
        *proto = made;
    }
    if let Some(function) = proto.functions.first() {
        let name = format!("function '{}.{}'", function.domain(), function.name());
        return Err(Error::unsupported(name, "the runtime does not know model-local functions"));
    }
    if let Some(graph) = &mut proto.graph {
        sparse::densify(graph)?;
    }
    widen::widen(proto)?;
    refuse::refuse(proto)
}

/// Removes what the outputs do not depend on.
fn keep_needed(proto: &mut ModelProto) {
    let Some(graph) = &mut proto.graph else { return };
    let producer: HashMap<&str, usize> = graph
        .node
        .iter()
        .enumerate()
        .flat_map(|(at, node)| node.output.iter().map(move |name| (name.as_str(), at)))
        .collect();
    let mut keep = vec![false; graph.node.len()];
    let mut waiting: Vec<String> = graph.output.iter().map(|output| output.name().to_owned()).collect();
    while let Some(name) = waiting.pop() {
        if let Some(at) = producer.get(name.as_str())
            && let (Some(flag), Some(node)) = (keep.get_mut(*at), graph.node.get(*at))
            && !std::mem::replace(flag, true)
        {
            waiting.extend(stages::taken(node));
        }
    }
    let mut flags = keep.into_iter();
    graph.node.retain(|_| flags.next().unwrap_or(true));
    sweep(proto);
}

/// The value of a Cast of stored 4-bit codes to floats; `None` for any other.
fn codes_as_floats(index: &Index<'_>, node: &NodeProto) -> Result<Option<TensorProto>> {
    let Some((_, codes)) = node.input.first().and_then(|name| index.initializer(name)) else {
        return Ok(None);
    };
    let kind = match tensor::data_type(codes) {
        Some(DataType::Int4) => CodeKind::Int4,
        Some(DataType::Uint4) => CodeKind::Uint4,
        _ => return Ok(None),
    };
    let floats = [DataType::Float, DataType::Float16, DataType::Bfloat16].map(|kind| kind as i64);
    if !floats.contains(&node::int(node, "to", 0)) {
        return Ok(None);
    }
    let shape = tensor::shape(codes)?;
    let count = shape.iter().product();
    let values = decode(&tensor::payload(codes)?, &vec![1.0; count], None, kind, 1, count, 1);
    let values = values.ok_or_else(|| Error::format(codes.name(), "has other bytes than its shape"))?;
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let name = node.output.first().cloned().unwrap_or_default();
    Ok(Some(tensor::from_raw(name, DataType::Float, &shape, raw)))
}

/// The value of a DequantizeLinear over constants that the runtime cannot compute; `None` for one it can.
fn dequantized(index: &Index<'_>, node: &NodeProto) -> Result<Option<TensorProto>> {
    let input = |at: usize| node.input.get(at).filter(|name| !name.is_empty());
    let Some((_, weight)) = input(0).and_then(|name| index.initializer(name)) else { return Ok(None) };
    let unsupported =
        |what: &str| Error::unsupported(node_subject(node), format!("the runtime does not know {what}"));
    let kind = match tensor::data_type(weight) {
        Some(DataType::Int4) => CodeKind::Int4,
        Some(DataType::Uint4) => CodeKind::Uint4,
        Some(DataType::Int8) => CodeKind::Int8,
        Some(DataType::Uint8) => CodeKind::Uint8,
        _ => return Ok(None),
    };
    let block = node::int(node, "block_size", 0);
    if block == 0 && matches!(kind, CodeKind::Int8 | CodeKind::Uint8) {
        return Ok(None);
    }
    let shape = tensor::shape(weight)?;
    let [k, n] = *shape.as_slice() else { return Err(unsupported("quantized weights that are no matrix")) };
    let axis = node::int(node, "axis", 1);
    let block = match (usize::try_from(block), axis) {
        (Ok(block), 0 | -2) if block > 0 => block,
        // One scale a column: a block that spans all rows.
        (Ok(0), 1 | -1) => k.max(1),
        _ => return Err(unsupported("blocks along another axis than 0")),
    };
    let scale = input(1).and_then(|name| Scales::of(index, name)?.values());
    let Some(scale) = scale else { return Err(unsupported("computed scales")) };
    let zero = match input(2) {
        None => None,
        Some(name) => match index.initializer(name) {
            Some((_, zero)) => Some(tensor::payload(zero)?),
            None => return Err(unsupported("computed zero points")),
        },
    };
    let values = decode(&tensor::payload(weight)?, &scale, zero.as_deref(), kind, k, n, block)
        .ok_or_else(|| unsupported(&format!("scale or zero point of this shape on a weight {shape:?}")))?;
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let name = node.output.first().cloned().unwrap_or_default();
    Ok(Some(tensor::from_raw(name, DataType::Float, &shape, raw)))
}
