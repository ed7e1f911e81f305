//! What must be known of a matrix before its quantized form is laid out.

use rayon::prelude::*;

use super::{
    fit::TASK_COLUMNS,
    levels::Levels,
    matrix::Matrix,
    scheme::Scheme,
    simd::{Kernel, Simd},
};

/// Facts about a matrix, taken in one pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Survey {
    /// The first value in row-major order, as (row, column), that is not finite as f32.
    pub first_non_finite: Option<(usize, usize)>,
    /// Largest finite magnitude; 0 when all values are zero.
    pub max_abs: f32,
    /// The smallest, over the blocks that are not all zero, of the largest magnitude in the block;
    /// infinite when there is no such block.
    pub least_block_max: f32,
}

impl Survey {
    const EMPTY: Survey = Survey { first_non_finite: None, max_abs: 0.0, least_block_max: f32::INFINITY };

    fn and(self, other: Survey) -> Survey {
        Survey {
            first_non_finite: self.first_non_finite.into_iter().chain(other.first_non_finite).min(),
            max_abs: self.max_abs.max(other.max_abs),
            least_block_max: self.least_block_max.min(other.least_block_max),
        }
    }
}

/// Surveys `matrix` for blocks of `block` rows (not zero).
pub fn survey(matrix: &Matrix, block: usize) -> Survey {
    let (k, n, simd) = (matrix.k(), matrix.n(), Simd::detect());
    let strips = n.div_ceil(TASK_COLUMNS);
    (0..k.div_ceil(block) * strips)
        .into_par_iter()
        .map_init(Vec::new, |tile, task| {
            let (top, left) = (task / strips * block, task % strips * TASK_COLUMNS);
            let (height, width) = (block.min(k - top), TASK_COLUMNS.min(n - left));
            survey_block(simd, matrix, [top, left, height, width], tile)
        })
        .reduce(|| Survey::EMPTY, Survey::and)
}

/// True when every scale that fitting can choose for a block that is not all zero is a finite fp16
/// number of at least 2^-17, where fp16 still has 7 of its 11 significant bits.
///
/// The survey must have been taken with the block of the scheme.
pub fn fp16_scales_fit(survey: &Survey, scheme: Scheme) -> bool {
    const LEAST: f32 = 1.0 / 131_072.0;
    const LARGEST: f32 = 65504.0;
    // No fit chooses a scale above the largest magnitude of its block.
    survey.max_abs <= LARGEST && Levels::of(scheme).least_scale(survey.least_block_max) >= LEAST
}

/// True when scales counted in units of one size for the whole tensor tell all blocks apart, but for those a
/// thousandth of the largest.
pub fn byte_scales_fit(survey: &Survey) -> bool {
    const SPREAD: f32 = 1024.0;
    let in_range = |magnitude: f32| magnitude > 1e-30 && magnitude < 1e30;
    in_range(survey.max_abs)
        && (survey.least_block_max.is_infinite() || survey.least_block_max * SPREAD >= survey.max_abs)
}

/// Rows read at a time: a tile stays in the first-level cache whatever the block is.
const TILE_ROWS: usize = 32;

fn survey_block(
    simd: Simd,
    matrix: &Matrix,
    [top, left, height, width]: [usize; 4],
    tile: &mut Vec<f32>,
) -> Survey {
    let mut column_max = [0.0_f32; TASK_COLUMNS];
    let column_max = &mut column_max[..width];
    let mut first_non_finite = None;
    for row in (top..top + height).step_by(TILE_ROWS) {
        let rows = row..(top + height).min(row + TILE_ROWS);
        tile.resize(rows.len() * width, 0.0);
        matrix.tile(rows, left..left + width, tile);
        let finite = simd.run(Scan { tile, column_max });
        if !finite && first_non_finite.is_none() {
            let at = tile.iter().position(|value| !value.is_finite());
            first_non_finite = at.map(|at| (row + at / width, left + at % width));
        }
    }
    let nonzero = column_max.iter().copied().filter(|&max| max > 0.0);
    Survey {
        first_non_finite,
        max_abs: nonzero.clone().fold(0.0, f32::max),
        least_block_max: nonzero.fold(f32::INFINITY, f32::min),
    }
}

/// Raises the maxima of the columns to the finite magnitudes of the tile; true when all are finite.
struct Scan<'a> {
    tile: &'a [f32],
    column_max: &'a mut [f32],
}

impl Kernel for Scan<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let mut bad = 0_u32;
        for row in self.tile.chunks_exact(self.column_max.len()) {
            for (max, value) in self.column_max.iter_mut().zip(row) {
                let magnitude = value.abs();
                let finite = magnitude <= f32::MAX;
                bad |= u32::from(!finite);
                let magnitude = if finite { magnitude } else { 0.0 };
                *max = if magnitude > *max { magnitude } else { *max };
            }
        }
        bad == 0
    }
}
