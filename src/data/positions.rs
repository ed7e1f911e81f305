//! Positions of sequences: which inputs share them, and the first ones of a sample.

use super::{Array, Dim, InputSpec, Label, Sample};

/// The axis of positions.
pub(super) const AXIS: usize = 1;

/// A sequence in a sample whose length the graph leaves open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// The first input that holds it.
    pub input: String,
    /// What the graph calls its length.
    pub name: String,
    /// How many positions there are.
    pub length: usize,
}

impl Sample {
    /// The sequences of a graph with the inputs `specs`, each once.
    pub fn sequences(&self, specs: &[InputSpec]) -> Vec<Sequence> {
        let mut found: Vec<Sequence> = Vec::new();
        for (input, array) in self.inputs.iter().filter(|(_, array)| (2..=3).contains(&array.shape.len())) {
            let (Some(name), Some(length)) = (free(specs, input, AXIS), array.shape.get(AXIS)) else {
                continue;
            };
            if !found.iter().any(|known| known.name == name && known.length == *length) {
                found.push(Sequence { input: input.clone(), name: name.to_owned(), length: *length });
            }
        }
        found
    }

    /// The same with the first `count` positions of `sequence` and no label; `None` where it cannot be cut.
    pub fn first_positions(&self, specs: &[InputSpec], sequence: &Sequence, count: usize) -> Option<Self> {
        Some(Self { inputs: cut(self, specs, sequence, count)?, label: Label::None })
    }

    /// The same with what stands at the first position of `sequence` at its last one too.
    pub fn with_first_at_end(&self, specs: &[InputSpec], sequence: &Sequence) -> Option<Self> {
        let mut copy = self.clone();
        for (name, array) in &mut copy.inputs {
            if !holds(specs, sequence, name, array, AXIS) {
                continue;
            }
            let size = array.bytes.len() / sequence.length.max(1);
            let (body, first) = (array.bytes.len().checked_sub(size)?, array.bytes.get(..size)?);
            array.bytes = [array.bytes.get(..body)?, first].concat().into();
        }
        Some(copy)
    }
}

/// The inputs of `sample` with the first `count` positions of `sequence`.
pub(super) fn cut(
    sample: &Sample,
    specs: &[InputSpec],
    sequence: &Sequence,
    count: usize,
) -> Option<Vec<(String, Array)>> {
    let each = sample.inputs.iter().map(|(name, array)| {
        let spec = specs.iter().find(|spec| spec.name == *name)?;
        let axes = spec.dims.as_ref()?.len();
        // Other axes may have the same size by chance, or be another name for the same positions.
        let same = |axis: usize| holds(specs, sequence, name, array, axis);
        if (0..axes).any(|axis| axis != AXIS && same(axis)) {
            return None;
        }
        Some((name.clone(), if same(AXIS) { first(array, count)? } else { array.clone() }))
    });
    each.collect()
}

/// Whether an axis of an input is that of `sequence`.
fn holds(specs: &[InputSpec], sequence: &Sequence, input: &str, array: &Array, axis: usize) -> bool {
    array.shape.get(axis) == Some(&sequence.length) && free(specs, input, axis) == Some(&sequence.name)
}

/// What the graph calls the size of an axis that it leaves open.
pub(super) fn free<'s>(specs: &'s [InputSpec], input: &str, axis: usize) -> Option<&'s str> {
    let spec = specs.iter().find(|spec| spec.name == input)?;
    match spec.dims.as_ref()?.get(axis)? {
        Dim::Free(name) => Some(name),
        Dim::Fixed(_) => None,
    }
}

/// The first `count` positions of an array `[1,length,…]`.
fn first(array: &Array, count: usize) -> Option<Array> {
    let length = *array.shape.get(AXIS).filter(|length| **length >= count.max(1))?;
    if array.shape.first() != Some(&1) || !array.bytes.len().is_multiple_of(length) {
        return None;
    }
    let mut shape = array.shape.clone();
    *shape.get_mut(AXIS)? = count;
    let bytes = array.bytes.slice(..array.bytes.len() / length * count);
    Some(Array { data_type: array.data_type, shape, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::tensor_proto::DataType;

    fn ids(values: &[i64]) -> Array {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Array { data_type: DataType::Int64, shape: vec![1, values.len()], bytes: bytes.into() }
    }

    fn spec(name: &str, axis: Dim) -> InputSpec {
        let dims = Some(vec![Dim::Free("batch".to_owned()), axis]);
        InputSpec { name: name.to_owned(), data_type: DataType::Int64, dims }
    }

    #[test]
    fn inputs_of_one_length_are_cut_together() {
        let free = |name: &str| Dim::Free(name.to_owned());
        let specs = [spec("ids", free("length")), spec("mask", free("length")), spec("kind", Dim::Fixed(3))];
        let inputs = [("ids", ids(&[7, 8, 9])), ("mask", ids(&[1, 1, 0])), ("kind", ids(&[4, 5, 6]))];
        let inputs = inputs.map(|(name, array)| (name.to_owned(), array)).to_vec();
        let sample = Sample { inputs, label: Label::Class(1) };
        let [sequence] = &sample.sequences(&specs)[..] else { panic!("{:?}", sample.sequences(&specs)) };
        assert_eq!((sequence.input.as_str(), sequence.length), ("ids", 3));
        let of = |sample: &Sample| sample.inputs.iter().map(|(_, array)| array.clone()).collect::<Vec<_>>();
        let two = sample.first_positions(&specs, sequence, 2).unwrap();
        assert_eq!(of(&two), [ids(&[7, 8]), ids(&[1, 1]), ids(&[4, 5, 6])]);
        assert_eq!(two.label, Label::None);
        let same = sample.with_first_at_end(&specs, sequence).unwrap();
        assert_eq!(of(&same), [ids(&[7, 8, 7]), ids(&[1, 1, 1]), ids(&[4, 5, 6])]);
        assert_eq!(sample.first_positions(&specs, sequence, 4), None);
    }
}
