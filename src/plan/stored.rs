//! Tensors that no fused product takes: stored small, computed once when a session is created.
//!
//! ONNX Runtime folds `Mul(Cast(int8), scale)`, the same over INT4, and `Cast(float16)` of constants into the float32
//! tensor at load, so they run at full speed, in the memory of floats. What repeats another tensor is made of that one.

use serde::{Deserialize, Serialize};

use crate::quant::{Bits, Emit, ScaleStorage, Scheme};
use crate::role::Role;

/// How such a tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stored {
    /// INT4 with a scale for every `block` values of a row of [`matrix`], which it divides.
    Int4 {
        /// Values that share a scale.
        block: usize,
        /// Whether scales are float16, else float32.
        half_scales: bool,
    },
    /// INT8 with a float32 scale for every row of [`matrix`].
    Int8,
    /// float16.
    Float16,
    /// Not at all: it has the values of the tensor of decision `of`, or of its transpose.
    Twin {
        /// Number of the decision.
        of: usize,
        /// Whether it is the transpose.
        transposed: bool,
    },
}

/// Lengths of blocks in [`Stored::Int4`].
const LEAST_BLOCK: usize = 8;
const LARGEST_BLOCK: usize = 128;

impl Stored {
    /// Payload bytes of a tensor of these sizes.
    pub fn bytes(self, dims: &[usize], role: Role) -> u64 {
        let (rows, columns) = matrix(dims, role);
        (match self {
            Stored::Int4 { .. } => self.scheme().map_or(0, |scheme| scheme.stored_len(columns, rows)),
            Stored::Twin { .. } => 0,
            Stored::Int8 => rows * columns + 4 * rows,
            Stored::Float16 => 2 * rows * columns,
        }) as u64
    }

    /// Whether the form is near enough to these values: of normal size, and to float16 precision where it is that.
    pub fn holds(self, values: &[f32]) -> bool {
        let largest = f32::from(half::f16::MAX);
        values.iter().all(|value| value.abs() <= largest)
            && (self != Stored::Float16 || {
                let squares = |of: &dyn Fn(f32) -> f32| -> f64 {
                    values.iter().map(|value| f64::from(of(*value)).powi(2)).sum()
                };
                let lost = squares(&|value| f32::from(half::f16::from_f32(value)) - value);
                lost <= 1e-6 * squares(&|value| value)
            })
    }

    /// In the words of reports.
    pub fn name(self) -> &'static str {
        match self {
            Stored::Int4 { .. } => "int4, runs as float",
            Stored::Int8 => "int8, runs as float",
            Stored::Float16 => "float16, runs as float",
            Stored::Twin { .. } => "float, stored once",
        }
    }

    /// The format of an INT4 tensor, as the `[columns,rows]` transpose of its [`matrix`]; `None` for the others.
    pub fn scheme(self) -> Option<Scheme> {
        let Stored::Int4 { block, half_scales } = self else { return None };
        let scales = if half_scales { ScaleStorage::F16 } else { ScaleStorage::F32 };
        Some(Scheme { bits: Bits::Four, block, symmetric: true, scales, emit: Emit::Qdq })
    }

    /// The longest block up to `most` that divides a row of `columns`; `None` where only short ones do.
    pub fn block_of(columns: usize, most: usize) -> Option<usize> {
        (LEAST_BLOCK..=most.min(LARGEST_BLOCK)).rev().find(|block| columns.is_multiple_of(*block))
    }
}

/// The tensor as rows that have a scale each: all of a convolution's values for one channel, else along the last axis.
pub fn matrix(dims: &[usize], role: Role) -> (usize, usize) {
    let axes = match role {
        Role::Convolution => 1,
        _ => dims.len().saturating_sub(1),
    };
    let (rows, columns) = dims.split_at(axes.min(dims.len()));
    (rows.iter().product(), columns.iter().product())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_channels_or_all_but_the_last_axis() {
        assert_eq!(matrix(&[64, 3, 7, 7], Role::Convolution), (64, 147));
        assert_eq!(matrix(&[2, 256, 64], Role::Recurrent), (512, 64));
        assert_eq!(matrix(&[1, 17, 128], Role::PositionEmbeddings), (17, 128));
        assert_eq!(matrix(&[128], Role::Bias), (1, 128));
        assert!(Stored::Float16.holds(&[1.0, -0.5]) && !Stored::Float16.holds(&[1e-7, 3e-7]));
        assert!(!Stored::Int8.holds(&[0.0, f32::MIN]) && !Stored::Int8.holds(&[f32::NAN]));
        assert_eq!(Stored::Int8.bytes(&[64, 3, 7, 7], Role::Convolution), 64 * 147 + 256);
    }

    #[test]
    fn blocks_divide_a_row() {
        assert_eq!(
            [147, 9, 7, 131, 4096].map(|row| Stored::block_of(row, 64)),
            [Some(49), Some(9), None, None, Some(64)]
        );
        let stored = Stored::Int4 { block: 49, half_scales: true };
        assert_eq!(stored.bytes(&[64, 3, 7, 7], Role::Convolution), 64 * 147 / 2 + 64 * 3 * 2);
    }
}
