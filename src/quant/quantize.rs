//! Quantizing a weight matrix to the bytes of an ONNX tensor.

use rayon::prelude::*;

use super::{
    encode::{EncodeTile, Tally},
    error::WeightError,
    fit::{Algorithm, Fitter, fit_on, tile_width},
    grid::Grid,
    levels::Levels,
    matrix::Matrix,
    pack::PackNibbles,
    scheme::{Bits, ScaleStorage, Scheme},
    simd::Simd,
    survey::{Survey, survey},
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
    /// What the codes of the scales count, for [`ScaleStorage::Byte`].
    pub unit: Option<f32>,
    /// Measured with the scales as stored.
    pub error: WeightError,
}

/// Quantizes `matrix`, whose values must be finite (see [`survey`](super::survey())); others give
/// unspecified codes. Scales are finite and not zero in any case where values are.
///
/// The bytes do not depend on the number of threads nor on the machine.
pub fn quantize(matrix: &Matrix, scheme: Scheme, algorithm: Algorithm) -> Quantized {
    quantize_surveyed(matrix, scheme, algorithm, |_| {}).0
}

/// [`quantize`] and [`survey`](super::survey()) with the block of the scheme, in one reading of values that are finite. There
/// is no survey for [`ScaleStorage::Byte`], which takes two.
///
/// `read` is told of the stored bytes of a band of rows right before the band is quantized, so that both read them in the
/// cache: of each part of a matrix whose rows are stored one behind the other, once.
pub fn quantize_surveyed(
    matrix: &Matrix,
    scheme: Scheme,
    algorithm: Algorithm,
    read: impl Fn(&[u8]) + Sync,
) -> (Quantized, Option<Survey>) {
    quantize_on(Simd::detect(), matrix, scheme, algorithm, read)
}

/// The error that [`quantize`] would report.
pub fn measure(matrix: &Matrix, scheme: Scheme, algorithm: Algorithm) -> WeightError {
    quantize(matrix, scheme, algorithm).error
}

pub(super) fn quantize_on(
    simd: Simd,
    matrix: &Matrix,
    scheme: Scheme,
    algorithm: Algorithm,
    read: impl Fn(&[u8]) + Sync,
) -> (Quantized, Option<Survey>) {
    let (k, n) = (matrix.k(), matrix.n());
    // Whole units need the largest scale of the tensor before any code is chosen; else a tile is read once.
    let at_once = scheme.scales != ScaleStorage::Byte;
    let mut grid = if at_once {
        let count = scheme.blocks(k) * n;
        Grid { scales: vec![0.0; count], zeros: vec![0.0; count], unit: None }
    } else {
        fit_on(simd, matrix, scheme, algorithm, None)
    };
    let mut codes = vec![0; scheme.codes_len(k, n)];
    // Each task starts at a whole byte.
    let blocks = if scheme.bits == Bits::Four && scheme.block * n % 2 == 1 { 2 } else { 1 };
    let encoder = Encoder { simd, matrix, scheme, fit: at_once.then_some(algorithm) };
    let tasks = codes
        .par_chunks_mut(scheme.bits.bytes(blocks * scheme.block * n).max(1))
        .zip(grid.scales.par_chunks_mut((blocks * n).max(1)))
        .zip(grid.zeros.par_chunks_mut((blocks * n).max(1)));
    let done = tasks.enumerate().map_init(Scratch::default, |scratch, (task, ((out, scales), zeros))| {
        let first = task * blocks * scheme.block;
        matrix.stored_rows(first..k.min(first + blocks * scheme.block)).into_iter().for_each(&read);
        let error = encoder.blocks(task * blocks, scratch, out, (scales, zeros));
        (error, scratch.fitter.take_extent().ends())
    });
    // Collected before adding: the sum must not depend on which thread was first.
    let (errors, extents): (Vec<WeightError>, Vec<(f32, f32)>) = done.unzip();
    let error: WeightError = errors.into_iter().sum();
    // Whatever is not finite leaves no finite sum of squares.
    let seen = at_once.then(|| match error.squared_signal.is_finite() {
        true => extents.into_iter().map(Survey::of_extent).fold(Survey::EMPTY, Survey::and),
        false => survey(matrix, scheme.block),
    });
    let (scales, zero_points) = (grid.scale_bytes(scheme.scales), grid.zero_point_bytes(scheme));
    (Quantized { codes, scales, zero_points, unit: grid.unit, error }, seen)
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    tile: Vec<f32>,
    fitter: Fitter,
    /// Codes, one a byte.
    codes: Vec<u8>,
}

struct Encoder<'a> {
    simd: Simd,
    matrix: &'a Matrix<'a>,
    scheme: Scheme,
    /// How scales and zero points are chosen, unless they are known.
    fit: Option<Algorithm>,
}

impl Encoder<'_> {
    /// Encodes the blocks of rows from `first` on, as many as there are rows of `scales`, to `out`.
    fn blocks(
        &self,
        first: usize,
        scratch: &mut Scratch,
        out: &mut [u8],
        (scales, zeros): (&mut [f32], &mut [f32]),
    ) -> WeightError {
        let (k, n, block) = (self.matrix.k(), self.matrix.n(), self.scheme.block);
        let levels = Levels::of(self.scheme);
        let Scratch { tile, fitter, codes } = scratch;
        let mut tally = Tally::default();
        // Two codes share a byte: where a row may start within one, all are packed together.
        let apart = self.scheme.bits == Bits::Four && n % 2 == 1;
        if apart {
            codes.resize((k - first * block).min(scales.len() / n * block) * n, 0);
        }
        let grids = scales.chunks_mut(n).zip(zeros.chunks_mut(n)).enumerate();
        for (number, (scales, zeros)) in grids {
            let top = (first + number) * block;
            let height = block.min(k - top);
            let width = tile_width(height);
            let strips = scales.chunks_mut(width).zip(zeros.chunks_mut(width)).enumerate();
            for (strip, (scales, zeros)) in strips {
                let (left, width) = (strip * width, scales.len());
                tile.resize(height * width, 0.0);
                self.matrix.tile(top..top + height, left..left + width, tile);
                if let Some(algorithm) = self.fit {
                    fitter.fit(self.simd, tile, &levels, algorithm, None, (scales, zeros));
                }
                let start = number * block * n + left;
                let mut encode = |codes: &mut [u8], stride| {
                    let (values, levels, tally) = (&*tile, &levels, &mut tally);
                    self.simd.run(EncodeTile { values, scales, zeros, levels, codes, stride, tally });
                };
                match self.scheme.bits {
                    Bits::Eight => encode(&mut out[start..], n),
                    Bits::Four if apart => encode(&mut codes[start..], n),
                    Bits::Four => {
                        codes.resize(height * width, 0);
                        encode(codes, width);
                        let out = &mut out[start / 2..];
                        self.simd.run(PackNibbles { codes, width, out, stride: n / 2 });
                    }
                }
            }
        }
        if apart {
            let (width, stride) = (codes.len(), out.len());
            self.simd.run(PackNibbles { codes, width, out, stride });
        }
        tally.total()
    }
}
