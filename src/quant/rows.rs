//! INT8 rows for embedding tables: one scale a row.

use rayon::prelude::*;

use super::{
    encode::{EncodeTile, Tally},
    error::WeightError,
    fit::{Algorithm, TASK_COLUMNS, fit_on},
    levels::Levels,
    matrix::Matrix,
    scheme::{Bits, ScaleStorage, Scheme},
    simd::Simd,
};

/// Rows encoded by one task.
const STRIP_ROWS: usize = 16;

/// A table of `[rows,columns]` values `code * scale of the row`.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedRows {
    /// i8 `[rows,columns]`, -127..=127.
    pub codes: Vec<u8>,
    /// `[rows,1]`, little-endian.
    pub scales: Vec<u8>,
    /// Measured with the scales as stored.
    pub error: WeightError,
}

/// Quantizes each row of `matrix` (k = rows of the table, n = its width), whose values must be finite.
///
/// Whether fp16 scales fit is told by [`survey`](super::survey()) of the transposed matrix with its
/// width as block, and [`fp16_scales_fit`](super::fp16_scales_fit) for [`row_scheme`].
pub fn quantize_rows(matrix: &Matrix, scales: ScaleStorage, algorithm: Algorithm) -> QuantizedRows {
    quantize_rows_on(Simd::detect(), matrix, scales, algorithm)
}

/// The scheme of a table of this width: each row is one block of the transposed matrix.
pub fn row_scheme(width: usize, scales: ScaleStorage) -> Scheme {
    Scheme { bits: Bits::Eight, block: width.max(1), symmetric: true, scales }
}

pub(super) fn quantize_rows_on(
    simd: Simd,
    matrix: &Matrix,
    scales: ScaleStorage,
    algorithm: Algorithm,
) -> QuantizedRows {
    let (k, n) = (matrix.k(), matrix.n());
    let scheme = row_scheme(n, scales);
    let levels = Levels::of(scheme);
    let grid = fit_on(simd, &matrix.transposed(), scheme, algorithm);
    let mut codes = vec![0; k * n];
    let strips = codes.par_chunks_mut((STRIP_ROWS * n).max(1)).enumerate();
    let errors = strips.map_init(Vec::new, |tile, (strip, codes)| {
        let mut tally = Tally::default();
        for (row, codes) in (strip * STRIP_ROWS..).zip(codes.chunks_exact_mut(n)) {
            let scales = [grid.scales[row]; TASK_COLUMNS];
            for (left, codes) in (0..).step_by(TASK_COLUMNS).zip(codes.chunks_mut(TASK_COLUMNS)) {
                let width = codes.len();
                tile.resize(width, 0.0);
                matrix.tile(row..row + 1, left..left + width, tile);
                simd.run(EncodeTile {
                    values: tile,
                    scales: &scales[..width],
                    zeros: &[0.0; TASK_COLUMNS][..width],
                    levels: &levels,
                    codes,
                    stride: width,
                    tally: &mut tally,
                });
            }
        }
        tally.total()
    });
    let error = errors.collect::<Vec<_>>().into_iter().sum();
    QuantizedRows { codes, scales: grid.scale_bytes(scales), error }
}
