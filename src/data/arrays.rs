//! Named arrays as samples: one array per graph input, first axis = samples, and optionally `labels`.

use std::collections::BTreeMap;

use super::inputs::{Dim, InputSpec, as_integers, fit, inputs};
use super::{Array, Label, Sample};
use crate::error::{Error, Result};
use crate::limits;
use crate::onnx::Model;
use crate::preset::nearest;

/// The array that holds what is right.
const LABELS: &str = "labels";

/// `arrays` cut into samples for `model`.
///
/// # Errors
/// Arrays that fit no input or are missing, other sizes than declared, labels of another count than samples.
pub(super) fn samples(mut arrays: BTreeMap<String, Array>, model: &Model) -> Result<Vec<Sample>> {
    let specs = inputs(model)?;
    let labels = match specs.iter().any(|spec| spec.name == LABELS) {
        true => None,
        false => arrays.remove(LABELS),
    };
    let wanted: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    if let Some(name) = arrays.keys().find(|name| !wanted.contains(&name.as_str())) {
        let near = nearest(name, wanted.iter().copied(), 1);
        let hint = near.first().map_or(String::new(), |near| format!("; nearest: {near}"));
        return Err(Error::format(format!("array '{name}'"), "is no input of the model and not `labels`")
            .help(format!("inputs: {}{hint}", wanted.join(", "))));
    }
    let mut count = None;
    for spec in &specs {
        let array = arrays.get(&spec.name).ok_or_else(|| {
            Error::format(format!("array '{}'", spec.name), "is missing")
                .help(format!("one array for each input: {}", wanted.join(", ")))
        })?;
        let first = array.shape.first().copied().unwrap_or(1);
        match count {
            None => count = Some((first, &spec.name)),
            Some((other, name)) if other != first => {
                return Err(Error::format(
                    format!("array '{}'", spec.name),
                    format!("{first} samples, '{name}' has {other}"),
                ));
            }
            Some(_) => {}
        }
    }
    let count = count.map_or(0, |(count, _)| count);
    if count > limits::SAMPLES
        || specs.iter().any(|spec| arrays.get(&spec.name).is_some_and(|a| a.bytes.is_empty()))
    {
        return Err(Error::format("arrays", format!("{count} samples, or samples without a value")));
    }
    let labels = labels.map(|array| split_labels(&array, count)).transpose()?;
    (0..count)
        .map(|at| {
            let taken = specs.iter().map(|spec| {
                let array = arrays.get(&spec.name).ok_or_else(|| Error::format("array", "is missing"))?;
                Ok((spec.name.clone(), fit(spec, slice(array, at, spec)?)?))
            });
            let label = labels.as_ref().and_then(|labels| labels.get(at).cloned()).unwrap_or_default();
            Ok(Sample { inputs: taken.collect::<Result<_>>()?, label })
        })
        .collect()
}

/// Sample `at` as a batch of one; without that axis where the input has one axis less than the array.
fn slice(array: &Array, at: usize, spec: &InputSpec) -> Result<Array> {
    let size = array.shape.first().copied().filter(|count| *count > 0).map_or(0, |n| array.bytes.len() / n);
    let mut shape = array.shape.clone();
    let whole = spec
        .dims
        .as_ref()
        .is_none_or(|dims| dims.len() + 1 != array.shape.len() || matches!(dims.first(), Some(Dim::Free(_))));
    match shape.first_mut() {
        Some(first) if whole => *first = 1,
        Some(_) => drop(shape.remove(0)),
        None => return Ok(array.clone()),
    }
    if whole {
        spec.takes_one_sample()?;
    }
    let bytes = array.bytes.slice(at * size..(at + 1) * size);
    Ok(Array { data_type: array.data_type, shape, bytes })
}

fn split_labels(array: &Array, samples: usize) -> Result<Vec<Label>> {
    let wrong = |what: String| Error::format("array 'labels'", what);
    let values = as_integers(array).ok_or_else(|| wrong("class numbers must be integers".to_owned()))?;
    let count = array.shape.first().copied().unwrap_or(0);
    if count != samples {
        return Err(wrong(format!("{count} labels for {samples} samples")));
    }
    match array.shape.as_slice() {
        [_] => Ok(values.into_iter().map(Label::Class).collect()),
        [_, 0] => Err(wrong("no position in a sample".to_owned())),
        [_, width] => Ok(values.chunks(*width).map(|row| Label::Positions(row.to_vec())).collect()),
        shape => Err(wrong(format!("shape {shape:?}, one class a sample or one a position are expected"))),
    }
}
