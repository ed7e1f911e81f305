//! Rounding in arithmetic that vectorizes on every instruction set.

/// A number near 1.5·2^23 has a spacing of 1, and its low bits count in two's complement.
const ROUNDER: f32 = 12_582_912.0;

/// The nearest integer, ties to even, of a magnitude below 2^22.
#[inline(always)]
pub(super) fn round(value: f32) -> f32 {
    (value + ROUNDER) - ROUNDER
}

/// The low byte, in two's complement, of an integer of magnitude below 2^22.
#[inline(always)]
pub(super) fn low_byte(integer: f32) -> u8 {
    (integer + ROUNDER).to_bits() as u8
}

/// `value` within `low..=high`, and `low` for NaN: two instructions, where `clamp` takes more.
#[inline(always)]
pub(super) fn bound(value: f32, low: f32, high: f32) -> f32 {
    let value = if value > low { value } else { low };
    if value < high { value } else { high }
}

/// The fp16 value nearest to `magnitude` (finite, positive), between the least positive and the largest.
///
/// In arithmetic that vectorizes: adding 1.5·2^(e+13) to a number of exponent e leaves the sum the 11
/// significant bits of fp16; below 2^-14 the spacing of fp16 is constant.
#[inline(always)]
pub(super) fn round_to_f16(magnitude: f32) -> f32 {
    const LEAST: f32 = 1.0 / 16_777_216.0;
    const LARGEST: f32 = 65504.0;
    const LEAST_NORMAL: u32 = 113 << 23;
    let bounded = if magnitude > LARGEST { LARGEST } else { magnitude };
    let exponent = bounded.to_bits() & 0x7f80_0000;
    let exponent = if exponent < LEAST_NORMAL { LEAST_NORMAL } else { exponent };
    let shift = f32::from_bits(exponent) * (1.5 * 8192.0);
    let rounded = (bounded + shift) - shift;
    if rounded < LEAST { LEAST } else { rounded }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn rounding_to_f16_agrees_with_half_on_every_midpoint() {
        for bits in 1..0x7bff_u16 {
            let (low, high) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
            let middle = (low + high) / 2.0;
            for value in [low, middle.next_down(), middle, middle.next_up()] {
                assert_eq!(round_to_f16(value), f16::from_f32(value).to_f32(), "{value}");
            }
        }
        assert_eq!(round_to_f16(1e9), 65504.0);
        assert_eq!(round_to_f16(1e-30), 2_f32.powi(-24));
    }
}
