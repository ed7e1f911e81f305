//! One sample: what the original and the rewritten model gave, and how far apart that is.

use serde::Serialize;

use super::row::{Compared, Row, Softmax, compare};
use crate::error::{Error, Result};

/// The label of a position that does not count.
pub const IGNORED: i64 = -100;

/// What is known to be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label<'a> {
    /// Nothing.
    None,
    /// The class of the sample, whose output is one vector.
    Class(i64),
    /// The class at each position, already shifted to the logits that predict it; [`IGNORED`] is skipped.
    Positions(&'a [i64]),
}

/// Outputs of both models for one sample: `[…, width]`, row-major.
///
/// A position is one vector along the last axis; there are `len / width` of them.
#[derive(Debug, Clone, Copy)]
pub struct Sample<'a> {
    /// Output of the original.
    pub reference: &'a [f32],
    /// Output of the rewritten model.
    pub candidate: &'a [f32],
    /// Length of the last axis: classes or features.
    pub width: usize,
    /// Whether the last axis holds logits (values before a softmax); a label says so too.
    pub logits: bool,
    /// One flag per position, true where it counts.
    pub mask: Option<&'a [bool]>,
    /// What is known to be right.
    pub label: Label<'a>,
}

impl Sample<'_> {
    /// Whether each position predicts one of at least two classes.
    pub(super) fn has_predictions(&self) -> bool {
        self.width >= 2 && (self.logits || self.label != Label::None)
    }

    fn check(&self) -> Result<()> {
        let Self { reference, candidate, width, .. } = *self;
        if reference.len() != candidate.len() {
            let (original, rewritten) = (reference.len(), candidate.len());
            return Err(output(format!("the original gives {original} values, the rewritten {rewritten}")));
        }
        if width == 0 || reference.len() % width != 0 {
            return Err(output(format!("{} values are not whole rows of {width}", reference.len())));
        }
        let positions = reference.len() / width;
        let per_position = |what: &str, count: usize| {
            if count == positions {
                return Ok(());
            }
            Err(Error::format(what, format!("{count} entries, the output has {positions} positions")))
        };
        if let Some(mask) = self.mask {
            per_position("mask", mask.len())?;
        }
        let class = |label: i64| {
            if width < 2 {
                return Err(Error::format("label", "the output has one value per position, no classes"));
            }
            if usize::try_from(label).is_ok_and(|class| class < width) {
                return Ok(());
            }
            let error = Error::format("label", format!("class {label} of an output with {width} classes"));
            Err(match self.label {
                Label::Class(IGNORED) => error.help(format!(
                    "{IGNORED} takes a position out where there is a label per position; leave the sample out"
                )),
                _ => error,
            })
        };
        match self.label {
            Label::None => Ok(()),
            Label::Class(label) if positions == 1 => class(label),
            Label::Class(_) => Err(output(format!("{positions} positions, but one label per sample"))),
            Label::Positions(labels) => {
                per_position("labels", labels.len())?;
                labels.iter().filter(|&&label| label != IGNORED).try_for_each(|&label| class(label))
            }
        }
    }

    fn label_at(&self, position: usize) -> Option<usize> {
        let label = match self.label {
            Label::None => None,
            Label::Class(label) => Some(label),
            Label::Positions(labels) => labels.get(position).copied(),
        };
        // IGNORED is negative; the others were checked.
        label.and_then(|label| usize::try_from(label).ok())
    }
}

fn output(what: String) -> Error {
    Error::format("output", what)
}

/// The two outputs of one sample compared; sums and counts over the positions that count.
///
/// Where the original itself is not finite there is nothing to compare with: such positions are counted
/// in `skipped` and nowhere else. Where only the candidate is not finite, the position counts as a changed
/// and wrong prediction and enters no distance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Score {
    /// Positions that were compared.
    pub positions: u64,
    /// Positions where the original is not finite.
    pub skipped: u64,
    /// Values of the candidate that are NaN or infinite where the original is not.
    pub non_finite: u64,
    /// Σ (c − r)² over the compared positions.
    pub squared_error: f64,
    /// Σ r² over the compared positions.
    pub squared_reference: f64,
    /// Σ c² over the compared positions.
    pub squared_candidate: f64,
    /// Σ r and Σ c over the compared positions of outputs that are single numbers, 0 for others.
    pub sums: (f64, f64),
    /// Mean cosine of the compared positions; 0 if there are none.
    pub cosine: f64,
    /// Mean likeness of the compared positions, see [`Measure::Likeness`](super::Measure); 0 if there are none.
    pub likeness: f64,
    /// Positions with a prediction: logits of at least two classes.
    pub predictions: u64,
    /// Predictions that differ; among equal logits the first class is predicted.
    pub changed: u64,
    /// Mean KL(original ‖ rewritten) of the compared predictions in nats; 0 if there are none.
    pub kl: f64,
    /// Predictions with a label.
    pub labels: u64,
    /// Labels that the original predicts.
    pub correct_reference: u64,
    /// Labels that the rewritten model predicts.
    pub correct_candidate: u64,
    /// Labels whose likelihood both models give.
    pub tokens: u64,
    /// Σ −ln p(label) of the original over `tokens`, in nats.
    pub nll_reference: f64,
    /// Σ −ln p(label) of the rewritten model over `tokens`, in nats.
    pub nll_candidate: f64,
}

/// Compares the two outputs of one sample.
///
/// # Errors
///
/// [`Kind::Format`](crate::error::Kind::Format) if lengths disagree or a label is not a class of the output.
pub fn score(sample: &Sample) -> Result<Score> {
    sample.check()?;
    let mut score = Score::default();
    let rows = sample.reference.chunks_exact(sample.width).zip(sample.candidate.chunks_exact(sample.width));
    for (position, (reference, candidate)) in rows.enumerate() {
        if sample.mask.is_some_and(|mask| mask.get(position) != Some(&true)) {
            continue;
        }
        let label = sample.label_at(position);
        match compare(reference, candidate) {
            Row::ReferenceNotFinite => score.skipped += 1,
            Row::CandidateNotFinite { elements, reference_class } => {
                score.non_finite += elements;
                if sample.has_predictions() {
                    score.predict(reference_class, None, label);
                }
            }
            Row::Compared(row) => {
                score.distance(&row);
                if let ([r], [c]) = (reference, candidate) {
                    score.sums.0 += f64::from(*r);
                    score.sums.1 += f64::from(*c);
                }
                if sample.has_predictions() {
                    score.predict(row.reference_class, Some(row.candidate_class), label);
                    score.likelihood(reference, candidate, &row, label);
                }
            }
        }
    }
    if score.positions > 0 {
        score.cosine /= score.positions as f64;
        score.likeness /= score.positions as f64;
        score.kl /= score.positions as f64;
    }
    Ok(score)
}

impl Score {
    fn distance(&mut self, row: &Compared) {
        self.positions += 1;
        self.squared_error += row.squared_error;
        self.squared_reference += row.squared_reference;
        self.squared_candidate += row.squared_candidate;
        self.cosine += row.cosine;
        self.likeness += row.likeness;
    }

    fn predict(&mut self, reference: usize, candidate: Option<usize>, label: Option<usize>) {
        self.predictions += 1;
        self.changed += u64::from(candidate != Some(reference));
        if let Some(label) = label {
            self.labels += 1;
            self.correct_reference += u64::from(reference == label);
            self.correct_candidate += u64::from(candidate == Some(label));
        }
    }

    fn likelihood(&mut self, reference: &[f32], candidate: &[f32], row: &Compared, label: Option<usize>) {
        let softmax = Softmax::new(reference, candidate, row);
        self.kl += softmax.kl;
        let Some((&r, &c)) = label.and_then(|label| reference.get(label).zip(candidate.get(label))) else {
            return;
        };
        // Both are finite or both −∞; to a class that the original rules out no ratio can be given.
        if r.is_finite() {
            let (nll_reference, nll_candidate) = softmax.nll(r, c);
            self.tokens += 1;
            self.nll_reference += nll_reference;
            self.nll_candidate += nll_candidate;
        }
    }
}
