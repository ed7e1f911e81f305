//! Blocked codes in the form of ONNX Runtime's MatMulNBits: column by column, in whole blocks, unsigned.

use rayon::prelude::*;

use super::{
    quantize::Quantized,
    scheme::{Bits, Scheme},
};

/// A quantized `[k,n]` weight as MatMulNBits (com.microsoft, version 1) takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct NBits {
    /// `[n,blocks,block * bits / 8]`; 4-bit codes two to a byte, the first in the low nibble.
    pub codes: Vec<u8>,
    /// `[n,blocks]`, little-endian, of the type of the scheme.
    pub scales: Vec<u8>,
    /// `[n,ceil(blocks * bits / 8)]`, packed as the codes; `None` stands for 8, or 128 with 8 bits.
    pub zero_points: Option<Vec<u8>>,
}

/// Columns that one thread lays out together, so that rows are read in runs.
const COLUMNS: usize = 64;

impl NBits {
    /// Lays out `made`, a `[k,n]` weight of `scheme`. Signed codes are raised by half the range, around which
    /// MatMulNBits centres codes without a zero point. What fills the last block is zero in value where there is
    /// no zero point, and meets zeros of the activation in any case.
    pub fn of(made: &Quantized, scheme: Scheme, k: usize, n: usize) -> Self {
        let offset = match (scheme.symmetric, scheme.bits) {
            (false, _) => 0,
            (true, Bits::Four) => 8,
            (true, Bits::Eight) => 128,
        };
        let columns = |bytes: &[u8], rows: usize, row_len: usize| {
            let mut out = vec![0; n * row_len];
            let fill = if scheme.bits == Bits::Four { offset * 17 } else { offset };
            out.par_chunks_mut((COLUMNS * row_len).max(1)).enumerate().for_each(|(chunk, out)| {
                out.fill(fill);
                for row in 0..rows {
                    for (at, column) in out.chunks_mut(row_len.max(1)).enumerate() {
                        let index = row * n + chunk * COLUMNS + at;
                        match scheme.bits {
                            Bits::Eight => column[row] = bytes[index] ^ offset,
                            Bits::Four => {
                                let code = (bytes[index / 2] >> (4 * (index % 2)) & 15) ^ offset;
                                let shift = 4 * (row % 2);
                                column[row / 2] = column[row / 2] & !(15 << shift) | code << shift;
                            }
                        }
                    }
                }
            });
            out
        };
        let blocks = scheme.blocks(k);
        let width = scheme.scales.bytes();
        let scale = |at: usize| &made.scales[(at % blocks * n + at / blocks) * width..][..width];
        Self {
            codes: columns(&made.codes, k, scheme.nbits_column(k)),
            scales: (0..n * blocks).flat_map(scale).copied().collect(),
            zero_points: made.zero_points.as_ref().map(|zeros| columns(zeros, blocks, scheme.nbits_zeros(k))),
        }
    }
}
