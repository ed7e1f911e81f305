//! Samples from the graph's own limits, for a model that comes without data: token ids below the embedding's
//! rows, masks of ones, lengths from position tables, images of noise. They exercise the graph; they say
//! nothing about real inputs.

use std::collections::BTreeMap;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::inputs::{Dim, InputSpec, inputs};
use super::tables::Tables;
use super::{Array, Label, Origin, Sample, Samples};
use crate::error::{Error, Result};
use crate::graph::Inventory;
use crate::onnx::Model;
use crate::onnx::proto::tensor_proto::DataType;

/// Length of a free sequence, and of the past of a cache, where no table says otherwise.
const LENGTH: usize = 32;
const PAST: usize = 8;
/// Height and width of an image whose size is free.
const IMAGE: usize = 64;
/// Elements of one input that are still made up.
const ELEMENTS: usize = 1 << 26;

/// Makes `count` samples for `model`; the same ones for the same seed.
///
/// # Errors
/// [`crate::error::Kind::Unsupported`] for inputs that cannot be made up: unknown rank, strings, huge sizes.
pub fn synthetic(model: &Model, inventory: &Inventory, count: usize, seed: u64) -> Result<Samples> {
    let specs = inputs(model)?;
    let limits = Limits::of(model, inventory);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut list = Vec::with_capacity(count);
    for _ in 0..count {
        let mut taken = Vec::with_capacity(specs.len());
        for spec in &specs {
            taken.push((spec.name.clone(), limits.array(spec, &mut rng)?));
        }
        list.push(Sample { inputs: taken, label: Label::None });
    }
    Ok(Samples { list, origin: Origin::Synthetic { seed } })
}

struct Limits {
    /// Rows of the smallest table that each input indexes.
    rows: BTreeMap<String, usize>,
    /// Length of free sequences.
    length: usize,
}

impl Limits {
    fn of(model: &Model, inventory: &Inventory) -> Self {
        let Tables { rows, positions } = Tables::of(model, inventory);
        Self { rows, length: positions.map_or(LENGTH, |rows| LENGTH.min(rows.saturating_sub(4))) }
    }

    fn array(&self, spec: &InputSpec, rng: &mut ChaCha8Rng) -> Result<Array> {
        let unsupported = |what: &str| {
            Err(Error::unsupported(format!("input '{}'", spec.name), format!("{what}: it cannot be made up"))
                .help("give samples with --data"))
        };
        let Some(dims) = &spec.dims else { return unsupported("its rank is not declared") };
        let shape: Vec<usize> =
            dims.iter().enumerate().map(|(axis, dim)| self.size(dims, axis, dim)).collect();
        let Some(count) = shape
            .iter()
            .try_fold(1usize, |product, size| product.checked_mul(*size))
            .filter(|count| *count <= ELEMENTS)
        else {
            return unsupported(&format!("{shape:?} elements"));
        };
        use DataType as D;
        let bytes: Vec<u8> = match spec.data_type {
            D::Float | D::Double | D::Float16 => {
                let values =
                    if shape.len() == 4 && shape[2] > 1 { image(&shape, rng) } else { normal(count, rng) };
                match spec.data_type {
                    D::Float => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                    D::Double => values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
                    _ => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
                }
            }
            D::Int64 => self.integers(spec, &shape, rng).iter().flat_map(|v| v.to_le_bytes()).collect(),
            D::Int32 => {
                self.integers(spec, &shape, rng).iter().flat_map(|v| (*v as i32).to_le_bytes()).collect()
            }
            D::Bool => vec![1; count],
            D::Uint8 | D::Int8 => (0..count).map(|_| rng.random_range(0..100)).collect(),
            _ => return unsupported("its element type"),
        };
        Ok(Array { data_type: spec.data_type, shape, bytes: bytes.into() })
    }

    fn size(&self, dims: &[Dim], axis: usize, dim: &Dim) -> usize {
        match dim {
            Dim::Fixed(size) => *size,
            Dim::Free(name) => {
                let lower = name.to_lowercase();
                if lower.contains("batch") || (axis == 0 && !lower.contains("seq")) {
                    1
                } else if lower.contains('+') || lower.contains("total") {
                    self.length + PAST
                } else if lower.contains("past") {
                    PAST
                } else if dims.len() == 4 && axis >= 2 && !lower.contains("seq") {
                    IMAGE
                } else {
                    self.length
                }
            }
        }
    }

    fn integers(&self, spec: &InputSpec, shape: &[usize], rng: &mut ChaCha8Rng) -> Vec<i64> {
        let count: usize = shape.iter().product();
        let name = spec.name.to_lowercase();
        let width = shape.last().copied().unwrap_or(1).max(1);
        if name.contains("mask") {
            return vec![1; count];
        }
        if name.contains("token_type") || name.contains("segment") {
            return vec![0; count];
        }
        if name.contains("position") {
            return (0..count).map(|at| (at % width) as i64).collect();
        }
        match self.rows.get(&spec.name) {
            Some(rows) => (0..count).map(|_| rng.random_range(0..(*rows).max(1)) as i64).collect(),
            None => vec![1; count],
        }
    }
}

/// Standard normal values (Box-Muller).
fn normal(count: usize, rng: &mut impl Rng) -> Vec<f32> {
    (0..count)
        .map(|_| {
            let radius = (-2.0 * rng.random_range(f64::MIN_POSITIVE..1.0).ln()).sqrt();
            (radius * (std::f64::consts::TAU * rng.random_range(0.0..1.0)).cos()) as f32
        })
        .collect()
}

/// Noise whose neighbouring pixels go together, as in images: sums of noise at several scales.
fn image(shape: &[usize], rng: &mut impl Rng) -> Vec<f32> {
    let &[batch, channels, height, width] = shape else { return Vec::new() };
    let mut values = vec![0.0f32; batch * channels * height * width];
    for plane in values.chunks_mut((height * width).max(1)) {
        let mut cell = height.max(width).max(1);
        while cell >= 1 {
            let across = width.div_ceil(cell);
            let coarse = normal(across * height.div_ceil(cell), rng);
            let weight = (cell as f32).sqrt() / (height.max(width) as f32).sqrt();
            for (at, value) in plane.iter_mut().enumerate() {
                let (row, column) = (at / width / cell, at % width / cell);
                *value += weight * coarse.get(row * across + column).copied().unwrap_or(0.0);
            }
            cell /= 2;
        }
    }
    values
}
