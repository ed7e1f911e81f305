//! Texts that a causal language model writes itself: what it is sure to have learned from is what it says.
//!
//! All positions are drawn anew at once, each from what the model expects after those before it (Jacobi
//! iteration), so a text costs a few runs and not one for every token.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::data::{Array, Drafts, Sample, Samples, as_integers};
use crate::engine::{Output, Runner, Variant};
use crate::error::{Error, Result};
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::{Checked, Model};
use crate::progress::Progress;

/// How often all positions are drawn.
pub const PASSES: usize = 12;
/// Scores that should be the same may differ by this share of the largest.
const SAME: f32 = 1e-3;

/// Lets `model` write on from `drafts`; `None` when it is no causal language model, that is, when `output` are
/// not scores of the next token that depend on those before it alone.
///
/// # Errors
/// An interruption, or [`crate::error::Kind::Unsupported`] when the runtime fails.
pub fn generate(
    model: &Checked<Model>,
    drafts: &Drafts,
    output: &str,
    seed: u64,
    progress: &dyn Progress,
) -> Result<Option<Samples>> {
    let runner = Runner::new(model, output, Variant::WeightsOnly)?;
    if !is_causal(&runner, drafts)? {
        return Ok(None);
    }
    progress.stage("writing texts to calibrate on", (PASSES * drafts.samples.list.len()) as u64);
    let texts: Result<Vec<Option<Sample>>> = drafts
        .samples
        .list
        .par_iter()
        .enumerate()
        .map(|(at, draft)| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(2 + at as u64);
            let mut text = Some(draft.clone());
            for _ in 0..PASSES {
                if progress.cancelled() {
                    return Err(Error::interrupted());
                }
                text = match text {
                    Some(text) => rewritten(&runner, drafts, text, &mut rng)?,
                    None => None,
                };
                progress.advance(1);
            }
            Ok(text)
        })
        .collect();
    let list: Option<Vec<Sample>> = texts?.into_iter().collect();
    Ok(list.map(|list| Samples { list, origin: drafts.samples.origin.clone(), remarks: Vec::new() }))
}

/// `text` with every position but the first drawn anew; `None` when scores are no numbers.
fn rewritten(runner: &Runner, drafts: &Drafts, text: Sample, rng: &mut ChaCha8Rng) -> Result<Option<Sample>> {
    let scores = runner.run(&text)?;
    let Some(mut ids) = ids(&text, &drafts.input) else { return Ok(None) };
    for (id, scores) in ids.iter_mut().skip(1).zip(scores.values.chunks_exact(drafts.vocabulary.max(1))) {
        match drawn(scores, rng.random_range(0.0..1.0)) {
            Some(next) => *id = next,
            None => return Ok(None),
        }
    }
    Ok(with_ids(&text, &drafts.input, &ids))
}

/// The token at the share `at` of the probability that `scores` give all.
fn drawn(scores: &[f32], at: f64) -> Option<i64> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !most.is_finite() || scores.iter().any(|score| score.is_nan()) {
        return None;
    }
    let weight = |score: &f32| f64::from(score - most).exp();
    let mut left = at * scores.iter().map(weight).sum::<f64>();
    let mut last = None;
    for (id, score) in (0..).zip(scores) {
        let weight = weight(score);
        left -= weight;
        if weight > 0.0 {
            last = Some(id);
        }
        if left < 0.0 {
            return last;
        }
    }
    last
}

/// Whether the scores are one row of the vocabulary for every position, a change of the last token changes the
/// last row, and no other.
fn is_causal(runner: &Runner, drafts: &Drafts) -> Result<bool> {
    let Some(draft) = drafts.samples.list.first() else { return Ok(false) };
    let Some(mut ids) = ids(draft, &drafts.input) else { return Ok(false) };
    let (length, width) = (ids.len(), drafts.vocabulary);
    let Some(last) = ids.last_mut().filter(|_| length > 1 && width > 1) else { return Ok(false) };
    *last = (*last + width as i64 / 2).rem_euclid(width as i64);
    let Some(changed) = with_ids(draft, &drafts.input, &ids) else { return Ok(false) };
    let before = runner.run(draft)?;
    if !matches!(before.shape[..], [1, rows, columns] if rows == length && columns == width) {
        return Ok(false);
    }
    Ok(differ_last_only(&before, &runner.run(&changed)?, width))
}

fn differ_last_only(before: &Output, after: &Output, width: usize) -> bool {
    if before.shape != after.shape {
        return false;
    }
    let largest = before.values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let far = |(a, b): (&f32, &f32)| (a - b).abs() > SAME * largest;
    let finite = |output: &Output| output.values.iter().all(|value| value.is_finite());
    let end = before.values.len().saturating_sub(width);
    let pairs = |range: std::ops::Range<usize>| before.values[range.clone()].iter().zip(&after.values[range]);
    finite(before) && finite(after) && !pairs(0..end).any(far) && pairs(end..before.values.len()).any(far)
}

fn ids(sample: &Sample, input: &str) -> Option<Vec<i64>> {
    let (_, array) = sample.inputs.iter().find(|(name, _)| name == input)?;
    as_integers(array)
}

fn with_ids(sample: &Sample, input: &str, ids: &[i64]) -> Option<Sample> {
    let mut sample = sample.clone();
    let (_, array) = sample.inputs.iter_mut().find(|(name, _)| name == input)?;
    let bytes: Vec<u8> = match array.data_type {
        DataType::Int64 => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        DataType::Int32 => ids.iter().flat_map(|id| (*id as i32).to_le_bytes()).collect(),
        _ => return None,
    };
    *array = Array { bytes: bytes.into(), ..array.clone() };
    Some(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_drawn_by_their_probability() {
        let scores = [0.0, f32::NEG_INFINITY, (3.0f32).ln()];
        let drawn_at = |at| drawn(&scores, at);
        assert_eq!(
            [drawn_at(0.0), drawn_at(0.2), drawn_at(0.3), drawn_at(1.0)],
            [Some(0), Some(0), Some(2), Some(2)]
        );
        assert_eq!(drawn(&[f32::NAN, 0.0], 0.5), None);
        assert_eq!(drawn(&[f32::NEG_INFINITY; 2], 0.5), None);
        assert_eq!(drawn(&[f32::INFINITY, 0.0], 0.5), None);
    }

    #[test]
    fn what_looks_ahead_is_not_causal() {
        let output = |values: [f32; 4]| Output { shape: vec![1, 2, 2], values: values.to_vec() };
        let before = output([1.0, 2.0, 3.0, 4.0]);
        assert!(differ_last_only(&before, &output([1.0, 2.0, 3.0, 5.0]), 2));
        assert!(!differ_last_only(&before, &output([1.0, 2.1, 3.0, 5.0]), 2));
        assert!(!differ_last_only(&before, &before, 2));
        assert!(!differ_last_only(&before, &output([1.0, 2.0, 3.0, f32::NAN]), 2));
    }
}
