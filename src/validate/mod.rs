//! From the outputs of the original and the rewritten model to the verdict: numbers only.
//!
//! [`score()`] compares the two outputs of one sample, [`verdict()`] puts the scores of all samples together:
//! the loss, its 95 % interval over samples, and whether the gate's target is met. The same samples run
//! through both models, so every interval is one of paired differences.
//!
//! | labels | loss | interval |
//! |---|---|---|
//! | class per sample | drop of accuracy, points | Tango's score interval |
//! | label per position | increase of perplexity, % | Student t with Hall's correction, ratio of sums |
//! | none, logits | changed predictions, % | Clopper-Pearson on shares |
//! | none | 100 × (1 − mean likeness), of single numbers 100 × (1 − concordance) | Student t with Hall's correction |

mod evidence;
mod interval;
mod measure;
mod needed;
mod row;
mod score;
mod totals;
mod verdict;

pub use interval::Interval;
pub use measure::Measure;
pub use score::{IGNORED, Label, Sample, Score, score};
pub use verdict::{Gate, Outcome, Verdict, figure, in_unit, verdict};

#[cfg(test)]
mod tests;
