//! Scales and zero points of a matrix, before codes are chosen.

use half::f16;

use super::{pack::pack_nibbles, scheme::Bits, scheme::ScaleStorage, scheme::Scheme};

/// One scale and one zero point for every block of every column, both `[blocks(k),n]` row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// Finite and not zero; exactly representable in the scheme's storage.
    pub scales: Vec<f32>,
    /// Integers within the range of codes; 0 for a symmetric scheme.
    pub zeros: Vec<f32>,
}

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
        Grid { scales: cut(&self.scales), zeros: cut(&self.zeros) }
    }

    /// The scales as stored, little-endian.
    pub fn scale_bytes(&self, storage: ScaleStorage) -> Vec<u8> {
        match storage {
            ScaleStorage::F32 => self.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect(),
            ScaleStorage::F16 => {
                self.scales.iter().flat_map(|&scale| f16::from_f32(scale).to_le_bytes()).collect()
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
