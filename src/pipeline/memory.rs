//! Whether running both models fits into memory.

use crate::data::Sample;
use crate::graph::Inventory;
use crate::onnx::Model;

/// Bytes of memory that running both models may take where nothing else is said: those of 2 GB in float32.
pub(super) const DEFAULT_LIMIT: u64 = 4_000_000_000;

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
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    (needed > limit).then(|| {
        let (needed, limit) = (gigabytes(needed), gigabytes(limit));
        format!("running the models would take about {needed:.1} GB of memory, more than {limit:.1} GB ({way_out})")
    })
}

/// Bytes: the weights of both models in float32, and the largest activations of one sample.
fn estimate(model: &Model, known: &Inventory, samples: &[Sample]) -> u64 {
    let elements =
        |dims: &[usize]| dims.iter().fold(1u64, |product, dim| product.saturating_mul(*dim as u64));
    let weights = known.weights.iter().fold(0u64, |sum, weight| sum.saturating_add(elements(&weight.dims)));
    let listed = known.weights.iter().fold(0u64, |sum, weight| sum.saturating_add(weight.bytes));
    // What bodies and functions hold is not listed: as many bytes as are in the file.
    let weights = weights.saturating_mul(4).saturating_add(model.size().saturating_sub(listed));
    let positions = samples.iter().map(positions).max().unwrap_or(POSITIONS);
    let widest = known.sites.iter().map(|site| site.n as u64).max().unwrap_or(1);
    let widest = widest.max(HEADS.saturating_mul(positions));
    let activations = positions.saturating_mul(widest).saturating_mul(4 * ALIVE);
    weights.saturating_mul(2).saturating_add(activations)
}

/// Rows that the linear layers see at most: one for each id, or for each vector of a float input.
fn positions(sample: &Sample) -> u64 {
    let rows = |shape: &[usize]| match shape {
        [_, _] | [_] | [] => shape.iter().product::<usize>() as u64,
        [outer @ .., _] => outer.iter().product::<usize>() as u64,
    };
    sample.inputs.iter().map(|(_, array)| rows(&array.shape)).max().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::inventory;
    use crate::onnx::proto::{GraphProto, ModelProto, OperatorSetIdProto, tensor_proto::DataType};
    use crate::onnx::{node, tensor};

    #[test]
    fn weights_count_twice_in_float32_and_positions_by_their_widest_row() {
        let graph = GraphProto {
            node: vec![node::build("MatMul", "", &["x", "w"], &["y"], vec![])],
            initializer: vec![tensor::from_raw("w", DataType::Float16, &[64, 32], vec![0; 4096])],
            ..Default::default()
        };
        let import = OperatorSetIdProto { domain: None, version: Some(17) };
        let proto = ModelProto { graph: Some(graph), opset_import: vec![import], ..Default::default() };
        let model = Model::from_proto(proto);
        let known = inventory(&model);
        let activations = POSITIONS * HEADS * POSITIONS * 4 * ALIVE;
        let expected = 2 * 4 * 64 * 32 + activations;
        assert_eq!(estimate(&model, &known, &[]), expected);
        assert_eq!(too_large(&model, &known, &[], expected, "--validate always runs them"), None);
        let why = too_large(&model, &known, &[], expected - 1, "--validate always runs them").unwrap();
        assert!(why.ends_with("(--validate always runs them)"), "{why}");
    }
}
