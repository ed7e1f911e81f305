//! MatMulNBits (com.microsoft, version 1) as what it computes: a product with the weight that it holds, and a bias.

use crate::error::{Error, Result};
use crate::graph::{Index, Scales};
use crate::onnx::proto::{NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::{node, node_subject, tensor};
use crate::quant::decode_nbits;

/// The accuracy level at which ONNX Runtime rounds activations to int8; below it, products are in float32.
const INT8_LEVEL: i64 = 4;

/// Whether the node is a MatMulNBits.
pub(super) fn is_nbits(node: &NodeProto) -> bool {
    node.op_type() == "MatMulNBits" && node.domain() == "com.microsoft"
}

/// The block whose activations are rounded to int8 together; `None` where they are not.
pub(super) fn rounded_block(node: &NodeProto) -> Option<usize> {
    usize::try_from(node::int(node, "block_size", 0))
        .ok()
        .filter(|block| *block > 0 && node::int(node, "accuracy_level", 0) == INT8_LEVEL)
}

/// The dense weight `[K,N]` and the nodes that take the place of `node`.
///
/// # Errors
/// [`crate::error::Kind::Unsupported`] for a form that is not decoded here.
pub(super) fn lowered(index: &Index<'_>, node: &NodeProto) -> Result<(TensorProto, Vec<NodeProto>)> {
    let unsupported = |what: &str| Error::unsupported(node_subject(node), format!("MatMulNBits with {what}"));
    let input = |at: usize| node.input.get(at).filter(|name| !name.is_empty());
    let size = |name| usize::try_from(node::int(node, name, 0)).unwrap_or(0);
    let (k, n) = (size("K"), size("N"));
    let bits = usize::try_from(node::int(node, "bits", 4)).unwrap_or(0);
    let stored = |at: usize| input(at).and_then(|name| index.initializer(name)).map(|(_, tensor)| tensor);
    let codes = stored(1).filter(|codes| tensor::data_type(codes) == Some(DataType::Uint8));
    let codes = codes.ok_or_else(|| unsupported("a weight that is no constant of bytes"))?;
    let scales = input(2).and_then(|name| Scales::of(index, name)?.values());
    let scales = scales.ok_or_else(|| unsupported("computed scales"))?;
    let zero_points = match (input(3), stored(3)) {
        (None, _) => None,
        (_, Some(zeros)) if tensor::data_type(zeros) == Some(DataType::Uint8) => {
            Some(tensor::payload(zeros)?)
        }
        _ => return Err(unsupported("zero points that are no constant of bytes")),
    };
    if input(4).is_some() {
        return Err(unsupported("rows in another order (g_idx)"));
    }
    let payload = tensor::payload(codes)?;
    let values = decode_nbits(&payload, &scales, zero_points.as_deref(), bits, (k, n), size("block_size"))
        .ok_or_else(|| unsupported(&format!("{bits} bits, K={k}, N={n} and inputs of other sizes")))?;
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let output = node.output.first().map_or("", String::as_str);
    let weight = format!("{output}/efq_weight");
    let product = format!("{output}/efq_product");
    let activation = node.input.first().map_or("", String::as_str);
    let to = if input(5).is_some() { &product } else { output };
    let mut nodes = vec![node::build("MatMul", node.name(), &[activation, &weight], &[to], vec![])];
    if let Some(bias) = input(5) {
        nodes.push(node::build("Add", &format!("{output}/efq_bias"), &[&product, bias], &[output], vec![]));
    }
    Ok((tensor::from_raw(weight, DataType::Float, &[k, n], raw), nodes))
}
