//! A linear layer as ONNX Runtime's own node: MatMulNBits (com.microsoft, version 1), with the arithmetic that a
//! fused one gets by default.
//!
//! It is what ONNX Runtime makes of the standard form, so nothing around it can keep it from being fused, and it
//! needs neither opset 21 nor a new IR. A bias stays an Add of its own: every release takes that, and adds it once.
//! Scales have the type of the activation and stand in the file so: behind a Cast, an unoptimized session computes
//! with wrong ones and says nothing (measured on 1.32).

use std::ops::Range;

use super::bands::{Bands, Part};
use super::dequantize::promise;
use super::edit::Edit;
use super::linear::{Wish, correct, framed, named, replace_vector, scaled, turned, vector};
use super::scale_type;
use crate::error::{Error, Result};
use crate::graph::{Form, Site, sole_consumer};
use crate::onnx::node;
use crate::onnx::proto::{ModelProto, NodeProto, OperatorSetIdProto, tensor_proto::DataType};
use crate::quant::{Matrix, NBits, ScaleStorage};

const DOMAIN: &str = "com.microsoft";

/// Activations are rounded to int8, as a default session does it in the nodes that it fuses itself.
const INT8_LEVEL: i64 = 4;
/// They are not. For float16, because ONNX Runtime widens the scales on every run unless all its optimizations are on, and
/// computes nonsense with such scales at the other level (measured on 1.32).
const FLOAT_LEVEL: i64 = 1;

pub(super) fn encode(
    edit: &mut Edit<'_>,
    site: &Site,
    weight: &str,
    wish: Wish<'_>,
    key: (usize, usize),
) -> Result<()> {
    let shift = wish.fitted.and_then(|fitted| fitted.shift.clone()).filter(|shift| shift.len() == site.n);
    let original = edit.node(site.at.node).cloned().unwrap_or_default();
    let frame = framed(edit, site, &original);
    let mut product = product(edit, site, weight, &frame.rows, wish, key)?;
    product.name.clone_from(&original.name);
    product.output = vec![frame.product.clone()];
    match site.form {
        Form::Gemm { beta, .. } if !frame.after.is_empty() => {
            product.name = Some(edit.name(&format!("{}_MatMulNBits", frame.product)));
            turned(edit, site, &original, frame, vec![product], beta)
        }
        Form::Gemm { beta, .. } => gemm(edit, site, &original, product, beta, shift.as_deref()),
        _ if !frame.after.is_empty() => {
            product.name = Some(edit.name(&format!("{}_MatMulNBits", frame.product)));
            let nodes = std::iter::once(product).chain(named(frame.after, original.name()));
            edit.replace(site.at.node, nodes.collect());
            Ok(())
        }
        _ => {
            edit.replace(site.at.node, vec![product]);
            shift.map_or(Ok(()), |shift| correct_bias(edit, site, &original, &shift))
        }
    }
}

/// Declares the operator set, unless the model does.
pub(super) fn declare(model: &mut ModelProto) {
    if !model.opset_import.iter().any(|import| import.domain() == DOMAIN) {
        model.opset_import.push(OperatorSetIdProto { domain: Some(DOMAIN.to_owned()), version: Some(1) });
    }
}

/// The node for the rows `activation`, without a bias, a name or a result; its initializers are promised.
fn product(
    edit: &mut Edit<'_>,
    site: &Site,
    weight: &str,
    activation: &str,
    wish: Wish<'_>,
    key: (usize, usize),
) -> Result<NodeProto> {
    let scheme = wish.scheme;
    let (k, n) = (site.k, site.n);
    let wanted = match site.operand.delivered {
        DataType::Float16 => ScaleStorage::F16,
        _ => ScaleStorage::F32,
    };
    if scheme.scales != wanted {
        return Err(Error::caller(
            "plan",
            format!("'{weight}' in MatMulNBits needs scales of the type of its activation"),
        )
        .help("make it again with `efq rewrite --dry-run --plan FILE`"));
    }
    let blocks = scheme.blocks(k);
    let codes = edit.name(&format!("{weight}_quantized"));
    let scales = edit.name(&format!("{weight}_scale"));
    let column = scheme.bits.bytes(scheme.block);
    let scale_type = scale_type(scheme.scales, scheme.symmetric);
    let mut parts = vec![
        Part::of_row(&codes, DataType::Uint8, vec![n, blocks, column]),
        Part::of_row(&scales, scale_type, vec![n, blocks]),
    ];
    let mut inputs = vec![activation.to_owned(), codes, scales];
    if !scheme.symmetric {
        let zero_points = edit.name(&format!("{weight}_zero_point"));
        parts.push(Part::of_row(&zero_points, DataType::Uint8, vec![n, scheme.nbits_zeros(k)]));
        inputs.push(zero_points);
    }
    let bands = match wish.is_whole() {
        true => Bands::whole(n),
        false => Bands::of(n, n * blocks * column, 1),
    };
    promise(edit, site, weight, parts, wish, key, (bands, columns), move |made, band| {
        let made = NBits::of(&made, scheme, k, band.len());
        [Some(made.codes), Some(made.scales), made.zero_points].into_iter().flatten().collect()
    })?;
    let level = if scheme.scales == ScaleStorage::F16 { FLOAT_LEVEL } else { INT8_LEVEL };
    let number =
        |name: &str, value: usize| node::int_attribute(name, i64::try_from(value).unwrap_or(i64::MAX));
    let attributes = vec![
        number("K", k),
        number("N", n),
        number("bits", usize::from(u8::from(scheme.bits))),
        number("block_size", scheme.block),
        node::int_attribute("accuracy_level", level),
    ];
    Ok(NodeProto {
        op_type: Some("MatMulNBits".to_owned()),
        domain: Some(DOMAIN.to_owned()),
        input: inputs,
        attribute: attributes,
        ..NodeProto::default()
    })
}

fn columns(matrix: Matrix<'_>, band: Range<usize>) -> Matrix<'_> {
    matrix.transposed().band(band).transposed()
}

/// Puts the product in the place of a Gemm, with its factors in the weight and the bias, and the bias behind it.
fn gemm(
    edit: &mut Edit<'_>,
    site: &Site,
    original: &NodeProto,
    mut product: NodeProto,
    beta: f32,
    shift: Option<&[f32]>,
) -> Result<()> {
    let Some(bias) = original.input.get(2).filter(|name| !name.is_empty() && beta != 0.0) else {
        edit.replace(site.at.node, vec![product]);
        return Ok(());
    };
    let output = original.output.first().cloned().unwrap_or_default();
    let inner = edit.name(&format!("{output}_product"));
    product.output = vec![inner.clone()];
    // The node that gives the old result takes the old name.
    product.name = Some(edit.name(&format!("{output}_MatMulNBits")));
    let mut nodes = vec![product];
    let addend = match vector(edit, site, bias, (beta, 2))? {
        Some(mut vector) => {
            vector.iter_mut().zip(shift.unwrap_or_default()).for_each(|(value, shift)| *value += shift);
            let name = edit.name(&format!("{output}_bias"));
            replace_vector(edit, site, &name, &vector, bias);
            name
        }
        None => scaled(edit, site, &output, bias, beta, &mut nodes),
    };
    nodes.push(node::build("Add", original.name(), &[&inner, &addend], &[&output], vec![]));
    edit.replace(site.at.node, nodes);
    Ok(())
}

/// Adds `shift` to the constant vector that an Add behind the product holds.
fn correct_bias(edit: &mut Edit<'_>, site: &Site, original: &NodeProto, shift: &[f32]) -> Result<()> {
    let output = original.output.first().map_or("", String::as_str);
    let Some((place, add)) =
        sole_consumer(&edit.index(site.at.node), output).filter(|(_, next)| node::is(next, "Add"))
    else {
        return Ok(());
    };
    let bias = add.input.iter().find(|name| *name != output).cloned().unwrap_or_default();
    let Some(mut vector) = vector(edit, site, &bias, (1.0, 1))? else { return Ok(()) };
    vector.iter_mut().zip(shift).for_each(|(value, shift)| *value += shift);
    correct(edit, site, place, &bias, &vector);
    Ok(())
}
