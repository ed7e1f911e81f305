//! A linear layer: `X · DequantizeLinear(codes, scales)` with a bias where the Gemm had one.
//!
//! ONNX DequantizeLinear-21: `y = (x - zero_point) * scale`, blocks of `block_size` along `axis`.
//!
//! ONNX Runtime fuses the product, unless its other optimizers reach it first: a Gemm is joined with an
//! activation or a transpose behind it, MatMul and Add of matrices become a Gemm, and a Relu or Clip right
//! behind a product hides it (measured on 1.32). A subtraction is none of that, so the bias of a Gemm is
//! subtracted with its sign turned, which is the same sum bit for bit.

use super::dequantize::dequantize;
use super::edit::Edit;
use super::stored;
use crate::calibrate::Fitted;
use crate::error::{Error, Result};
use crate::graph::{self, Addition, Form, Frame, Index, Site, operand, rank, sole_consumer};
use crate::onnx::proto::{NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::{node, tensor};
use crate::quant::{Algorithm, ScaleStorage, Scheme};

/// How a weight is to be stored.
pub(super) struct Wish<'f> {
    pub scheme: Scheme,
    pub algorithm: Algorithm,
    /// Its codes, where they are known already.
    pub fitted: Option<&'f Fitted>,
}

impl Wish<'_> {
    /// Whether the codes are made for the weight as a whole: they are known, or their scales have a unit in common.
    pub fn is_whole(&self) -> bool {
        self.fitted.is_some() || self.scheme.scales == ScaleStorage::Byte
    }
}

pub(super) fn encode(
    edit: &mut Edit<'_>,
    site: &Site,
    weight: &str,
    wish: Wish<'_>,
    key: (usize, usize),
) -> Result<()> {
    let shift = wish.fitted.and_then(|fitted| fitted.shift.clone()).filter(|shift| shift.len() == site.n);
    let dequantized = dequantize(edit, site, weight, wish, key)?;
    let original = edit.node(site.at.node).cloned().unwrap_or_default();
    let frame = framed(edit, site, &original);
    if let Form::Gemm { beta, .. } = site.form {
        return gemm(edit, site, &original, frame, dequantized, beta, shift.as_deref());
    }
    if !frame.after.is_empty() {
        let mut nodes = apart(edit, site, &frame, &dequantized);
        nodes.extend(named(frame.after, original.name()));
        edit.replace(site.at.node, nodes);
        return Ok(());
    }
    let plain =
        node::build("MatMul", original.name(), &[&frame.rows, &dequantized], &[&frame.product], vec![]);
    if let Some(node) = edit.node(site.at.node) {
        node.clone_from(&plain);
    }
    let known = rank(&edit.index(site.at.node), site.activation(&original), 32)
        .or_else(|| edit.rank(site.activation(&original)))
        .or_else(|| Some(site.arrangement.as_ref()?.lead? + 1));
    guard(edit, site, &plain, known.is_none_or(|rank| rank == 2), shift.as_deref())
}

/// The product of `frame`, kept apart from a Transpose behind it: ONNX Runtime moves that on until it meets another, and
/// what comes to stand behind the product then may hide it.
fn apart(edit: &mut Edit<'_>, site: &Site, frame: &Frame, weight: &str) -> Vec<NodeProto> {
    let product = &frame.product;
    let matmul = edit.name(&format!("{product}_MatMul"));
    let build = |output: &str| node::build("MatMul", &matmul, &[&frame.rows, weight], &[output], vec![]);
    if !frame.after.iter().any(|node| node::is(node, "Transpose")) {
        return vec![build(product)];
    }
    let plain = edit.name(&format!("{product}_plain"));
    let first = build(&plain);
    vec![first, subtraction(edit, site, product, &plain, (&vec![0.0; site.n], ""), "")]
}

/// What stands around the plain product, of which that before it is put into the graph.
pub(super) fn framed(edit: &mut Edit<'_>, site: &Site, original: &NodeProto) -> Frame {
    let at = site.at.node;
    let mut frame = site.frame(original, &mut |stem| edit.name(stem));
    std::mem::take(&mut frame.shapes).into_iter().for_each(|shape| edit.add(at, shape));
    std::mem::take(&mut frame.before).into_iter().for_each(|node| edit.insert_before(at, node));
    frame
}

/// The nodes, of which the last, that gives the old result, takes the old name.
pub(super) fn named(mut nodes: Vec<NodeProto>, name: &str) -> Vec<NodeProto> {
    if let Some(last) = nodes.last_mut() {
        last.name = Some(name.to_owned());
    }
    nodes
}

/// Keeps what follows a MatMul from hiding its product; `matrix` is whether that may be of rank 2.
fn guard(
    edit: &mut Edit<'_>,
    site: &Site,
    original: &NodeProto,
    matrix: bool,
    shift: Option<&[f32]>,
) -> Result<()> {
    let at = site.at.node;
    let output = original.output.first().map_or("", String::as_str);
    let index = edit.index(at);
    match sole_consumer(&index, output) {
        Some((_, next))
            if hides(next)
                || hides_later(&index, output)
                || matrix && meets_no_vector(&index, site, output) =>
        {
            let product = edit.name(&format!("{output}_product"));
            let zeros = vec![0.0; site.n];
            let mut first = edit.node(at).cloned().unwrap_or_default();
            first.output = vec![product.clone()];
            first.name = Some(edit.name(&format!("{output}_MatMul")));
            let subtract = subtraction(edit, site, output, &product, (&zeros, ""), original.name());
            edit.replace(at, vec![first, subtract]);
        }
        Some((place, add)) if node::is(add, "Add") => {
            let sum = add.output.first().map_or("", String::as_str);
            let bias = add.input.iter().find(|name| *name != output).cloned().unwrap_or_default();
            // The Gemm that it would become is joined with a Transpose before it.
            let turned = original.input.first().and_then(|name| index.producer(name));
            let turned = turned.is_some_and(|(_, before)| node::is(before, "Transpose"))
                || site.arrangement.as_ref().is_some_and(|arrangement| !arrangement.before.is_empty());
            let hidden = sole_consumer(&index, sum).is_some_and(|(_, next)| hides(next)) || matrix && turned;
            let Some(mut vector) = vector(edit, site, &bias, (1.0, 1))? else { return Ok(()) };
            vector.iter_mut().zip(shift.unwrap_or_default()).for_each(|(value, shift)| *value += shift);
            if hidden {
                vector.iter_mut().for_each(|value| *value = -*value);
                let subtract = subtraction(edit, site, sum, output, (&vector, &bias), add.name());
                edit.replace(place, vec![subtract]);
            } else if shift.is_some() {
                correct(edit, site, place, &bias, &vector);
            }
        }
        _ => {}
    }
    Ok(())
}

/// Puts `vector` in the place of `bias` in the Add at `place`.
pub(super) fn correct(edit: &mut Edit<'_>, site: &Site, place: usize, bias: &str, vector: &[f32]) {
    let corrected = edit.name(&format!("{bias}_corrected"));
    replace_vector(edit, site, &corrected, vector, bias);
    let slots = edit.node(place).map(|add| &mut add.input);
    for slot in slots.into_iter().flatten().filter(|slot| **slot == bias) {
        slot.clone_from(&corrected);
    }
}

/// `output = product - vector`, which stands for the bias `of`.
fn subtraction(
    edit: &mut Edit<'_>,
    site: &Site,
    output: &str,
    product: &str,
    (vector, of): (&[f32], &str),
    name: &str,
) -> NodeProto {
    let subtrahend = edit.name(&format!("{output}_subtrahend"));
    replace_vector(edit, site, &subtrahend, vector, of);
    let name = if name.is_empty() { edit.name(&format!("{output}_Sub")) } else { name.to_owned() };
    node::build("Sub", &name, &[product, &subtrahend], &[output], vec![])
}

/// Adds the vector `name` in the place of `of`, as small as that is stored.
pub(super) fn replace_vector(edit: &mut Edit<'_>, site: &Site, name: &str, values: &[f32], of: &str) {
    let (at, kind) = (site.at.node, site.operand.delivered);
    let half = float_tensor(name, &[values.len()], values, DataType::Float16);
    let holds = values.iter().all(|value| value.abs() <= f32::from(half::f16::MAX));
    match half.raw_data {
        Some(half) if holds && kind == DataType::Float && edit.halved.contains(of) => {
            stored::halved(edit, &edit.index(at).path(), name, &[values.len()], half.to_vec());
        }
        _ => edit.add(at, float_tensor(name, &[values.len()], values, kind)),
    }
}

/// Whether anything but a constant vector is added to the product and to nothing else: of matrices, that becomes a
/// Gemm.
fn meets_no_vector(index: &Index<'_>, site: &Site, product: &str) -> bool {
    Addition::to(index, product, site.operand.delivered).is_some_and(|addition| !addition.is_bias(site.n))
}

/// Whether the node keeps a product right before it from being fused.
fn hides(node: &NodeProto) -> bool {
    node::is(node, "Relu") || node::is(node, "Clip")
}

/// Whether such a node, or a sum, comes to stand behind `product` when ONNX Runtime moves or removes what lies between.
fn hides_later(index: &Index<'_>, product: &str) -> bool {
    let mut value = product;
    for step in 0..4 {
        let Some((_, next)) = sole_consumer(index, value) else { return false };
        if step > 0 && (hides(next) || node::is(next, "Add")) {
            return true;
        }
        let Some(output) = next.output.first() else { return false };
        if !["Transpose", "Identity", "Dropout"].iter().any(|op| node::is(next, op)) {
            return false;
        }
        value = output;
    }
    false
}

/// Replaces a Gemm by the product, with its factors in the weight and the bias, and the bias subtracted.
fn gemm(
    edit: &mut Edit<'_>,
    site: &Site,
    original: &NodeProto,
    frame: Frame,
    weight: String,
    beta: f32,
    shift: Option<&[f32]>,
) -> Result<()> {
    let at = site.at.node;
    if !frame.after.is_empty() {
        let nodes = apart(edit, site, &frame, &weight);
        return turned(edit, site, original, frame, nodes, beta);
    }
    let activation = frame.rows.as_str();
    let output = original.output.first().cloned().unwrap_or_default();
    let bias = original.input.get(2).filter(|name| !name.is_empty() && beta != 0.0);
    let index = edit.index(at);
    let is_hidden = sole_consumer(&index, &output).is_some_and(|(_, next)| hides(next))
        || hides_later(&index, &output)
        || meets_no_vector(&index, site, &output);
    let subtrahend = match bias {
        None if is_hidden => Some(vec![0.0; site.n]),
        None => {
            let product = node::build("MatMul", original.name(), &[activation, &weight], &[&output], vec![]);
            edit.replace(at, vec![product]);
            return Ok(());
        }
        Some(bias) => vector(edit, site, bias, (-beta, 2))?.map(|mut vector| {
            vector.iter_mut().zip(shift.unwrap_or_default()).for_each(|(value, shift)| *value -= shift);
            vector
        }),
    };
    let product = edit.name(&format!("{output}_product"));
    // The node that gives the old result takes the old name.
    let name = edit.name(&format!("{output}_MatMul"));
    let mut nodes = vec![node::build("MatMul", &name, &[activation, &weight], &[&product], vec![])];
    match (subtrahend, bias) {
        (Some(vector), _) => {
            let of = bias.map_or("", String::as_str);
            nodes.push(subtraction(edit, site, &output, &product, (&vector, of), original.name()));
        }
        // A computed or two-dimensional C stays an addition, kept apart from the product.
        (None, bias) => {
            let apart = edit.name(&format!("{output}_apart"));
            let zeros = vec![0.0; site.n];
            nodes.push(subtraction(edit, site, &apart, &product, (&zeros, ""), ""));
            let addend = scaled(edit, site, &output, bias.map_or("", String::as_str), beta, &mut nodes);
            nodes.push(node::build("Add", original.name(), &[&apart, &addend], &[&output], vec![]));
        }
    }
    edit.replace(at, nodes);
    Ok(())
}

/// Replaces a Gemm whose product, that `nodes` make, is the transposed one: `beta · C` is added to what becomes of it.
pub(super) fn turned(
    edit: &mut Edit<'_>,
    site: &Site,
    original: &NodeProto,
    mut frame: Frame,
    mut nodes: Vec<NodeProto>,
    beta: f32,
) -> Result<()> {
    match original.input.get(2).filter(|name| !name.is_empty() && beta != 0.0) {
        None => nodes.extend(named(frame.after, original.name())),
        Some(bias) => {
            let output = original.output.first().cloned().unwrap_or_default();
            let apart = edit.name(&format!("{output}_apart"));
            if let Some(last) = frame.after.last_mut() {
                last.output = vec![apart.clone()];
            }
            nodes.extend(frame.after);
            let addend = scaled(edit, site, &output, bias, beta, &mut nodes);
            nodes.push(node::build("Add", original.name(), &[&apart, &addend], &[&output], vec![]));
        }
    }
    edit.replace(site.at.node, nodes);
    Ok(())
}

/// The name of `beta` times `bias`, for which a node is added to `nodes` where it must be.
pub(super) fn scaled(
    edit: &mut Edit<'_>,
    site: &Site,
    output: &str,
    bias: &str,
    beta: f32,
    nodes: &mut Vec<NodeProto>,
) -> String {
    if beta == 1.0 {
        return bias.to_owned();
    }
    let factor = edit.name(&format!("{output}_beta"));
    let scaled = edit.name(&format!("{output}_scaled_bias"));
    let name = edit.name(&format!("{output}_Mul"));
    edit.add(site.at.node, float_tensor(&factor, &[], &[beta], site.operand.delivered));
    nodes.push(node::build("Mul", &name, &[bias, &factor], &[&scaled], vec![]));
    scaled
}

/// The constant bias of at most `rank` as `factor` times its values, one for each of the N columns; `None` if
/// it is no vector.
pub(super) fn vector(
    edit: &Edit<'_>,
    site: &Site,
    bias: &str,
    (factor, rank): (f32, usize),
) -> Result<Option<Vec<f32>>> {
    let Some(found) = operand(&edit.index(site.at.node), bias) else { return Ok(None) };
    let Some(tensor) = graph::stored(edit.model, &found) else { return Ok(None) };
    if !found.is_bias(site.n, rank) {
        return Ok(None);
    }
    let values = tensor::floats(tensor)
        .ok_or_else(|| Error::format(tensor::subject(tensor), "a bias that is not floating-point"))?;
    let of_columns = found.by_column(&values, site.n);
    Ok(of_columns.map(|values| values.into_iter().map(|value| value * factor).collect()))
}

pub(super) fn float_tensor(name: &str, dims: &[usize], values: &[f32], kind: DataType) -> TensorProto {
    let raw: Vec<u8> = match kind {
        DataType::Float16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    let stored = if kind == DataType::Float16 { kind } else { DataType::Float };
    tensor::from_raw(name, stored, dims, raw)
}
