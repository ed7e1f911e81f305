//! The blocked codes of a weight and the nodes that make floats of them, which ONNX Runtime folds into the product.

use std::ops::Range;
use std::sync::Mutex;

use super::bands::{Bands, Part};
use super::edit::Edit;
use super::linear::Wish;
use super::{code_type, scale_type};
use crate::error::Result;
use crate::graph::{Site, Values};
use crate::onnx::node;
use crate::onnx::proto::tensor_proto::DataType;
use crate::plan::{unforeseen, unforeseen_error};
use crate::quant::{self, Matrix, Quantized, ScaleStorage, Survey, quantize_surveyed};

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
    let block = scheme.block;
    let mut parts = vec![
        Part::of_row(&codes, code_type, vec![k, n]),
        Part::of_rows(&scales, scale_type, grid.clone(), block),
    ];
    let mut inputs = vec![codes, scales];
    if !scheme.symmetric {
        let zero_points = edit.name(&format!("{weight}_zero_point"));
        parts.push(Part::of_rows(&zero_points, code_type, grid, block));
        inputs.push(zero_points);
    }
    let unit = (scheme.scales == ScaleStorage::Byte).then(|| edit.name(&format!("{weight}_scale_unit")));
    parts.extend(unit.iter().map(|unit| Part::of_rows(unit, DataType::Float, vec![], k.max(1))));
    let bands = match wish.is_whole() {
        true => Bands::whole(k),
        false => Bands::of_blocks(k, n, scheme),
    };
    promise(edit, site, weight, parts, wish, key, (bands, rows), |made, _| {
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
        node::int_attribute("block_size", i64::try_from(block).unwrap_or(i64::MAX)),
    ];
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let mut dequantize = node::build("DequantizeLinear", &name, &inputs, &[&result], attributes);
    dequantize.domain = Some(PENDING.to_owned());
    edit.insert_before(site.at.node, dequantize);
    Ok(result)
}

fn rows(matrix: Matrix<'_>, band: Range<usize>) -> Matrix<'_> {
    matrix.band(band)
}

/// What a band is of a weight.
pub(super) type Cut = for<'a> fn(Matrix<'a>, Range<usize>) -> Matrix<'a>;

/// Promises `parts`, which `payloads` takes from the codes of a band of the weight: those that are fitted (as a whole), else
/// made when the writer asks for them, of what `cut` gives of the weight.
#[expect(clippy::too_many_arguments, reason = "what is promised, of which weight, and how it is made")]
pub(super) fn promise(
    edit: &mut Edit<'_>,
    site: &Site,
    weight: &str,
    parts: Vec<Part>,
    wish: Wish<'_>,
    key: (usize, usize),
    (bands, cut): (Bands, Cut),
    payloads: impl Fn(Quantized, Range<usize>) -> Vec<Vec<u8>> + Send + Sync + 'static,
) -> Result<()> {
    let Wish { scheme, algorithm, fitted } = wish;
    let values = Values::of(edit.model, site)?;
    let errors = edit.errors.clone();
    let fitted = fitted.map(|fitted| fitted.quantized.clone());
    let (reading, site_here, weight) = (edit.model.shared_digest(), site.clone(), weight.to_owned());
    let seen = Mutex::new((Survey::EMPTY, bands.list.len()));
    let produce = move |band: Range<usize>| {
        let made = match &fitted {
            Some(made) => made.clone(),
            None => {
                let note = |bytes: &[u8]| reading.note(bytes);
                let matrix = values.matrix()?;
                let (made, survey) = quantize_surveyed(&cut(matrix, band.clone()), scheme, algorithm, note);
                let survey = survey.and_then(|survey| joined(&seen, survey));
                // A band does not know where its values stand in the weight.
                let survey = survey.map(|all| match all.first_non_finite {
                    Some(_) => quant::survey(&matrix, scheme.block),
                    None => all,
                });
                if let Some(what) = survey.and_then(|all| unforeseen(&all, &site_here, scheme)) {
                    return Err(unforeseen_error(&weight, what));
                }
                made
            }
        };
        errors.push(key, &band, made.error);
        Ok(payloads(made, band))
    };
    edit.promise(site.at.node, parts, &bands, produce);
    Ok(())
}

/// The survey of all bands, once `survey` is that of the last one to be made.
fn joined(seen: &Mutex<(Survey, usize)>, survey: Survey) -> Option<Survey> {
    let mut seen = seen.lock().ok()?;
    *seen = (seen.0.and(survey), seen.1.saturating_sub(1));
    (seen.1 == 0).then_some(seen.0)
}
