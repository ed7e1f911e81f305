//! Reading a model as ONNX Runtime's fusion reads it: which blocked DequantizeLinear nodes become part of a
//! quantized matrix product, and why the others do not. It looks at the written file and knows no plan.
//!
//! Rules: selector and action of `DQMatMulToMatMulNBits` in ONNX Runtime 1.25 to 1.32, and what hides a
//! product from them (measured on 1.32).

use std::collections::HashMap;

use super::{Release, nbits};
use crate::graph::{Addition, Index, Scales, is_dequantized, is_quantized_next, rank, ranks, sole_consumer};
use crate::onnx::proto::{
    NodeProto, TensorProto,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};
use crate::onnx::{Checked, Model, node, tensor};
use crate::opset::DEQUANTIZES;
use crate::quant::BLOCKS;

/// A linear layer that runs as a quantized product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fused {
    /// Index of its node.
    pub node: usize,
    /// The block in which a default session rounds its activations to int8; `None` where it does not.
    pub rounded: Option<usize>,
    /// The first ONNX Runtime that runs it so.
    pub since: Release,
}

/// How many blocked weights ONNX Runtime fuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fusion {
    /// Linear layers in the fused form, or that are MatMulNBits already.
    pub fused: Vec<Fused>,
    /// The others: the DequantizeLinear node and the reason.
    pub unfused: Vec<(String, String)>,
    /// The first ONNX Runtime that loads the model; `None` where no known one does.
    pub loads: Option<Release>,
    /// What in the model asks for it.
    pub because: String,
}

impl Fusion {
    /// Blocked weights in all.
    pub fn total(&self) -> usize {
        self.fused.len() + self.unfused.len()
    }

    /// The least ONNX Runtime that runs all of the fused ones so; `None` where no known one does.
    pub fn least_runtime(&self) -> Option<Release> {
        self.loads.map(|loads| self.fused.iter().map(|fused| fused.since).fold(loads, Release::max))
    }
}

/// Examines `model`, bodies too.
pub fn fusion(model: &Checked<Model>) -> Fusion {
    let index = Index::new(model.graph(), model.proto.ir_version());
    let (opset, ir) = (model.opset(), model.proto.ir_version());
    let mut found = Fusion {
        fused: Vec::new(),
        unfused: Vec::new(),
        loads: Release::that_loads(opset, ir),
        because: format!("opset {opset} with IR {ir}"),
    };
    for here in index.all() {
        let ranks = ranks(&here);
        for (at, node) in here.nodes() {
            if nbits::is_nbits(node) {
                let rounded = nbits::rounded_block(node);
                found.fused.push(Fused { node: at, rounded, since: Release::DIRECT });
            }
            if node::is(node, "DequantizeLinear") && opset > DEQUANTIZES {
                found.loads = None;
                found.because = format!("DequantizeLinear of opset {opset}");
            } else if casts_codes(&here, node) && found.loads.is_some_and(|loads| loads < Release::CAST) {
                found.loads = Some(Release::CAST);
                found.because = "a Cast of 4-bit codes".to_owned();
            }
            let block = node::int(node, "block_size", 0);
            if !node::is(node, "DequantizeLinear") || block == 0 {
                continue;
            }
            match examine(&here, &ranks, node, block) {
                Ok(fused) => found.fused.push(fused),
                Err(reason) => found.unfused.push((here.subject(at), reason)),
            }
        }
    }
    found
}

/// Whether the node is a Cast of a stored tensor of 4-bit codes.
fn casts_codes(index: &Index<'_>, node: &NodeProto) -> bool {
    let stored =
        node.input.first().filter(|_| node::is(node, "Cast")).and_then(|name| index.initializer(name));
    let kind = stored.and_then(|(_, tensor)| tensor::data_type(tensor));
    matches!(kind, Some(DataType::Int4 | DataType::Uint4))
}

fn examine(
    index: &Index<'_>,
    ranks: &HashMap<&str, usize>,
    node: &NodeProto,
    block: i64,
) -> Result<Fused, String> {
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
    let is_folded = index.producer(scale_name).is_some();
    let scales = Scales::of(index, scale_name).filter(|scales| scales.private || !is_folded);
    let Some(Scales { stored: scale, .. }) = scales else {
        return Err(match is_folded {
            true => "the scale is computed".to_owned(),
            false => "the scale is not an initializer".to_owned(),
        });
    };
    private_constant(index, scale.name.as_ref(), "scale")?;
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
    let product = user.output.first().map_or("", String::as_str);
    let hidden = |hiding: &[&str]| {
        let next = sole_consumer(index, product).map(|(_, next)| next.op_type());
        next.filter(|next| hiding.contains(next))
            .map(|next| Err(format!("ONNX Runtime joins {} with the {next} behind it", user.op_type())))
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
    let rank = rank(index, input, 32).or_else(|| ranks.get(input).copied());
    let half = tensor::data_type(scale) == Some(DataType::Float16) && !is_folded;
    let kind = if half { DataType::Float16 } else { DataType::Float };
    let addition = Addition::to(index, product, kind);
    let adds_vector = addition.as_ref().is_some_and(|addition| addition.is_bias(*n));
    // ONNX Runtime may know a rank that is not known here.
    let is_matrix = user.op_type() == "MatMul" && rank.is_none_or(|rank| rank == 2);
    if is_matrix && addition.is_some() && !adds_vector {
        return Err("ONNX Runtime makes a Gemm of it and the Add behind it".to_owned());
    }
    if is_dequantized(index, input, kind) {
        return Err("its activation comes from a DequantizeLinear".to_owned());
    }
    let joined = |next: &NodeProto| is_matrix && adds_vector && node::is(next, "Add");
    if is_quantized_next(index, product, kind, &joined) {
        return Err("its output goes to a QuantizeLinear".to_owned());
    }
    // What ONNX Runtime before 1.25 turns into a Gemm before it looks: of matrices, or of sizes that are all known.
    let becomes_gemm = adds_vector && (rank.is_none_or(|rank| rank <= 2) || has_fixed_inputs(index));
    let newer = bits == 8 || half || user.op_type() == "Gemm" || becomes_gemm;
    let since = if newer { Release::GEMM } else { Release::BLOCKED };
    let fused = Fused { node: slot.node, rounded: Some(block), since };
    match (user.op_type(), slot.input) {
        ("MatMul", 1) => Ok(fused),
        ("Gemm", 1) if is_plain(index, user, *n) => Ok(fused),
        ("Gemm", 1) => Err("the Gemm has factors, transposes or a bias that is no vector".to_owned()),
        (op, input) => Err(format!("used as input {input} of {op}")),
    }
}

/// Whether every input of the graph has sizes that are numbers.
fn has_fixed_inputs(index: &Index<'_>) -> bool {
    let fixed = |dim: &Dimension| matches!(dim.value, Some(dimension::Value::DimValue(_)));
    index.graph().input.iter().all(|input| match input.r#type.as_ref().and_then(|kind| kind.value.as_ref()) {
        Some(type_proto::Value::TensorType(kind)) => {
            kind.shape.as_ref().is_some_and(|shape| shape.dim.iter().all(fixed))
        }
        _ => false,
    })
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
    if !index.is_here(name) {
        return Err(format!("the {what} comes from around the body, so no session can be created"));
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
