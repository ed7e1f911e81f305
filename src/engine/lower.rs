//! Model → what the runtime can run: 4-bit and blocked weights, those of MatMulNBits too, decoded to float32, the measured output alone,
//! and the int8 step of the fused kernels where it is asked for.

use std::collections::{HashMap, HashSet};

use super::{Variant, activation, fusion, nbits};
use crate::error::{Error, Result};
use crate::graph::{Index, sweep};
use crate::onnx::proto::{ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto::DataType};
use crate::onnx::{Checked, Model, node, node_subject, tensor};
use crate::quant::{CodeKind, decode};

/// The model that computes `output` and nothing else.
///
/// # Errors
/// [`crate::error::Kind::Unsupported`] for quantized weights of a form that is not decoded here.
pub(super) fn lower(model: &Checked<Model>, output: &str, variant: Variant) -> Result<ModelProto> {
    let index = Index::new(model.graph(), model.proto.ir_version());
    let mut decoded: HashMap<usize, TensorProto> = HashMap::new();
    for (at, node) in model.graph().node.iter().enumerate() {
        if node::is(node, "DequantizeLinear")
            && let Some(tensor) = dequantized(&index, node)?
        {
            decoded.insert(at, tensor);
        }
    }
    let mut weights: Vec<TensorProto> = Vec::new();
    let rounded: HashMap<usize, usize> = match variant {
        Variant::WeightsOnly => HashMap::new(),
        Variant::Deployed => {
            fusion(model).fused.iter().filter_map(|fused| Some((fused.node, fused.rounded?))).collect()
        }
    };
    let mut proto = model.proto.clone();
    let Some(graph) = &mut proto.graph else { return Ok(proto) };
    let mut nodes = Vec::with_capacity(graph.node.len());
    let mut stepped: HashSet<(String, usize)> = HashSet::new();
    for (at, mut node) in std::mem::take(&mut graph.node).into_iter().enumerate() {
        if decoded.contains_key(&at) {
            continue;
        }
        if let (Some(block), Some(input)) = (rounded.get(&at), node.input.first_mut()) {
            let name = format!("{input}/efq_int8_{block}");
            // Sites that share an input and a block share the step, as their results do.
            if stepped.insert((input.clone(), *block)) {
                nodes.push(activation::node(input, &name, *block));
            }
            *input = name;
        }
        if nbits::is_nbits(&node) {
            let (weight, product) = nbits::lowered(&index, &node)?;
            weights.push(weight);
            nodes.extend(product);
            continue;
        }
        nodes.push(node);
    }
    graph.node = nodes;
    let mut tensors: Vec<(usize, TensorProto)> = decoded.into_iter().collect();
    tensors.sort_by_key(|(at, _)| *at);
    graph.initializer.extend(tensors.into_iter().map(|(_, tensor)| tensor).chain(weights));
    graph.output = vec![ValueInfoProto { name: Some(output.to_owned()), ..Default::default() }];
    graph.value_info.clear();
    proto.metadata_props.clear();
    sweep(&mut proto);
    Ok(proto)
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
    let scale = input(1).map(|name| scales(index, name)).transpose()?.flatten();
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

/// Constant scales, also behind a Cast.
pub(super) fn scales(index: &Index<'_>, name: &str) -> Result<Option<Vec<f32>>> {
    let name = match index.producer(name) {
        Some((_, cast)) if node::is(cast, "Cast") => cast.input.first().map_or("", String::as_str),
        Some(_) => return Ok(None),
        None => name,
    };
    Ok(index.initializer(name).and_then(|(_, tensor)| tensor::floats(tensor)))
}
