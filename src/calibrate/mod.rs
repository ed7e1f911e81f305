//! Fitting weights to activations: the original and the rewritten network advance side by side, cut by cut;
//! each weight is fitted to what reaches it in both, takes effect at once, and is kept only where it is better
//! on samples that had no part in it.

mod fit;
mod generate;
mod influence;
mod kept;
mod rows;
mod table;

use std::collections::{BTreeMap, HashMap};

use rayon::prelude::*;

use crate::data::Sample;
use crate::engine::{Cut, Run, Stages, Value, enters, round_rows};
use crate::error::{Error, Result};
use crate::graph::{Form, Index, Inventory, Site, Values, WeightUse, bias};
use crate::linalg;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::{Checked, Model};
use crate::plan::{Encoding, Plan};
use crate::progress::Progress;
use crate::quant::{Algorithm, Quantized, Scheme, compensate};
use crate::sensitivity::{decoded, decoded_blocks};
use crate::statistics::{Parts, Sums};

use rows::Rows;

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
/// Wider activations than this have no statistics: their moments would take too long to factor.
const WIDEST: usize = 12_288;
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

/// Two runs of one sample; `rewritten` is absent while it is the same.
struct Pair {
    original: Run,
    rewritten: Option<Run>,
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
    let Material { samples, likeness, beside } = material;
    let all = || samples.iter().chain(beside);
    let mut walk = Walk {
        model,
        index: Index::new(model.graph(), model.proto.ir_version()),
        inventory,
        likeness,
        steps,
        keep,
        wishes,
        masks: all().map(Sample::mask).collect(),
        held_out: (0..samples.len() + beside.len())
            .map(|at| {
                (at < samples.len()) == (samples.len() >= LEAST_SAMPLES) && at % HOLD_OUT == HOLD_OUT - 1
            })
            .collect(),
        given: samples.len(),
        pairs: all()
            .map(|sample| Ok(Pair { original: stages.start(sample)?, rewritten: None }))
            .collect::<Result<_>>()?,
        found: Calibrated { samples: samples.len(), ..Calibrated::default() },
    };
    progress.stage("calibrating", stages.list.len() as u64);
    for (at, stage) in stages.list.iter().enumerate() {
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        walk.pairs.par_iter_mut().try_for_each(|pair| {
            stages.advance(at, &mut pair.original)?;
            pair.rewritten.as_mut().map_or(Ok(()), |run| stages.advance(at, run))
        })?;
        let mut groups: BTreeMap<usize, Vec<&Cut>> = BTreeMap::new();
        for cut in &stage.cuts {
            let first = stage.cuts.iter().position(|other| other.input == cut.input).unwrap_or(0);
            groups.entry(first).or_default().push(cut);
        }
        for cuts in groups.values() {
            walk.group(cuts)?;
        }
        for pair in &mut walk.pairs {
            stages.finish(at, &mut pair.original);
            if let Some(run) = &mut pair.rewritten {
                stages.finish(at, run);
            }
        }
        stages.forget(at);
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
        algorithm: "search",
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
    keep: bool,
    wishes: HashMap<usize, Wish>,
    masks: Vec<Option<Vec<bool>>>,
    held_out: Vec<bool>,
    /// Samples that were given; those made up beside them follow.
    given: usize,
    pairs: Vec<Pair>,
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

    /// Makes the cuts that share an input.
    fn group(&mut self, cuts: &[&Cut]) -> Result<()> {
        let (tables, linears): (Vec<&Cut>, Vec<&Cut>) = cuts.iter().copied().partition(|cut| {
            self.inventory.sites.get(cut.site).is_some_and(|site| site.form == Form::Gather)
        });
        for cut in tables {
            self.table(cut)?;
        }
        if linears.is_empty() {
            return Ok(());
        }
        let width = self.site(linears[0])?.k;
        let original = self.rows(linears[0], width, false)?;
        if self.keep && width <= WIDEST {
            let parts = self.statistics(&original, &original);
            self.found.kept.insert(linears[0].input.clone(), parts);
        }
        let apart = self.pairs.iter().any(|pair| pair.rewritten.is_some());
        let rewritten = if apart { Some(self.rows(linears[0], width, true)?) } else { None };

        // The deployed kernel rounds activations by block: what a weight sees depends on its block.
        let mut by_block: BTreeMap<Option<usize>, Vec<&Cut>> = BTreeMap::new();
        for cut in linears {
            by_block.entry(self.scheme(cut).map(|(scheme, _)| scheme.block)).or_default().push(cut);
        }
        for (block, cuts) in by_block {
            let Some(block) = block else {
                for cut in cuts {
                    self.float(cut, &original, rewritten.as_ref())?;
                }
                continue;
            };
            let mut seen = rewritten.as_ref().unwrap_or(&original).clone();
            if self.steps.kernel {
                seen.values.par_chunks_mut(width.max(1)).for_each(|row| round_rows(row, width, block));
            }
            let wanted =
                |cut: &Cut| self.scheme(cut).is_some_and(|(_, algorithm)| algorithm.wants_statistics());
            let statistics = if cuts.iter().any(|cut| wanted(cut)) && width <= WIDEST {
                Some(self.statistics(&seen, &original))
            } else {
                None
            };
            self.found.rows = self.found.rows.max(statistics.as_ref().map_or(0, |(sums, _)| sums.rows()));
            self.blocked(&cuts, &original, &seen, statistics)?;
        }
        Ok(())
    }

    /// Scheme and algorithm of a blocked weight.
    fn scheme(&self, cut: &Cut) -> Option<(Scheme, Algorithm)> {
        match self.wishes.get(&cut.site)?.encoding {
            Encoding::Blocks { scheme, algorithm } => Some((scheme, algorithm)),
            _ => None,
        }
    }

    /// Sums over the rows that take part, and over those held out.
    fn statistics(&self, seen: &Rows, original: &Rows) -> Parts {
        let sums = |chosen: &dyn Fn(usize) -> bool| {
            let mut sums = Sums::new(seen.width);
            sums.add(&seen.counted(&self.masks, chosen), &original.counted(&self.masks, chosen));
            sums
        };
        let held = |at: usize| self.held_out.get(at) == Some(&true);
        let (mut train, mut judging) =
            (sums(&|at| at < self.given && !held(at)), sums(&|at| at < self.given && held(at)));
        if self.pairs.len() == self.given {
            return (train, judging);
        }
        let weight = weight_beside(train.rows() + judging.rows());
        let (mut made, mut made_judging) =
            (sums(&|at| at >= self.given && !held(at)), sums(&|at| at >= self.given && held(at)));
        let all = made.rows() + made_judging.rows();
        for part in [&mut made, &mut made_judging] {
            part.weigh_as((part.rows() * weight).checked_div(all).unwrap_or(0).min(part.rows()));
        }
        train.merge(&made);
        judging.merge(&made_judging);
        (train, judging)
    }

    fn rows(&self, cut: &Cut, width: usize, rewritten: bool) -> Result<Rows> {
        let values: Option<Vec<&Value>> = self
            .pairs
            .iter()
            .map(|pair| {
                let run = if rewritten {
                    pair.rewritten.as_ref().unwrap_or(&pair.original)
                } else {
                    &pair.original
                };
                run.get(&cut.input)
            })
            .collect();
        let known = values.and_then(|values| Rows::of(&values, width));
        known.ok_or_else(|| {
            Error::unsupported("runtime", format!("activations '{}' are not rows of {width}", cut.input))
        })
    }

    /// Fits the cuts that share an input and a block, and hands their products on.
    fn blocked(
        &mut self,
        cuts: &[&Cut],
        original: &Rows,
        seen: &Rows,
        statistics: Option<(Sums, Sums)>,
    ) -> Result<()> {
        let mut shared = fit::Shared::new(statistics);
        let masks = &self.masks;
        let held = |at: usize| self.held_out.get(at) == Some(&true);
        let judges = fit::Judges::Rows(seen.counted(masks, &held), original.counted(masks, &held));
        for cut in cuts {
            let site = self.site(cut)?;
            let Some((scheme, algorithm)) = self.scheme(cut) else { continue };
            let values = Values::of(self.model, site)?;
            let matrix = values.matrix()?;
            let (k, n) = (site.k, site.n);
            let weight = matrix.values();
            // Moments about the mean are right only where the bias takes the mean over.
            let centred = self.steps.bias && bias(&self.index, site).is_some();
            let outcome = fit::fit(
                &matrix,
                &weight,
                scheme,
                algorithm,
                centred,
                self.likeness,
                self.steps,
                &mut shared,
                &judges,
            );
            let back = decoded_blocks(&outcome.fitted.quantized, scheme, k, n)
                .ok_or_else(|| Error::format("weight", "its codes cannot be read back"))?;
            let products = seen.products(&back, n, outcome.fitted.shift.as_deref());
            let reference = original.products(&weight, n, None);
            self.hand_on(cut, &reference, self.steps.sequential.then_some(&products));
            if let Some(wish) = self.wishes.get(&cut.site) {
                self.found.layers.push(Layer {
                    decision: wish.decision,
                    algorithm: outcome.algorithm,
                    errors: outcome.errors,
                    fallback: outcome.fallback,
                });
                if outcome.algorithm != "search" || outcome.fitted.shift.is_some() {
                    self.found.fitted.insert((wish.decision, wish.usage), outcome.fitted);
                }
            }
        }
        Ok(())
    }

    /// A linear that stays float.
    fn float(&mut self, cut: &Cut, original: &Rows, rewritten: Option<&Rows>) -> Result<()> {
        let site = self.site(cut)?;
        let n = site.n;
        let weight = Values::of(self.model, site)?.matrix()?.values();
        let reference = original.products(&weight, n, None);
        let products = rewritten.map(|rows| rows.products(&weight, n, None));
        self.hand_on(cut, &reference, products.as_ref());
        Ok(())
    }

    /// The rows of a table, as stored and as it comes back.
    fn table(&mut self, cut: &Cut) -> Result<()> {
        let site = self.site(cut)?;
        let (k, n) = (site.k, site.n);
        let values = Values::of(self.model, site)?;
        let matrix = values.matrix()?;
        let table = matrix.values();
        let back = match self.wishes.get(&cut.site).map(|wish| wish.encoding) {
            Some(encoding) if self.steps.sequential => {
                encoding.candidate().and_then(|(candidate, algorithm)| decoded(&matrix, candidate, algorithm))
            }
            _ => None,
        };
        let gather = |run: &Run, values: &[f32]| table::rows(run, cut, values, (k, n));
        let lost = || {
            Error::unsupported("runtime", format!("ids '{}' lie outside their table of {k} rows", cut.input))
                .help("the samples are for another model, or made with another tokenizer")
        };
        for pair in &mut self.pairs {
            if back.is_some() && pair.rewritten.is_none() {
                pair.rewritten = Some(pair.original.clone());
            }
            if let Some(run) = &mut pair.rewritten {
                let value = gather(run, back.as_deref().unwrap_or(&table)).ok_or_else(lost)?;
                run.put(&cut.output, value);
            }
            let value = gather(&pair.original, &table).ok_or_else(lost)?;
            pair.original.put(&cut.output, value);
        }
        Ok(())
    }

    /// Puts the products into the runs.
    fn hand_on(&mut self, cut: &Cut, reference: &rows::Products, rewritten: Option<&rows::Products>) {
        self.pairs.par_iter_mut().enumerate().for_each(|(at, pair)| {
            if let Some(products) = rewritten {
                let run = pair.rewritten.get_or_insert_with(|| pair.original.clone());
                if let Some(value) = products.value(at) {
                    run.put(&cut.output, value);
                }
            }
            if let Some(value) = reference.value(at) {
                pair.original.put(&cut.output, value);
            }
        });
    }
}

/// `out = a · b` for rows of any number.
fn product(a: &[f32], b: &[f32], k: usize, n: usize) -> Vec<f32> {
    let rows = a.len() / k.max(1);
    let mut out = vec![0.0; rows * n];
    linalg::product(&mut out, a, b, (rows, k, n), false);
    out
}
