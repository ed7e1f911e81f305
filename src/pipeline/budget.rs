//! Making the plan under a budget: what each way to store each weight costs, and the choice among them.

use std::collections::HashMap;

use super::fitting::Fitting;
use super::judge::Judge;
use super::notes::Notes;
use super::{RewriteOptions, carry_out};
use crate::calibrate::influence;
use crate::data::Sample;
use crate::error::{Error, Kind, Result};
use crate::graph::{Form, Inventory, Site, WeightUse};
use crate::onnx::{Checked, Layout, Model, SaveOptions};
use crate::plan::{Choice, Encoding, Limit, Plan, totals, within};
use crate::progress::Progress;
use crate::quant::{Algorithm, BLOCKS, Bits, Emit, PackedRows, ScaleStorage, Scheme};
use crate::sensitivity::{Candidate, Reach, reach, weight_error};
use crate::settings::Budget;

/// Samples on which single weights are measured.
const SAMPLES: usize = 24;
/// The block at which they are measured.
const BASE_BLOCK: usize = 64;
/// Rounds in which the graph's own bytes are taken into account.
const ROUNDS: usize = 6;
/// Bytes of the name of a corrected bias, twice, at most.
const CORRECTED_NAME: u64 = 32;
/// A fit to activations is believed to leave no less than this share of a squared error.
const LEAST_GAIN: f64 = 0.02;

/// What every free weight of a model may be stored as, and what that costs.
pub(super) struct Costs {
    items: Vec<Item>,
    /// Why the influence of single weights on the output was not measured.
    pub unmeasured: Option<String>,
}

struct Item {
    decision: usize,
    usage: usize,
    encodings: Vec<Encoding>,
    choices: Vec<Choice>,
}

impl Costs {
    /// Measures the weights that `plan` leaves free: those that no rule decides.
    ///
    /// # Errors
    /// Errors of reading weights, or an interruption.
    pub fn of(
        model: &Checked<Model>,
        known: &Inventory,
        plan: &Plan,
        fitting: &mut Fitting<'_>,
        judge: &mut Judge<'_>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let mut items = Vec::new();
        let mut bases = Vec::new();
        let mut base_plan = plan.clone();
        for (at, (decision, weight)) in plan.decisions.iter().zip(&known.weights).enumerate() {
            if decision.uses.iter().any(|usage| usage.slot.is_none()) {
                continue;
            }
            for (number, (usage, found)) in decision.uses.iter().zip(&weight.uses).enumerate() {
                let WeightUse::Site(site_at) = found else { continue };
                let Some(site) = known.sites.get(*site_at).filter(|_| !usage.fixed) else { continue };
                let algorithm = fitting.algorithm();
                let mut item = Item { decision: at, usage: number, encodings: vec![], choices: vec![] };
                item.add(Encoding::Float, decision.bytes_before, 0.0);
                let Some((base, candidate_of_base, base_error)) = base(model, site, algorithm)? else {
                    continue;
                };
                for wish in wishes(site, fitting.scales(), fitting.emit(), algorithm) {
                    let Some((encoding, candidate)) = reached(model, site, wish)? else { continue };
                    let error = if candidate == candidate_of_base {
                        base_error
                    } else {
                        weight_error(model, site, candidate, Algorithm::Search)?.squared_error
                    };
                    let bytes = encoding.bytes(site.k, site.n).unwrap_or(decision.bytes_before);
                    item.add(encoding, bytes, error / base_error.max(f64::MIN_POSITIVE));
                }
                if let Some(usage) = base_plan.decisions.get_mut(at).and_then(|d| d.uses.get_mut(number)) {
                    usage.encoding = base;
                }
                bases.push((*site_at, base));
                items.push(item);
            }
        }
        let mut costs = Self { items, unmeasured: None };
        costs.influence(model, known, &bases, judge, progress)?;
        costs.gains(model, known, &base_plan, fitting, progress)?;
        Ok(costs)
    }

    /// Turns the relative weight errors into errors of the output.
    fn influence(
        &mut self,
        model: &Checked<Model>,
        known: &Inventory,
        bases: &[(usize, Encoding)],
        judge: &mut Judge<'_>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let wanted: Vec<_> = bases
            .iter()
            .filter_map(|(site, base)| base.candidate().map(|(candidate, _)| (*site, candidate)))
            .collect();
        let measured = judge.prepared(progress).and_then(|ready| {
            let samples = of_one_shape(&ready.samples.list, SAMPLES);
            influence(model, known, &wanted, &samples, &ready.output.name, progress)
        });
        let measured = match measured {
            Ok(found) => found,
            Err(error) if error.kind() == Kind::Unsupported => {
                self.unmeasured = Some(error.to_string());
                vec![1.0; wanted.len()]
            }
            Err(error) => return Err(error),
        };
        for (item, influence) in self.items.iter_mut().zip(measured) {
            item.choices.iter_mut().for_each(|choice| choice.loss *= influence.max(1e-12));
        }
        Ok(())
    }

    /// Takes into account what fitting to activations gains at 4 bits.
    fn gains(
        &mut self,
        model: &Checked<Model>,
        known: &Inventory,
        base_plan: &Plan,
        fitting: &mut Fitting<'_>,
        progress: &dyn Progress,
    ) -> Result<()> {
        fitting.fit(model, known, base_plan, progress)?;
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
        Ok(())
    }

    /// `plan` with the free weights chosen within `limit` on their payload; `None` when nothing holds it. With
    /// it the predicted squared relative error of the output.
    fn chosen(&self, plan: &Plan, limit: Limit, reason: &str) -> Option<(Plan, f64)> {
        let choices: Vec<Vec<Choice>> = self.items.iter().map(|item| item.choices.clone()).collect();
        let picked = within(&choices, limit)?;
        let mut plan = plan.clone();
        for (item, at) in self.items.iter().zip(&picked) {
            let decision = plan.decisions.get_mut(item.decision)?;
            let usage = decision.uses.get_mut(item.usage)?;
            usage.encoding = *item.encodings.get(*at)?;
            reason.clone_into(&mut usage.reason);
            decision.recount();
        }
        let (_, loss) = totals(&choices, &picked);
        Some((plan, loss))
    }

    /// The plan of the least predicted loss for a budget of bytes.
    ///
    /// # Errors
    /// [`Kind::Caller`] when even the smallest choice is larger.
    pub fn plan(
        &self,
        model: &Checked<Model>,
        known: &Inventory,
        plan: &Plan,
        budget: Budget,
        notes: &Notes,
    ) -> Result<(Plan, f64)> {
        let (most, reason) = match budget {
            Budget::Size(bytes) => (bytes, format!("budget of {bytes} bytes")),
            Budget::BitsPerWeight(bits) => {
                let elements: u64 = plan.decisions.iter().map(crate::plan::Decision::elements).sum();
                let payload = (bits * elements as f64 / 8.0) as u64;
                (payload + overhead(model, known, plan, notes)?, format!("budget of {bits} bits per weight"))
            }
            Budget::Loss(_) => return Err(Error::caller("budget", "is no size")),
        };
        let free: u64 = self.payload(plan);
        let mut other = size(model, known, plan, notes)?.saturating_sub(free);
        let mut smallest = 0;
        for _ in 0..ROUNDS {
            let limit = Limit::Bytes(most.saturating_sub(other));
            let Some((made, loss)) = self.chosen(plan, limit, &reason) else {
                let least = self.chosen(plan, Limit::Loss(f64::INFINITY), &reason);
                smallest = least.map(|(plan, _)| size(model, known, &plan, notes)).transpose()?.unwrap_or(0);
                break;
            };
            let bytes = size(model, known, &made, notes)?;
            if bytes <= most {
                return Ok((made, loss));
            }
            other += bytes - most;
        }
        let kept: u64 = plan
            .decisions
            .iter()
            .filter(|decision| decision.uses.iter().any(|usage| usage.fixed))
            .map(|decision| decision.bytes_after)
            .sum();
        Err(Error::caller(
            reason,
            format!("the least that can be reached is {smallest} bytes, {kept} of them fixed by rules"),
        )
        .help("lift what the preset keeps: --embeddings auto, --head auto"))
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
    fn add(&mut self, encoding: Encoding, bytes: u64, loss: f64) {
        self.encodings.push(encoding);
        self.choices.push(Choice { bytes, loss });
    }
}

/// The exact bytes of the file that `plan` gives.
pub(super) fn size(model: &Checked<Model>, known: &Inventory, plan: &Plan, notes: &Notes) -> Result<u64> {
    let draft = carry_out(model, known, plan, &HashMap::new(), &notes.metadata(plan))?.draft;
    let (file, side) = Layout::new(&draft, model.path(), SaveOptions::default())?.sizes();
    // A bias that takes up the mean of an error is stored under a name of its own.
    Ok(file + side + plan.blocked_uses() as u64 * CORRECTED_NAME)
}

/// Bytes of the file that are no weights.
fn overhead(model: &Checked<Model>, known: &Inventory, plan: &Plan, notes: &Notes) -> Result<u64> {
    let payload: u64 = plan.decisions.iter().map(|decision| decision.bytes_after).sum();
    Ok(size(model, known, plan, notes)?.saturating_sub(payload))
}

/// Ways to store the weight of `site`, float aside.
fn wishes(site: &Site, scales: ScaleStorage, emit: Emit, algorithm: Algorithm) -> Vec<Encoding> {
    if site.form == Form::Gather {
        let algorithm = Algorithm::Search;
        let packed = [32, 64, 128].map(|block| PackedRows { block, scales });
        let packed = packed.into_iter().map(|format| Encoding::PackedRows { format, algorithm });
        return packed.chain([Encoding::Rows { scales, algorithm }]).collect();
    }
    let blocks = |bits, block, symmetric| Encoding::Blocks {
        scheme: Scheme { bits, block, symmetric, scales, emit }.no_wider_than(site.k),
        algorithm,
    };
    let mut found = vec![blocks(Bits::Eight, 128, true), blocks(Bits::Eight, 32, true)];
    let widest = BLOCKS.iter().position(|block| *block >= site.k).unwrap_or(BLOCKS.len() - 1);
    for block in &BLOCKS[..=widest] {
        found.push(blocks(Bits::Four, *block, false));
        found.push(blocks(Bits::Four, *block, true));
    }
    found
}

/// `wish` as the values allow it; `None` where they do not.
fn reached(model: &Model, site: &Site, wish: Encoding) -> Result<Option<(Encoding, Candidate)>> {
    let Some((candidate, algorithm)) = wish.candidate() else { return Ok(None) };
    Ok(match reach(model, site, candidate)? {
        Reach::Fits(candidate) => Some((Encoding::of(candidate, algorithm), candidate)),
        _ => None,
    })
}

/// The form in which the influence of a weight is measured, with its squared error.
fn base(model: &Model, site: &Site, algorithm: Algorithm) -> Result<Option<(Encoding, Candidate, f64)>> {
    let wish = match site.form {
        Form::Gather => Encoding::PackedRows {
            format: PackedRows { block: BASE_BLOCK, scales: ScaleStorage::F16 },
            algorithm: Algorithm::Search,
        },
        _ => Encoding::Blocks {
            scheme: Scheme {
                bits: Bits::Four,
                block: BASE_BLOCK,
                symmetric: false,
                scales: ScaleStorage::F16,
                emit: Emit::Qdq,
            },
            algorithm,
        },
    };
    let Some((encoding, candidate)) = reached(model, site, wish)? else { return Ok(None) };
    let error = weight_error(model, site, candidate, Algorithm::Search)?.squared_error;
    Ok(Some((encoding, candidate, error)))
}

/// The first samples of the commonest shapes: the runtime plans once for each.
fn of_one_shape(samples: &[Sample], count: usize) -> Vec<Sample> {
    let shapes = |sample: &Sample| -> Vec<Vec<usize>> {
        sample.inputs.iter().map(|(_, array)| array.shape.clone()).collect()
    };
    let mut groups: HashMap<Vec<Vec<usize>>, (usize, Vec<usize>)> = HashMap::new();
    for (at, sample) in samples.iter().enumerate() {
        groups.entry(shapes(sample)).or_insert((at, Vec::new())).1.push(at);
    }
    let mut groups: Vec<(usize, Vec<usize>)> = groups.into_values().collect();
    groups.sort_by_key(|(first, list)| (std::cmp::Reverse(list.len().min(count)), *first));
    let chosen = groups.into_iter().flat_map(|(_, list)| list).take(count);
    chosen.filter_map(|at| samples.get(at).cloned()).collect()
}

/// The limit on the squared relative error of the output from which a loss target is approached.
pub(super) const FIRST_GUESS: f64 = 0.01;

/// Whether `options` ask for a plan under a budget.
pub(super) fn asked(options: &RewriteOptions) -> Option<Budget> {
    options.settings.budget.filter(|_| options.plan.is_none())
}
