//! ONNX's packing of 4-bit elements.

use super::simd::Kernel;

/// Packs 4-bit codes (their low nibbles; two's complement or unsigned) as ONNX does: flat, element 0
/// in the low nibble, the last byte padded with a zero nibble.
pub fn pack_nibbles(codes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; codes.len().div_ceil(2)];
    PackNibbles { codes, width: codes.len(), out: &mut out, stride: codes.len().div_ceil(2) }.run();
    out
}

/// Rows of `width` codes, each packed by itself to bytes that begin `stride` after those of the row above.
pub(super) struct PackNibbles<'a> {
    pub codes: &'a [u8],
    pub width: usize,
    pub out: &'a mut [u8],
    pub stride: usize,
}

impl Kernel for PackNibbles<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let rows = self.codes.chunks_exact(self.width.max(1)).zip(self.out.chunks_mut(self.stride.max(1)));
        for (codes, out) in rows {
            let (pairs, rest) = codes.as_chunks::<2>();
            let mut bytes = out.iter_mut();
            for (&[low, high], byte) in pairs.iter().zip(bytes.by_ref()) {
                *byte = (low & 0xf) | (high << 4);
            }
            for (&low, byte) in rest.iter().zip(bytes) {
                *byte = low & 0xf;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_element_is_in_the_low_nibble_and_the_pad_is_zero() {
        assert_eq!(pack_nibbles(&[1, 2, 0xf8, 0xff, 5]), [0x21, 0xf8, 0x05]);
        assert!(pack_nibbles(&[]).is_empty());
    }
}
