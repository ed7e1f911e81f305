//! What all samples together say about the loss.

use super::interval::{Interval, Moments, mean, pairs, shares};
use super::{Measure, Score};

/// Samples below which a mean is not taken for decided. With log-normal losses (σ = 1) the interval holds the
/// truth in 91 of 100 simulations at 10 samples, in 94 at 30.
const ENOUGH_FOR_A_MEAN: u64 = 30;

/// Perplexities and their increase are not told apart beyond this: JSON knows no infinity.
pub(super) const LARGEST: f64 = 1e12;

/// A sufficient summary of the scores under one measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Evidence {
    /// Samples that only the original (`lost`) or only the rewritten model (`gained`) has right, of `n`.
    Pairs { lost: f64, gained: f64, n: f64 },
    /// Shares of changed predictions that add up to `sum`, of `n` samples.
    Shares { sum: f64, n: f64 },
    /// Differences of mean negative log-likelihood, in nats.
    LogRatio(Moments),
    /// 1 − likeness, or 1 − concordance.
    Distance(Moments),
}

impl Evidence {
    /// The evidence of the scores that count under `measure`; `None` if none does.
    pub fn of(measure: Measure, scores: &[Score]) -> Option<Self> {
        let used: Vec<&Score> = scores.iter().filter(|score| counts(measure, score)).collect();
        if used.is_empty() {
            return None;
        }
        let n = used.len() as f64;
        let count = |matches: fn(&Score) -> bool| used.iter().filter(|score| matches(score)).count() as f64;
        Some(match measure {
            Measure::Accuracy => Self::Pairs {
                lost: count(|score| score.correct_reference > score.correct_candidate),
                gained: count(|score| score.correct_reference < score.correct_candidate),
                n,
            },
            Measure::Changed => {
                let share = |score: &&Score| score.changed as f64 / score.predictions as f64;
                Self::Shares { sum: used.iter().map(share).sum(), n }
            }
            Measure::Perplexity => Self::LogRatio(Moments::of(&linearized(&used))),
            // One number has no spread that an error could be held against.
            Measure::Concordance if used.len() > 1 => Self::Distance(Moments::of(&discordance(&used))),
            Measure::Likeness | Measure::Concordance => {
                let distances: Vec<f64> = used.iter().map(|score| 1.0 - score.likeness).collect();
                Self::Distance(Moments::of(&distances))
            }
        })
    }

    /// Samples that count.
    pub fn samples(&self) -> u64 {
        match *self {
            Self::Pairs { n, .. } | Self::Shares { n, .. } => n as u64,
            Self::LogRatio(moments) | Self::Distance(moments) => moments.n as u64,
        }
    }

    /// Whether the number of samples lets the interval decide.
    pub fn is_enough(&self) -> bool {
        match self {
            Self::Pairs { .. } | Self::Shares { .. } => true,
            Self::LogRatio(_) | Self::Distance(_) => self.samples() >= ENOUGH_FOR_A_MEAN,
        }
    }

    /// The loss, in the unit of the measure.
    pub fn estimate(&self) -> f64 {
        match *self {
            Self::Pairs { lost, gained, n } => 100.0 * ((lost - gained) / n),
            Self::Shares { sum, n } => 100.0 * (sum / n),
            Self::LogRatio(moments) => percent_more(moments.mean),
            Self::Distance(moments) => 100.0 * moments.mean,
        }
    }

    /// The interval of the loss over samples; `None` where one sample leaves the spread unknown.
    pub fn interval(&self) -> Option<Interval> {
        match *self {
            Self::Pairs { lost, gained, n } => Some(pairs(lost, gained, n).map(percent)),
            Self::Shares { sum, n } => Some(shares(sum, n).map(percent)),
            Self::LogRatio(moments) => mean(&moments).map(|interval| interval.map(percent_more)),
            // No likeness is above 1 or below −1.
            Self::Distance(moments) => {
                mean(&moments).map(|interval| interval.map(|end| percent(end.clamp(0.0, 2.0))))
            }
        }
    }

    /// As many samples without a difference, where their number alone bounds what they can show.
    pub fn flawless(self) -> Option<Self> {
        match self {
            Self::Pairs { n, .. } => Some(Self::Pairs { lost: 0.0, gained: 0.0, n }),
            Self::Shares { n, .. } => Some(Self::Shares { sum: 0.0, n }),
            Self::LogRatio(_) | Self::Distance(_) => None,
        }
    }

    /// The same evidence seen on `n` samples: equal shares and equal spread.
    pub fn scaled(self, n: u64) -> Self {
        let scale = n as f64 / self.samples() as f64;
        let n = n as f64;
        match self {
            Self::Pairs { lost, gained, .. } => Self::Pairs { lost: lost * scale, gained: gained * scale, n },
            Self::Shares { sum, .. } => Self::Shares { sum: sum * scale, n },
            Self::LogRatio(moments) => Self::LogRatio(Moments { n, ..moments }),
            Self::Distance(moments) => Self::Distance(Moments { n, ..moments }),
        }
    }
}

fn counts(measure: Measure, score: &Score) -> bool {
    match measure {
        Measure::Accuracy => score.labels == 1,
        Measure::Perplexity => score.tokens > 0,
        Measure::Changed => score.predictions > 0,
        Measure::Likeness | Measure::Concordance => score.positions > 0,
    }
}

/// Values whose mean is 1 − the concordance correlation of the numbers that the samples hold, Σ(c − r)² over
/// Σ(r − r̄)² + Σ(c − c̄)² + n (r̄ − c̄)², and whose spread is that of this ratio over samples.
fn discordance(scores: &[&Score]) -> Vec<f64> {
    let total = |field: fn(&Score) -> f64| scores.iter().map(|score| field(score)).sum::<f64>();
    let n = total(|score| score.positions as f64);
    let (r, c) = (total(|score| score.sums.0) / n, total(|score| score.sums.1) / n);
    let spread = |score: &&Score| {
        let n = score.positions as f64;
        let about =
            |squares: f64, sum: f64, mean: f64| (squares - 2.0 * mean * sum + n * mean * mean).max(0.0);
        about(score.squared_reference, score.sums.0, r)
            + about(score.squared_candidate, score.sums.1, c)
            + n * (r - c) * (r - c)
    };
    ratio(scores.iter().map(|score| (score.squared_error, spread(score))).collect())
}

/// Values whose mean is the log-ratio of perplexities: differences of negative log-likelihood over tokens.
fn linearized(scores: &[&Score]) -> Vec<f64> {
    ratio(
        scores.iter().map(|score| (score.nll_candidate - score.nll_reference, score.tokens as f64)).collect(),
    )
}

/// Values whose mean is the ratio R = Σd / Σt of the parts (d, t) of the samples, 0 where all t are, and whose spread is
/// that of R over samples: R + (d − R t) / t̄ (the ratio estimator; W. G. Cochran, Sampling Techniques, 3rd ed. 1977,
/// section 6.3).
fn ratio(parts: Vec<(f64, f64)>) -> Vec<f64> {
    let whole: f64 = parts.iter().map(|(_, t)| t).sum();
    if whole == 0.0 {
        return vec![0.0; parts.len()];
    }
    let ratio = parts.iter().map(|(d, _)| d).sum::<f64>() / whole;
    let mean = whole / parts.len() as f64;
    parts.into_iter().map(|(d, t)| ratio + (d - ratio * t) / mean).collect()
}

fn percent(share: f64) -> f64 {
    100.0 * share
}

fn percent_more(log_ratio: f64) -> f64 {
    (100.0 * log_ratio.exp_m1()).min(LARGEST)
}
