//! Samples without padding: at their end it costs time and is masked out of every figure, and between two samples it
//! makes no difference.

use super::positions::{AXIS, Sequence, cut, free};
use super::{Array, IGNORED, InputSpec, Label, Sample};

/// The shortest length that is cut to.
const LEAST: usize = 16;
/// The input that says which positions count.
const MASK: &str = "attention_mask";

/// `sample` without the positions at the end that its `attention_mask` leaves out, but for some: lengths are few,
/// so that the runtime plans few times. `None` where there is nothing to cut, or the graph asks for a length.
pub(super) fn unpadded(sample: &Sample, specs: &[InputSpec]) -> Option<Sample> {
    let mask = sample.mask()?;
    let length = mask.len();
    let counted = mask.iter().rposition(|counts| *counts).map_or(0, |last| last + 1);
    let kept = rounded(counted).min(length);
    if kept == length {
        return None;
    }
    let name = free(specs, MASK, AXIS)?.to_owned();
    let inputs = cut(sample, specs, &Sequence { input: MASK.to_owned(), name, length }, kept)?;
    let label = match &sample.label {
        Label::Positions(classes) if classes.len() == length => {
            let (head, tail) = classes.split_at(kept);
            if tail.iter().any(|class| *class != IGNORED) {
                return None;
            }
            Label::Positions(head.to_vec())
        }
        Label::Positions(_) => return None,
        other => other.clone(),
    };
    Some(Sample { inputs, label })
}

/// The inputs of `sample` at the positions that its `attention_mask` counts, on whichever side padding stands, without
/// what only repeats one type of token: what tells it from other samples.
pub(super) fn counted(sample: &Sample) -> Vec<(&str, Array)> {
    let mask = sample.mask().filter(|mask| mask.contains(&true));
    let kept = |array: &Array| mask.as_ref().and_then(|mask| at_positions(array, mask));
    let all = sample
        .inputs
        .iter()
        .map(|(name, array)| (name.as_str(), kept(array).unwrap_or_else(|| array.clone())));
    let is_type = |name: &str| ["token_type", "segment"].iter().any(|part| name.contains(part));
    let repeats = |array: &Array| {
        let size = array.bytes.len() / array.shape.iter().product::<usize>().max(1);
        array.bytes.iter().zip(array.bytes.iter().skip(size)).all(|(a, b)| a == b)
    };
    all.filter(|(name, array)| !(is_type(name) && repeats(array))).collect()
}

/// The positions of `array`, `[length,…]` or `[1,length,…]`, that `mask` counts; `None` for what has no positions.
fn at_positions(array: &Array, mask: &[bool]) -> Option<Array> {
    let axis = array.shape.iter().take(AXIS + 1).position(|size| *size == mask.len())?;
    let outer: usize = array.shape.iter().take(axis).product();
    if outer != 1 || !array.bytes.len().is_multiple_of(mask.len().max(1)) {
        return None;
    }
    let size = array.bytes.len() / mask.len().max(1);
    let positions = array.bytes.chunks(size.max(1)).zip(mask).filter(|(_, counts)| **counts);
    let bytes: Vec<u8> = positions.flat_map(|(position, _)| position.iter().copied()).collect();
    let mut shape = array.shape.clone();
    *shape.get_mut(axis)? = mask.iter().filter(|counts| **counts).count();
    Some(Array { data_type: array.data_type, shape, bytes: bytes.into() })
}

/// The next of 16, 24, 32, 48, 64, 96, ...
fn rounded(length: usize) -> usize {
    let power = length.max(LEAST).next_power_of_two();
    if power > LEAST && length <= power / 4 * 3 { power / 4 * 3 } else { power }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dim;
    use crate::onnx::proto::tensor_proto::DataType;

    fn ids(values: &[i64]) -> Array {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Array { data_type: DataType::Int64, shape: vec![1, values.len()], bytes: bytes.into() }
    }

    fn spec(name: &str, free: Option<&str>) -> InputSpec {
        let last = free.map_or(Dim::Fixed(40), |name| Dim::Free(name.to_owned()));
        InputSpec {
            name: name.to_owned(),
            data_type: DataType::Int64,
            dims: Some(vec![Dim::Free("batch".to_owned()), last]),
        }
    }

    fn sample(counted: usize) -> Sample {
        let mask: Vec<i64> = (0..40).map(|at| i64::from(at < counted)).collect();
        let values: Vec<i64> = (0..40).collect();
        let inputs = vec![("input_ids".to_owned(), ids(&values)), ("attention_mask".to_owned(), ids(&mask))];
        Sample { inputs, label: Label::None }
    }

    #[test]
    fn what_the_mask_leaves_out_at_the_end_goes() {
        let specs = [spec("input_ids", Some("length")), spec("attention_mask", Some("length"))];
        let cut = unpadded(&sample(17), &specs).unwrap();
        assert_eq!(cut.inputs[0].1, ids(&(0..24).collect::<Vec<i64>>()));
        assert_eq!(cut.mask().unwrap().iter().filter(|counts| **counts).count(), 17);
        assert_eq!(unpadded(&sample(3), &specs).unwrap().inputs[0].1.shape, [1, 16]);
        assert_eq!(unpadded(&sample(33), &specs), None);
        let labelled = |class| Sample { label: Label::Positions(vec![class; 40]), ..sample(17) };
        assert_eq!(unpadded(&labelled(IGNORED), &specs).unwrap().label, Label::Positions(vec![IGNORED; 24]));
        assert_eq!(unpadded(&labelled(1), &specs), None);
    }

    #[test]
    fn what_counts_is_the_same_on_either_side_of_padding_and_without() {
        let padded = |before: usize, after: usize, pad: i64, types: Option<i64>| {
            let around = |value: i64, inner: &[i64]| {
                ids(&[&vec![value; before][..], inner, &vec![value; after]].concat())
            };
            let mut inputs = vec![
                ("input_ids".to_owned(), around(pad, &[7, 8, 9])),
                ("attention_mask".to_owned(), around(0, &[1; 3])),
            ];
            inputs.extend(types.map(|kind| ("token_type_ids".to_owned(), around(0, &[kind; 3]))));
            Sample { inputs, label: Label::None }
        };
        let plain = padded(0, 0, 0, None);
        for other in [padded(0, 5, 0, None), padded(5, 0, 1, None), padded(2, 2, 0, Some(0))] {
            assert_eq!(counted(&other), counted(&plain));
        }
        assert_ne!(counted(&plain), counted(&sample(3)));
        // Without a position that counts all are the sample.
        assert_eq!(counted(&sample(0)).first().map(|(_, ids)| ids.shape.clone()), Some(vec![1, 40]));
    }

    #[test]
    fn a_graph_that_asks_for_a_length_gets_it() {
        let specs = [spec("input_ids", None), spec("attention_mask", None)];
        assert_eq!(unpadded(&sample(17), &specs), None);
    }

    #[test]
    fn lengths_are_few() {
        let found: Vec<usize> = [0, 16, 17, 25, 33, 49, 65, 97, 129].into_iter().map(rounded).collect();
        assert_eq!(found, [16, 16, 24, 32, 48, 64, 96, 128, 192]);
    }
}
