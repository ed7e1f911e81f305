//! The verdict: whether the loss is within the target.

use serde::{Deserialize, Serialize};

use super::evidence::Evidence;
use super::totals::Totals;
use super::{Interval, Measure, Score, needed};

/// Outputs at most this far apart (relative L2) are the same: the runtime orders sums as it likes.
const SAME: f64 = 1e-6;

/// What has to be met.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// Largest loss of accuracy in points; of perplexity and of predictions in percent.
    pub accuracy_target: f64,
    /// Smallest mean likeness or concordance, where there are neither labels nor predictions.
    pub min_cosine: f64,
    /// Whether the whole interval must be within the target, not only the estimate.
    pub by_interval: bool,
}

impl Gate {
    /// The largest loss under `measure`, in its unit.
    pub fn target(&self, measure: Measure) -> f64 {
        match measure {
            Measure::Accuracy | Measure::Perplexity | Measure::Changed => self.accuracy_target,
            Measure::Likeness | Measure::Concordance => 100.0 * (1.0 - self.min_cosine),
        }
    }
}

/// How the verdict came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The loss is within the target.
    Passed,
    /// The loss is beyond the target, or an output that was finite no longer is.
    Failed,
    /// The samples cannot tell.
    Undecided,
    /// The samples are not real data.
    NotVerified,
}

/// The loss, how sure it is, and what follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What is called loss.
    pub measure: Measure,
    /// The loss in the unit of the measure, at most 10¹²; `None` if no sample counts.
    pub estimate: Option<f64>,
    /// 95 % interval of the loss over samples; `None` below two samples and for samples that are not real
    /// data, which are drawn from nothing that an interval could speak about.
    pub interval: Option<Interval>,
    /// The largest loss that passes, in the same unit.
    pub target: f64,
    /// Samples that count.
    pub samples: u64,
    /// Samples without a label, prediction or position that counts.
    pub excluded: u64,
    /// How it came out.
    pub outcome: Outcome,
    /// Number of samples that would bring the interval to one side of the target if the estimate holds;
    /// `None` if it lies there already or no number would.
    pub samples_needed: Option<u64>,
    /// Why, in one sentence.
    pub reason: String,
    /// ‖rewritten − original‖ / ‖original‖ over all positions of all samples.
    pub rel_l2: Option<f64>,
    /// Mean over samples of the mean cosine of their positions.
    pub cosine: Option<f64>,
    /// Mean over samples of the mean KL(original ‖ rewritten) of their predictions, in nats.
    pub kl: Option<f64>,
    /// Mean over samples of the share of changed predictions, in percent.
    pub changed: Option<f64>,
    /// Shares of labels that the original and the rewritten model predict, in percent.
    pub accuracy: Option<(f64, f64)>,
    /// exp of the mean negative log-likelihood of a labelled position, original and rewritten model;
    /// at most 10¹².
    pub perplexity: Option<(f64, f64)>,
    /// Values of the rewritten model that are NaN or infinite where the original is not.
    pub non_finite: u64,
    /// Positions left out because the original is not finite there.
    pub skipped: u64,
    /// Where the interval decides and the samples are enough for one: its upper end if nothing were lost on them.
    #[serde(skip)]
    pub floor: Option<f64>,
}

/// Judges the scores of all samples.
///
/// - A value that is no longer finite fails, on any data.
/// - Otherwise samples that are not `real_data` verify nothing.
/// - `by_interval`: passed if the interval ends at or below the target, failed if it starts above it,
///   undecided between. A mean (perplexity, likeness, concordance) passes or fails on 30 samples at least.
/// - Outputs that are the same on all of two samples or more (each within a relative L2 distance of 10⁻⁶, and
///   every prediction) pass either way: no quantization leaves them so, and an interval of shares that is as
///   wide as the samples are few says nothing about a function that did not change.
/// - By the estimate: passed up to the target, failed above it. The interval, and whether it crosses the
///   target, is stated beside it. A single sample decides nothing.
pub fn verdict(measure: Measure, scores: &[Score], gate: &Gate, real_data: bool) -> Verdict {
    let Totals { rel_l2, cosine, kl, changed, accuracy, perplexity, non_finite, skipped } =
        Totals::of(scores);
    let evidence = Evidence::of(measure, scores);
    let target = gate.target(measure);
    let samples = evidence.map_or(0, |evidence| evidence.samples());
    let interval = evidence.filter(|_| real_data).and_then(|evidence| evidence.interval());
    let estimate = evidence.map(|evidence| evidence.estimate());
    let crosses = real_data && interval.is_none_or(|it| !(it.high <= target || it.low > target));
    let short = evidence.is_some_and(|evidence| !evidence.is_enough());
    let identical = identical(scores) && estimate.is_some_and(|estimate| estimate <= target);
    let samples_needed = evidence
        .filter(|_| real_data && !identical && (crosses || short))
        .and_then(|evidence| needed::samples_needed(evidence, target));

    let flawless = evidence.filter(|_| crosses).and_then(Evidence::flawless);
    let least = flawless.and_then(|it| needed::samples_needed(it, target)).filter(|least| *least > samples);
    let case = Case { measure, target, estimate, interval, samples, short, samples_needed, least };
    let (outcome, reason) = if non_finite > 0 {
        (Outcome::Failed, broken(non_finite))
    } else if !real_data {
        (Outcome::NotVerified, "the samples are not real data: they show a distance, not a loss".to_owned())
    } else if identical {
        (Outcome::Passed, format!("the outputs are identical on all {} samples", scores.len()))
    } else if gate.by_interval {
        case.by_interval()
    } else {
        case.by_estimate()
    };
    let excluded = scores.len() as u64 - samples;
    let floor = evidence.filter(|_| real_data && gate.by_interval && !short).and_then(|evidence| {
        match evidence.flawless() {
            Some(flawless) => flawless.interval().map(|interval| interval.high),
            None => Some(0.0),
        }
    });
    Verdict {
        measure,
        estimate,
        interval,
        target,
        samples,
        excluded,
        outcome,
        samples_needed,
        reason,
        rel_l2,
        // Of single numbers it tells the sign.
        cosine: cosine.filter(|_| measure != Measure::Concordance),
        kl,
        changed,
        accuracy,
        perplexity,
        non_finite,
        skipped,
        floor,
    }
}

/// Whether both models gave the same for every sample.
fn identical(scores: &[Score]) -> bool {
    let same = |score: &Score| {
        score.positions > 0
            && score.skipped == 0
            && score.changed == 0
            && score.squared_error <= SAME * SAME * score.squared_reference
    };
    scores.len() > 1 && scores.iter().all(same)
}

fn broken(values: u64) -> String {
    let (values, are) =
        if values == 1 { ("1 value".into(), "is") } else { (format!("{values} values"), "are") };
    format!("{values} of the rewritten model {are} NaN or infinite where the original is finite")
}

struct Case {
    measure: Measure,
    target: f64,
    estimate: Option<f64>,
    interval: Option<Interval>,
    samples: u64,
    short: bool,
    samples_needed: Option<u64>,
    /// Samples below which even a flawless result is undecided; `None` if there are as many.
    least: Option<u64>,
}

impl Case {
    fn by_interval(&self) -> (Outcome, String) {
        let Some(interval) = self.interval else { return self.nothing_to_go_by() };
        let target = self.accepted();
        let name = self.measure.title();
        if self.short {
            let samples = self.samples;
            let reason = format!("{samples} samples are too few for an interval to decide{}", self.way_out());
            (Outcome::Undecided, reason)
        } else if interval.high <= self.target {
            let high = self.loss(interval.high);
            let most = if high.starts_with(['<', '>']) { "" } else { "at most " };
            (Outcome::Passed, format!("the {name} is {most}{high} (95 % interval), within {target}"))
        } else if interval.low > self.target {
            let low = self.loss(interval.low);
            (Outcome::Failed, format!("the {name} is at least {low} (95 % interval), beyond {target}"))
        } else {
            let (low, high) = (self.figure(interval.low), self.loss(interval.high));
            let reason = format!(
                "the {name} is between {low} and {high} (95 % interval), on both sides of {target}{}",
                self.way_out()
            );
            (Outcome::Undecided, reason)
        }
    }

    fn by_estimate(&self) -> (Outcome, String) {
        let (Some(estimate), Some(interval)) = (self.estimate, self.interval) else {
            return self.nothing_to_go_by();
        };
        if self.samples < 2 {
            return self.nothing_to_go_by();
        }
        let (outcome, place) = if estimate <= self.target {
            (Outcome::Passed, "within")
        } else if estimate > self.target {
            (Outcome::Failed, "beyond")
        } else {
            return self.nothing_to_go_by();
        };
        let crosses = interval.low <= self.target && interval.high > self.target;
        let doubt = if crosses {
            format!(
                "; the 95 % interval from {} to {} lies on both sides of it{}",
                self.figure(interval.low),
                self.loss(interval.high),
                self.way_out()
            )
        } else {
            String::new()
        };
        let (name, loss, target) = (self.measure.title(), self.loss(estimate), self.accepted());
        (outcome, format!("the {name} is {loss} (estimate), {place} {target}{doubt}"))
    }

    fn nothing_to_go_by(&self) -> (Outcome, String) {
        let reason = match self.samples {
            0 => "no sample has anything to judge by".to_owned(),
            1 => format!("one sample cannot tell how the loss varies{}", self.way_out()),
            _ => "the loss cannot be held against the target".to_owned(),
        };
        (Outcome::Undecided, reason)
    }

    fn way_out(&self) -> String {
        match (self.samples_needed, self.least) {
            (Some(needed), _) => format!("; about {needed} samples would decide if the estimate holds"),
            (None, Some(least)) => format!("; at least {least} samples are needed to show that it is held"),
            (None, None) => String::new(),
        }
    }

    /// A loss, with its digits where the target is as small.
    fn loss(&self, value: f64) -> String {
        in_unit(&self.figure(value), self.measure.unit())
    }

    fn figure(&self, value: f64) -> String {
        if self.target < SMALL { exact(value) } else { figure(value) }
    }

    fn accepted(&self) -> String {
        in_unit(&exact(self.target), self.measure.unit())
    }
}

/// Losses below this are shown as such: the digits after it say nothing.
const SMALL: f64 = 0.001;

/// About three significant digits; a loss of less than half of a thousandth that is not 0 is `< 0.001`.
pub fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        size if size < SMALL / 2.0 => {
            return if value > 0.0 { format!("< {SMALL}") } else { format!("> -{SMALL}") };
        }
        size if size >= 1e6 => return format!("{value:.2e}"),
        size if size < 0.1 => 4,
        size if size < 1.0 => 3,
        size if size < 100.0 => 2,
        _ => 1,
    };
    trimmed(value, decimals)
}

/// Four significant digits, however small, for what was asked for.
fn exact(value: f64) -> String {
    let size = value.abs().max(1e-12).log10().floor();
    trimmed(value, (3.0 - size).clamp(0.0, 15.0) as usize)
}

fn trimmed(value: f64, decimals: usize) -> String {
    let digits = format!("{value:.decimals$}");
    if decimals == 0 { digits } else { digits.trim_end_matches('0').trim_end_matches('.').to_owned() }
}

/// `figure` in `unit`: of one point there is one.
pub fn in_unit(figure: &str, unit: &str) -> String {
    match (figure, unit) {
        ("1", "points") => "1 point".to_owned(),
        _ => format!("{figure} {unit}"),
    }
}
