//! The blocked codes of a weight and the nodes that make floats of them, which ONNX Runtime folds into the product.

use super::edit::Edit;
use super::linear::Wish;
use super::{code_type, scale_type};
use crate::error::Result;
use crate::graph::{Site, Values};
use crate::onnx::node;
use crate::onnx::proto::tensor_proto::DataType;
use crate::plan::{unforeseen, unforeseen_error};
use crate::quant::{Quantized, ScaleStorage, quantize_surveyed};

/// Domain that keeps a node out of the raising of the operator set: it is of the new one already.
pub(super) const PENDING: &str = "efq.pending";

/// Adds the weight's initializers and the nodes that dequantize it; gives the name of the result.
pub(super) fn dequantize(
    edit: &mut Edit<'_>,
    site: &Site,
    weight: &str,
    wish: Wish<'_>,
    key: (usize, usize),
) -> Result<String> {
    let scheme = wish.scheme;
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
    promise(edit, site, weight, parts, wish, key, |made| {
        let unit = made.unit.map(|unit| unit.to_le_bytes().to_vec());
        [Some(made.codes), Some(made.scales), made.zero_points, unit].into_iter().flatten().collect()
    })?;
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

/// Promises `parts`, which `payloads` takes from the codes of the weight: those that are fitted, else made when the writer
/// asks for them.
pub(super) fn promise(
    edit: &mut Edit<'_>,
    site: &Site,
    weight: &str,
    parts: Vec<(String, DataType, Vec<usize>)>,
    wish: Wish<'_>,
    key: (usize, usize),
    payloads: impl Fn(Quantized) -> Vec<Vec<u8>> + Send + Sync + 'static,
) -> Result<()> {
    let Wish { scheme, algorithm, fitted } = wish;
    let values = Values::of(edit.model, site)?;
    let errors = edit.errors.clone();
    let fitted = fitted.map(|fitted| fitted.quantized.clone());
    let (reading, site_here, weight) = (edit.model.shared_digest(), site.clone(), weight.to_owned());
    edit.promise(
        site.at.node,
        parts,
        Box::new(move || {
            let made = match &fitted {
                Some(made) => made.clone(),
                None => {
                    let note = |bytes: &[u8]| reading.note(bytes);
                    let (made, seen) = quantize_surveyed(&values.matrix()?, scheme, algorithm, note);
                    if let Some(what) = seen.and_then(|seen| unforeseen(&seen, &site_here, scheme)) {
                        return Err(unforeseen_error(&weight, what));
                    }
                    made
                }
            };
            errors.push(key.0, key.1, made.error);
            Ok(payloads(made))
        }),
    );
    Ok(())
}
