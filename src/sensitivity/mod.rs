//! What quantizing each weight costs: the error of the weight itself, the bytes, and, with samples, the error
//! at the output when nothing else is quantized. How a choice is made of it is not known here.

mod decoded;
mod reach;

use rayon::prelude::*;

use crate::data::Sample;
use crate::engine::{Output, Runner};
use crate::error::{Error, Result};
use crate::graph::{Form, Inventory, Origin, Site, Values, stored};
use crate::onnx::{Model, tensor};
use crate::progress::Progress;
use crate::quant::{Algorithm, PackedRows, ScaleStorage, Scheme, WeightError, measure, quantize_rows};

pub use decoded::{decoded, decoded_blocks};
pub use reach::{Reach, expected, reach, reach_of};

/// A way to store the weight of a site.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Candidate {
    /// Blocked codes, for a linear.
    Blocks(Scheme),
    /// 4-bit rows, for a table.
    PackedRows(PackedRows),
    /// INT8 rows, for a table.
    Rows(ScaleStorage),
}

/// The error of a site's weight stored as `candidate`.
///
/// # Errors
/// [`crate::error::Kind::Format`] when the weight cannot be read.
pub fn weight_error(
    model: &Model,
    site: &Site,
    candidate: Candidate,
    algorithm: Algorithm,
) -> Result<WeightError> {
    let values = Values::of(model, site)?;
    Ok(match candidate {
        Candidate::Blocks(scheme) => measure(&values.matrix()?, scheme, algorithm),
        Candidate::PackedRows(format) => format.quantize(&values.matrix()?, algorithm).2,
        Candidate::Rows(scales) => quantize_rows(&values.matrix()?, scales, algorithm).error,
    })
}

/// The squared relative error of the output when only the weight of one site is stored as its candidate, for
/// each of `wanted`; `None` where that cannot be run alone.
///
/// The sum over sites predicts the squared relative error of all of them together.
///
/// # Errors
/// Errors of the runtime, or [`crate::error::Kind::Interrupted`].
pub fn output_errors(
    model: &Model,
    inventory: &Inventory,
    wanted: &[(usize, Candidate, Algorithm)],
    original: &Runner,
    samples: &[Sample],
    progress: &dyn Progress,
) -> Result<Vec<Option<f64>>> {
    let references: Vec<Output> =
        samples.par_iter().map(|sample| original.run(sample)).collect::<Result<_>>()?;
    progress.stage("measuring each tensor", wanted.len() as u64);
    let mut found = Vec::with_capacity(wanted.len());
    for (at, candidate, algorithm) in wanted {
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        let site = inventory.sites.get(*at).ok_or_else(|| Error::format("site", "is not in the model"))?;
        let one = one_quantized(model, site, *candidate, *algorithm, original)?;
        // A shared weight is replaced for all its uses at once: each gets its part.
        let shared =
            inventory.sites.iter().filter(|other| other.operand.origin == site.operand.origin).count();
        found.push(match one {
            None => None,
            Some(runner) => Some(distance(&runner, samples, &references)? / shared.max(1) as f64),
        });
        progress.advance(1);
    }
    Ok(found)
}

/// The original with the weight of one site as it comes back from `candidate`.
fn one_quantized(
    model: &Model,
    site: &Site,
    candidate: Candidate,
    algorithm: Algorithm,
    original: &Runner,
) -> Result<Option<Runner>> {
    let Some(tensor) = stored(model, &site.operand) else { return Ok(None) };
    let name = match site.operand.origin {
        Origin::Initializer(_) => tensor.name().to_owned(),
        Origin::Constant(at) => {
            // What stands in a body cannot be replaced from outside.
            let Some(node) = model.graph().node.get(at) else { return Ok(None) };
            node.output.first().cloned().unwrap_or_default()
        }
        Origin::Function(_) | Origin::Sparse => return Ok(None),
    };
    let Some(mut dense) = tensor::floats(tensor) else { return Ok(None) };
    let values = Values::of(model, site)?;
    let matrix = values.matrix()?;
    let n = site.n;
    let back = decoded(&matrix, candidate, algorithm);
    let Some(back) = back else { return Ok(None) };
    let alpha = match site.form {
        Form::Gemm { alpha, .. } if alpha != 0.0 => alpha,
        _ => 1.0,
    };
    let [row, column] = site.operand.strides.as_slice() else { return Ok(None) };
    for (at, value) in back.into_iter().enumerate() {
        if let Some(slot) = dense.get_mut(at / n * row + at % n * column) {
            *slot = value / alpha;
        }
    }
    Ok(original.with_constant(&name, &dense))
}

/// The squared distance of the output `found` from `reference`, and the square of that, over the positions that `mask`
/// counts: it speaks of them where the output has as many values for each.
pub fn squares(reference: &[f32], found: &[f32], mask: Option<&[bool]>) -> (f64, f64) {
    let mask = mask.filter(|mask| !mask.is_empty() && reference.len().is_multiple_of(mask.len()));
    let width = mask.map_or(1, |mask| reference.len() / mask.len()).max(1);
    let counted = reference.iter().zip(found).enumerate();
    let counted = counted.filter(|(at, _)| mask.is_none_or(|mask| mask.get(at / width) == Some(&true)));
    counted.fold((0.0, 0.0), |(error, signal), (_, (a, b))| {
        (error + f64::from(b - a).powi(2), signal + f64::from(*a).powi(2))
    })
}

fn distance(runner: &Runner, samples: &[Sample], references: &[Output]) -> Result<f64> {
    let parts: Vec<(f64, f64)> = samples
        .par_iter()
        .zip(references)
        .map(|(sample, reference)| {
            let output = runner.run(sample)?;
            Ok(squares(&reference.values, &output.values, sample.mask().as_deref()))
        })
        .collect::<Result<_>>()?;
    let (error, signal) = parts.iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    Ok(if signal > 0.0 { error / signal } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::squares;

    #[test]
    fn a_mask_speaks_of_positions_with_one_value_and_with_more() {
        let (reference, found) = ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 5.0, 5.0]);
        assert_eq!(squares(&reference, &found, Some(&[true, true, false, false])), (0.0, 5.0));
        assert_eq!(squares(&reference, &found, Some(&[true, false])), (0.0, 5.0));
        // One for the sample as a whole.
        for mask in [Some(&[false, true, true][..]), Some(&[]), None] {
            assert_eq!(squares(&reference, &found, mask), (5.0, 30.0));
        }
    }
}
