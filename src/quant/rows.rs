//! INT8 rows for embedding tables: one scale a row.

use rayon::prelude::*;

use super::{
    encode::{EncodeTile, Tally},
    error::WeightError,
    fit::{Algorithm, TASK_COLUMNS, fit_on},
    levels::Levels,
    matrix::Matrix,
    scheme::{Bits, Emit, ScaleStorage, Scheme},
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
    Scheme { bits: Bits::Eight, block: width.max(1), symmetric: true, scales, emit: Emit::Qdq }
}

pub(super) fn quantize_rows_on(
    simd: Simd,
    matrix: &Matrix,
    scales: ScaleStorage,
    algorithm: Algorithm,
) -> QuantizedRows {
    let (k, n) = (matrix.k(), matrix.n());
    let scheme = row_scheme(n, scales);
    let grid = fit_on(simd, &matrix.transposed(), scheme, algorithm, None);
    let mut codes = vec![0; k * n];
    let error =
        encode_rows(simd, matrix, scheme, &grid.scales, &mut codes, n, |row, out| out.copy_from_slice(row));
    QuantizedRows { codes, scales: grid.scale_bytes(scales), error }
}

/// Encodes each row of `matrix` and has `write` put its codes, one a byte, into its `row_bytes` bytes of `out`.
///
/// `scales` is `[blocks,rows]`, as fitted on the transposed matrix under `scheme`, which is symmetric.
pub(super) fn encode_rows(
    simd: Simd,
    matrix: &Matrix,
    scheme: Scheme,
    scales: &[f32],
    out: &mut [u8],
    row_bytes: usize,
    write: impl Fn(&[u8], &mut [u8]) + Sync,
) -> WeightError {
    let (k, n) = (matrix.k(), matrix.n());
    if k * n == 0 {
        return WeightError::default();
    }
    let levels = Levels::of(scheme);
    let strips = out.par_chunks_mut(STRIP_ROWS * row_bytes).enumerate();
    let errors =
        strips.map_init(Scratch::default, |Scratch { tile, scales: spread, codes }, (strip, out)| {
            let mut tally = Tally::default();
            codes.resize(n, 0);
            for (row, out) in (strip * STRIP_ROWS..).zip(out.chunks_exact_mut(row_bytes)) {
                for (left, codes) in (0..).step_by(TASK_COLUMNS).zip(codes.chunks_mut(TASK_COLUMNS)) {
                    let width = codes.len();
                    tile.resize(width, 0.0);
                    matrix.tile(row..row + 1, left..left + width, tile);
                    spread.clear();
                    spread.extend((left..left + width).map(|column| scales[column / scheme.block * k + row]));
                    simd.run(EncodeTile {
                        values: tile,
                        scales: spread,
                        zeros: &[0.0; TASK_COLUMNS][..width],
                        levels: &levels,
                        codes,
                        stride: width,
                        tally: &mut tally,
                    });
                }
                write(codes, out);
            }
            tally.total()
        });
    // Collected before adding: the sum must not depend on which thread was first.
    errors.collect::<Vec<_>>().into_iter().sum()
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    tile: Vec<f32>,
    /// The scale of each column of the tile.
    scales: Vec<f32>,
    /// Codes of a row, one a byte.
    codes: Vec<u8>,
}
