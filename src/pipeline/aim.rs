//! Meeting a target of loss: a plan is made, carried out and measured, and the next one is made from what that says.

use super::budget::{Costs, Scope};
use super::fitting::Fitting;
use super::judge::{Judge, Judged};
use super::notes::Notes;
use super::{RewriteOptions, Written, write};
use crate::error::{Error, Result};
use crate::graph::Inventory;
use crate::onnx::{Checked, Model, SaveOptions};
use crate::plan::{Plan, share};
use crate::progress::Progress;
use crate::report;
use crate::settings::Budget;

/// The squared relative error of the output from which a loss target is approached.
const FIRST_GUESS: f64 = 0.01;
/// Rounds after the first in which a plan is made for a target of loss, and the share of it that may be left over.
const ROUNDS: usize = 4;
const SLACK: f64 = 0.05;
/// The share of a target that is aimed at, after a plan within it and after one beyond it.
const AIM_FROM_BELOW: f64 = 0.98;
const AIM_FROM_ABOVE: f64 = 0.9;
/// The least share of a loss that a single round aims at: so far the loss need not follow the squared error.
const LEAST_SHARE: f64 = 0.05;
/// Rounds in which an undecided result is raised.
const UNDECIDED_ROUNDS: usize = 3;
/// Each further round of a repair aims at so much less, so that there are few.
const SHARPER: f64 = 0.7;

/// What a plan was predicted to lose, as a squared error of the output, and what it lost, in the unit of the target.
type Point = (f64, f64);

/// What a rewrite has at hand once it is known what to write and where.
pub(super) struct Workshop<'a> {
    pub options: &'a RewriteOptions,
    pub model: &'a Checked<Model>,
    pub known: &'a Inventory,
    pub target: &'a std::path::Path,
    pub fitting: Fitting<'a>,
    pub judge: Judge<'a>,
    pub notes: Notes<'a>,
    pub progress: &'a dyn Progress,
}

/// A plan that was carried out and judged.
pub(super) struct Attempt {
    pub plan: Plan,
    pub written: Written,
    pub judged: Judged,
    pub fitting: Option<report::Fitting>,
}

impl Attempt {
    fn bytes(&self) -> u64 {
        let saved = self.written.staged.saved();
        saved.bytes + saved.side_bytes
    }
}

impl Workshop<'_> {
    /// Says of an error that it is about the model.
    fn place(&self, error: Error) -> Error {
        error.within(self.model.path().display())
    }

    /// Measures what the free weights of `plan` cost in other forms.
    pub fn costs(&mut self, plan: &Plan, scope: Scope) -> Result<Costs> {
        Costs::of(self.model, self.known, plan, scope, &mut self.fitting, &mut self.judge, self.progress)
            .map_err(|error| self.place(error))
    }

    /// Fits, writes and judges `plan`.
    pub fn attempt(&mut self, mut plan: Plan) -> Result<Attempt> {
        let (model, known) = (self.model, self.known);
        if self.options.plan.is_none() {
            share(&mut plan, known);
        }
        plan.fitted_to = self.fitting.fitted_to(&plan);
        let fitted = self
            .fitting
            .fit(model, known, &plan, self.progress)
            .map_err(|error| error.within(model.path().display()))?;
        let save = SaveOptions { external: self.options.external };
        let written = write(model, known, &plan, fitted, &self.notes, self.target, save, self.progress)?;
        let judged = self.judge.judge(&written.model, self.progress)?;
        let fitting = self.fitting.report(&plan);
        Ok(Attempt { plan, written, judged, fitting })
    }

    /// The result that is predicted to lose least within a budget of bytes. `plan` tells what rules decide.
    pub fn within_bytes(&mut self, costs: &Costs, plan: &Plan, budget: Budget) -> Result<Attempt> {
        let mut spare = 0;
        loop {
            let (made, most) = costs
                .plan(self.model, self.known, plan, budget, spare, &self.notes)
                .map_err(|error| self.place(error))?;
            let attempt = self.attempt(made)?;
            // Which biases get a name of their own is known only after fitting.
            match attempt.bytes().saturating_sub(most) {
                0 => return Ok(attempt),
                over => spare += over,
            }
        }
    }

    /// The smallest result that loses at most `most`, of those that a few rounds come to; where none holds that, the
    /// one that loses least. `plan` tells what rules decide.
    pub fn within_loss(&mut self, costs: &Costs, plan: Plan, most: f64) -> Result<Attempt> {
        let Some((first, predicted)) = costs.plan_for(&plan, FIRST_GUESS, "loss target") else {
            return self.attempt(plan);
        };
        let mut best = self.attempt(first)?;
        let mut last = (predicted, best.judged.loss());
        let (mut below, mut beyond): (Option<Point>, Option<Point>) = (None, None);
        let mut tried = vec![predicted];
        for _ in 0..ROUNDS {
            let (predicted, loss) = last;
            if !best.judged.was_measured() || loss <= most && loss >= (1.0 - SLACK) * most {
                break;
            }
            if loss <= most {
                below = Some(below.filter(|known| known.0 > predicted).unwrap_or(last));
            } else {
                beyond = Some(beyond.filter(|known| known.0 < predicted).unwrap_or(last));
            }
            let Some((next, predicted)) = costs.plan_for(&plan, between(below, beyond, most), "loss target")
            else {
                break;
            };
            // Plans are so many: a limit between two of them gives one that was tried.
            if tried.contains(&predicted) {
                break;
            }
            tried.push(predicted);
            let attempt = self.attempt(next)?;
            last = (predicted, attempt.judged.loss());
            let better = match (best.judged.loss() <= most, last.1 <= most) {
                (true, true) => attempt.bytes() < best.bytes(),
                (false, false) => last.1 < best.judged.loss(),
                (was, is) => is && !was,
            };
            if better {
                best = attempt;
            }
        }
        Ok(best)
    }

    /// Raises tensors while more bytes may turn the verdict, for the least bytes that the costs predict; `costs` are
    /// measured where they are not yet. What rules decide stays. A result that is undecided stays what it is where a few
    /// rounds decide nothing.
    pub fn repaired(&mut self, costs: &mut Option<Costs>, mut attempt: Attempt) -> Result<Attempt> {
        let mut aim = AIM_FROM_ABOVE;
        let mut undecided: Option<(Attempt, usize)> = None;
        while attempt.judged.misses_target() {
            let rounds = undecided.as_ref().map_or(0, |(_, rounds)| *rounds);
            if rounds >= UNDECIDED_ROUNDS {
                break;
            }
            let costs = match costs {
                Some(costs) => costs,
                None => costs.insert(self.costs(&attempt.plan, Scope::Raising)?),
            };
            let judged = &attempt.judged;
            let share = if judged.is_finite() { aim * judged.share() } else { 0.0 };
            let raised = costs.raised(&attempt.plan, share.clamp(LEAST_SHARE, aim), &judged.shortfall());
            let Some((plan, steps)) = raised else { break };
            undecided = match undecided {
                None if judged.leaves_open() => Some((attempt, 1)),
                known => {
                    drop(attempt);
                    known.map(|(first, rounds)| (first, rounds + 1))
                }
            };
            attempt = self.attempt(plan)?;
            self.notes.repaired(&attempt.plan, steps, &attempt.judged);
            aim *= SHARPER;
        }
        match undecided {
            Some((first, rounds)) if !(attempt.judged.passes() && attempt.plan.changes_anything()) => {
                self.notes.give_up(rounds);
                Ok(first)
            }
            _ => Ok(attempt),
        }
    }
}

/// The predicted error to try next, from a plan within the target and one beyond it. The loss follows the squared error of the output about linearly.
fn between(below: Option<Point>, beyond: Option<Point>, most: f64) -> f64 {
    let floor = |loss: f64| loss.max(0.01 * most);
    match (below, beyond) {
        (Some((low, held)), Some((high, missed))) => {
            let share = (AIM_FROM_BELOW * most / floor(held)).ln() / (missed / floor(held)).ln();
            low * (high / low.max(1e-30)).powf(share.clamp(0.1, 0.9))
        }
        (Some((predicted, held)), None) => predicted * (AIM_FROM_BELOW * most / floor(held)).min(8.0),
        (None, Some((predicted, missed))) => {
            predicted * (AIM_FROM_ABOVE * most / missed).clamp(LEAST_SHARE, AIM_FROM_ABOVE)
        }
        (None, None) => FIRST_GUESS,
    }
}

#[cfg(test)]
mod tests {
    use super::between;

    #[test]
    fn the_next_error_lies_between_what_held_and_what_did_not() {
        assert!((between(Some((0.01, 0.25)), None, 0.5) - 0.0196).abs() < 1e-12);
        assert!((between(None, Some((0.01, 1.0)), 0.5) - 0.0045).abs() < 1e-12);
        let next = between(Some((0.01, 0.4)), Some((0.02, 0.8)), 0.5);
        assert!(0.01 < next && next < 0.0125, "{next}");
        // A gain of accuracy says as little as no loss.
        assert_eq!(between(Some((0.01, -2.0)), None, 0.5), 0.08);
    }
}
