//! Which of the user's samples say nothing and are left out: those without numbers, without a position that counts, and,
//! where weights are fitted, copies of others.

use std::collections::HashSet;

use crate::data::{Sample, Samples};
use crate::engine::Runner;
use crate::error::Result;

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
pub(super) fn to_fit(samples: Samples) -> Useful {
    let mut known = HashSet::new();
    let which = "calibration samples";
    Useful::of(samples)
        .without(which, "hold NaN or infinity", Sample::has_no_number)
        .without(which, MASKED, Sample::is_masked)
        .without(which, "are copies of others", |sample| !known.insert(sample.digest()))
}

/// The `samples` on which models can be compared: not those that hold no numbers, where `original` makes none of them either.
///
/// # Errors
/// Whatever keeps the original from being run.
pub(super) fn to_judge(samples: Samples, original: &Runner) -> Result<Useful> {
    let is_lost = |sample: &Sample| -> Result<bool> {
        Ok(sample.is_not_finite() && original.run(sample)?.values.iter().any(|value| !value.is_finite()))
    };
    let lost = samples.list.iter().map(is_lost).collect::<Result<Vec<bool>>>()?;
    let mut lost = lost.into_iter();
    let which = "samples of --data";
    let useful = Useful::of(samples)
        .without(which, "hold NaN or infinity", |_| lost.next().unwrap_or(false))
        .without(which, MASKED, Sample::is_masked);
    Ok(useful.telling_copies(which))
}

impl Useful {
    fn of(samples: Samples) -> Self {
        let numbers = (0..samples.list.len()).collect();
        Self { samples, numbers, told: Vec::new() }
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
    use crate::data::{Array, Label, Made, Origin};
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
        let useful = to_fit(samples(list));
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
        let useful = to_fit(samples(vec![sample(f32::NAN, 1), sample(f32::INFINITY, 1)]));
        assert_eq!(useful.samples.list.len(), 2);
        assert_eq!(useful.told, ["all 2 calibration samples hold NaN or infinity"]);
        let useful = to_fit(samples(vec![sample(1.0, 1); 3]));
        assert_eq!((useful.samples.list.len(), useful.numbers), (1, vec![0]));
    }
}
