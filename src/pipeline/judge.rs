//! Running original and rewritten model on the same samples, and what that says.

use rayon::prelude::*;

use super::blame::blame;
use super::left_out::{Useful, to_judge};
use super::{RewriteOptions, When, memory, output_of, samples_for};
use crate::data::{self, InputSpec, Label, Sample, Samples};
use crate::engine::{Output, Runner, Variant, fusion};
use crate::error::{Error, Kind, Result};
use crate::graph::{Inventory, Measured};
use crate::onnx::proto::{
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};
use crate::onnx::{Checked, Model};
use crate::progress::Progress;
use crate::report::{Data, Validation};
use crate::validate::{self, Gate, Measure, Outcome, Score, Verdict};

/// Outputs of the original are kept between rounds up to this many values.
const KEPT_VALUES: usize = 128 << 20;

/// Outputs that are the same may differ by this share of the largest value: sums are ordered by length.
const SAME: f32 = 1e-4;

/// What ran the models, for the record.
pub(super) const ENGINE: &str =
    "tract 0.23.9 with the int8 activations of ONNX Runtime's MatMulNBits (accuracy level 4)";

/// The original made ready, with the samples.
pub(super) struct Judge<'a> {
    options: &'a RewriteOptions,
    model: &'a Checked<Model>,
    known: &'a Inventory,
    given: Option<Samples>,
    ready: Option<Ready>,
}

/// Everything of a judgement that does not change between rounds.
pub(super) struct Ready {
    pub(super) samples: Samples,
    /// The number of each sample in its source.
    numbers: Vec<usize>,
    /// Samples that were left out, and why.
    left_out: Vec<String>,
    pub(super) output: Measured,
    pub(super) original: Runner,
    /// The original without the int8 step, where it has fused layers of its own.
    bare: Option<Runner>,
    /// Length of the output's last axis.
    width: usize,
    /// Sizes of the output as the original declares them, where the other model may be of another kind altogether.
    sizes: Option<Vec<Option<i64>>>,
    kept: Option<Vec<Output>>,
}

/// What a round of judging found.
pub(super) enum Judged {
    /// Both models were run; the verdict of the deployed arithmetic stands in the validation too.
    Measured { validation: Validation, verdict: Box<Verdict> },
    /// They were not, for the reason that the validation gives.
    Not(Validation),
}

impl Judged {
    /// The verdict on the deployed arithmetic, where both models were run.
    fn verdict(&self) -> Option<&Verdict> {
        match self {
            Judged::Measured { verdict, .. } => Some(verdict),
            Judged::Not(_) => None,
        }
    }

    /// Whether more bytes may turn the verdict: the target is missed, or the interval reaches beyond it though the samples
    /// are enough to show that it is held.
    pub(super) fn misses_target(&self) -> bool {
        self.verdict().is_some_and(|verdict| {
            let beyond = verdict.estimate.is_some_and(|estimate| estimate > verdict.target);
            verdict.outcome != Outcome::NotVerified
                && (beyond || self.leaves_open() || verdict.non_finite > 0)
        })
    }

    /// Whether the interval leaves open what as many samples could decide.
    pub(super) fn leaves_open(&self) -> bool {
        self.verdict().is_some_and(|verdict| {
            verdict.outcome == Outcome::Undecided && self.floor().is_some() && self.loss() > verdict.target
        })
    }

    /// Whether the verdict is that the target is held.
    pub(super) fn passes(&self) -> bool {
        self.verdict().is_some_and(|verdict| verdict.outcome == Outcome::Passed)
    }

    /// Whether both models were run.
    pub(super) fn was_measured(&self) -> bool {
        self.verdict().is_some()
    }

    /// Whether every value is finite that was so in the original.
    pub(super) fn is_finite(&self) -> bool {
        self.verdict().is_none_or(|verdict| verdict.non_finite == 0)
    }

    /// The loss that is held against the target: the upper end of the interval where that decides and can, else the
    /// estimate; 0 where it was not measured.
    pub(super) fn loss(&self) -> f64 {
        let interval = self.verdict().and_then(|verdict| verdict.interval);
        match self.floor().and(interval) {
            Some(interval) => interval.high,
            None => self.estimate(),
        }
    }

    /// The estimate of the loss, 0 where it was not measured.
    pub(super) fn estimate(&self) -> f64 {
        self.verdict().and_then(|verdict| verdict.estimate).unwrap_or(0.0)
    }

    /// The part of [`Judged::loss`] that no plan can take away, where the interval decides and can.
    fn floor(&self) -> Option<f64> {
        self.verdict().and_then(|verdict| verdict.floor.filter(|floor| *floor < verdict.target))
    }

    /// What the loss may be of what it is, beside what no plan can take away.
    pub(super) fn share(&self) -> f64 {
        let floor = self.floor().unwrap_or(0.0);
        (self.target() - floor) / (self.loss() - floor).max(1e-12)
    }

    /// By how much the target is missed, as the reason of a repair.
    pub(super) fn shortfall(&self) -> String {
        if !self.is_finite() {
            return "repair: values that are not finite".to_owned();
        }
        let what = if self.loss() > self.estimate() { "an interval up to" } else { "a loss of" };
        let [loss, target] = [self.loss(), self.target()].map(validate::figure);
        format!("repair: {what} {} against {target}", validate::in_unit(&loss, self.unit()))
    }

    /// The unit of loss and target.
    pub(super) fn unit(&self) -> &'static str {
        self.verdict().map_or("%", |verdict| verdict.measure.unit())
    }

    /// The target in percent.
    pub(super) fn target(&self) -> f64 {
        self.verdict().map_or(0.0, |verdict| verdict.target)
    }

    pub(super) fn into_validation(self) -> Validation {
        match self {
            Judged::Measured { validation, .. } | Judged::Not(validation) => validation,
        }
    }
}

impl<'a> Judge<'a> {
    pub(super) fn new(
        options: &'a RewriteOptions,
        model: &'a Checked<Model>,
        known: &'a Inventory,
        given: Option<Samples>,
    ) -> Self {
        Self { options, model, known, given, ready: None }
    }

    /// The user's samples, if they have been read.
    pub(super) fn samples(&self) -> Option<&Samples> {
        self.ready.as_ref().map(|ready| &ready.samples).filter(|samples| samples.are_real())
    }

    /// How many classes the user's samples are judged by, if they have been read: the length of the output's last axis.
    pub(super) fn classes(&self) -> Option<usize> {
        self.ready.as_ref().filter(|ready| ready.samples.are_real()).map(|ready| ready.width)
    }

    /// Warnings of samples that were of no use.
    pub(super) fn left_out(&self) -> &[String] {
        self.ready.as_ref().map_or(&[], |ready| &ready.left_out)
    }

    /// What the runs stand on, made ready where it is not yet.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] when the original cannot be run, and an error of the user's samples when it is they on which it
    /// cannot.
    pub(super) fn prepared(&mut self, progress: &dyn Progress) -> Result<&Ready> {
        let ready = match self.ready.take() {
            Some(ready) => ready,
            None => self.prepare(progress).map_err(|error| self.blame(error, progress))?,
        };
        Ok(self.ready.insert(ready))
    }

    /// Runs `rewritten` beside the original.
    ///
    /// # Errors
    /// With [`When::Always`], whatever keeps the models from being run.
    pub(super) fn judge(&mut self, rewritten: &Checked<Model>, progress: &dyn Progress) -> Result<Judged> {
        let skipped = |reason: &str| Ok(Judged::Not(Validation::Skipped { reason: reason.to_owned() }));
        match self.options.validate {
            When::Never => return skipped("--validate never"),
            // `efq validate`, which has no output, is asked for nothing else than running them.
            When::Auto if self.options.output.is_some() => {
                if let Some(reason) = self.too_large(self.options.max_memory) {
                    return skipped(&reason);
                }
            }
            _ => {}
        }
        match self.measure(rewritten, progress) {
            Err(error) if error.kind() == Kind::Unsupported && self.options.validate == When::Auto => {
                Ok(Judged::Not(Validation::Unavailable { reason: error.to_string() }))
            }
            other => other,
        }
    }

    /// `error` as one of the user's samples, where they are at fault.
    fn blame(&self, error: Error, progress: &dyn Progress) -> Error {
        let Some(samples) = &self.given else { return error };
        blame(error, samples, self.options, self.model, self.known, progress)
    }

    /// Why both models are not run within `limit` bytes.
    fn too_large(&self, limit: u64) -> Option<String> {
        let prepared = self.ready.as_ref().map(|ready| &ready.samples);
        let samples = prepared.or(self.given.as_ref()).map_or(&[][..], |samples| &samples.list);
        memory::too_large(self.model, self.known, samples, limit, "--validate always runs them")
    }

    fn measure(&mut self, rewritten: &Checked<Model>, progress: &dyn Progress) -> Result<Judged> {
        self.prepared(progress)?;
        let Some(ready) = &self.ready else { return Err(Error::unsupported("runtime", "is not ready")) };
        let place = |error: Error| error.within(rewritten.path().display());
        if !rewritten.graph().output.iter().any(|output| output.name() == ready.output.name) {
            let what = format!("has no output '{}', which the original has", ready.output.name);
            return Err(Error::format(rewritten.path().display().to_string(), what));
        }
        let deployed = Runner::new(rewritten, &ready.output.name, Variant::Deployed).map_err(place)?;
        let alone = Runner::new(rewritten, &ready.output.name, Variant::WeightsOnly).map_err(place)?;
        progress.stage("validating", ready.samples.list.len() as u64);
        let score = |at: usize, sample: &Sample| -> Result<(Score, Score)> {
            if progress.cancelled() {
                return Err(Error::interrupted());
            }
            let compare = || {
                let reference = ready.reference(at, sample)?;
                let with_kernel = ready.score(sample, &reference, &deployed.run(sample)?)?;
                let bare = ready.bare.as_ref().map(|bare| bare.run(sample)).transpose()?;
                let weights =
                    ready.score(sample, bare.as_ref().unwrap_or(&reference), &alone.run(sample)?)?;
                Ok((with_kernel, weights))
            };
            let both = compare().map_err(|error: Error| place_of(&ready.samples, ready.number(at), error))?;
            progress.advance(1);
            Ok(both)
        };
        // The first alone: what fails on it fails on all. Of several errors the first sample's is told.
        let (first, others) = ready.samples.list.split_at(ready.samples.list.len().min(1));
        let mut scores: Vec<Result<(Score, Score)>> = first.iter().map(|sample| score(0, sample)).collect();
        if scores.iter().all(Result::is_ok) {
            scores.par_extend(others.par_iter().enumerate().map(|(at, sample)| score(at + 1, sample)));
        }
        let scores: Result<Vec<(Score, Score)>> = scores.into_iter().collect();
        let scores = scores.map_err(|error| self.blame(error, progress));
        let (with_kernel, weights): (Vec<Score>, Vec<Score>) = scores?.into_iter().unzip();
        let measure = ready.measure();
        let target = self.options.settings.target;
        let gate = Gate {
            accuracy_target: target.accuracy,
            min_cosine: target.min_cosine,
            by_interval: target.by_interval,
        };
        let real = ready.samples.are_real();
        let verdict = validate::verdict(measure, &with_kernel, &gate, real);
        let validation = Validation::Measured {
            output: ready.output.name.clone(),
            deployed: Box::new(verdict.clone()),
            weights_only: Box::new(validate::verdict(measure, &weights, &gate, real)),
            data: provenance(&ready.samples),
            engine: ENGINE.to_owned(),
        };
        Ok(Judged::Measured { validation, verdict: Box::new(verdict) })
    }

    fn prepare(&self, progress: &dyn Progress) -> Result<Ready> {
        let output = output_of(self.options, self.model, self.known)?;
        let samples = samples_for(self.options, self.model, self.known, self.given.clone())?;
        let original = Runner::new(self.model, &output.name, Variant::Deployed)?;
        let Useful { samples, numbers, told: left_out } = to_judge(samples, self.model, &original)?;
        let samples = without_padding(samples, &data::inputs(self.model)?, &original)?;
        let bare = match fusion(self.model).fused.is_empty() {
            true => None,
            false => Some(Runner::new(self.model, &output.name, Variant::WeightsOnly)?),
        };
        progress.stage("running the original", samples.list.len() as u64);
        let first = samples.list.first().map(|sample| original.run(sample)).transpose()?;
        let size = first.as_ref().map_or(0, |output| output.values.len());
        let width = first.as_ref().and_then(|output| output.shape.last().copied()).unwrap_or(1);
        let kept = if size.saturating_mul(samples.list.len()) <= KEPT_VALUES {
            let outputs: Result<Vec<Output>> = samples
                .list
                .par_iter()
                .map(|sample| {
                    if progress.cancelled() {
                        return Err(Error::interrupted());
                    }
                    let output = original.run(sample);
                    progress.advance(1);
                    output
                })
                .collect();
            Some(outputs?)
        } else {
            None
        };
        let sizes = match self.options.output {
            Some(_) => None,
            None => Some(declared_sizes(self.model, &output.name)),
        };
        Ok(Ready { samples, numbers, left_out, output, original, bare, width, sizes, kept })
    }
}

impl Ready {
    /// What the original gives for sample `at`.
    pub(super) fn reference(&self, at: usize, sample: &Sample) -> Result<Output> {
        match self.kept.as_ref().and_then(|kept| kept.get(at)) {
            Some(output) => Ok(output.clone()),
            None => self.original.run(sample),
        }
    }

    /// The number of sample `at` in its source.
    fn number(&self, at: usize) -> usize {
        self.numbers.get(at).copied().unwrap_or(at)
    }

    /// The score of one sample.
    fn score(&self, sample: &Sample, reference: &Output, candidate: &Output) -> Result<Score> {
        if reference.shape != candidate.shape {
            let what = format!(
                "{:?} from the original, {:?} from the rewritten model",
                reference.shape, candidate.shape
            );
            return Err(match &self.sizes {
                Some(sizes) if are_others(sizes, &reference.shape, &candidate.shape) => {
                    Error::format("output", what)
                }
                _ => Error::unsupported(
                    "output",
                    format!("{what}: sizes that hang on values cannot be compared"),
                ),
            });
        }
        let width = reference.shape.last().copied().unwrap_or(1).max(1);
        let positions = reference.values.len() / width;
        let mask = sample.mask().filter(|mask| mask.len() == positions);
        let label = match &sample.label {
            Label::None => validate::Label::None,
            Label::Class(class) => validate::Label::Class(*class),
            Label::Positions(classes) => validate::Label::Positions(classes),
        };
        validate::score(&validate::Sample {
            reference: &reference.values,
            candidate: &candidate.values,
            width,
            logits: self.output.logits,
            mask: mask.as_deref(),
            label,
        })
    }

    fn measure(&self) -> Measure {
        match self.samples.list.iter().map(|sample| &sample.label).find(|label| **label != Label::None) {
            Some(Label::Class(_)) => Measure::Accuracy,
            Some(Label::Positions(_)) => Measure::Perplexity,
            _ if self.output.logits && self.width > 1 => Measure::Changed,
            _ if self.width == 1 => Measure::Concordance,
            _ => Measure::Likeness,
        }
    }
}

/// The sizes that the graph output `name` is declared with, `None` for those that are no numbers.
fn declared_sizes(model: &Model, name: &str) -> Vec<Option<i64>> {
    let kind = model.graph().output.iter().find(|output| output.name() == name);
    let kind = kind.and_then(|output| output.r#type.as_ref()?.value.as_ref());
    let Some(type_proto::Value::TensorType(kind)) = kind else { return Vec::new() };
    let size = |dim: &Dimension| match dim.value {
        Some(dimension::Value::DimValue(size)) => Some(size),
        _ => None,
    };
    kind.shape.iter().flat_map(|shape| shape.dim.iter().map(size)).collect()
}

/// Whether two outputs differ in more than sizes that are left open.
fn are_others(sizes: &[Option<i64>], reference: &[usize], candidate: &[usize]) -> bool {
    let fixed = |axis: usize| sizes.get(axis).copied().flatten().is_some();
    let mut pairs = reference.iter().zip(candidate).enumerate();
    reference.len() != candidate.len() || pairs.any(|(axis, (a, b))| a != b && fixed(axis))
}

/// The samples without padding, where the original shows on the one with the most of it that it does not
/// look at padding.
fn without_padding(samples: Samples, specs: &[InputSpec], original: &Runner) -> Result<Samples> {
    let cut = samples.without_padding(specs);
    let length = |sample: &Sample| sample.mask().map_or(0, |mask| mask.len());
    let gone = |(whole, cut): &(&Sample, &Sample)| length(whole) - length(cut);
    let pairs = samples.list.iter().zip(&cut.list);
    let Some((whole, shortest)) = pairs.max_by_key(gone).filter(|pair| gone(pair) > 0) else {
        return Ok(samples);
    };
    let (before, after) = (original.run(whole)?, original.run(shortest)?);
    let (mask, kept) = (shortest.mask().unwrap_or_default(), length(shortest));
    // Rows of positions are as many as those; whatever else comes out is compared as a whole.
    let by_position = before.shape.get(1) == Some(&length(whole)) && after.shape.get(1) == Some(&kept);
    let width = if by_position { after.values.len() / kept.max(1) } else { after.values.len().max(1) };
    if !by_position && before.values.len() != after.values.len() {
        return Ok(samples);
    }
    let counts = |row: usize| !by_position || mask.get(row) == Some(&true);
    let largest = after.values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let rows = before.values.chunks(width).zip(after.values.chunks(width)).enumerate();
    let same = rows
        .filter(|(row, _)| counts(*row))
        .all(|(_, (a, b))| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= SAME * largest));
    Ok(if same { cut } else { samples })
}

/// Says of an error that it is about sample `at`, of which file and, for labels, of which array.
fn place_of(samples: &Samples, at: usize, error: Error) -> Error {
    let is_label = error.is_about("label") || error.is_about("labels");
    let error = error.within(format!("sample {at}"));
    let error = if is_label && samples.are_arrays() { error.within("array 'labels'") } else { error };
    match &samples.origin {
        data::Origin::File { path, .. } => error.within(path.display()),
        data::Origin::Synthetic { .. } => error,
    }
}

pub(super) fn provenance(samples: &Samples) -> Data {
    match &samples.origin {
        data::Origin::File { path, blake3 } => Data::File {
            path: path.display().to_string(),
            blake3: blake3.clone(),
            labelled: samples.labelled(),
        },
        data::Origin::Synthetic { seed, made } => {
            Data::Synthetic { seed: *seed, made: made.name().to_owned() }
        }
    }
}
