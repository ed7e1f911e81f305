//! A linear whose inputs are too many for second moments of all pairs, fitted band by band: correlations between the
//! inputs of different bands are left out.

use std::ops::Range;

use super::Fitted;
use super::fit::Outcome;
use super::shared::Shared;
use super::trial::Judges;
use crate::quant::{ScaleStorage, Scheme};

/// Wider activations than this have no moments of all pairs: those would take too long to factor.
const WIDEST: usize = 12_288;
/// Inputs of a band are a multiple of this: two blocks of the largest size, so that packed codes and zero points of
/// bands end in whole bytes.
const STEP: usize = 512;

/// What a band of the inputs of linears comes with.
pub(super) struct Band {
    pub inputs: Range<usize>,
    pub shared: Shared,
    pub judges: Judges,
}

impl Band {
    /// All `k` inputs, of which nothing is known.
    pub fn without(k: usize) -> Self {
        Self { inputs: 0..k, shared: Shared::new(None), judges: Judges::Rows(Vec::new(), Vec::new()) }
    }
}

/// The bands in which `width` inputs are taken where moments of so many pairs are in memory.
pub fn bands(width: usize, pairs: usize) -> Vec<Range<usize>> {
    if width <= WIDEST && width.saturating_mul(width) <= pairs || width <= STEP {
        return std::iter::once(0..width).collect();
    }
    let widest = ((pairs / width).min(WIDEST) / STEP * STEP).max(STEP);
    let each = width.div_ceil(width.div_ceil(widest)).next_multiple_of(STEP);
    (0..width).step_by(each).map(|first| first..width.min(first + each)).collect()
}

/// Whether a weight of this scheme can be put together from bands.
pub(super) fn suits(scheme: Scheme) -> bool {
    STEP.is_multiple_of(2 * scheme.block) && scheme.scales != ScaleStorage::Byte
}

/// The weight made of bands, in order; `None` if there are none.
pub(super) fn joined(outcomes: Vec<Outcome>) -> Option<Outcome> {
    outcomes.into_iter().reduce(|mut all, band| {
        let (to, from) = (&mut all.fitted.quantized, band.fitted.quantized);
        to.codes.extend(from.codes);
        to.scales.extend(from.scales);
        if let (Some(to), Some(from)) = (&mut to.zero_points, from.zero_points) {
            to.extend(from);
        }
        to.error = to.error.and(from.error);
        let shift = match (all.fitted.shift.take(), band.fitted.shift) {
            (Some(a), Some(b)) => Some(a.iter().zip(b).map(|(a, b)| a + b).collect()),
            (a, b) => a.or(b),
        };
        Outcome {
            algorithm: if all.is_fitted() { all.algorithm } else { band.algorithm },
            errors: all.errors.zip(band.errors).map(|(a, b)| a.and(b)).or(all.errors).or(band.errors),
            // What was fitted in part was fitted.
            fallback: all.fallback.and(band.fallback),
            fitted: Fitted { quantized: all.fitted.quantized, shift },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_whole_and_as_wide_as_memory_lets_them() {
        let whole = |width: usize, pairs| bands(width, pairs) == vec![0..width; 1];
        assert!(whole(384, 0) && whole(1536, 1536 * 1536) && whole(0, 0));
        assert_eq!(bands(1536, 1536 * 1536 - 1), [0..1024, 1024..1536]);
        assert_eq!(bands(14_336, usize::MAX), [0..7168, 7168..14_336]);
        let many = bands(11_008, 0);
        assert_eq!((many.len(), many[0].clone(), many[21].clone()), (22, 0..512, 10_752..11_008));
    }
}
