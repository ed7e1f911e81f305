//! A linear layer: `X · DequantizeLinear(codes, scales)` with a bias where the Gemm had one.
//!
//! ONNX DequantizeLinear-21: `y = (x - zero_point) * scale`, blocks of `block_size` along `axis`.
//!
//! ONNX Runtime fuses the product, unless its other optimizers reach it first: a Gemm is joined with an
//! activation or a transpose behind it, MatMul and Add of matrices become a Gemm, and a Relu or Clip right
//! behind a product hides it (measured on 1.32). A subtraction is none of that, so the bias of a Gemm is
//! subtracted with its sign turned, which is the same sum bit for bit.

use super::edit::Edit;
use super::{code_type, scale_type, stored};
use crate::calibrate::Fitted;
use crate::error::{Error, Result};
use crate::graph::{self, Addition, Form, Index, Site, Values, operand, rank, sole_consumer};
use crate::onnx::proto::{NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::{node, tensor};
use crate::quant::{Algorithm, ScaleStorage, Scheme, quantize};

/// Domain that keeps a node out of the raising of the operator set: it is of the new one already.
pub(super) const PENDING: &str = "efq.pending";

/// How a weight is to be stored.
pub(super) struct Wish<'f> {
    pub scheme: Scheme,
    pub algorithm: Algorithm,
    /// Its codes, where they are known already.
    pub fitted: Option<&'f Fitted>,
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
    match site.form {
        Form::Gemm { beta, .. } => gemm(edit, site, &original, dequantized, beta, shift.as_deref()),
        Form::Einsum { lead, .. } => einsum(edit, site, &original, dequantized, lead),
        Form::Left { rank } => {
            left(edit, site, &original, &dequantized, rank);
            Ok(())
        }
        _ => {
            if let Some(slot) = edit.node(site.at.node).and_then(|node| node.input.get_mut(site.at.input)) {
                *slot = dequantized;
            }
            let input = original.input.first().map_or("", String::as_str);
            let known = rank(&edit.index(site.at.node), input, 32).or_else(|| edit.rank(input));
            let matrix = known.is_none_or(|rank| rank == 2);
            matmul(edit, site, &original, matrix, shift.as_deref())
        }
    }
}

/// Adds the weight's initializers and the nodes that dequantize it; gives the name of the result.
fn dequantize(
    edit: &mut Edit<'_>,
    site: &Site,
    weight: &str,
    wish: Wish<'_>,
    key: (usize, usize),
) -> Result<String> {
    let Wish { scheme, algorithm, fitted } = wish;
    let (k, n) = (site.k, site.n);
    let half = site.operand.delivered == DataType::Float16;
    let code_type = code_type(scheme.code_kind());
    let grid = vec![scheme.blocks(k), n];
    let codes = edit.name(&format!("{weight}_quantized"));
    let scales = edit.name(&format!("{weight}_scale"));
    let result = edit.name(&format!("{weight}_dequantized"));
    let scale_type = scale_type(scheme.scales, scheme.symmetric);
    let mut parts = vec![(codes.clone(), code_type, vec![k, n]), (scales.clone(), scale_type, grid.clone())];
    let mut inputs = vec![codes, scales];
    if !scheme.symmetric {
        let zero_points = edit.name(&format!("{weight}_zero_point"));
        parts.push((zero_points.clone(), code_type, grid));
        inputs.push(zero_points);
    }
    let unit = (scheme.scales == ScaleStorage::Byte).then(|| edit.name(&format!("{weight}_scale_unit")));
    parts.extend(unit.iter().map(|unit| (unit.clone(), DataType::Float, vec![])));
    let values = Values::of(edit.model, site)?;
    let errors = edit.errors.clone();
    let fitted = fitted.map(|fitted| fitted.quantized.clone());
    edit.promise(
        site.at.node,
        parts,
        Box::new(move || {
            let made = match &fitted {
                Some(made) => made.clone(),
                None => quantize(&values.matrix()?, scheme, algorithm),
            };
            errors.push(key.0, key.1, made.error);
            let unit = made.unit.map(|unit| unit.to_le_bytes().to_vec());
            Ok([Some(made.codes), Some(made.scales), made.zero_points, unit].into_iter().flatten().collect())
        }),
    );
    if scheme.scales != ScaleStorage::F32 && !half {
        let wide = edit.name(&format!("{weight}_scale_float"));
        let cast = edit.name(&format!("{weight}_scale_Cast"));
        let to = node::int_attribute("to", DataType::Float as i64);
        let inner = inputs[1].clone();
        edit.insert_before(site.at.node, node::build("Cast", &cast, &[&inner], &[&wide], vec![to]));
        inputs[1] = wide;
    }
    if let Some(unit) = unit {
        let scaled = edit.name(&format!("{weight}_scale_scaled"));
        let name = edit.name(&format!("{weight}_scale_Mul"));
        edit.insert_before(site.at.node, node::build("Mul", &name, &[&inputs[1], &unit], &[&scaled], vec![]));
        inputs[1] = scaled;
    }
    let name = edit.name(&format!("{weight}_DequantizeLinear"));
    let attributes = vec![
        node::int_attribute("axis", 0),
        node::int_attribute("block_size", i64::try_from(scheme.block).unwrap_or(i64::MAX)),
    ];
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let mut dequantize = node::build("DequantizeLinear", &name, &inputs, &[&result], attributes);
    dequantize.domain = Some(PENDING.to_owned());
    edit.insert_before(site.at.node, dequantize);
    Ok(result)
}

/// Replaces an Einsum by the product of its operands as matrices.
fn einsum(edit: &mut Edit<'_>, site: &Site, original: &NodeProto, weight: String, lead: usize) -> Result<()> {
    let Form::Einsum { summed, made, .. } = &site.form else { return Ok(()) };
    let at = site.at.node;
    let output = original.output.first().cloned().unwrap_or_default();
    let mut activation = original.input.get(1 - site.at.input.min(1)).cloned().unwrap_or_default();
    if summed.len() > 1 {
        let rows = edit.name(&format!("{output}_rows"));
        let reshape = reshape(edit, at, &activation, &rows, lead, &[site.k]);
        edit.insert_before(at, reshape);
        activation = rows;
    }
    if made.len() > 1 {
        let product = edit.name(&format!("{output}_product"));
        let name = edit.name(&format!("{output}_MatMul"));
        let matmul = node::build("MatMul", &name, &[&activation, &weight], &[&product], vec![]);
        let reshape =
            NodeProto { name: original.name.clone(), ..reshape(edit, at, &product, &output, lead, made) };
        edit.replace(at, vec![matmul, reshape]);
        return Ok(());
    }
    let plain = node::build("MatMul", original.name(), &[&activation, &weight], &[&output], vec![]);
    if let Some(node) = edit.node(at) {
        node.clone_from(&plain);
    }
    matmul(edit, site, &plain, lead == 1, None)
}

/// Replaces `W · X` by the transposed product of the transposed operands, which is fused; that of a vector needs no
/// transposing.
fn left(edit: &mut Edit<'_>, site: &Site, original: &NodeProto, weight: &str, rank: usize) {
    let at = site.at.node;
    let activation = original.input.get(1).map_or("", String::as_str);
    let output = original.output.first().map_or("", String::as_str);
    if rank < 2 {
        edit.replace(
            at,
            vec![node::build("MatMul", original.name(), &[activation, weight], &[output], vec![])],
        );
        return;
    }
    let axes = i64::try_from(rank).unwrap_or(i64::MAX);
    let order: Vec<i64> = (0..axes - 2).chain([axes - 1, axes - 2]).collect();
    let transposed = |name: &str, input: &str, output: &str| {
        node::build("Transpose", name, &[input], &[output], vec![node::ints_attribute("perm", &order)])
    };
    let added = rank == 2 && Addition::to(&edit.index(at), output, site.operand.delivered).is_some();
    let (columns, product) =
        (edit.name(&format!("{output}_columns")), edit.name(&format!("{output}_product")));
    let names = [edit.name(&format!("{output}_Transpose")), edit.name(&format!("{output}_MatMul"))];
    let mut nodes = vec![
        transposed(&names[0], activation, &columns),
        node::build("MatMul", &names[1], &[&columns, weight], &[&product], vec![]),
    ];
    let mut rows = product.clone();
    if added {
        rows = edit.name(&format!("{output}_apart"));
        nodes.push(subtraction(edit, site, &rows, &product, (&vec![0.0; site.n], ""), ""));
    }
    nodes.push(transposed(original.name(), &rows, output));
    edit.replace(at, nodes);
}

/// `output` is `input` with its first `lead` axes kept and `sizes` behind them.
fn reshape(
    edit: &mut Edit<'_>,
    at: usize,
    input: &str,
    output: &str,
    lead: usize,
    sizes: &[usize],
) -> NodeProto {
    // 0 stands for the size that is there.
    let sizes = sizes.iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX));
    let sizes: Vec<i64> = std::iter::repeat_n(0, lead).chain(sizes).collect();
    let shape = edit.name(&format!("{output}_shape"));
    let raw: Vec<u8> = sizes.iter().flat_map(|value| value.to_le_bytes()).collect();
    edit.add(at, tensor::from_raw(&shape, DataType::Int64, &[sizes.len()], raw));
    let name = edit.name(&format!("{output}_Reshape"));
    node::build("Reshape", &name, &[input, &shape], &[output], vec![])
}

/// Keeps what follows a MatMul from hiding its product; `matrix` is whether that may be of rank 2.
fn matmul(
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
        Some((_, next)) if hides(next) || matrix && meets_no_vector(&index, site, output) => {
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
            let hidden = sole_consumer(&index, sum).is_some_and(|(_, next)| hides(next));
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
            stored::halved(edit, name, &[values.len()], half.to_vec());
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

/// Replaces a Gemm by the product, with its factors in the weight and the bias, and the bias subtracted.
fn gemm(
    edit: &mut Edit<'_>,
    site: &Site,
    original: &NodeProto,
    weight: String,
    beta: f32,
    shift: Option<&[f32]>,
) -> Result<()> {
    let at = site.at.node;
    let activation = original.input.first().cloned().unwrap_or_default();
    let output = original.output.first().cloned().unwrap_or_default();
    let bias = original.input.get(2).filter(|name| !name.is_empty() && beta != 0.0);
    let index = edit.index(at);
    let is_hidden = sole_consumer(&index, &output).is_some_and(|(_, next)| hides(next))
        || meets_no_vector(&index, site, &output);
    let subtrahend = match bias {
        None if is_hidden => Some(vec![0.0; site.n]),
        None => {
            let product = node::build("MatMul", original.name(), &[&activation, &weight], &[&output], vec![]);
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
    let mut nodes = vec![node::build("MatMul", &name, &[&activation, &weight], &[&product], vec![])];
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
    let width = found.dims.last().copied().unwrap_or(1);
    if found.dims.iter().rev().skip(1).any(|dim| *dim != 1) || !(width == 1 || width == site.n) {
        return Ok(None);
    }
    // A bias of a higher rank than the product would raise that of the sum.
    if found.dims.len() > rank {
        return Ok(None);
    }
    let values = tensor::floats(tensor)
        .ok_or_else(|| Error::format(tensor::subject(tensor), "a bias that is not floating-point"))?;
    let step = if width == 1 { 0 } else { found.strides.last().copied().unwrap_or(1) };
    Ok((0..site.n).map(|column| values.get(column * step).map(|value| value * factor)).collect())
}

pub(super) fn float_tensor(name: &str, dims: &[usize], values: &[f32], kind: DataType) -> TensorProto {
    let raw: Vec<u8> = match kind {
        DataType::Float16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    let stored = if kind == DataType::Float16 { kind } else { DataType::Float };
    tensor::from_raw(name, stored, dims, raw)
}
