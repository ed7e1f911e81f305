//! What must be known of a matrix before its quantized form is laid out.

use rayon::prelude::*;

use super::{
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
    /// Of no values.
    pub const EMPTY: Survey = Survey { first_non_finite: None, max_abs: 0.0, least_block_max: f32::INFINITY };

    /// Of finite values, of which the least largest magnitude of a block and the largest are known.
    pub(super) fn of_extent((least_block_max, max_abs): (f32, f32)) -> Survey {
        Survey { first_non_finite: None, max_abs, least_block_max }
    }

    /// Of the values of both, as far as places go: of parts of one matrix that were told as places in it.
    pub fn and(self, other: Survey) -> Survey {
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
    let strips = n.div_ceil(STRIP_COLUMNS);
    (0..k.div_ceil(block) * strips)
        .into_par_iter()
        .map_init(Vec::new, |tile, task| {
            let (top, left) = (task / strips * block, task % strips * STRIP_COLUMNS);
            let (height, width) = (block.min(k - top), STRIP_COLUMNS.min(n - left));
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

/// Columns of the unit of parallel work: a page of float32 values.
const STRIP_COLUMNS: usize = 1024;

/// Rows read at a time: a tile stays in the cache whatever the block is.
const TILE_ROWS: usize = 32;

fn survey_block(
    simd: Simd,
    matrix: &Matrix,
    [top, left, height, width]: [usize; 4],
    tile: &mut Vec<f32>,
) -> Survey {
    let mut column_max = [0.0_f32; STRIP_COLUMNS];
    let column_max = &mut column_max[..width];
    let (columns, mut first_non_finite) = (left..left + width, None);
    for row in (top..top + height).step_by(TILE_ROWS) {
        let rows = row..(top + height).min(row + TILE_ROWS);
        // What lies in memory as it is wanted is not copied.
        let plain = rows.clone().map_while(|row| matrix.plain_row(row, columns.clone()));
        if matrix.is_plain() && simd.run(Scan { rows: plain, column_max }) {
            continue;
        }
        tile.resize(rows.len() * width, 0.0);
        matrix.tile(rows, columns.clone(), tile);
        let finite = simd.run(Scan { rows: tile.chunks_exact(width), column_max });
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

/// A float32 value, or its little-endian bytes.
trait Value: Copy {
    fn float(self) -> f32;
}

impl Value for f32 {
    #[inline(always)]
    fn float(self) -> f32 {
        self
    }
}

impl Value for [u8; 4] {
    #[inline(always)]
    fn float(self) -> f32 {
        f32::from_le_bytes(self)
    }
}

/// Raises the maxima of the columns to the finite magnitudes of the rows; true when all are finite.
struct Scan<'a, R> {
    rows: R,
    column_max: &'a mut [f32],
}

impl<'r, V: Value + 'r, R: Iterator<Item = &'r [V]>> Kernel for Scan<'_, R> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let mut bad = 0_u32;
        for row in self.rows {
            for (max, value) in self.column_max.iter_mut().zip(row) {
                let magnitude = value.float().abs();
                let finite = magnitude <= f32::MAX;
                bad |= u32::from(!finite);
                let magnitude = if finite { magnitude } else { 0.0 };
                *max = if magnitude > *max { magnitude } else { *max };
            }
        }
        bad == 0
    }
}
