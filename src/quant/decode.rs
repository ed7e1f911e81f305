//! Reads quantized weights back, by the definition of `DequantizeLinear` (ONNX opset 21) with axis 0
//! and a block size. Shares no code with the writer, so that one checks the other.

/// ONNX type of the codes and of the zero points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CodeKind {
    Int4,
    Uint4,
    Int8,
    Uint8,
}

impl CodeKind {
    fn bytes(self, count: usize) -> usize {
        match self {
            CodeKind::Int4 | CodeKind::Uint4 => count / 2 + count % 2,
            CodeKind::Int8 | CodeKind::Uint8 => count,
        }
    }

    /// Element `index` of a flat tensor.
    fn read(self, bytes: &[u8], index: usize) -> i32 {
        let nibble = || i32::from(bytes[index >> 1] >> (4 * (index & 1)) & 15);
        match self {
            CodeKind::Uint4 => nibble(),
            CodeKind::Int4 => (nibble() ^ 8) - 8,
            CodeKind::Uint8 => i32::from(bytes[index]),
            CodeKind::Int8 => i32::from(bytes[index] as i8),
        }
    }
}

/// The weight `[k,n]` as ONNX Runtime computes it, bit for bit: `(code - zero) as f32 * scale`.
///
/// `codes` is `[k,n]`, `scales` and `zero_points` are `[ceil(k/block),n]`; absent zero points are 0.
/// `None` when `block` is 0 or a length does not fit the shape.
pub fn decode(
    codes: &[u8],
    scales: &[f32],
    zero_points: Option<&[u8]>,
    kind: CodeKind,
    k: usize,
    n: usize,
    block: usize,
) -> Option<Vec<f32>> {
    if block == 0 {
        return None;
    }
    let count = k.checked_mul(n)?;
    let groups = k.div_ceil(block).checked_mul(n)?;
    let fits = codes.len() == kind.bytes(count)
        && scales.len() == groups
        && zero_points.is_none_or(|zeros| zeros.len() == kind.bytes(groups));
    if !fits {
        return None;
    }
    let value = |index: usize| {
        let (row, column) = (index / n, index % n);
        let group = row / block * n + column;
        let zero = zero_points.map_or(0, |zeros| kind.read(zeros, group));
        (kind.read(codes, index) - zero) as f32 * scales[group]
    };
    Some((0..count).map(value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int4_is_twos_complement_and_rows_are_not_padded() {
        // Codes -8 7 0 | -1 1 2, three columns, two rows, one block of two rows.
        let values = decode(&[0x78, 0xf0, 0x21], &[1.0, -2.0, 0.5], None, CodeKind::Int4, 2, 3, 2);
        assert_eq!(values.unwrap(), [-8.0, -14.0, 0.0, -1.0, -2.0, 1.0]);
    }

    #[test]
    fn a_ragged_last_block_has_its_own_zero_point() {
        let values = decode(&[3, 200, 9], &[1.0, 0.5], Some(&[1, 10]), CodeKind::Uint8, 3, 1, 2);
        assert_eq!(values.unwrap(), [2.0, 199.0, -0.5]);
        let nibbles = decode(&[0xf3, 0x09], &[1.0, 0.5], Some(&[0xa1]), CodeKind::Uint4, 3, 1, 2);
        assert_eq!(nibbles.unwrap(), [2.0, 14.0, -0.5]);
        assert_eq!(decode(&[0xff], &[2.0], None, CodeKind::Int8, 1, 1, 16).unwrap(), [-2.0]);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let decode =
            |codes: &[u8], scales: &[f32], block| decode(codes, scales, None, CodeKind::Uint4, 3, 1, block);
        assert!(decode(&[0, 0], &[1.0], 16).is_some());
        assert!(decode(&[0], &[1.0], 16).is_none());
        assert!(decode(&[0, 0], &[1.0, 1.0], 16).is_none());
        assert!(decode(&[0, 0], &[1.0], 0).is_none());
    }
}
