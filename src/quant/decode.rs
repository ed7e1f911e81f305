//! Reads quantized weights back, by the definition of `DequantizeLinear` (ONNX opset 21) with axis 0
//! and a block size, and by what the nodes behind a table compute. Shares no code with the writer, so that one
//! checks the other.

/// ONNX type of the codes and of the zero points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CodeKind {
    Int4,
    Uint4,
    Int8,
    Uint8,
}

impl CodeKind {
    /// In the words of reports and of ONNX: `int4`, `uint4`, `int8`, `uint8`.
    pub fn name(self) -> &'static str {
        match self {
            CodeKind::Int4 => "int4",
            CodeKind::Uint4 => "uint4",
            CodeKind::Int8 => "int8",
            CodeKind::Uint8 => "uint8",
        }
    }

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

/// The weight `[k,n]` of a MatMulNBits (com.microsoft, version 1) as ONNX Runtime computes it.
///
/// `codes` is `[n,blocks,block * bits / 8]`, unsigned, the first code in the lowest bits; `scales` is `[n,blocks]`;
/// `zero_points` is `[n,ceil(blocks * bits / 8)]`, packed the same, and 2^(bits - 1) where it is absent. `None` when
/// `bits` is not 4 or 8, `block` is 0 or odd, or a length does not fit the shape.
pub fn decode_nbits(
    codes: &[u8],
    scales: &[f32],
    zero_points: Option<&[u8]>,
    bits: usize,
    (k, n): (usize, usize),
    block: usize,
) -> Option<Vec<f32>> {
    if !matches!(bits, 4 | 8) || block == 0 || !block.is_multiple_of(2) {
        return None;
    }
    let blocks = k.div_ceil(block);
    let column_bytes = blocks.checked_mul(block)?.checked_mul(bits)? / 8;
    let zero_bytes = blocks.checked_mul(bits)?.div_ceil(8);
    let fits = codes.len() == n.checked_mul(column_bytes)?
        && scales.len() == n.checked_mul(blocks)?
        && zero_points.is_none_or(|zeros| Some(zeros.len()) == n.checked_mul(zero_bytes));
    if !fits {
        return None;
    }
    let unsigned = |bytes: &[u8], at: usize| match bits {
        8 => i32::from(bytes[at]),
        _ if at.is_multiple_of(2) => i32::from(bytes[at / 2] & 15),
        _ => i32::from(bytes[at / 2] >> 4),
    };
    let mut values = vec![0.0; k.checked_mul(n)?];
    for column in 0..n {
        let own = &codes[column * column_bytes..][..column_bytes];
        let zeros = zero_points.map(|zeros| &zeros[column * zero_bytes..][..zero_bytes]);
        for row in 0..k {
            let zero = zeros.map_or(1 << (bits - 1), |zeros| unsigned(zeros, row / block));
            let scale = scales[column * blocks + row / block];
            values[row * n + column] = (unsigned(own, row) - zero) as f32 * scale;
        }
    }
    Some(values)
}

/// The table `[rows,width]` as the nodes behind its Gather compute it, bit for bit.
///
/// `bytes` is i8 `[rows,pairs,block]`, `scales` is `[rows,2 * pairs]`. A sixteenth of a byte, rounded down, is the
/// code of blocks `pairs` to `2 * pairs - 1` of a row; what that leaves, less a half, is a sixteenth of the code of
/// blocks 0 to `pairs - 1`, whose scales are 16 times as large. Columns beyond `width` are dropped. `None` when `block` is 0 or a length does not fit the shape.
pub fn decode_packed_rows(
    bytes: &[u8],
    scales: &[f32],
    rows: usize,
    width: usize,
    block: usize,
) -> Option<Vec<f32>> {
    let pairs = width.div_ceil(block.checked_mul(2).filter(|both| *both > 0)?);
    let half = pairs.checked_mul(block)?;
    if bytes.len() != rows.checked_mul(half)? || scales.len() != rows.checked_mul(pairs)?.checked_mul(2)? {
        return None;
    }
    let mut values = Vec::with_capacity(rows.checked_mul(width)?);
    for row in 0..rows {
        for column in 0..width {
            let sixteenth = f32::from(bytes[row * half + column % half] as i8) / 16.0;
            let high = sixteenth.floor();
            let level = if column < half { sixteenth - high - 0.5 } else { high };
            values.push(level * scales[row * 2 * pairs + column / block]);
        }
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_rows_have_the_first_half_of_the_blocks_in_the_low_nibbles() {
        // Five columns in blocks of 2 are two pairs of blocks: 8 columns of which 3 pad.
        let bytes = [0x00, 0x0f, 0x07, 0x09, 0x98, 0x08, 0x08, 0x08];
        let scales = [16.0, 32.0, 0.5, 9.0, 16.0, 16.0, -3.0, 9.0];
        let values = decode_packed_rows(&bytes, &scales, 2, 5, 2).unwrap();
        assert_eq!(values, [-8.0, 7.0, -2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 21.0]);
    }

    #[test]
    fn packed_rows_of_wrong_lengths_are_refused() {
        let refused = |bytes, scales, width, block| {
            decode_packed_rows(&vec![0; bytes], &vec![1.0; scales], 1, width, block).is_none()
        };
        assert!(!refused(2, 2, 4, 2));
        assert!(refused(1, 2, 4, 2) && refused(2, 3, 4, 2) && refused(2, 2, 5, 2) && refused(2, 2, 4, 0));
        assert!(decode_packed_rows(&[], &[], 1, 4, usize::MAX).is_none());
    }

    #[test]
    fn a_column_of_matmulnbits_is_whole_blocks_around_half_the_range() {
        // Two columns of three rows in blocks of two: the last code of each column pads.
        let codes = [0x98, 0x0f, 0x01, 0x07];
        let values = decode_nbits(&codes, &[1.0, 2.0, -1.0, 0.5], None, 4, (3, 2), 2).unwrap();
        assert_eq!(values, [0.0, 7.0, 1.0, 8.0, 14.0, -0.5]);
        let zeros = [0x1f, 0x20];
        let values = decode_nbits(&codes, &[1.0, 2.0, -1.0, 0.5], Some(&zeros), 4, (3, 2), 2).unwrap();
        assert_eq!(values, [-7.0, -1.0, -6.0, 0.0, 28.0, 2.5]);
        assert_eq!(decode_nbits(&[129, 0], &[2.0], None, 8, (2, 1), 2).unwrap(), [2.0, -256.0]);
        assert!(decode_nbits(&codes[1..], &[1.0; 4], None, 4, (3, 2), 2).is_none());
        assert!(decode_nbits(&codes, &[1.0; 3], None, 4, (3, 2), 2).is_none());
        assert!(decode_nbits(&codes, &[1.0; 4], Some(&[0]), 4, (3, 2), 2).is_none());
        assert!(decode_nbits(&codes, &[1.0; 4], None, 2, (3, 2), 2).is_none());
        assert!(decode_nbits(&[], &[], None, 4, (usize::MAX, 2), 16).is_none());
    }

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
