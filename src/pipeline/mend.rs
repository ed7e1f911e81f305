//! Raising tensors when the estimate misses the target: the most hurtful per byte first.

use super::judge::{Judge, Judged};
use crate::error::Result;
use crate::graph::{Inventory, WeightUse};
use crate::onnx::{Checked, Model};
use crate::plan::{Encoding, Plan, Step, next_step, raise_to};
use crate::progress::Progress;
use crate::sensitivity::{Reach, output_errors, reach};

/// Samples on which single tensors are measured.
const SAMPLES: usize = 24;
/// What is left of a tensor's squared error when its 4 bits become 8 (measured: 1/250).
const EIGHT_BITS_LEAVE: f64 = 1.0 / 250.0;

/// Raises as many tensors of `plan` as the loss predicts are needed, and one at the least; gives the steps with
/// the encodings before, or `None` when nothing is left to raise.
pub(super) fn mend(
    judge: &Judge<'_>,
    model: &Checked<Model>,
    known: &Inventory,
    plan: &mut Plan,
    judged: &Judged,
    progress: &dyn Progress,
) -> Result<Option<Vec<(Step, Encoding)>>> {
    let Some(ready) = judge.ready() else { return Ok(None) };
    let mut uses = Vec::new();
    let mut wanted = Vec::new();
    for (at, (decision, weight)) in plan.decisions.iter().zip(&known.weights).enumerate() {
        for (number, (usage, found)) in decision.uses.iter().zip(&weight.uses).enumerate() {
            let WeightUse::Site(site) = found else { continue };
            let Some((candidate, algorithm)) = usage.encoding.candidate() else { continue };
            uses.push((at, number, usage.encoding, *site));
            wanted.push((*site, candidate, algorithm));
        }
    }
    let samples = ready.samples.list.get(..SAMPLES.min(ready.samples.list.len())).unwrap_or_default();
    let errors = output_errors(model, known, &wanted, &ready.original, samples, progress)?;

    let mut steps: Vec<(f64, f64, Step, Encoding)> = Vec::new();
    let mut total = 0.0;
    for ((decision, usage, encoding, site), error) in uses.into_iter().zip(errors) {
        let Some(mut step) = next_step(plan, decision, usage) else { continue };
        if let (Some((candidate, algorithm)), Some(site)) = (step.encoding.candidate(), known.sites.get(site))
        {
            step.encoding = match reach(model, site, candidate)? {
                Reach::Fits(candidate) => Encoding::of(candidate, algorithm),
                _ => Encoding::Float,
            };
        }
        let error = error.unwrap_or(0.0).max(1e-12);
        total += error;
        // The only step that does not end at float is the one from 4 bits to 8.
        let gain = if step.encoding != Encoding::Float { error * (1.0 - EIGHT_BITS_LEAVE) } else { error };
        steps.push((gain / step.bytes.max(1) as f64, gain, step, encoding));
    }
    if steps.is_empty() {
        return Ok(None);
    }
    steps.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.2.decision.cmp(&b.2.decision)));
    // The loss follows the squared error about linearly; aim a little below the target.
    let wanted_share = (0.9 * judged.target() / judged.loss().max(1e-12)).clamp(0.0, 1.0);
    let mut left = total;
    let mut done = Vec::new();
    for (_, gain, step, from) in steps {
        if !done.is_empty() && left <= wanted_share * total {
            break;
        }
        left -= gain;
        let reason = judged.shortfall();
        raise_to(plan, &step, reason);
        done.push((step, from));
    }
    Ok(Some(done))
}
