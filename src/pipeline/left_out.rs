//! Which of the user's samples say nothing and are left out: those without numbers, without a position that counts, and,
//! where weights are fitted, copies of others.

use std::collections::HashSet;

use crate::data::{Origin, Sample, Samples};
use crate::engine::Runner;
use crate::error::{Error, Result};
use crate::onnx::proto::{GraphProto, NodeProto};
use crate::onnx::{Model, node, walk};

/// What an `attention_mask` of zeros is told as.
const MASKED: &str = "have an attention_mask of 0 throughout";

/// Samples without those of no use.
pub(super) struct Useful {
    pub samples: Samples,
    /// The number in the source of each that is left.
    pub numbers: Vec<usize>,
    /// What was left out, and why.
    pub told: Vec<String>,
}

/// The `samples` that weights can be fitted to.
///
/// Copies would stand on both sides of what is held out, and judge themselves.
///
/// # Errors
/// None of them holds numbers only.
pub(super) fn to_fit(samples: Samples) -> Result<Useful> {
    let mut known = HashSet::new();
    let which = "calibration samples";
    Ok(Useful::of(samples)
        .with_numbers(which, Sample::has_no_number)?
        .without(which, MASKED, Sample::is_masked)
        .without(which, "are copies of others", |sample| !known.insert(sample.digest())))
}

/// The `samples` on which models can be compared: not those that hold no numbers, unless `model`, which `original` runs, looks
/// for such and makes numbers of them. A runtime may well make the largest of NaN and 0 a zero.
///
/// # Errors
/// None of them holds numbers only; whatever keeps the original from being run.
pub(super) fn to_judge(samples: Samples, model: &Model, original: &Runner) -> Result<Useful> {
    let expects = looks_for_nan(model.graph());
    let is_lost = |sample: &Sample| -> Result<bool> {
        let is_broken = |values: &[f32]| values.iter().any(|value| !value.is_finite());
        Ok(sample.has_nan() && !expects || sample.is_not_finite() && is_broken(&original.run(sample)?.values))
    };
    let lost = samples.list.iter().map(is_lost).collect::<Result<Vec<bool>>>()?;
    let mut lost = lost.into_iter();
    let which = "samples of --data";
    let useful = Useful::of(samples).with_numbers(which, |_| lost.next().unwrap_or(false))?.without(
        which,
        MASKED,
        Sample::is_masked,
    );
    Ok(useful.telling_copies(which))
}

/// Whether a model asks for what is no number.
fn looks_for_nan(graph: &GraphProto) -> bool {
    let asks = |step: &NodeProto| node::is(step, "IsNaN") || walk::graphs_of(step).any(looks_for_nan);
    graph.node.iter().any(asks)
}

impl Useful {
    fn of(samples: Samples) -> Self {
        let numbers = (0..samples.list.len()).collect();
        Self { samples, numbers, told: Vec::new() }
    }

    /// Leaves out those that hold no numbers, as `is_lost` says.
    ///
    /// # Errors
    /// Nothing would be left.
    fn with_numbers(self, which: &str, is_lost: impl FnMut(&Sample) -> bool) -> Result<Self> {
        const WHY: &str = "hold NaN or infinity";
        let lost: Vec<bool> = self.samples.list.iter().map(is_lost).collect();
        if !lost.is_empty() && lost.iter().all(|is_lost| *is_lost) {
            let subject = match &self.samples.origin {
                Origin::File { path, .. } => path.display().to_string(),
                Origin::Synthetic { .. } => which.to_owned(),
            };
            let error = Error::format(subject, format!("all {} {which} {WHY}", lost.len()));
            return Err(error.help("give samples as the model was made for"));
        }
        let mut lost = lost.into_iter();
        Ok(self.without(which, WHY, |_| lost.next().unwrap_or(false)))
    }

    /// Tells of copies, and leaves them in: how often an input comes may be meant.
    fn telling_copies(mut self, which: &str) -> Self {
        let mut known = HashSet::new();
        let all = self.samples.list.len();
        let copies = self.samples.list.iter().filter(|sample| !known.insert(sample.digest())).count();
        if copies > 0 {
            let what =
                "are copies of others: intervals are narrower than so many different ones would make them";
            self.told.push(format!("{copies} of {all} {which} {what}"));
        }
        self
    }

    /// Leaves out what `is_useless` says so of, unless nothing would be left: that is said then.
    fn without(mut self, which: &str, why: &str, is_useless: impl FnMut(&Sample) -> bool) -> Self {
        let useless: Vec<bool> = self.samples.list.iter().map(is_useless).collect();
        let (count, all) = (useless.iter().filter(|is| **is).count(), useless.len());
        if count > 0 && count < all {
            let (mut of_samples, mut of_numbers) = (useless.iter(), useless.iter());
            self.samples.list.retain(|_| of_samples.next() == Some(&false));
            self.numbers.retain(|_| of_numbers.next() == Some(&false));
            self.told.push(format!("{count} of {all} {which} {why} and were left out"));
        } else if count > 0 {
            self.told.push(format!("all {all} {which} {why}"));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Array, Label, Made};
    use crate::onnx::proto::tensor_proto::DataType;

    fn sample(value: f32, mask: i64) -> Sample {
        let array = |data_type, bytes: Vec<u8>| Array { data_type, shape: vec![1, 1], bytes: bytes.into() };
        let value = array(DataType::Float, value.to_le_bytes().to_vec());
        let mask = array(DataType::Int64, mask.to_le_bytes().to_vec());
        let inputs = vec![("x".to_owned(), value), ("attention_mask".to_owned(), mask)];
        Sample { inputs, label: Label::None }
    }

    fn samples(list: Vec<Sample>) -> Samples {
        Samples { list, origin: Origin::Synthetic { seed: 0, made: Made::Values }, remarks: Vec::new() }
    }

    #[test]
    fn what_is_left_keeps_its_number() {
        let (one, two) = (sample(1.0, 1), sample(2.0, 1));
        let list = vec![one.clone(), sample(f32::NAN, 1), sample(3.0, 0), one.clone(), two.clone()];
        let useful = to_fit(samples(list)).unwrap();
        assert_eq!(useful.samples.list, [one.clone(), two]);
        assert_eq!(useful.numbers, [0, 4]);
        let told = [
            "1 of 5 calibration samples hold NaN or infinity and were left out",
            "1 of 4 calibration samples have an attention_mask of 0 throughout and were left out",
            "1 of 3 calibration samples are copies of others and were left out",
        ];
        assert_eq!(useful.told, told);
    }

    #[test]
    fn copies_that_judge_are_told_and_stay() {
        let useful = Useful::of(samples(vec![sample(1.0, 1), sample(2.0, 1), sample(1.0, 1)]));
        let useful = useful.telling_copies("samples");
        assert_eq!(useful.samples.list.len(), 3);
        assert_eq!(useful.told.len(), 1);
        assert!(useful.told[0].starts_with("1 of 3 samples are copies of others"), "{:?}", useful.told);
        assert!(
            Useful::of(samples(vec![sample(1.0, 1), sample(2.0, 1)]))
                .telling_copies("samples")
                .told
                .is_empty()
        );
    }

    #[test]
    fn something_is_left() {
        let said =
            to_fit(samples(vec![sample(f32::NAN, 1), sample(f32::INFINITY, 1)])).err().unwrap().to_string();
        assert!(said.contains("all 2 calibration samples hold NaN or infinity (give samples"), "{said}");
        let useful = to_fit(samples(vec![sample(1.0, 0); 2])).unwrap();
        assert_eq!(
            useful.told,
            [
                "all 2 calibration samples have an attention_mask of 0 throughout",
                "1 of 2 calibration samples are copies of others and were left out"
            ]
        );
        let useful = to_fit(samples(vec![sample(1.0, 1); 3])).unwrap();
        assert_eq!((useful.samples.list.len(), useful.numbers), (1, vec![0]));
    }
}
