//! How much the output suffers when one weight alone is stored in another form.
//!
//! Every weight has runs of its own, which leave those of the original where the weight is used: together they
//! cost about half a pass for each weight, and no graph is planned twice.

use rayon::prelude::*;

use super::rows::Rows;
use super::table;
use crate::data::Sample;
use crate::engine::{Cut, Run, Stages, Value};
use crate::error::{Error, Result};
use crate::graph::{Form, Inventory, Values};
use crate::onnx::{Checked, Model};
use crate::progress::Progress;
use crate::quant::Algorithm;
use crate::sensitivity::{Candidate, decoded};

/// A run of one sample; `site` is the weight that is changed in it, `None` for the original.
struct Fork {
    site: Option<usize>,
    sample: usize,
    run: Run,
}

/// The squared relative error of `output` when the weight of one site alone is stored as its candidate, fitted
/// to its own values, for each of `wanted`.
///
/// The sum over sites predicts the squared relative error of all of them together.
///
/// # Errors
/// [`crate::error::Kind::Unsupported`] when the runtime cannot run the model in stages, or an interruption.
pub fn influence(
    model: &Checked<Model>,
    inventory: &Inventory,
    wanted: &[(usize, Candidate)],
    samples: &[Sample],
    output: &str,
    progress: &dyn Progress,
) -> Result<Vec<f64>> {
    let stages = Stages::new(model, inventory, output)?;
    let mut forks: Vec<Fork> = samples
        .iter()
        .enumerate()
        .map(|(sample, inputs)| Ok(Fork { site: None, sample, run: stages.start(inputs)? }))
        .collect::<Result<_>>()?;
    progress.stage("measuring each tensor", stages.list.len() as u64);
    for (at, stage) in stages.list.iter().enumerate() {
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        forks.par_iter_mut().try_for_each(|fork| stages.advance(at, &mut fork.run))?;
        for cut in &stage.cuts {
            let candidate =
                wanted.iter().find(|(site, _)| *site == cut.site).map(|(_, candidate)| *candidate);
            make(model, inventory, cut, candidate, &mut forks)?;
        }
        forks.iter_mut().for_each(|fork| stages.finish(at, &mut fork.run));
        stages.forget(at);
        progress.advance(1);
    }
    let masks: Vec<Option<Vec<bool>>> = samples.iter().map(Sample::mask).collect();
    let mut references: Vec<Option<Vec<f32>>> = vec![None; samples.len()];
    for fork in forks.iter().filter(|fork| fork.site.is_none()) {
        if let Some(slot) = references.get_mut(fork.sample) {
            *slot = stages.output(&fork.run).and_then(Value::floats);
        }
    }
    let mut sums = vec![(0.0f64, 0.0f64); wanted.len()];
    for fork in &forks {
        let place = wanted.iter().position(|(site, _)| Some(*site) == fork.site);
        let found = stages.output(&fork.run).and_then(Value::floats);
        let reference = references.get(fork.sample).and_then(Option::as_ref);
        let (Some(place), Some(found), Some(reference)) = (place, found, reference) else { continue };
        let mask = masks.get(fork.sample).and_then(Option::as_ref);
        // A mask speaks of the positions where the output has a multiple of them.
        let width = mask.map_or(0, |mask| reference.len() / mask.len().max(1));
        for (at, (a, b)) in reference.iter().zip(&found).enumerate() {
            let counts = mask.is_none_or(|mask| {
                width == 0 || width * mask.len() != reference.len() || mask.get(at / width) == Some(&true)
            });
            if counts {
                sums[place].0 += f64::from(b - a).powi(2);
                sums[place].1 += f64::from(*a).powi(2);
            }
        }
    }
    Ok(sums.into_iter().map(|(error, signal)| if signal > 0.0 { error / signal } else { 0.0 }).collect())
}

/// Makes `cut` in every run, and where its weight is `wanted` in new runs that leave the original here.
fn make(
    model: &Checked<Model>,
    inventory: &Inventory,
    cut: &Cut,
    wanted: Option<Candidate>,
    forks: &mut Vec<Fork>,
) -> Result<()> {
    let site = inventory.sites.get(cut.site).ok_or_else(|| Error::format("site", "is not in the model"))?;
    let (k, n) = (site.k, site.n);
    let values = Values::of(model, site)?;
    let matrix = values.matrix()?;
    let weight = matrix.values();
    let changed = wanted.and_then(|candidate| decoded(&matrix, candidate, Algorithm::Search));
    let lost = || Error::unsupported("runtime", format!("'{}' does not fit its weight", cut.input));
    let product = |runs: &[&Run], weight: &[f32]| -> Result<Vec<Value>> {
        if site.form == Form::Gather {
            return runs.iter().map(|run| table::rows(run, cut, weight, (k, n)).ok_or_else(lost)).collect();
        }
        let inputs: Option<Vec<&Value>> = runs.iter().map(|run| run.get(&cut.input)).collect();
        let rows = inputs.and_then(|inputs| Rows::of(&inputs, k)).ok_or_else(lost)?;
        let products = rows.products(weight, n, None);
        (0..runs.len()).map(|at| products.value(at).ok_or_else(lost)).collect()
    };
    let mut new = Vec::new();
    if let Some(changed) = &changed {
        let originals: Vec<&Fork> = forks.iter().filter(|fork| fork.site.is_none()).collect();
        let runs: Vec<&Run> = originals.iter().map(|fork| &fork.run).collect();
        for (fork, value) in originals.iter().zip(product(&runs, changed)?) {
            let mut run = fork.run.clone();
            run.put(&cut.output, value);
            new.push(Fork { site: Some(cut.site), sample: fork.sample, run });
        }
    }
    let runs: Vec<&Run> = forks.iter().map(|fork| &fork.run).collect();
    let made = product(&runs, &weight)?;
    for (fork, value) in forks.iter_mut().zip(made) {
        fork.run.put(&cut.output, value);
    }
    forks.extend(new);
    Ok(())
}
