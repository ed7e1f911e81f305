//! Cutting a weight into bands that are produced one after the other: a head of a large vocabulary has more codes than
//! belong in memory.

use std::ops::Range;

use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::tensor;
use crate::quant::{Bits, Scheme};

/// Bytes of codes, about, that are produced at a time. They make work for several cores, and a few times as many are in
/// memory.
const BYTES: usize = 1 << 24;

/// The rows of a weight, cut.
pub(super) struct Bands {
    /// Rows in all.
    pub rows: usize,
    /// One behind the other; one that is empty where there are no rows.
    pub list: Vec<Range<usize>>,
}

impl Bands {
    /// `rows` that have `bytes` of codes, in bands of whole multiples of `unit` rows (not zero).
    pub fn of(rows: usize, bytes: usize, unit: usize) -> Self {
        let step = rows.div_ceil(bytes.div_ceil(BYTES).max(1)).next_multiple_of(unit).max(1);
        let starts = (0..rows.max(1)).step_by(step);
        Self { rows, list: starts.map(|start| start..rows.min(start + step)).collect() }
    }

    /// Rows of a matrix `[k,n]` in blocks of `scheme`: whole blocks, that end at whole bytes of codes and zero points.
    pub fn of_blocks(k: usize, n: usize, scheme: Scheme) -> Self {
        let blocks = if scheme.bits == Bits::Four && n % 2 == 1 { 2 } else { 1 };
        Self::of(k, scheme.codes_len(k, n), blocks * scheme.block)
    }

    /// All in one.
    pub fn whole(rows: usize) -> Self {
        Self::of(rows, 0, 1)
    }
}

/// A promised initializer.
pub(super) struct Part {
    pub name: String,
    pub data_type: DataType,
    pub dims: Vec<usize>,
    /// Rows of the weight, one behind the other, that share what it holds. Bands are whole multiples of it.
    pub per: usize,
}

impl Part {
    /// What one row of the weight has to itself.
    pub fn of_row(name: &str, data_type: DataType, dims: Vec<usize>) -> Self {
        Self::of_rows(name, data_type, dims, 1)
    }

    /// What `per` rows (not zero) share.
    pub fn of_rows(name: &str, data_type: DataType, dims: Vec<usize>, per: usize) -> Self {
        Self { name: name.to_owned(), data_type, dims, per }
    }

    /// Bytes that `band` of a weight of `rows` has of it.
    pub fn bytes(&self, rows: usize, band: &Range<usize>) -> usize {
        let bits = tensor::element_bits(self.data_type).unwrap_or(8);
        let values: usize = self.dims.iter().product();
        let shares = rows.div_ceil(self.per);
        let own = band.end.div_ceil(self.per) - band.start / self.per;
        (values.checked_div(shares).unwrap_or(0) * own * bits).div_ceil(8)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Bands cover all rows, begin at whole bytes, and their bytes are those of the whole.
        #[test]
        fn bands_add_up(rows in 0_usize..3000, width in 1_usize..9, block in 1_usize..200, codes in 0_usize..1 << 32) {
            let bands = Bands::of(rows, codes, if width % 2 == 1 { 2 * block } else { block });
            let blocks = rows.div_ceil(block);
            let parts = [
                Part::of_row("codes", DataType::Int4, vec![rows, width]),
                Part::of_rows("scales", DataType::Float16, vec![blocks, width], block),
                Part::of_rows("zeros", DataType::Uint4, vec![blocks, width], block),
            ];
            prop_assert_eq!(bands.list.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..rows).collect::<Vec<_>>());
            prop_assert!(bands.list.len() <= codes.div_ceil(BYTES).max(1));
            for part in parts {
                let sum: usize = bands.list.iter().map(|band| part.bytes(rows, band)).sum();
                prop_assert_eq!(sum, part.bytes(rows, &(0..rows)), "{}", part.name);
            }
        }
    }
}
