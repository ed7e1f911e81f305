//! 4-bit rows for embedding tables: two codes to a byte, one scale for every block of a row.
//!
//! The layout is made for what has to run behind the Gather: a row is cut into an even number of blocks, the
//! blocks of its first half are the low nibbles and those of its second half the high nibbles. Taking the nibbles
//! apart then gives both halves in order, and putting them behind one another gives the row. A byte is the signed
//! number `16 * high + (low + 8)`: a sixteenth of it is `high` and a fraction, the fraction less a half is
//! `low / 16`, and the stored scales of the low half are 16 times as large as their blocks', which is exact.

use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer, Serialize};

use super::{
    error::WeightError,
    fit::{Algorithm, fit_on},
    grid::Grid,
    matrix::Matrix,
    rows::encode_rows,
    scheme::{Bits, Emit, ScaleStorage, Scheme, block_among},
    simd::Simd,
    survey::{Survey, fp16_scales_fit},
};

/// Format of a table `[rows,width]` of 4-bit codes -8..=7; the scales may be negative.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackedRows {
    /// Columns that share a scale; not zero. Deserializing accepts 1 to 256.
    #[serde(deserialize_with = "known_block")]
    pub block: usize,
    /// Type of the scales.
    pub scales: ScaleStorage,
}

/// The stored scale of a block in low nibbles, in scales of the block.
const LOW: f32 = 16.0;

/// The blocks that are accepted.
const BLOCKS: RangeInclusive<usize> = 1..=256;

impl PackedRows {
    /// The format for rows of `width` with as few and as even blocks of at most `block` columns (not zero) as fill
    /// pairs.
    pub fn at_most(block: usize, width: usize, scales: ScaleStorage) -> Self {
        let pairs = width.div_ceil(2 * block).max(1);
        Self { block: width.div_ceil(2 * pairs).max(1), scales }
    }

    /// Pairs of blocks in a row of `width`; the last blocks may be padded.
    pub fn pairs(&self, width: usize) -> usize {
        width.div_ceil(2 * self.block)
    }

    /// Columns of a row of `width` with its padding.
    pub fn padded(&self, width: usize) -> usize {
        2 * self.pairs(width) * self.block
    }

    /// The scheme under which the transpose of the table is fitted: a row of the table is a column of blocks.
    pub fn scheme(&self) -> Scheme {
        Scheme { bits: Bits::Four, block: self.block, symmetric: true, scales: self.scales, emit: Emit::Qdq }
    }

    /// Whether every scale that fitting can choose can be stored as fp16, see
    /// [`fp16_scales_fit`](super::fp16_scales_fit()); `survey` is one of the transposed matrix with this block.
    pub fn fp16_scales_fit(&self, survey: &Survey) -> bool {
        fp16_scales_fit(&Survey { max_abs: survey.max_abs * LOW, ..*survey }, self.scheme())
    }

    /// Bytes of the codes of a `[rows,width]` table.
    pub fn codes_len(&self, rows: usize, width: usize) -> usize {
        rows * self.padded(width) / 2
    }

    /// Bytes of the scales of a `[rows,width]` table.
    pub fn scales_len(&self, rows: usize, width: usize) -> usize {
        rows * 2 * self.pairs(width) * self.scales.bytes()
    }

    /// Quantizes the rows of `matrix` (k = rows of the table, n = its width), whose values must be finite.
    ///
    /// Gives the codes, i8 `[rows,pairs,block]`, the scales `[rows,2 * pairs,1]`, little-endian, and the error,
    /// measured with the scales as stored.
    pub fn quantize(&self, matrix: &Matrix, algorithm: Algorithm) -> (Vec<u8>, Vec<u8>, WeightError) {
        self.quantize_on(Simd::detect(), matrix, algorithm)
    }

    pub(super) fn quantize_on(
        &self,
        simd: Simd,
        matrix: &Matrix,
        algorithm: Algorithm,
    ) -> (Vec<u8>, Vec<u8>, WeightError) {
        let (k, n) = (matrix.k(), matrix.n());
        let fitted = fit_on(simd, &matrix.transposed(), self.scheme(), algorithm, None);
        let row_bytes = self.padded(n) / 2;
        let mut codes = vec![0; self.codes_len(k, n)];
        let error =
            encode_rows(simd, matrix, self.scheme(), &fitted.scales, &mut codes, row_bytes, |row, out| {
                pack_halves(row, out);
            });
        // [blocks,rows] becomes [rows,blocks]; a block of nothing but padding has scale 1.
        let blocks = 2 * self.pairs(n);
        let scale = |row, block| {
            let scale = fitted.scales.get(block * k + row).copied().unwrap_or(1.0);
            if block < blocks / 2 { scale * LOW } else { scale }
        };
        let turned = (0..k * blocks).map(|at| scale(at / blocks, at % blocks)).collect();
        let scales = Grid { scales: turned, zeros: Vec::new(), unit: None };
        (codes, scales.scale_bytes(self.scales), error)
    }
}

/// Packs the codes of a row (two's complement): column `j` plus 8 into the low nibble of byte `j`, column
/// `j + out.len()` into its high nibble; missing ones are zeros.
fn pack_halves(row: &[u8], out: &mut [u8]) {
    let (low, high) = row.split_at(out.len().min(row.len()));
    out.fill(8);
    out.iter_mut().zip(low).for_each(|(byte, code)| *byte = (code & 15) ^ 8);
    out.iter_mut().zip(high).for_each(|(byte, code)| *byte |= code << 4);
}

fn known_block<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    block_among(deserializer, &BLOCKS, |block| BLOCKS.contains(block))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_even_in_number_and_in_size() {
        let of = |block, width| {
            let format = PackedRows::at_most(block, width, ScaleStorage::F16);
            (format.block, format.pairs(width), format.padded(width))
        };
        assert_eq!(of(128, 384), (96, 2, 384));
        assert_eq!(of(64, 384), (64, 3, 384));
        assert_eq!(of(128, 64), (32, 1, 64));
        assert_eq!(of(32, 100), (25, 2, 100));
        assert_eq!(of(128, 33), (17, 1, 34));
        assert_eq!(of(16, 1), (1, 1, 2));
    }

    #[test]
    fn any_block_holds_any_width() {
        let format = PackedRows { block: 128, scales: ScaleStorage::F32 };
        assert_eq!((format.pairs(384), format.padded(384)), (2, 512));
        assert_eq!((format.codes_len(3, 384), format.scales_len(3, 384)), (768, 48));
    }

    #[test]
    fn the_scales_of_low_nibbles_need_room_in_fp16() {
        let format = PackedRows { block: 16, scales: ScaleStorage::F16 };
        let fits = |max_abs| {
            format.fp16_scales_fit(&Survey { first_non_finite: None, max_abs, least_block_max: 1.0 })
        };
        assert!(fits(4000.0) && !fits(5000.0));
    }

    #[test]
    fn halves_are_packed_beside_each_other() {
        let mut out = [0; 3];
        pack_halves(&[0xf8, 7, 0, 1, 0xff], &mut out);
        assert_eq!(out, [0x10, 0xff, 0x08]);
    }

    #[test]
    fn serde_refuses_blocks_that_cannot_be() {
        let text = serde_json::to_string(&PackedRows { block: 96, scales: ScaleStorage::F16 }).unwrap();
        assert_eq!(text, r#"{"block":96,"scales":"fp16"}"#);
        assert!(serde_json::from_str::<PackedRows>(&text).is_ok());
        for block in ["0", "257", "18446744073709551615"] {
            assert!(serde_json::from_str::<PackedRows>(&text.replace("96", block)).is_err());
        }
    }
}
