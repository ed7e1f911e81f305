//! Some columns of a weight on their way to codes.

use std::ops::Range;

use faer::mat::MatRef;

use super::prepared::Prepared;
use super::{LEAST_GAIN, ROUNDS, Steps, TABU_ROUNDS, descent, gptq, refit, tabu};
use crate::linalg;
use crate::quant::grid::{Grid, whole_units};
use crate::quant::levels::Levels;
use crate::quant::rounding::{bound, round_to_f16};
use crate::quant::scheme::{Bits, ScaleStorage, Scheme};
use crate::quant::simd::Simd;

/// `width` columns of a `[K,N]` weight, row-major `[K,width]`, with their grid `[blocks,width]`.
pub(super) struct Strip {
    pub k: usize,
    pub width: usize,
    pub block: usize,
    pub target: Vec<f32>,
    pub scales: Vec<f32>,
    pub zeros: Vec<f32>,
    pub lowest: f32,
    pub highest: f32,
    scheme: Scheme,
    unit: f32,
    /// Largest magnitude and least scale of each block, as the survey of the weight promised.
    bounds: Vec<(f32, f32)>,
}

impl Strip {
    #[expect(clippy::too_many_arguments, reason = "one call; a struct would only repeat these names")]
    pub fn new(
        weight: &[f32],
        target: &[f32],
        n: usize,
        columns: Range<usize>,
        start: &Grid,
        scheme: Scheme,
        levels: &Levels,
        k: usize,
    ) -> Self {
        let width = columns.len();
        let cut = |from: &[f32]| -> Vec<f32> {
            from.chunks_exact(n).flat_map(|row| row[columns.clone()].iter().copied()).collect()
        };
        let mut bounds = vec![(0.0f32, 0.0f32); scheme.blocks(k) * width];
        for (row, values) in weight.chunks_exact(n).enumerate() {
            let at = row / scheme.block * width;
            for (bound, value) in bounds[at..at + width].iter_mut().zip(&values[columns.clone()]) {
                bound.1 = bound.1.max(value.abs());
            }
        }
        for bound in &mut bounds {
            bound.0 = levels.least_scale(bound.1);
        }
        Strip {
            k,
            width,
            block: scheme.block,
            target: cut(target),
            scales: cut(&start.scales),
            zeros: cut(&start.zeros),
            lowest: levels.lowest,
            highest: levels.highest,
            scheme,
            unit: start.unit.unwrap_or(1.0),
            bounds,
        }
    }

    /// The codes `[K,width]`, with the scales brought to what is stored.
    pub fn solve(&mut self, simd: Simd, prepared: &Prepared, steps: Steps) -> Vec<f32> {
        let mut codes = gptq::codes(self, prepared, steps.carry);
        let k = self.k;
        let mut aim = vec![0.0; k * self.width];
        if steps.refit {
            let moments = MatRef::from_row_major_slice(&prepared.natural, k, k);
            linalg::add_product(&mut aim, moments, &self.target, self.width, 1.0);
        }
        let mut before = f64::INFINITY;
        for _ in 0..if steps.descent { ROUNDS } else { 0 } {
            if steps.refit {
                refit::scales(self, &codes, &aim, prepared);
            }
            let error = descent::sweep(self, &mut codes, prepared);
            if before - error < LEAST_GAIN * before {
                break;
            }
            before = error;
        }
        if steps.refit {
            refit::scales(self, &codes, &aim, prepared);
        }
        // Codes of 8 bits are next to the best ones already.
        let searched = steps.tabu && self.scheme.bits == Bits::Four;
        for _ in 0..if searched { TABU_ROUNDS } else { 0 } {
            tabu::search(simd, self, &mut codes, prepared);
            if steps.refit {
                refit::scales(self, &codes, &aim, prepared);
            }
        }
        codes
    }

    /// The scale nearest to `scale` that may be stored for block cell `at`; `None` if none is near.
    pub fn storable(&self, at: usize, scale: f32) -> Option<f32> {
        let (least, largest) = *self.bounds.get(at)?;
        let magnitude = scale.abs();
        if !(magnitude.is_finite() && magnitude > 0.0 && largest > 0.0) {
            return None;
        }
        let magnitude = bound(magnitude, least, largest);
        let stored = match self.scheme.scales {
            ScaleStorage::F32 => magnitude.max(f32::MIN_POSITIVE),
            ScaleStorage::F16 => round_to_f16(magnitude),
            ScaleStorage::Byte if !self.scheme.symmetric && scale < 0.0 => return None,
            ScaleStorage::Byte => whole_units(magnitude, self.unit, self.scheme.most_units()),
        };
        Some(stored.copysign(scale))
    }
}
