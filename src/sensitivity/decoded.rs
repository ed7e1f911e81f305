//! What a weight becomes when it is stored and read back.

use super::Candidate;
use crate::quant::{
    Algorithm, Matrix, Quantized, ScaleStorage, Scheme, decode, decode_packed_rows, quantize, quantize_rows,
};

/// The values `[k,n]` that `matrix` has after it was stored as `candidate`.
pub fn decoded(matrix: &Matrix<'_>, candidate: Candidate, algorithm: Algorithm) -> Option<Vec<f32>> {
    let (k, n) = (matrix.k(), matrix.n());
    match candidate {
        Candidate::Blocks(scheme) => decoded_blocks(&quantize(matrix, scheme, algorithm), scheme, k, n),
        Candidate::PackedRows(format) => {
            let (codes, scales, _) = format.quantize(matrix, algorithm);
            decode_packed_rows(&codes, &floats(&scales, format.scales)?, k, n, format.block)
        }
        Candidate::Rows(storage) => {
            let made = quantize_rows(matrix, storage, algorithm);
            let scales = floats(&made.scales, storage)?;
            let value = |at: usize| Some(f32::from(*made.codes.get(at)? as i8) * scales.get(at / n.max(1))?);
            (0..k * n).map(value).collect()
        }
    }
}

/// The values `[k,n]` of blocked codes.
pub fn decoded_blocks(made: &Quantized, scheme: Scheme, k: usize, n: usize) -> Option<Vec<f32>> {
    let scales = match made.unit {
        Some(unit) => {
            let count = |byte: &u8| if scheme.symmetric { f32::from(*byte as i8) } else { f32::from(*byte) };
            made.scales.iter().map(|byte| count(byte) * unit).collect()
        }
        None => floats(&made.scales, scheme.scales)?,
    };
    decode(&made.codes, &scales, made.zero_points.as_deref(), scheme.code_kind(), k, n, scheme.block)
}

/// Scales as they are stored; `None` for bytes, which say nothing without their unit.
fn floats(bytes: &[u8], storage: ScaleStorage) -> Option<Vec<f32>> {
    Some(match storage {
        ScaleStorage::F32 => bytes.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect(),
        ScaleStorage::F16 => {
            bytes.as_chunks::<2>().0.iter().map(|c| half::f16::from_le_bytes(*c).to_f32()).collect()
        }
        ScaleStorage::Byte => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Bits, Element, Emit, Layout};

    #[test]
    fn scales_in_bytes_are_not_read_without_their_unit() {
        let bytes: Vec<u8> = (0..64u8).flat_map(|at| f32::from(at).to_le_bytes()).collect();
        let matrix = Matrix::new(&bytes, Element::F32, Layout::row_major(32, 2)).unwrap();
        let scales = ScaleStorage::Byte;
        let scheme = Scheme { bits: Bits::Four, block: 32, symmetric: true, scales, emit: Emit::Qdq };
        let made = quantize(&matrix, scheme, Algorithm::Search);
        assert!(decoded_blocks(&made, scheme, 32, 2).is_some());
        assert!(decoded_blocks(&Quantized { unit: None, ..made }, scheme, 32, 2).is_none());
    }
}
