//! Reading a model as ONNX Runtime's fusion reads it: which blocked DequantizeLinear nodes become part of a
//! quantized matrix product, and why the others do not. It looks at the written file and knows no plan.
//!
//! Rules: selector and action of `DQMatMulToMatMulNBits` in ONNX Runtime 1.25 to 1.32, and what hides a
//! product from them (measured on 1.32).

use super::nbits;
use crate::graph::{Index, operand, rank};
use crate::onnx::proto::{NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::{Checked, Model, node, node_subject, tensor};
use crate::quant::BLOCKS;

/// A linear layer that runs as a quantized product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fused {
    /// Index of its node.
    pub node: usize,
    /// The block in which a default session rounds its activations to int8; `None` where it does not.
    pub rounded: Option<usize>,
}

/// How many blocked weights ONNX Runtime fuses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fusion {
    /// Linear layers in the fused form, or that are MatMulNBits already.
    pub fused: Vec<Fused>,
    /// The others: the DequantizeLinear node and the reason.
    pub unfused: Vec<(String, String)>,
    /// Whether one of the fused ones is a Gemm or has 8-bit codes, which needs ONNX Runtime 1.25.
    pub needs_1_25: bool,
}

impl Fusion {
    /// Blocked weights in all.
    pub fn total(&self) -> usize {
        self.fused.len() + self.unfused.len()
    }

    /// The least ONNX Runtime that fuses all of them.
    pub fn least_runtime(&self) -> &'static str {
        if self.needs_1_25 { "1.25" } else { "1.20" }
    }
}

/// Examines the main graph of `model`.
pub fn fusion(model: &Checked<Model>) -> Fusion {
    let index = Index::new(model.graph(), model.proto.ir_version());
    let mut found = Fusion::default();
    for (at, node) in model.graph().node.iter().enumerate() {
        if nbits::is_nbits(node) {
            found.fused.push(Fused { node: at, rounded: nbits::rounded_block(node) });
        }
        let block = node::int(node, "block_size", 0);
        if !node::is(node, "DequantizeLinear") || block == 0 {
            continue;
        }
        match examine(&index, node, block) {
            Ok((user, block, newer)) => {
                found.fused.push(Fused { node: user, rounded: Some(block) });
                found.needs_1_25 |= newer;
            }
            Err(reason) => found.unfused.push((node_subject(node), reason)),
        }
    }
    found
}

fn examine(index: &Index<'_>, node: &NodeProto, block: i64) -> Result<(usize, usize, bool), String> {
    let block = usize::try_from(block).ok().filter(|block| BLOCKS.contains(block));
    let block = block.ok_or_else(|| format!("block size {}", node::int(node, "block_size", 0)))?;
    if node::int(node, "axis", 1) != 0 {
        return Err("axis is not 0".to_owned());
    }
    let weight = private_constant(index, node.input.first(), "weight")?;
    let kind = tensor::data_type(weight).unwrap_or(DataType::Undefined);
    let bits = match kind {
        DataType::Int4 | DataType::Uint4 => 4,
        DataType::Int8 | DataType::Uint8 => 8,
        other => return Err(format!("{} codes", tensor::type_name(other))),
    };
    let shape = tensor::shape(weight).map_err(|error| error.to_string())?;
    let [k, n] = shape.as_slice() else { return Err(format!("a weight of {} dimensions", shape.len())) };
    let scale_name = node.input.get(1).map_or("", String::as_str);
    let scale_name = match index.producer(scale_name) {
        Some((_, cast)) if node::is(cast, "Cast") && index.consumers(scale_name).len() == 1 => {
            cast.input.first()
        }
        Some(_) => return Err("the scale is computed".to_owned()),
        None => node.input.get(1),
    };
    let scale = private_constant(index, scale_name, "scale")?;
    let wanted = [k.div_ceil(block), *n];
    if tensor::shape(scale).ok().as_deref() != Some(&wanted) {
        return Err(format!("the scale has shape {:?}, {wanted:?} is needed", scale.dims));
    }
    if let Some(zero) = node.input.get(2).filter(|name| !name.is_empty()) {
        let (_, zero) = index.initializer(zero).ok_or("the zero point is computed")?;
        if zero.data_type != weight.data_type || tensor::shape(zero).ok().as_deref() != Some(&wanted) {
            return Err("the zero point has another type or shape than the scale asks for".to_owned());
        }
    }
    let output = node.output.first().map_or("", String::as_str);
    if index.is_output(output) {
        return Err("its result is a graph output".to_owned());
    }
    let [slot] = index.consumers(output) else {
        return Err(format!("its result is used {} times", index.consumers(output).len()));
    };
    if !index.captured_by(output).is_empty() {
        return Err("its result is used inside a body".to_owned());
    }
    let user = index.node(slot.node).ok_or("its user is missing")?;
    let hidden = |hiding: &[&str]| {
        let product = user.output.first().map_or("", String::as_str);
        match index.consumers(product) {
            [next] if !index.is_output(product) => {
                index.node(next.node).filter(|next| hiding.contains(&next.op_type())).map(|next| {
                    Err(format!(
                        "ONNX Runtime joins {} with the {} behind it",
                        user.op_type(),
                        next.op_type()
                    ))
                })
            }
            _ => None,
        }
    };
    let behind = match user.op_type() {
        "Gemm" => {
            hidden(&["Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "HardSigmoid", "Transpose"])
        }
        _ => hidden(&["Relu", "Clip"]),
    };
    if let Some(reason) = behind {
        return reason;
    }
    let input = user.input.first().map_or("", String::as_str);
    if user.op_type() == "MatMul" && rank(index, input, 32) == Some(2) && joins_addition(index, user, *n) {
        return Err("ONNX Runtime makes a Gemm of it and the Add behind it".to_owned());
    }
    match (user.op_type(), slot.input) {
        ("MatMul", 1) => Ok((slot.node, block, bits == 8)),
        ("Gemm", 1) if is_plain(index, user, *n) => Ok((slot.node, block, true)),
        ("Gemm", 1) => Err("the Gemm has factors, transposes or a bias that is no vector".to_owned()),
        (op, input) => Err(format!("used as input {input} of {op}")),
    }
}

/// Whether the product of matrices is added to something that is no constant vector.
fn joins_addition(index: &Index<'_>, product: &NodeProto, n: usize) -> bool {
    let output = product.output.first().map_or("", String::as_str);
    if index.is_output(output) || !index.captured_by(output).is_empty() {
        return false;
    }
    let [slot] = index.consumers(output) else { return false };
    let Some(add) = index.node(slot.node).filter(|next| node::is(next, "Add")) else { return false };
    let other = add.input.iter().find(|name| *name != output);
    other.and_then(|name| operand(index, name)).is_none_or(|found| found.dims != [n])
}

fn private_constant<'g>(
    index: &Index<'g>,
    name: Option<&String>,
    what: &str,
) -> Result<&'g TensorProto, String> {
    let name = name.map_or("", String::as_str);
    let (_, tensor) = index.initializer(name).ok_or_else(|| format!("the {what} is not an initializer"))?;
    if index.is_overridable(name) {
        return Err(format!("the {what} is also a graph input"));
    }
    if index.consumers(name).len() != 1 || !index.captured_by(name).is_empty() {
        return Err(format!("the {what} is shared"));
    }
    Ok(tensor)
}

fn is_plain(index: &Index<'_>, gemm: &NodeProto, n: usize) -> bool {
    let bias = gemm.input.get(2).filter(|name| !name.is_empty());
    let vector = bias.is_none_or(|name| {
        index.initializer(name).is_some_and(|(_, c)| tensor::shape(c).is_ok_and(|shape| shape == [n]))
    });
    vector
        && node::float(gemm, "alpha", 1.0) == 1.0
        && (bias.is_none() || node::float(gemm, "beta", 1.0) == 1.0)
        && node::int(gemm, "transA", 0) == 0
        && node::int(gemm, "transB", 0) == 0
}
