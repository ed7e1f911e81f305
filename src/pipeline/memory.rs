//! Whether running both models fits into memory.

use crate::calibrate::{Limits, bands};
use crate::data::{Array, Sample};
use crate::graph::{Form, Inventory};
use crate::onnx::{Model, tensor};
use crate::report::size;

/// Times that calibration holds the widest input of a linear, of the original and the rewritten network, as it comes,
/// rounded and summed up, and the widest product (measured: 1.8 GB for 24 000 rows of 1536).
const HELD_INPUTS: u64 = 8;
const HELD_PRODUCTS: u64 = 4;
/// Bytes of second moments, as sums, damped and factored, for each pair of inputs of a linear (see
/// [`crate::quant::compensate::Prepared`]: the factorization is in float64).
const MOMENTS: u64 = 128;

/// Bytes that a process takes before it runs a model (measured: 45 MB).
const OWN: u64 = 50_000_000;

/// Elements of a vector, about.
const LONGEST_VECTOR: u64 = 1024;

/// Positions of a sample that is not made yet.
const POSITIONS: u64 = 512;
/// Activations that are alive at the same time, about.
const ALIVE: u64 = 4;
/// Heads of an attention, about: each has its scores of every position against every other.
const HEADS: u64 = 16;

/// Why running `model` beside its rewritten form on `samples` would take more than `limit` bytes of memory, and
/// the way out; `None` if it would not.
pub(super) fn too_large(
    model: &Model,
    known: &Inventory,
    samples: &[Sample],
    limit: u64,
    way_out: &str,
) -> Option<String> {
    let needed = estimate(model, known, samples);
    (needed > limit).then(|| {
        let (needed, limit) = (size(needed), size(limit));
        format!("running the models would take about {needed} of memory, more than {limit} ({way_out})")
    })
}

/// What calibration on `samples` may have in memory at a time for `limit` bytes in all: second moments take no more than
/// three quarters of what the weights leave, activations the rest.
pub(super) fn limits<'s>(
    model: &Model,
    known: &Inventory,
    samples: impl Iterator<Item = &'s Sample>,
    limit: u64,
) -> Limits {
    let linears = || known.sites.iter().filter(|site| site.form != Form::Gather);
    let left = limit.saturating_sub(OWN).saturating_sub(weights(model, known).saturating_mul(2));
    let pairs = usize::try_from(left / 4 * 3 / MOMENTS).unwrap_or(usize::MAX);
    let held = |k: usize| bands(k, pairs).iter().map(|band| (band.len() as u64).pow(2)).sum::<u64>();
    let moments = linears().map(|site| held(site.k)).max().unwrap_or(0).saturating_mul(MOMENTS);

    let left = left.saturating_sub(moments);
    let inputs = linears().map(|site| site.k as u64).max().unwrap_or(1);
    let products = linears().map(|site| site.n as u64).max().unwrap_or(1);
    let row = inputs.saturating_mul(HELD_INPUTS).saturating_add(products.saturating_mul(HELD_PRODUCTS));
    let (count, rows) = samples
        .fold((0usize, 0u64), |(count, rows), sample| (count + 1, rows.saturating_add(positions(sample))));
    let needed = rows.saturating_mul(row).saturating_mul(4).max(1);
    let samples_at_once =
        if needed <= left { count } else { (count as f64 * (left as f64 / needed as f64)) as usize };
    Limits { samples_at_once: samples_at_once.max(1), pairs }
}

/// Bytes of the weights in float32.
fn weights(model: &Model, known: &Inventory) -> u64 {
    let elements =
        |dims: &[usize]| dims.iter().fold(1u64, |product, dim| product.saturating_mul(*dim as u64));
    let weights = known.weights.iter().fold(0u64, |sum, weight| sum.saturating_add(elements(&weight.dims)));
    let listed = known.weights.iter().fold(0u64, |sum, weight| sum.saturating_add(weight.bytes));
    // What no node uses as a weight is not listed: as many bytes as are in the file.
    weights.saturating_mul(4).saturating_add(model.size().saturating_sub(listed))
}

/// Bytes: the weights of both models in float32, and the largest activations of one sample.
fn estimate(model: &Model, known: &Inventory, samples: &[Sample]) -> u64 {
    let weights = weights(model, known);
    let positions = samples.iter().map(positions).max().unwrap_or(POSITIONS);
    let widest = known.sites.iter().map(|site| site.n as u64).max().unwrap_or(1);
    let widest = widest.max(HEADS.saturating_mul(positions));
    let activations = positions.saturating_mul(widest).saturating_mul(4 * ALIVE);
    weights.saturating_mul(2).saturating_add(activations).saturating_add(OWN)
}

/// Rows that the linear layers see of `sample`, about: one for each id, or for each vector of a float input, which is
/// cut where it is longer than vectors are (sound).
pub(super) fn positions(sample: &Sample) -> u64 {
    let rows = |array: &Array| {
        let product =
            |sizes: &[usize]| sizes.iter().fold(1u64, |product, size| product.saturating_mul(*size as u64));
        let elements = product(&array.shape);
        match (array.shape.as_slice(), tensor::is_float(array.data_type)) {
            ([outer @ .., _], true) => product(outer).max(elements.div_ceil(LONGEST_VECTOR)),
            ([outer @ .., _], false) if outer.len() > 1 => product(outer),
            _ => elements,
        }
    };
    sample.inputs.iter().map(|(_, array)| rows(array)).max().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Label;
    use crate::graph::inventory;
    use crate::onnx::proto::{GraphProto, ModelProto, OperatorSetIdProto, tensor_proto::DataType};
    use crate::onnx::{node, tensor};

    /// `x · w [64,32]`.
    fn linear(data_type: DataType, bytes: usize) -> Model {
        let graph = GraphProto {
            node: vec![node::build("MatMul", "", &["x", "w"], &["y"], vec![])],
            initializer: vec![tensor::from_raw("w", data_type, &[64, 32], vec![0; bytes])],
            ..Default::default()
        };
        let import = OperatorSetIdProto { domain: None, version: Some(17) };
        Model::from_proto(ModelProto { graph: Some(graph), opset_import: vec![import], ..Default::default() })
    }

    #[test]
    fn weights_count_twice_in_float32_and_positions_by_their_widest_row() {
        let model = linear(DataType::Float16, 4096);
        let known = inventory(&model);
        let activations = POSITIONS * HEADS * POSITIONS * 4 * ALIVE;
        let expected = OWN + 2 * 4 * 64 * 32 + activations;
        assert_eq!(estimate(&model, &known, &[]), expected);
        assert_eq!(too_large(&model, &known, &[], expected, "--validate always runs them"), None);
        let why = too_large(&model, &known, &[], expected - 1, "--validate always runs them").unwrap();
        assert!(why.ends_with("(--validate always runs them)"), "{why}");
    }

    #[test]
    fn rows_are_ids_or_vectors() {
        let of = |data_type, shape: &[usize]| {
            let array = Array { data_type, shape: shape.to_vec(), bytes: Vec::new().into() };
            positions(&Sample { inputs: vec![("x".to_owned(), array)], label: Label::None })
        };
        assert_eq!(of(DataType::Int64, &[1, 128]), 128);
        assert_eq!(of(DataType::Float, &[1, 256]), 1);
        assert_eq!(of(DataType::Float16, &[2, 128, 768]), 256);
        assert_eq!(of(DataType::Float, &[1, 16_000]), 16);
        assert_eq!(of(DataType::Float, &[]), 1);
    }

    #[test]
    fn calibration_has_as_much_in_memory_as_the_limit_leaves() {
        let model = linear(DataType::Float, 8192);
        let known = inventory(&model);
        let x = Array { data_type: DataType::Float, shape: vec![1, 10, 64], bytes: vec![0; 2560].into() };
        let samples = vec![Sample { inputs: vec![("x".to_owned(), x)], label: Label::None }; 1000];
        let limits = |limit| limits(&model, &known, samples.iter(), limit);
        let all = 1000 * 10 * 4 * (64 * HELD_INPUTS + 32 * HELD_PRODUCTS);
        let (weights, moments) = (OWN + 2 * 8192, 64 * 64 * MOMENTS);
        assert_eq!(limits(weights + moments + all).samples_at_once, 1000);
        assert_eq!(limits(weights + moments + all / 2).samples_at_once, 500);
        assert_eq!(limits(weights + moments).samples_at_once, 1);
        assert_eq!(limits(weights + 4 * MOMENTS * 1000).pairs, 3000);
        assert_eq!(limits(0), Limits { samples_at_once: 1, pairs: 0 });
    }
}
