//! Codes that make up for one another's errors: the squared error of a linear's output, over the second
//! moments of its activations, instead of the squared error of its weights.
//!
//! For a weight W `[K,N]`, decoded Ŵ and H = X̂ᵀX̂/n, every column of E = Ŵ - W* is charged eᵀHe, and columns
//! are independent. In turn: codes by `gptq` (arXiv 2210.17323), then rounds of `refit` (all scales of a
//! column together) and `descent` (codes one at a time, as in COMQ, arXiv 2403.07134), last `tabu` (codes also against
//! the slope). W* is [`target`]: W,
//! moved so that the layer also answers for the difference of its inputs (GPTAQ, arXiv 2504.02692).

mod descent;
mod gptq;
mod prepared;
mod refit;
mod strip;
mod tabu;
mod target;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

use super::error::WeightError;
use super::grid::Grid;
use super::levels::Levels;
use super::pack::pack_nibbles;
use super::quantize::Quantized;
use super::scheme::{Bits, Scheme};
use super::simd::Simd;
use crate::progress::Progress;

pub use prepared::{Damping, Prepared};
pub use target::target;

use strip::Strip;

/// Columns that are solved together: the unit of parallel work.
const STRIP: usize = 64;
/// Rounds of refit and descent at most.
const ROUNDS: usize = 3;
/// Rounds of tabu search and refit.
const TABU_ROUNDS: usize = 4;
/// A round that lowers the error by a smaller share is the last.
const LEAST_GAIN: f64 = 1e-3;

/// Which steps are taken; all of them, but for measuring what each adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// The error of a row is carried on to the rows after it (GPTQ).
    pub carry: bool,
    /// All scales of a column are refitted together.
    pub refit: bool,
    /// Coordinate descent over the codes.
    pub descent: bool,
    /// Tabu search over codes of 4 bits.
    pub tabu: bool,
}

impl Steps {
    /// Each code is the nearest to its weight on the grid that is given.
    pub const NONE: Self = Self { carry: false, refit: false, descent: false, tabu: false };
}

impl Default for Steps {
    fn default() -> Self {
        Self { carry: true, refit: true, descent: true, tabu: true }
    }
}

/// Integer codes and their grid, before packing.
#[derive(Debug, Clone, PartialEq)]
pub struct Coded {
    /// `[K,N]`, integers of the scheme.
    pub codes: Vec<f32>,
    /// `[blocks,N]` each.
    pub grid: Grid,
}

/// Finds codes and scales for columns `columns` of `target` (`[K,N]`), starting from the scales and zero
/// points of `start`, whose zero points stay. `weight` (`[K,N]`) bounds the scales as the plan was told.
///
/// The result covers `columns` only: `[K,columns]`.
#[expect(clippy::too_many_arguments, reason = "a weight, what it is fitted to, and how")]
pub fn compensate(
    weight: &[f32],
    target: &[f32],
    n: usize,
    columns: std::ops::Range<usize>,
    start: &Grid,
    scheme: Scheme,
    prepared: &Prepared,
    steps: Steps,
    progress: &dyn Progress,
) -> Coded {
    let (k, simd) = (prepared.k(), Simd::detect());
    let levels = Levels::of(scheme);
    let lefts: Vec<usize> = columns.clone().step_by(STRIP).collect();
    let strips: Vec<(Strip, Vec<f32>)> = lefts
        .into_par_iter()
        .map(|left| {
            let right = columns.end.min(left + STRIP);
            let mut strip = Strip::new(weight, target, n, left..right, start, scheme, &levels, k);
            // An interrupted result is of no use to anyone.
            let codes = if progress.cancelled() {
                vec![0.0; k * (right - left)]
            } else {
                strip.solve(simd, prepared, steps)
            };
            progress.advance(0);
            (strip, codes)
        })
        .collect();
    let width = columns.len();
    let blocks = scheme.blocks(k);
    let mut coded = Coded {
        codes: vec![0.0; k * width],
        grid: Grid { scales: vec![0.0; blocks * width], zeros: vec![0.0; blocks * width], unit: start.unit },
    };
    let mut left = 0;
    for (strip, codes) in &strips {
        let w = strip.width;
        let copy = |to: &mut [f32], from: &[f32]| {
            for (to, from) in to.chunks_exact_mut(width).zip(from.chunks_exact(w)) {
                if let Some(part) = to.get_mut(left..left + w) {
                    part.copy_from_slice(from);
                }
            }
        };
        copy(&mut coded.codes, codes);
        copy(&mut coded.grid.scales, &strip.scales);
        copy(&mut coded.grid.zeros, &strip.zeros);
        left += w;
    }
    coded
}

impl Coded {
    /// The decoded values `[K,N]`, as stored.
    pub fn values(&self, n: usize, block: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.codes.len());
        for (row, codes) in self.codes.chunks_exact(n.max(1)).enumerate() {
            let at = row / block * n;
            let (scales, zeros) = (&self.grid.scales[at..at + n], &self.grid.zeros[at..at + n]);
            out.extend(
                codes.iter().zip(scales).zip(zeros).map(|((code, scale), zero)| (code - zero) * scale),
            );
        }
        out
    }

    /// The bytes of the ONNX tensors, with the distance to `weight`.
    pub fn pack(&self, weight: &[f32], n: usize, scheme: Scheme) -> Quantized {
        let bytes: Vec<u8> = self.codes.iter().map(|code| *code as i32 as u8).collect();
        let codes = match scheme.bits {
            Bits::Four => pack_nibbles(&bytes),
            Bits::Eight => bytes,
        };
        let mut error = WeightError::default();
        for (value, original) in self.values(n, scheme.block).iter().zip(weight) {
            let difference = value - original;
            error.squared_error += f64::from(difference).powi(2);
            error.squared_signal += f64::from(*original).powi(2);
            error.max_abs_error = error.max_abs_error.max(difference.abs());
        }
        Quantized {
            codes,
            scales: self.grid.scale_bytes(scheme.scales),
            zero_points: self.grid.zero_point_bytes(scheme),
            unit: self.grid.unit,
            error,
        }
    }
}
