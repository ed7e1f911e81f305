//! Fitting weights to activations: the original and the rewritten network advance side by side, cut by cut;
//! each weight is fitted to what reaches it in both, takes effect at once, and is kept only where it is better
//! on samples that had no part in it.

mod bands;
mod fit;
mod generate;
mod influence;
mod kept;
mod made;
mod reach;
mod rows;
mod runs;
mod shared;
mod table;
mod trial;

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use crate::data::Sample;
use crate::engine::{Cut, Stages, enters};
use crate::error::{Error, Result};
use crate::graph::{Form, Index, Inventory, Site, Values, WeightUse, bias};
use crate::linalg;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::{Checked, Model};
use crate::plan::{Encoding, Plan};
use crate::progress::Progress;
use crate::quant::{Algorithm, Quantized, Scheme, compensate};
use crate::sensitivity::{decoded, decoded_blocks};
use crate::statistics::Parts;

use bands::{Band, joined, suits};
use fit::{Outcome, SEARCH};
use made::{Linear, Made};
use reach::{Parties, Reach};
use runs::{Pair, Runs};

pub use bands::bands;
pub use generate::{PASSES, generate};
pub use influence::{Change, Effect, influence};
pub use kept::from_statistics;

/// One sample in so many is held out, to judge a fit.
const HOLD_OUT: usize = 8;
/// Below so many samples none is held out, but made-up ones judge.
pub const LEAST_SAMPLES: usize = 16;
/// Made-up rows beside real ones count as one in so many, ...
const ONE_BESIDE: usize = 10;
/// ... or as what is missing from this, but no more than there are real ones, ...
const ENOUGH_ROWS: usize = 4096;
/// ... and as what is missing from this, however few are real.
const LEAST_ROWS: usize = 1024;

/// As how many rows made-up samples count beside `real` rows: weights are not narrowed to what they are fitted to, and
/// a few samples are no worse than none.
pub fn weight_beside(real: usize) -> usize {
    let missing = ENOUGH_ROWS.saturating_sub(real).min(real);
    (real / ONE_BESIDE).max(missing).max(LEAST_ROWS.saturating_sub(real))
}
/// Why a wider layer is not fitted.
const TOO_WIDE: &str =
    "its inputs are too many for statistics of all pairs, and its blocks do not divide bands of them";
/// Why a layer is not fitted, after its name.
const UNREACHED: &str = "stands in a body, which calibration does not enter";

/// How much samples are like real inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// They are real, or texts that the model wrote itself.
    Close,
    /// They are made up: a fit holds on to the original weights more firmly.
    Rough,
}

/// Which parts of the method are used; all of them, but for measuring what each adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// How codes and scales are found.
    pub codes: compensate::Steps,
    /// The first scales and the zero points are found for the mean squares of the inputs.
    pub weighted: bool,
    /// What reaches a weight is taken from the already rewritten network.
    pub sequential: bool,
    /// The target moves, to answer for the difference of the inputs.
    pub asymmetric: bool,
    /// The bias takes over what is left of the mean.
    pub bias: bool,
    /// Activations are rounded as the deployed kernel rounds them.
    pub kernel: bool,
    /// Dampings are compared on held-out rows; otherwise the one that trusts the samples is taken.
    pub damping: bool,
    /// Made-up samples go beside real ones.
    pub beside: bool,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            codes: compensate::Steps::default(),
            weighted: true,
            sequential: true,
            asymmetric: true,
            bias: true,
            kernel: true,
            damping: true,
            beside: true,
        }
    }
}

/// A weight fitted to its activations.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// Codes, scales and zero points.
    pub quantized: Quantized,
    /// What is added to the bias, `[N]`; `None` where there is none to add to.
    pub shift: Option<Vec<f32>>,
}

/// What calibration came to.
#[derive(Debug, Clone, Default)]
pub struct Calibrated {
    /// By decision and use of the plan.
    pub fitted: HashMap<(usize, usize), Fitted>,
    /// What was found for each blocked weight, in the order in which the network uses them.
    pub layers: Vec<Layer>,
    /// Rows of the widest statistics.
    pub rows: usize,
    /// Samples of which they are.
    pub samples: usize,
    /// Statistics of the original network, by activation, where they were to be kept.
    pub kept: BTreeMap<String, Parts>,
}

impl Calibrated {
    /// Keeps the weight of a use, if it was fitted, and tells how.
    fn take(&mut self, decision: usize, usage: usize, outcome: Outcome) -> Layer {
        let Outcome { algorithm, fallback, .. } = outcome;
        let errors = outcome.errors.map(trial::Errors::relative);
        if outcome.is_fitted() || outcome.fitted.shift.is_some() {
            self.fitted.insert((decision, usage), outcome.fitted);
        }
        Layer { decision, algorithm, errors, fallback }
    }
}

/// How one weight was fitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Index of its decision in the plan.
    pub decision: usize,
    /// What was taken.
    pub algorithm: &'static str,
    /// Squared relative error of the layer's output on held-out samples, by search and as taken.
    pub errors: Option<(f64, f64)>,
    /// Why search was taken where statistics were asked for.
    pub fallback: Option<&'static str>,
}

/// What the plan asks of a site.
struct Wish {
    decision: usize,
    usage: usize,
    encoding: Encoding,
}

impl Wish {
    fn wants_statistics(&self) -> bool {
        matches!(self.encoding, Encoding::Blocks { algorithm, .. } if algorithm.wants_statistics())
    }
}

/// What weights are fitted to.
#[derive(Debug, Clone, Copy)]
pub struct Material<'a> {
    /// Samples of the kind that counts.
    pub samples: &'a [Sample],
    /// How much those are like real inputs.
    pub likeness: Likeness,
    /// Samples made up beside them, which widen the statistics and judge a fit only where the others are too few to.
    pub beside: &'a [Sample],
    /// How much of it is in memory.
    pub limits: Limits,
}

/// How much calibration has in memory at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Samples whose activations are in memory; those of the others wait in a temporary file.
    pub samples_at_once: usize,
    /// Pairs of inputs of a linear of which there are second moments; where there are more, those of distant inputs
    /// are left out, see [`bands`].
    pub pairs: usize,
}

/// Walks samples through `model` and fits the weights that `plan` wants fitted to statistics.
///
/// # Errors
/// [`crate::error::Kind::Unsupported`] when the runtime cannot run the model in stages.
#[expect(clippy::too_many_arguments, reason = "a model, samples, and how they are used")]
pub fn calibrate(
    model: &Checked<Model>,
    inventory: &Inventory,
    plan: &Plan,
    material: Material<'_>,
    steps: Steps,
    keep: bool,
    output: &str,
    progress: &dyn Progress,
) -> Result<Calibrated> {
    let wishes = wishes(plan, inventory);
    let unreached = unreached(model, inventory, &wishes);
    if wishes.values().filter(|wish| wish.wants_statistics()).count() == unreached.len() {
        return Err(Error::unsupported("calibration", format!("every linear layer {UNREACHED}")));
    }
    let stages = Stages::new(model, inventory, output)?;
    let Material { samples, likeness, beside, limits } = material;
    let all: Vec<&Sample> = samples.iter().chain(beside).collect();
    let judge =
        |at: usize| (at < samples.len()) == (samples.len() >= LEAST_SAMPLES) && at % HOLD_OUT == HOLD_OUT - 1;
    let parties = Parties {
        masks: all.iter().map(|sample| sample.mask()).collect(),
        held_out: (0..all.len()).map(judge).collect(),
        given: samples.len(),
    };
    let mut runs = Runs::new(all, limits.samples_at_once);
    let mut walk = Walk {
        model,
        index: Index::new(model.graph(), model.proto.ir_version()),
        inventory,
        likeness,
        steps,
        pairs: limits.pairs,
        keep,
        made_up: !beside.is_empty(),
        wishes,
        found: Calibrated { samples: samples.len(), ..Calibrated::default() },
    };
    progress.stage("calibrating", stages.list.len() as u64);
    let mut made = Vec::new();
    for (at, stage) in stages.list.iter().enumerate() {
        let mut reaches = walk.reaches(&stage.cuts)?;
        let last = at + 1 == stages.list.len();
        runs.visit(&stages, last, |range, pairs| {
            if progress.cancelled() {
                return Err(Error::interrupted());
            }
            made.iter().try_for_each(|made: &Made<'_>| made.put(pairs))?;
            pairs.par_iter_mut().flat_map_iter(Pair::each).try_for_each(|run| {
                if let Some(before) = at.checked_sub(1) {
                    stages.finish(before, run);
                }
                progress.advance(0);
                stages.advance(at, run)
            })?;
            reaches.iter_mut().try_for_each(|reach| reach.add(&range, pairs, &parties, steps.kernel))
        })?;
        stages.forget(at);
        made = walk.make(&stage.cuts, reaches, progress)?;
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        progress.advance(1);
    }
    walk.found.layers.extend(unreached);
    Ok(walk.found)
}

/// Whether the runtime computes a site in float32: half precision is widened.
fn runs_as_float(site: &Site) -> bool {
    matches!(site.operand.delivered, DataType::Float | DataType::Float16 | DataType::Bfloat16)
}

/// The layers whose activations the walk does not see.
fn unreached(model: &Model, inventory: &Inventory, wishes: &HashMap<usize, Wish>) -> Vec<Layer> {
    let mut sites: Vec<_> = wishes.iter().filter(|(_, wish)| wish.wants_statistics()).collect();
    sites.sort_by_key(|(site, _)| **site);
    sites.retain(|(site, _)| inventory.sites.get(**site).is_none_or(|site| !enters(model, site)));
    let layer = |wish: &Wish| Layer {
        decision: wish.decision,
        algorithm: SEARCH,
        errors: None,
        fallback: Some(UNREACHED),
    };
    sites.into_iter().map(|(_, wish)| layer(wish)).collect()
}

fn wishes(plan: &Plan, inventory: &Inventory) -> HashMap<usize, Wish> {
    let mut found = HashMap::new();
    for (decision, (planned, weight)) in plan.decisions.iter().zip(&inventory.weights).enumerate() {
        for (usage, (plan, known)) in planned.uses.iter().zip(&weight.uses).enumerate() {
            if let WeightUse::Site(site) = known {
                found.insert(*site, Wish { decision, usage, encoding: plan.encoding });
            }
        }
    }
    found
}

struct Walk<'a> {
    model: &'a Checked<Model>,
    index: Index<'a>,
    inventory: &'a Inventory,
    likeness: Likeness,
    steps: Steps,
    pairs: usize,
    keep: bool,
    /// Whether there are samples made up beside the given ones.
    made_up: bool,
    wishes: HashMap<usize, Wish>,
    found: Calibrated,
}

impl Walk<'_> {
    fn site(&self, cut: &Cut) -> Result<&Site> {
        let site = self.inventory.sites.get(cut.site);
        let site = site.ok_or_else(|| Error::format("site", "is not in the model"))?;
        if !runs_as_float(site) {
            return Err(Error::unsupported("runtime", "weights that are delivered in float64"));
        }
        Ok(site)
    }

    fn is_table(&self, cut: &Cut) -> bool {
        self.inventory.sites.get(cut.site).is_some_and(|site| site.form == Form::Gather)
    }

    /// Scheme and algorithm of a blocked weight.
    fn scheme(&self, cut: &Cut) -> Option<(Scheme, Algorithm)> {
        match self.wishes.get(&cut.site)?.encoding {
            Encoding::Blocks { scheme, algorithm } => Some((scheme, algorithm)),
            _ => None,
        }
    }

    /// What is to be summed up for the linears among `cuts`, by their input.
    fn reaches<'c>(&self, cuts: &'c [Cut]) -> Result<Vec<Reach<'c>>> {
        let mut by_input: Vec<(&str, Reach<'c>)> = Vec::new();
        for cut in cuts.iter().filter(|cut| !self.is_table(cut)) {
            let width = self.site(cut)?.k;
            let at = by_input.iter().position(|(input, _)| *input == cut.input).unwrap_or_else(|| {
                let bands = bands(width, self.pairs);
                by_input.push((&cut.input, Reach::new(&cut.input, width, bands, self.keep, self.made_up)));
                by_input.len() - 1
            });
            let scheme = self.scheme(cut);
            let wanted = scheme.is_some_and(|(_, algorithm)| algorithm.wants_statistics());
            if let Some((_, reach)) = by_input.get_mut(at) {
                reach.join(cut, scheme.map(|(scheme, _)| scheme.block), wanted, self.made_up);
            }
        }
        Ok(by_input.into_iter().map(|(_, reach)| reach).collect())
    }

    /// Chooses the weights of a stage.
    fn make<'c>(
        &mut self,
        cuts: &'c [Cut],
        reaches: Vec<Reach<'c>>,
        progress: &dyn Progress,
    ) -> Result<Vec<Made<'c>>> {
        let mut made = Vec::new();
        for cut in cuts.iter().filter(|cut| self.is_table(cut)) {
            made.push(self.table(cut)?);
        }
        for mut reach in reaches {
            self.found.kept.extend(reach.take_kept());
            let width = reach.width;
            for (block, cuts, mut bands) in reach.take_groups() {
                let input = cuts.first().map_or("", |cut| cut.input.as_str());
                let rows = bands.iter().map(|band| band.shared.rows()).max().unwrap_or(0);
                self.found.rows = self.found.rows.max(rows);
                let list = cuts.into_iter().map(|cut| self.linear(cut, &mut bands, progress));
                let list = list.collect::<Result<_>>()?;
                made.push(Made::Linears { input, width, block: block.filter(|_| self.steps.kernel), list });
            }
        }
        Ok(made)
    }

    /// Fits the weight of a linear, if it is blocked.
    fn linear<'c>(
        &mut self,
        cut: &'c Cut,
        bands: &mut [Band],
        progress: &dyn Progress,
    ) -> Result<Linear<'c>> {
        let site = self.site(cut)?;
        let values = Values::of(self.model, site)?;
        let matrix = values.matrix()?;
        let (k, n) = (site.k, site.n);
        let weight = matrix.values();
        let Some((scheme, algorithm)) = self.scheme(cut) else {
            return Ok(Linear { cut, n, weight, back: None });
        };
        // Moments about the mean are right only where the bias takes the mean over.
        let centred = self.steps.bias && bias(&self.index, site).is_some();
        let fit = |weight: &[f32], band: &mut Band| {
            fit::fit(
                &matrix.band(band.inputs.clone()),
                weight,
                scheme,
                algorithm,
                centred,
                self.likeness,
                self.steps,
                &mut band.shared,
                &band.judges,
                progress,
            )
        };
        let outcome = match bands {
            [band] => fit(&weight, band),
            bands if !bands.is_empty() && suits(scheme) && algorithm.wants_statistics() => {
                let parts = bands.iter_mut().map(|band| {
                    let own = weight.get(band.inputs.start * n..band.inputs.end * n).unwrap_or_default();
                    fit(own, band)
                });
                joined(parts.collect()).ok_or_else(|| Error::format("weight", "has no bands"))?
            }
            bands => {
                let fallback = Some(TOO_WIDE).filter(|_| !bands.is_empty() && algorithm.wants_statistics());
                Outcome { fallback, ..fit(&weight, &mut Band::without(k)) }
            }
        };
        let back = decoded_blocks(&outcome.fitted.quantized, scheme, k, n)
            .ok_or_else(|| Error::format("weight", "its codes cannot be read back"))?;
        let back = self.steps.sequential.then(|| (back, outcome.fitted.shift.clone()));
        if let Some(wish) = self.wishes.get(&cut.site) {
            let layer = self.found.take(wish.decision, wish.usage, outcome);
            self.found.layers.push(layer);
        }
        Ok(Linear { cut, n, weight, back })
    }

    /// The rows of a table, as stored and as it comes back.
    fn table<'c>(&self, cut: &'c Cut) -> Result<Made<'c>> {
        let site = self.site(cut)?;
        let values = Values::of(self.model, site)?;
        let matrix = values.matrix()?;
        let back = match self.wishes.get(&cut.site).map(|wish| wish.encoding) {
            Some(encoding) if self.steps.sequential => {
                encoding.candidate().and_then(|(candidate, algorithm)| decoded(&matrix, candidate, algorithm))
            }
            _ => None,
        };
        Ok(Made::Table { cut, sizes: (site.k, site.n), table: matrix.values(), back })
    }
}

/// `out = a · b` for rows of any number.
fn product(a: &[f32], b: &[f32], k: usize, n: usize) -> Vec<f32> {
    let rows = a.len() / k.max(1);
    let mut out = vec![0.0; rows * n];
    linalg::product(&mut out, a, b, (rows, k, n), false);
    out
}
