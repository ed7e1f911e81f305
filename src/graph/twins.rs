//! Stored tensors of the main graph that hold the same values, or those of a transpose: exporters write a tied head
//! down a second time.

use std::collections::HashMap;

use super::index::Index;
use super::operand::Origin;
use super::site::Weight;
use crate::onnx::proto::{TensorProto, tensor_proto::DataType};
use crate::onnx::tensor;
use crate::onnx::tensor::is_float;

/// Smaller tensors are not worth a node.
const LEAST_BYTES: u64 = 1024;

/// Groups that a tensor with the same marks is compared with.
const MOST_COMPARED: usize = 8;

/// Weights with the same values: their numbers, and whether each is the transpose of the first.
pub type Twins = Vec<(usize, bool)>;

/// The groups of `weights` that have the same values and that no caller may replace.
pub(super) fn twins(index: &Index<'_>, weights: &[Weight]) -> Vec<Twins> {
    let graph = index.graph();
    let inputs: Vec<&str> = graph.input.iter().map(|input| input.name()).collect();
    let stored = |weight: &Weight| match weight.origin {
        Origin::Initializer(at) if weight.place.is_none() => graph.initializer.get(at),
        _ => None,
    };
    let mut groups: HashMap<Mark, Vec<Twins>> = HashMap::new();
    for (number, weight) in weights.iter().enumerate() {
        let Some(tensor) = stored(weight) else { continue };
        let of_use = is_float(weight.data_type) && weight.bytes >= LEAST_BYTES;
        if !of_use || inputs.contains(&weight.name.as_str()) {
            continue;
        }
        let Some(mark) = Mark::of(weight, tensor) else { continue };
        let known = groups.entry(mark).or_default();
        // A file may be made of tensors that differ late.
        let found = known.iter_mut().take(MOST_COMPARED).find_map(|group| {
            let first = weights.get(group.first()?.0)?;
            let transposed = same(first, stored(first)?, weight, tensor)?;
            Some((group, transposed))
        });
        match found {
            Some((group, transposed)) => group.push((number, transposed)),
            None => known.push(vec![(number, false)]),
        }
    }
    let mut found: Vec<Twins> = groups.into_values().flatten().filter(|group| group.len() > 1).collect();
    found.sort();
    found
}

/// What two tensors have in common if one is the other or its transpose.
#[derive(PartialEq, Eq, Hash)]
struct Mark {
    data_type: DataType,
    dims: Vec<usize>,
    /// Values on the diagonal.
    ends: [Vec<u8>; 3],
}

impl Mark {
    fn of(weight: &Weight, tensor: &TensorProto) -> Option<Self> {
        let bytes = tensor::payload(tensor).ok()?;
        let count: usize = weight.dims.iter().product();
        let width = bytes.len().checked_div(count)?;
        let at = |element: usize| Some(bytes.get(element * width..(element + 1) * width)?.to_vec());
        let mut dims = weight.dims.clone();
        let middle = match dims.as_mut_slice() {
            [rows, columns] => {
                let middle = (*rows).min(*columns) / 2;
                let found = middle * *columns + middle;
                dims.sort_unstable();
                found
            }
            _ => count / 2,
        };
        Some(Self { data_type: weight.data_type, dims, ends: [at(0)?, at(middle)?, at(count - 1)?] })
    }
}

/// Whether the values of `b` are those of `a`, or (`Some(true)`) of its transpose; `None` if they are neither.
fn same(a: &Weight, first: &TensorProto, b: &Weight, second: &TensorProto) -> Option<bool> {
    let (one, other) = (tensor::payload(first).ok()?, tensor::payload(second).ok()?);
    if a.dims == b.dims && one == other {
        return Some(false);
    }
    let ([rows, columns], [width, height]) = (a.dims.as_slice(), b.dims.as_slice()) else { return None };
    if (rows, columns) != (height, width) || one.len() != other.len() {
        return None;
    }
    let size = one.len().checked_div(rows * columns).filter(|size| *size > 0)?;
    let mut lines = one.chunks_exact(columns * size).enumerate();
    let is_line = |(row, line): (usize, &[u8])| {
        line.chunks_exact(size).enumerate().all(|(column, value)| {
            let at = (column * rows + row) * size;
            other.get(at..at + size) == Some(value)
        })
    };
    lines.all(is_line).then_some(true)
}
