//! Quantizing a weight matrix to the bytes of an ONNX tensor.

use rayon::prelude::*;

use super::{
    encode::{EncodeTile, Tally},
    error::WeightError,
    fit::{Algorithm, TASK_COLUMNS, fit, fit_on},
    grid::Grid,
    levels::Levels,
    matrix::Matrix,
    pack::PackNibbles,
    scheme::{Bits, Scheme},
    simd::Simd,
};

/// A block-quantized `[K,N]` weight as ONNX stores it, of the type that [`Scheme`] names.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// `[K,N]` flat; 4-bit codes two to a byte, the first in the low nibble.
    pub codes: Vec<u8>,
    /// `[blocks,N]`, little-endian.
    pub scales: Vec<u8>,
    /// `[blocks,N]`, packed as the codes; `None` for a symmetric scheme.
    pub zero_points: Option<Vec<u8>>,
    /// What the codes of the scales count, for [`ScaleStorage::Byte`](super::ScaleStorage::Byte).
    pub unit: Option<f32>,
    /// Measured with the scales as stored.
    pub error: WeightError,
}

/// Quantizes `matrix`, whose values must be finite (see [`survey`](super::survey())); others give
/// unspecified codes. Scales are finite and not zero in any case where values are.
///
/// The bytes do not depend on the number of threads nor on the machine.
pub fn quantize(matrix: &Matrix, scheme: Scheme, algorithm: Algorithm) -> Quantized {
    quantize_on(Simd::detect(), matrix, scheme, algorithm)
}

/// The error that [`quantize`] would report.
pub fn measure(matrix: &Matrix, scheme: Scheme, algorithm: Algorithm) -> WeightError {
    let grid = fit(matrix, scheme, algorithm);
    let encoder = Encoder { simd: Simd::detect(), matrix, scheme, grid: &grid };
    let strips = 0..matrix.k().div_ceil(STRIP_ROWS);
    let errors =
        strips.into_par_iter().map_init(Scratch::default, |scratch, strip| encoder.strip(strip, scratch));
    // Collected before adding: the sum must not depend on which thread was first.
    errors.collect::<Vec<_>>().into_iter().sum()
}

pub(super) fn quantize_on(simd: Simd, matrix: &Matrix, scheme: Scheme, algorithm: Algorithm) -> Quantized {
    let (k, n) = (matrix.k(), matrix.n());
    let grid = fit_on(simd, matrix, scheme, algorithm);
    let encoder = Encoder { simd, matrix, scheme, grid: &grid };
    let mut codes = vec![0; scheme.codes_len(k, n)];
    let strip_bytes = scheme.bits.bytes(STRIP_ROWS * n).max(1);
    let strips = codes.par_chunks_mut(strip_bytes).enumerate();
    let errors = strips.map_init(Scratch::default, |scratch, (strip, out)| {
        let error = encoder.strip(strip, scratch);
        match scheme.bits {
            Bits::Four => simd.run(PackNibbles { codes: &scratch.codes, out }),
            Bits::Eight => out.copy_from_slice(&scratch.codes),
        }
        error
    });
    let error = errors.collect::<Vec<_>>().into_iter().sum();
    let (scales, zero_points) = (grid.scale_bytes(scheme.scales), grid.zero_point_bytes(scheme));
    Quantized { codes, scales, zero_points, unit: grid.unit, error }
}

/// Rows encoded together: an even number, so that each strip starts at a whole byte.
const STRIP_ROWS: usize = 16;

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    tile: Vec<f32>,
    /// Codes of a strip, one a byte.
    codes: Vec<u8>,
}

struct Encoder<'a> {
    simd: Simd,
    matrix: &'a Matrix<'a>,
    scheme: Scheme,
    grid: &'a Grid,
}

impl Encoder<'_> {
    /// Encodes the rows of one strip into `scratch.codes`.
    fn strip(&self, strip: usize, scratch: &mut Scratch) -> WeightError {
        let (k, n, block) = (self.matrix.k(), self.matrix.n(), self.scheme.block);
        let levels = Levels::of(self.scheme);
        let first = strip * STRIP_ROWS;
        let end = k.min(first + STRIP_ROWS);
        let Scratch { tile, codes } = scratch;
        codes.resize((end - first) * n, 0);
        let mut tally = Tally::default();
        let mut top = first;
        while top < end {
            let group = top / block;
            let bottom = end.min((group + 1) * block);
            for left in (0..n).step_by(TASK_COLUMNS) {
                let right = n.min(left + TASK_COLUMNS);
                tile.resize((bottom - top) * (right - left), 0.0);
                self.matrix.tile(top..bottom, left..right, tile);
                self.simd.run(EncodeTile {
                    values: tile,
                    scales: &self.grid.scales[group * n..][left..right],
                    zeros: &self.grid.zeros[group * n..][left..right],
                    levels: &levels,
                    codes: &mut codes[(top - first) * n + left..],
                    stride: n,
                    tally: &mut tally,
                });
            }
            top = bottom;
        }
        tally.total()
    }
}
