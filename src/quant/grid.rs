//! Scales and zero points of a matrix, before codes are chosen.

use half::{f16, slice::HalfFloatSliceExt};

use super::{
    pack::pack_nibbles,
    rounding::{bound, round},
    scheme::Bits,
    scheme::ScaleStorage,
    scheme::Scheme,
};

/// One scale and one zero point for every block of every column, both `[blocks(k),n]` row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// Finite and not zero; exactly representable in the scheme's storage.
    pub scales: Vec<f32>,
    /// Integers within the range of codes; 0 for a symmetric scheme.
    pub zeros: Vec<f32>,
    /// What the codes of the scales count, where they are stored as such.
    pub unit: Option<f32>,
}

/// Room that the largest scale leaves to those that a refit makes larger.
const HEADROOM: f32 = 1.04;

impl Grid {
    /// The grid of some of its `n` columns.
    pub fn columns(&self, n: usize, columns: std::ops::Range<usize>) -> Grid {
        let cut = |from: &[f32]| -> Vec<f32> {
            from.chunks_exact(n.max(1))
                .filter_map(|row| row.get(columns.clone()))
                .flatten()
                .copied()
                .collect()
        };
        Grid { scales: cut(&self.scales), zeros: cut(&self.zeros), unit: self.unit }
    }

    /// The grid with its scales brought to whole units, where the scheme stores such.
    pub(super) fn in_units(mut self, scheme: Scheme) -> Grid {
        if scheme.scales != ScaleStorage::Byte {
            return self;
        }
        let largest = self.scales.iter().fold(0.0f32, |largest, scale| largest.max(scale.abs()));
        let unit = bound(largest * (HEADROOM / scheme.most_units()), f32::MIN_POSITIVE, f32::MAX);
        self.scales.iter_mut().for_each(|scale| *scale = whole_units(*scale, unit, scheme.most_units()));
        self.unit = Some(unit);
        self
    }

    /// The scales as stored, little-endian.
    pub fn scale_bytes(&self, storage: ScaleStorage) -> Vec<u8> {
        match storage {
            ScaleStorage::F32 => le_bytes(&self.scales, |scale| scale.to_le_bytes()),
            ScaleStorage::F16 => {
                // Converted as a whole: `half` looks for the fast instruction on every call.
                let mut halves = vec![f16::ZERO; self.scales.len()];
                halves.convert_from_f32_slice(&self.scales);
                le_bytes(&halves, |scale| scale.to_le_bytes())
            }
            // Two's complement: the same byte for both signs of storage.
            ScaleStorage::Byte => {
                let unit = self.unit.unwrap_or(1.0);
                self.scales.iter().map(|scale| round(scale / unit) as i32 as u8).collect()
            }
        }
    }

    /// The zero points as stored; `None` for a symmetric scheme.
    pub fn zero_point_bytes(&self, scheme: Scheme) -> Option<Vec<u8>> {
        if scheme.symmetric {
            return None;
        }
        let codes: Vec<u8> = self.zeros.iter().map(|&zero| zero as u8).collect();
        Some(match scheme.bits {
            Bits::Four => pack_nibbles(&codes),
            Bits::Eight => codes,
        })
    }
}

/// The bytes of each value, one behind the other, in a loop that vectorizes.
fn le_bytes<T: Copy, const SIZE: usize>(values: &[T], bytes: impl Fn(T) -> [u8; SIZE]) -> Vec<u8> {
    let mut out = vec![0; values.len() * SIZE];
    out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(out, value)| *out = bytes(*value));
    out
}

/// The multiple of `unit`, by 1 to `most`, that is nearest to `scale`, with its sign.
pub(super) fn whole_units(scale: f32, unit: f32, most: f32) -> f32 {
    (bound(round(bound(scale.abs() / unit, 0.0, most)), 1.0, most) * unit).copysign(scale)
}
