//! How much the output suffers when one weight alone is stored in another form, and what the layer itself makes of it.
//!
//! Every weight has runs of its own, which leave those of the original where the weight is used: together they
//! cost about half a pass for each weight, and no graph is planned twice.

use rayon::prelude::*;

use super::rows::{Products, Rows};
use super::table;
use crate::data::Sample;
use crate::engine::{Cut, Run, Stages, Value};
use crate::error::{Error, Result};
use crate::graph::{Form, Inventory, Site, Values};
use crate::onnx::{Checked, Model};
use crate::progress::Progress;
use crate::quant::Matrix;
use crate::sensitivity::squares;

/// What takes the place of a weight.
#[derive(Debug, Clone)]
pub enum Change {
    /// Of a linear.
    Linear {
        /// The weight `[K,N]`.
        weight: Vec<f32>,
        /// What is added to the bias, `[N]`.
        shift: Option<Vec<f32>>,
        /// The block in which the kernel rounds the activation to int8.
        rounded: Option<usize>,
    },
    /// Of a table: its values `[K,N]`.
    Table(Vec<f32>),
    /// Of a table: the rows that it gives, for each sample.
    Rows(Vec<Value>),
}

/// What a changed weight does, as squared errors relative to the square of what they are errors of.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Effect {
    /// At the measured output, when this weight alone is changed; `None` where the stages do not enter.
    pub output: Option<f64>,
    /// At the layer's own output, by the values of the weight and its shift.
    pub weight: f64,
    /// There, by the int8 activations of the kernel.
    pub kernel: f64,
    /// There, by what the changed layers before it hand on.
    pub input: f64,
}

/// Which weights are changed in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Original,
    Alone(usize),
    Together,
}

/// A run of one sample.
struct Fork {
    who: Who,
    sample: usize,
    run: Run,
}

/// What takes the place of the weight of a site, given its values; `None` where it stays.
type Changed<'a> = dyn Fn(usize, &Matrix<'_>) -> Result<Option<Change>> + 'a;

/// The effects of changing the weight of each of `sites`, and the squared relative error of `output` with all of them
/// changed, if `together` asks for that.
///
/// The sum of the errors of single weights predicts that of all of them together.
///
/// # Errors
/// [`crate::error::Kind::Unsupported`] when the runtime cannot run the model in stages, or an interruption.
#[expect(clippy::too_many_arguments, reason = "a model, samples, and what is changed")]
pub fn influence(
    model: &Checked<Model>,
    inventory: &Inventory,
    sites: &[usize],
    changed: &Changed<'_>,
    together: bool,
    samples: &[Sample],
    output: &str,
    progress: &dyn Progress,
) -> Result<(Vec<Effect>, Option<f64>)> {
    let stages = Stages::new(model, inventory, output)?;
    let start = |(sample, inputs)| Ok(Fork { who: Who::Original, sample, run: stages.start(inputs)? });
    let forks: Vec<Fork> = samples.iter().enumerate().map(start).collect::<Result<_>>()?;
    let masks: Vec<Option<Vec<bool>>> = samples.iter().map(Sample::mask).collect();
    let mut walk = Walk {
        model,
        inventory,
        sites,
        together,
        masks,
        forks,
        effects: vec![Effect::default(); sites.len()],
    };
    progress.stage("measuring each tensor", stages.list.len() as u64);
    for (at, stage) in stages.list.iter().enumerate() {
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        walk.forks.par_iter_mut().try_for_each(|fork| stages.advance(at, &mut fork.run))?;
        for cut in &stage.cuts {
            walk.make(cut, changed)?;
        }
        walk.forks.iter_mut().for_each(|fork| stages.finish(at, &mut fork.run));
        stages.forget(at);
        progress.advance(1);
    }
    Ok(walk.outcome(&stages))
}

struct Walk<'a> {
    model: &'a Checked<Model>,
    inventory: &'a Inventory,
    sites: &'a [usize],
    together: bool,
    masks: Vec<Option<Vec<bool>>>,
    forks: Vec<Fork>,
    effects: Vec<Effect>,
}

impl Walk<'_> {
    /// Makes `cut` in every run, and where its weight is changed in new runs that leave the original here.
    fn make(&mut self, cut: &Cut, changed: &Changed<'_>) -> Result<()> {
        let site = self.inventory.sites.get(cut.site);
        let site = site.ok_or_else(|| Error::format("site", "is not in the model"))?;
        let values = Values::of(self.model, site)?;
        let matrix = values.matrix()?;
        let place = self.sites.iter().position(|wanted| *wanted == cut.site);
        let change = match place {
            Some(_) => changed(cut.site, &matrix)?,
            None => None,
        };
        if self.together && change.is_some() && !self.forks.iter().any(|fork| fork.who == Who::Together) {
            self.branch(Who::Together);
        }
        if let (Some(place), Some(change)) = (place, &change) {
            self.branch(Who::Alone(place));
            self.put(cut, site, &matrix.values(), change, place)?;
        }
        // The others take the weight as it is.
        let stays = |who: Who| match who {
            Who::Original => true,
            Who::Alone(of) => change.is_none() || Some(of) != place,
            Who::Together => change.is_none(),
        };
        let weight = matrix.values();
        let mut forks: Vec<&mut Fork> = self.forks.iter_mut().filter(|fork| stays(fork.who)).collect();
        let made: Vec<Value> = {
            let runs: Vec<&Run> = forks.iter().map(|fork| &fork.run).collect();
            if site.form == Form::Gather {
                let size = (site.k, site.n);
                runs.iter()
                    .map(|run| table::rows(run, cut, &weight, size).ok_or_else(|| lost(cut)))
                    .collect::<Result<_>>()?
            } else {
                values_of(&rows(&runs, cut, site)?.products(&weight, site.n, None), runs.len(), cut)?
            }
        };
        forks.iter_mut().zip(made).for_each(|(fork, value)| fork.run.put(&cut.output, value));
        Ok(())
    }

    /// New runs that are those of the original so far.
    fn branch(&mut self, who: Who) {
        let originals = self.forks.iter().filter(|fork| fork.who == Who::Original);
        let new: Vec<Fork> =
            originals.map(|fork| Fork { who, sample: fork.sample, run: fork.run.clone() }).collect();
        self.forks.extend(new);
    }

    fn runs(&self, who: Who) -> Vec<&Run> {
        self.forks.iter().filter(|fork| fork.who == who).map(|fork| &fork.run).collect()
    }

    /// Makes `cut` in the runs in which its weight is changed, and notes what the layer makes of it.
    fn put(&mut self, cut: &Cut, site: &Site, weight: &[f32], change: &Change, place: usize) -> Result<()> {
        let n = site.n;
        for who in [Who::Alone(place), Who::Together] {
            let runs = self.runs(who);
            if runs.is_empty() {
                continue;
            }
            let made = match change {
                Change::Rows(given) => given.clone(),
                Change::Table(table) => {
                    let rows =
                        |run: &&Run| table::rows(run, cut, table, (site.k, n)).ok_or_else(|| lost(cut));
                    runs.iter().map(rows).collect::<Result<_>>()?
                }
                Change::Linear { weight: new, shift, rounded } => {
                    let seen = rows(&runs, cut, site)?;
                    let exact = seen.products(new, n, shift.as_deref());
                    let deployed = rounded.map(|block| {
                        let mut seen = seen.clone();
                        seen.round(block);
                        seen.products(new, n, shift.as_deref())
                    });
                    if self.together {
                        let original = rows(&self.runs(Who::Original), cut, site)?;
                        let counted = |products: &Products| products.counted(&self.masks);
                        let reference = counted(&original.products(weight, n, None));
                        let relative = |a: &[f32], b: &[f32]| distance(a, b) / square(&reference).max(1e-30);
                        let own = counted(&original.products(new, n, shift.as_deref()));
                        let mut effect = self.effects.get(place).copied().unwrap_or_default();
                        match who {
                            Who::Together => effect.input = relative(&counted(&exact), &own),
                            _ => {
                                effect.weight = relative(&own, &reference);
                                let kernel = deployed.as_ref().map(|made| relative(&counted(made), &own));
                                effect.kernel = kernel.unwrap_or(0.0);
                            }
                        }
                        if let Some(slot) = self.effects.get_mut(place) {
                            *slot = effect;
                        }
                    }
                    values_of(deployed.as_ref().unwrap_or(&exact), self.runs(who).len(), cut)?
                }
            };
            let forks = self.forks.iter_mut().filter(|fork| fork.who == who);
            forks.zip(made).for_each(|(fork, value)| fork.run.put(&cut.output, value));
        }
        Ok(())
    }

    /// The errors at the output.
    fn outcome(self, stages: &Stages) -> (Vec<Effect>, Option<f64>) {
        let mut references: Vec<Option<Vec<f32>>> = vec![None; self.masks.len()];
        for fork in self.forks.iter().filter(|fork| fork.who == Who::Original) {
            if let Some(slot) = references.get_mut(fork.sample) {
                *slot = stages.output(&fork.run).and_then(Value::floats);
            }
        }
        let mut sums = vec![(0.0f64, 0.0f64); self.sites.len() + 1];
        for fork in &self.forks {
            let place = match fork.who {
                Who::Original => continue,
                Who::Alone(place) => place,
                Who::Together => self.sites.len(),
            };
            let found = stages.output(&fork.run).and_then(Value::floats);
            let reference = references.get(fork.sample).and_then(Option::as_ref);
            let (Some(sum), Some(found), Some(reference)) = (sums.get_mut(place), found, reference) else {
                continue;
            };
            let mask = self.masks.get(fork.sample).and_then(Option::as_deref);
            let (error, signal) = squares(reference, &found, mask);
            *sum = (sum.0 + error, sum.1 + signal);
        }
        let relative = |(error, signal): (f64, f64)| (signal > 0.0).then_some(error / signal);
        let together = sums.pop().and_then(relative);
        let effects = self.effects.into_iter().zip(sums);
        (effects.map(|(effect, sum)| Effect { output: relative(sum), ..effect }).collect(), together)
    }
}

fn lost(cut: &Cut) -> Error {
    Error::unsupported("runtime", format!("'{}' does not fit its weight", cut.input))
}

/// The activations of `cut` in `runs`.
fn rows(runs: &[&Run], cut: &Cut, site: &Site) -> Result<Rows> {
    let inputs: Option<Vec<&Value>> = runs.iter().map(|run| run.get(&cut.input)).collect();
    inputs.and_then(|inputs| Rows::of(&inputs, site.k)).ok_or_else(|| lost(cut))
}

fn values_of(products: &Products, count: usize, cut: &Cut) -> Result<Vec<Value>> {
    (0..count).map(|at| products.value(at).ok_or_else(|| lost(cut))).collect()
}

fn square(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}
