//! Figures over all samples beside the loss.

use super::Score;
use super::evidence::LARGEST;

/// The fields of these names in [`Verdict`](super::Verdict); `None` where no sample gives them.
pub(super) struct Totals {
    pub rel_l2: Option<f64>,
    pub cosine: Option<f64>,
    pub kl: Option<f64>,
    pub changed: Option<f64>,
    pub accuracy: Option<(f64, f64)>,
    pub perplexity: Option<(f64, f64)>,
    pub non_finite: u64,
    pub skipped: u64,
}

impl Totals {
    pub fn of(scores: &[Score]) -> Self {
        let count = |field: fn(&Score) -> u64| scores.iter().map(field).fold(0, u64::saturating_add);
        let sum = |field: fn(&Score) -> f64| scores.iter().map(field).sum::<f64>();
        let mean = |counts: fn(&Score) -> bool, field: fn(&Score) -> f64| {
            let values = scores.iter().filter(|&score| counts(score)).map(field);
            let (total, n) = values.fold((0.0, 0_u64), |(total, n), value| (total + value, n + 1));
            ratio(total, n as f64)
        };
        let labels = count(|score| score.labels) as f64;
        let tokens = count(|score| score.tokens) as f64;
        let accuracy = |correct: u64| ratio(100.0 * correct as f64, labels);
        let perplexity = |nll: f64| ratio(nll, tokens).map(|nll| nll.exp().min(LARGEST));
        let (error, reference) = (sum(|score| score.squared_error), sum(|score| score.squared_reference));
        Self {
            rel_l2: ratio(error, reference).map(f64::sqrt),
            cosine: mean(|score| score.positions > 0, |score| score.cosine),
            kl: mean(|score| score.positions > 0 && score.predictions > 0, |score| score.kl),
            changed: mean(
                |score| score.predictions > 0,
                |score| 100.0 * score.changed as f64 / score.predictions as f64,
            ),
            accuracy: accuracy(count(|score| score.correct_reference))
                .zip(accuracy(count(|score| score.correct_candidate))),
            perplexity: perplexity(sum(|score| score.nll_reference))
                .zip(perplexity(sum(|score| score.nll_candidate))),
            non_finite: count(|score| score.non_finite),
            skipped: count(|score| score.skipped),
        }
    }
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}
