//! Making the plan under a budget, or raising one that misses its target: what each way to store each weight costs,
//! and the choice among them.

use std::collections::HashMap;

use super::fitting::Fitting;
use super::forms::{base, reached, wishes};
use super::judge::Judge;
use super::notes::Notes;
use super::{RewriteOptions, carry_out};
use crate::calibrate::{Change, influence};
use crate::data::Sample;
use crate::error::{Error, Kind, Result};
use crate::graph::{Inventory, WeightUse};
use crate::onnx::{Checked, Layout, Model, SaveOptions};
use crate::plan::{Choice, Decision, Encoding, Limit, Plan, Step, UsePlan, raise_to, share, totals, within};
use crate::progress::Progress;
use crate::quant::{Algorithm, Bits, Matrix};
use crate::role::Role;
use crate::sensitivity::{Candidate, decoded, output_errors, weight_error};
use crate::settings::Budget;

/// Samples on which single weights are measured.
pub(super) const SAMPLES: usize = 24;
/// Rounds in which the graph's own bytes are taken into account.
const ROUNDS: usize = 6;
/// Bytes that a bias under a new name takes more, mostly.
const CORRECTED_NAME: u64 = 40;
/// A fit to activations is believed to leave no less than this share of a squared error.
const LEAST_GAIN: f64 = 0.02;

/// Which ways to store a weight are weighed against each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// All of them, for a budget.
    All,
    /// The present one and those above it, in the block that the plan has, for a repair.
    Raising,
}

/// What every free weight of a model may be stored as, and what that costs.
pub(super) struct Costs {
    items: Vec<Item>,
    /// Tensors whose influence on the output could not be measured, and why.
    unmeasured: Vec<String>,
    reason: Option<String>,
}

struct Item {
    decision: usize,
    usage: usize,
    /// Squared relative error of the weight in the form in which it is measured.
    base: f64,
    encodings: Vec<Encoding>,
    choices: Vec<Choice>,
}

impl Costs {
    /// Measures the weights that `plan` leaves free: those that no rule decides. Under [`Scope::Raising`] the plan
    /// must be the one that `fitting` fitted last.
    ///
    /// # Errors
    /// Errors of reading weights, or an interruption.
    pub fn of(
        model: &Checked<Model>,
        known: &Inventory,
        plan: &Plan,
        scope: Scope,
        fitting: &mut Fitting<'_>,
        judge: &mut Judge<'_>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut items = Vec::new();
        let mut bases = Vec::new();
        let mut base_plan = plan.clone();
        for (at, number, site_at) in free(plan, known) {
            let (Some(site), Some(decision)) = (known.sites.get(site_at), plan.decisions.get(at)) else {
                continue;
            };
            let Some(usage) = decision.uses.get(number) else { continue };
            let algorithm = fitting.algorithm();
            let measured = match scope {
                Scope::All => base(model, site, algorithm)?,
                Scope::Raising => usage.encoding.candidate().map(|(form, _)| (usage.encoding, form)),
            };
            let Some((base, candidate_of_base)) = measured else { continue };
            let error_of_base = weight_error(model, site, candidate_of_base, Algorithm::Search)?;
            let least = error_of_base.squared_error.max(f64::MIN_POSITIVE);
            let base_error = error_of_base.relative().powi(2);
            let mut item =
                Item { decision: at, usage: number, base: base_error, encodings: vec![], choices: vec![] };
            item.add(Encoding::Float, decision.bytes_before, 0.0);
            let wanted = match scope {
                Scope::All => wishes(site, known.role(site_at), fitting.settings()),
                Scope::Raising => usage.encoding.ladder(site.k).collect(),
            };
            for wish in wanted {
                let found = if wish == usage.encoding {
                    wish.candidate().map(|(form, _)| (wish, form))
                } else {
                    reached(model, site, wish)?
                };
                let Some((encoding, candidate)) = found else { continue };
                let error = if candidate == candidate_of_base {
                    error_of_base
                } else {
                    weight_error(model, site, candidate, Algorithm::Search)?
                };
                let bytes = encoding.bytes(site.k, site.n).unwrap_or(decision.bytes_before);
                item.add(encoding, bytes, error.squared_error / least);
            }
            if let Some(usage) = base_plan.decisions.get_mut(at).and_then(|d| d.uses.get_mut(number)) {
                usage.encoding = base;
            }
            bases.push((site_at, base));
            items.push(item);
        }
        let mut costs = Self { items, unmeasured: Vec::new(), reason: None };
        costs.influence(model, known, plan, &bases, fitting.given(), judge, progress)?;
        if scope == Scope::All {
            fitting.fit(model, known, &base_plan, progress)?;
        }
        costs.gains(fitting);
        Ok(costs)
    }

    /// Turns the relative weight errors into errors of the output: on samples that judge, else on those that are `given`
    /// for calibration, else on made-up ones.
    #[expect(clippy::too_many_arguments, reason = "called once")]
    fn influence(
        &mut self,
        model: &Checked<Model>,
        known: &Inventory,
        plan: &Plan,
        bases: &[(usize, Encoding)],
        given: Option<&[Sample]>,
        judge: &mut Judge<'_>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let wanted: Vec<_> = bases
            .iter()
            .filter_map(|(site, base)| base.candidate().map(|(candidate, _)| (*site, candidate)))
            .collect();
        let mut measured = vec![None; wanted.len()];
        let outcome = judge.prepared(progress).and_then(|ready| {
            let list = given.filter(|_| !ready.samples.are_real()).unwrap_or(&ready.samples.list);
            let samples = of_one_shape(list, SAMPLES);
            let sites: Vec<usize> = wanted.iter().map(|(site, _)| *site).collect();
            let changed = |site: usize, matrix: &Matrix<'_>| {
                let wish = wanted.iter().find(|(at, _)| *at == site);
                let values = |candidate| decoded(matrix, candidate, Algorithm::Search);
                Ok(wish.and_then(|(_, candidate)| match candidate {
                    Candidate::Blocks(_) => {
                        let weight = values(*candidate)?;
                        Some(Change::Linear { weight, shift: None, rounded: None })
                    }
                    _ => values(*candidate).map(Change::Table),
                }))
            };
            let name = &ready.output.name;
            match influence(model, known, &sites, &changed, false, &samples, name, progress) {
                Ok((found, _)) => measured = found.iter().map(|effect| effect.output).collect(),
                Err(error) if error.kind() == Kind::Unsupported => {}
                Err(error) => return Err(error),
            }
            // What the stages do not enter is put into whole runs.
            let open: Vec<usize> = (0..wanted.len()).filter(|at| measured[*at].is_none()).collect();
            let rest: Vec<_> =
                open.iter().map(|at| (wanted[*at].0, wanted[*at].1, Algorithm::Search)).collect();
            if rest.is_empty() {
                return Ok(());
            }
            let found = output_errors(model, known, &rest, &ready.original, &samples, progress)?;
            open.iter().zip(found).for_each(|(at, error)| measured[*at] = error);
            Ok(())
        });
        match outcome {
            Err(error) if error.kind() == Kind::Unsupported => self.reason = Some(error.to_string()),
            other => other?,
        }
        let measured: Vec<_> =
            measured.into_iter().map(|found| found.filter(|error| error.is_finite())).collect();
        let (sum, count) = measured.iter().flatten().fold((0.0, 0), |(sum, n), error| (sum + error, n + 1));
        for (item, found) in self.items.iter_mut().zip(measured) {
            let influence = found.unwrap_or(if count > 0 { sum / f64::from(count) } else { item.base });
            item.choices.iter_mut().for_each(|choice| choice.loss *= influence.max(1e-12));
            if let (None, Some(decision)) = (found, plan.decisions.get(item.decision)) {
                self.unmeasured.push(decision.tensor.clone());
            }
        }
        Ok(())
    }

    /// What is to be said of weights whose influence could not be measured.
    pub fn warning(&self) -> Option<String> {
        let first = self.unmeasured.first()?;
        let (count, all) = (self.unmeasured.len(), self.items.len());
        let assumed = if count == all { "its own relative error" } else { "the mean of the others" };
        let why = self.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
        Some(format!(
            "the influence of {count} of {all} weights on the output could not be measured, '{first}' first{why}; \
             {assumed} was taken for it"
        ))
    }

    /// Takes into account what fitting to activations gains at 4 bits.
    fn gains(&mut self, fitting: &Fitting<'_>) {
        let gains: HashMap<usize, f64> = fitting
            .calibrated()
            .layers
            .iter()
            .filter_map(|layer| {
                let (before, after) = layer.errors?;
                Some((layer.decision, (after / before.max(1e-30)).clamp(LEAST_GAIN, 1.0)))
            })
            .collect();
        for item in &mut self.items {
            let gain = gains.get(&item.decision).copied().unwrap_or(1.0);
            for (choice, encoding) in item.choices.iter_mut().zip(&item.encodings) {
                if matches!(encoding, Encoding::Blocks { scheme, .. } if scheme.bits == Bits::Four) {
                    choice.loss *= gain;
                }
            }
        }
    }

    /// `plan` with tensors raised, for the least bytes, until no more than `share` of its predicted loss is left; with
    /// the steps. `None` when nothing is left to raise.
    pub fn raised(&mut self, plan: &Plan, share: f64, reason: &str) -> Option<(Plan, Vec<Step>)> {
        let mut present = 0.0;
        for item in &mut self.items {
            let now = item.present(plan)?;
            present += now.1.loss;
            // What was raised stays so.
            let kept = item.encodings.iter().copied().zip(item.choices.iter().copied());
            let kept = kept.filter(|choice| *choice == now || choice.1.loss < now.1.loss);
            (item.encodings, item.choices) = kept.unzip();
        }
        let (picked, _) = self.picked(Limit::Loss(share * present)).filter(|_| present > 0.0)?;
        let (mut raised, mut steps) = (plan.clone(), Vec::new());
        for (item, at) in self.items.iter().zip(picked) {
            let to = *item.encodings.get(at)?;
            steps.extend(raise_to(&mut raised, (item.decision, item.usage), to, reason));
        }
        (!steps.is_empty()).then_some((raised, steps))
    }

    /// The choice for each item within `limit`, and its predicted loss.
    fn picked(&self, limit: Limit) -> Option<(Vec<usize>, f64)> {
        let choices: Vec<Vec<Choice>> = self.items.iter().map(|item| item.choices.clone()).collect();
        let picked = within(&choices, limit)?;
        let (_, loss) = totals(&choices, &picked);
        Some((picked, loss))
    }

    /// `plan` with the free weights chosen within `limit` on their payload; `None` when nothing holds it. With
    /// it the predicted squared relative error of the output.
    fn chosen(&self, plan: &Plan, limit: Limit, reason: &str) -> Option<(Plan, f64)> {
        let (picked, loss) = self.picked(limit)?;
        let mut plan = plan.clone();
        for (item, at) in self.items.iter().zip(&picked) {
            let decision = plan.decisions.get_mut(item.decision)?;
            let usage = decision.uses.get_mut(item.usage)?;
            usage.encoding = *item.encodings.get(*at)?;
            reason.clone_into(&mut usage.reason);
            decision.recount();
        }
        Some((plan, loss))
    }

    /// The plan of the least predicted loss for a budget of bytes of which `spare` are left over; with the bytes of the
    /// budget.
    ///
    /// # Errors
    /// [`Kind::Caller`] when even the smallest choice is larger.
    pub fn plan(
        &self,
        model: &Checked<Model>,
        known: &Inventory,
        plan: &Plan,
        budget: Budget,
        spare: u64,
        notes: &Notes,
    ) -> Result<(Plan, u64)> {
        let (whole, reason) = (most_bytes(model, known, plan, budget, notes)?, name(budget));
        let most = whole.saturating_sub(spare);
        // What is stored once for several weights counts for each in the payload, so the rest may be less than nothing.
        let around = |plan: &Plan, bytes: u64| i128::from(bytes) - i128::from(self.payload(plan));
        let mut other = around(plan, size(model, known, plan, notes)?);
        let mut best: Option<(Plan, f64)> = None;
        for _ in 0..ROUNDS {
            let free = u64::try_from((i128::from(most) - other).max(0)).unwrap_or(u64::MAX);
            let Some((made, loss)) = self.chosen(plan, Limit::Bytes(free), &reason) else { break };
            let bytes = size(model, known, &made, notes)?;
            let around = around(&made, bytes);
            if bytes <= most && best.as_ref().is_none_or(|(_, least)| loss < *least) {
                best = Some((made, loss));
            }
            if around == other {
                break;
            }
            // Nodes and names are other bytes in every plan: what is left of the budget is given out again.
            other = around;
        }
        // The smallest, where the bytes around the weights are so few only in it.
        let least = self.chosen(plan, Limit::Loss(f64::INFINITY), &reason);
        let smallest =
            least.as_ref().map(|(plan, _)| size(model, known, plan, notes)).transpose()?.unwrap_or(0);
        if let Some((made, _)) = best.or(least.filter(|_| smallest <= most)) {
            return Ok((made, whole));
        }
        Err(too_small(model, known, plan, budget, smallest, notes)?)
    }

    /// The plan of the least bytes for a predicted squared relative error of the output.
    pub fn plan_for(&self, plan: &Plan, most: f64, reason: &str) -> Option<(Plan, f64)> {
        self.chosen(plan, Limit::Loss(most), reason)
    }

    /// Bytes of the file of the plan that may lose `most`: the smallest for infinity, the finest for 0.
    ///
    /// # Errors
    /// Errors of laying the file out.
    pub fn extreme(
        &self,
        model: &Checked<Model>,
        known: &Inventory,
        plan: &Plan,
        notes: &Notes,
        most: f64,
    ) -> Result<u64> {
        let (made, _) = self.chosen(plan, Limit::Loss(most), "frontier").unwrap_or((plan.clone(), 0.0));
        size(model, known, &made, notes)
    }

    /// Payload of the free weights under `plan`.
    fn payload(&self, plan: &Plan) -> u64 {
        let of = |item: &Item| {
            let decision = plan.decisions.get(item.decision)?;
            let usage = decision.uses.get(item.usage)?;
            let (k, n) = usage.matrix?;
            Some(usage.encoding.bytes(k, n).unwrap_or(decision.bytes_before))
        };
        self.items.iter().filter_map(of).sum()
    }
}

impl Item {
    /// The form that `plan` gives it, and what that costs.
    fn present(&self, plan: &Plan) -> Option<(Encoding, Choice)> {
        let encoding = plan.decisions.get(self.decision)?.uses.get(self.usage)?.encoding;
        let at = self.encodings.iter().position(|known| *known == encoding)?;
        Some((encoding, *self.choices.get(at)?))
    }

    fn add(&mut self, encoding: Encoding, bytes: u64, loss: f64) {
        self.encodings.push(encoding);
        self.choices.push(Choice { bytes, loss });
    }
}

/// The uses of weights that `plan` leaves to a budget: decision, use, and site.
fn free(plan: &Plan, known: &Inventory) -> Vec<(usize, usize, usize)> {
    let mut found = Vec::new();
    for (at, (decision, weight)) in plan.decisions.iter().zip(&known.weights).enumerate() {
        if decision.uses.iter().any(|usage| usage.slot.is_none()) {
            continue;
        }
        for (number, (usage, known)) in decision.uses.iter().zip(&weight.uses).enumerate() {
            if let (WeightUse::Site(site), false) = (known, usage.fixed) {
                found.push((at, number, *site));
            }
        }
    }
    found
}

/// Refuses a budget of bytes that no choice of the forms that the values of the weights allow can hold, and one that
/// holds all of them in float; no model is run.
///
/// # Errors
/// [`Kind::Caller`], with the least that can be reached where that is too much.
pub(super) fn can_hold(
    model: &Checked<Model>,
    known: &Inventory,
    plan: &Plan,
    budget: Budget,
    fitting: &Fitting<'_>,
    notes: &Notes,
) -> Result<()> {
    let (mut least, mut finest) = (plan.clone(), plan.clone());
    let set = |plan: &mut Plan, (at, number): (usize, usize), encoding: Encoding| {
        let Some(decision) = plan.decisions.get_mut(at) else { return };
        decision.uses.get_mut(number).into_iter().for_each(|usage| usage.encoding = encoding);
        decision.recount();
    };
    for (at, number, site_at) in free(plan, known) {
        let (Some(site), Some(decision)) = (known.sites.get(site_at), plan.decisions.get(at)) else {
            continue;
        };
        if base(model, site, fitting.algorithm())?.is_none() {
            continue;
        }
        let mut fewest = (decision.bytes_before, Encoding::Float);
        for wish in wishes(site, known.role(site_at), fitting.settings()) {
            let Some((encoding, _)) = reached(model, site, wish)? else { continue };
            let bytes = encoding.bytes(site.k, site.n).unwrap_or(decision.bytes_before);
            if bytes < fewest.0 {
                fewest = (bytes, encoding);
            }
        }
        set(&mut least, (at, number), fewest.1);
        set(&mut finest, (at, number), Encoding::Float);
    }
    let most = most_bytes(model, known, plan, budget, notes)?;
    if !finest.changes_anything() && size(model, known, &finest, notes)? <= most {
        let what = format!("holds the whole model, {} bytes: nothing has to be quantized", model.size());
        return Err(Error::caller("the budget", what).help("--target-size or --target-bpw with less"));
    }
    let smallest = size(model, known, &least, notes)?;
    if smallest <= most {
        return Ok(());
    }
    Err(too_small(model, known, plan, budget, smallest, notes)?)
}

/// The bytes of the whole file that `budget` allows.
fn most_bytes(
    model: &Checked<Model>,
    known: &Inventory,
    plan: &Plan,
    budget: Budget,
    notes: &Notes,
) -> Result<u64> {
    match budget {
        Budget::Size(bytes) => Ok(bytes),
        Budget::BitsPerWeight(bits) => {
            let payload = (bits * elements(plan) as f64 / 8.0) as u64;
            Ok(payload + overhead(model, known, plan, notes)?)
        }
        Budget::Loss(_) => Err(Error::caller("budget", "is no size")),
    }
}

/// A budget as reasons and messages name it.
fn name(budget: Budget) -> String {
    match budget {
        Budget::Size(bytes) => format!("budget of {bytes} bytes"),
        Budget::BitsPerWeight(bits) => format!("budget of {bits} bits per weight"),
        Budget::Loss(loss) => format!("budget of {loss} % of loss"),
    }
}

/// Values of all stored tensors.
fn elements(plan: &Plan) -> u64 {
    plan.decisions.iter().map(Decision::elements).sum()
}

/// That even the `smallest` file is beyond `budget`, with the least budget that holds, in its unit.
fn too_small(
    model: &Checked<Model>,
    known: &Inventory,
    plan: &Plan,
    budget: Budget,
    smallest: u64,
    notes: &Notes,
) -> Result<Error> {
    let up = |value: f64| (100.0 * value).ceil() / 100.0;
    let least = match budget {
        Budget::BitsPerWeight(_) => {
            let payload = smallest.saturating_sub(overhead(model, known, plan, notes)?);
            let bits = up(8.0 * payload as f64 / elements(plan).max(1) as f64);
            format!("{bits:.2} bits per weight: ")
        }
        _ if smallest >= 1_000_000 => format!("{:.2}MB: ", up(smallest as f64 / 1e6)),
        _ => format!("{:.2}kB: ", up(smallest as f64 / 1e3)),
    };
    let fixed = plan.decisions.iter().filter(|decision| decision.uses.iter().any(|usage| usage.fixed));
    let kept: u64 = fixed.map(|decision| decision.bytes_after).sum();
    let what =
        format!("the least that can be reached is {least}{smallest} bytes, {kept} of them fixed by rules");
    Ok(Error::caller(name(budget), what).help(ways_to_leave_more(plan)))
}

/// The options that would leave more weights of `plan` to a budget.
fn ways_to_leave_more(plan: &Plan) -> String {
    let by_option = |usage: &UsePlan| usage.reason.starts_with("--");
    let any = |wanted: &dyn Fn(&Decision, &UsePlan) -> bool| {
        plan.decisions.iter().any(|decision| decision.uses.iter().any(|usage| wanted(decision, usage)))
    };
    let kept = |is: fn(Role) -> bool| {
        let is_kept = |usage: &UsePlan| usage.slot.is_some() && usage.fixed && !by_option(usage);
        any(&|decision, usage| is(decision.role) && is_kept(usage))
    };
    let is_stored = plan.decisions.iter().any(|decision| decision.stored.is_some());
    let ways = [
        ("--embeddings auto", kept(Role::is_embedding)),
        ("--head auto", kept(|role| role == Role::LmHead)),
        (
            "--unfused int8",
            any(&|decision, usage| usage.slot.is_none() && decision.stored.is_none()) && !is_stored,
        ),
        ("fewer --tensor and --keep", any(&|_, usage| usage.fixed && by_option(usage))),
    ];
    let ways: Vec<&str> = ways.iter().filter(|(_, helps)| *helps).map(|(way, _)| *way).collect();
    if ways.is_empty() {
        "a larger one".to_owned()
    } else {
        format!("to leave more to it: {}", ways.join(", "))
    }
}

/// The exact bytes of the file that `plan` gives.
pub(super) fn size(model: &Checked<Model>, known: &Inventory, plan: &Plan, notes: &Notes) -> Result<u64> {
    let mut stored = plan.clone();
    share(&mut stored, known);
    let draft = carry_out(model, known, &stored, &HashMap::new(), notes.metadata(plan))?.draft;
    let (file, side) = Layout::new(&draft, model.path(), SaveOptions::default())?.sizes();
    // A bias that takes up the mean of an error is stored under a name of its own.
    Ok(file + side + plan.blocked_uses() as u64 * CORRECTED_NAME)
}

/// Bytes of the file that are no weights.
fn overhead(model: &Checked<Model>, known: &Inventory, plan: &Plan, notes: &Notes) -> Result<u64> {
    let mut stored = plan.clone();
    share(&mut stored, known);
    let payload: u64 = stored.decisions.iter().map(|decision| decision.bytes_after).sum();
    Ok(size(model, known, plan, notes)?.saturating_sub(payload))
}

/// The first samples of the commonest shapes: the runtime plans once for each.
pub(super) fn of_one_shape(samples: &[Sample], count: usize) -> Vec<Sample> {
    let mut groups: HashMap<Vec<Vec<usize>>, (usize, Vec<usize>)> = HashMap::new();
    for (at, sample) in samples.iter().enumerate() {
        groups.entry(sample.shapes()).or_insert((at, Vec::new())).1.push(at);
    }
    let mut groups: Vec<(usize, Vec<usize>)> = groups.into_values().collect();
    groups.sort_by_key(|(first, list)| (std::cmp::Reverse(list.len().min(count)), *first));
    let chosen = groups.into_iter().flat_map(|(_, list)| list).take(count);
    chosen.filter_map(|at| samples.get(at).cloned()).collect()
}

/// Whether `options` ask for a plan under a budget.
pub(super) fn asked(options: &RewriteOptions) -> Option<Budget> {
    options.settings.budget.filter(|_| options.plan.is_none())
}
