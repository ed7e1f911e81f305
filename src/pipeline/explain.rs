//! Which tensors cause the loss of a rewritten model, by what, and what it would take to mend them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;

use super::analyze::settings_of;
use super::blame::blame;
use super::budget::{SAMPLES, of_one_shape};
use super::judge::provenance;
use super::notes::file;
use super::pairs::Pairs;
use super::{RewriteOptions, output_of, same_inputs, samples_for};
use crate::calibrate::{Change, Effect, influence};
use crate::data;
use crate::engine::{enters, floats};
use crate::error::{Error, Result};
use crate::graph::{Inventory, Site, inventory};
use crate::onnx::{Checked, Model, load};
use crate::plan::Encoding;
use crate::progress::Progress;
use crate::quant::{Algorithm, Matrix};
use crate::report::{Explained, Explanation, Mend};
use crate::sensitivity::weight_error;

/// What [`explain`] is asked to do.
#[derive(Debug, Clone)]
pub struct ExplainOptions {
    /// The model as it was.
    pub original: PathBuf,
    /// The model in question.
    pub rewritten: PathBuf,
    /// Samples; without them synthetic ones are made.
    pub data: Option<data::Source>,
    /// The output whose loss is explained; `None` chooses it.
    pub output_name: Option<String>,
    /// Of synthetic samples.
    pub seed: u64,
}

/// Explains the loss of a rewritten model: what each weight costs alone, at the output and at its layer, and what its
/// next precision would add in bytes and take away in loss.
///
/// # Errors
/// A model or samples that cannot be read, models that do not go together, or that the runtime cannot run in stages.
pub fn explain(options: &ExplainOptions, progress: &dyn Progress) -> Result<Explanation> {
    progress.stage("reading", 1);
    let original = load(&options.original)?;
    let rewritten = load(&options.rewritten)?;
    same_inputs(&original, &rewritten)?;
    let known = inventory(&original);
    let given = options.data.as_ref().map(|source| data::load(source, &original)).transpose()?;
    // Nothing is decided by them here.
    let settings = settings_of("balanced_production")?;
    let asked = RewriteOptions {
        output_name: options.output_name.clone(),
        seed: options.seed,
        ..RewriteOptions::new(&options.original, settings)
    };
    let output = output_of(&asked, &original, &known)?.name;
    let place = |error: Error| error.within(rewritten.path().display());
    if !rewritten.graph().output.iter().any(|found| found.name() == output) {
        let what = format!("has no output '{output}', which the original has");
        return Err(Error::format(rewritten.path().display().to_string(), what));
    }
    let all = samples_for(&asked, &original, &known, given)?;
    let samples = of_one_shape(&all.list, SAMPLES);
    let decoded = floats(&rewritten, &output).map_err(place)?;
    let pairs = Pairs::new(&original, &rewritten, &decoded);
    let sites: Vec<usize> = (0..known.sites.len())
        .filter(|at| known.sites.get(*at).is_some_and(|site| enters(&original, site)))
        .collect();
    let forms: RefCell<HashMap<usize, Option<Encoding>>> = RefCell::default();
    let changed = |at: usize, _: &Matrix<'_>| -> Result<Option<Change>> {
        let Some(site) = known.sites.get(at) else { return Ok(None) };
        let found = pairs.of(site, &samples).map_err(place)?;
        Ok(found.map(|(change, form)| {
            forms.borrow_mut().insert(at, form);
            change
        }))
    };
    let (effects, together) =
        influence(&original, &known, &sites, &changed, true, &samples, &output, progress)
            .map_err(|error| blame(error, &all, &asked, &original, &known, progress))?;
    let forms = forms.into_inner();
    let mut tensors = Vec::new();
    for (at, effect) in sites.iter().zip(effects) {
        let (Some(form), Some(site)) = (forms.get(at), known.sites.get(*at)) else { continue };
        tensors.push(explained(&original, &known, *at, site, *form, effect)?);
    }
    if tensors.is_empty() {
        let what = "stores no weight of the original in another form";
        return Err(Error::format(rewritten.path().display().to_string(), what)
            .help("give the original first, then a model that was rewritten from it"));
    }
    let sum: f64 = tensors.iter().map(|tensor| tensor.error).sum();
    tensors.iter_mut().for_each(|tensor| tensor.share = tensor.error / sum.max(f64::MIN_POSITIVE));
    tensors.sort_by(|a, b| b.error.total_cmp(&a.error).then(a.tensor.cmp(&b.tensor)));
    Ok(Explanation {
        schema: crate::report::SCHEMA,
        original: file(&original, original.path(), original.digest()),
        rewritten: file(&rewritten, rewritten.path(), rewritten.digest()),
        output,
        data: provenance(&all),
        samples: samples.len(),
        tensors,
        sum,
        together,
        warnings: all.remarks,
    })
}

fn explained(
    model: &Checked<Model>,
    known: &Inventory,
    at: usize,
    site: &Site,
    form: Option<Encoding>,
    effect: Effect,
) -> Result<Explained> {
    let weight = known.weights.iter().find(|weight| weight.origin == site.operand.origin);
    let before = weight.map_or(0, |weight| weight.bytes);
    let bytes = form.and_then(|form| form.bytes(site.k, site.n));
    let error = effect.output.unwrap_or(0.0);
    // Of the error that this weight makes alone, so much is the values'.
    let own = effect.weight + effect.kernel;
    let of_weight = if own > 0.0 { effect.weight / own } else { 1.0 };
    let squared = |form: Encoding| -> Result<f64> {
        let Some((candidate, _)) = form.candidate() else { return Ok(0.0) };
        Ok(weight_error(model, site, candidate, Algorithm::Search)?.squared_error)
    };
    let mend = match (form, bytes, form.and_then(|form| form.next(site.k))) {
        (Some(form), Some(bytes), Some(next)) => {
            let after = next.bytes(site.k, site.n).unwrap_or(before);
            let left = (squared(next)? / squared(form)?.max(f64::MIN_POSITIVE)).min(1.0);
            let is_float = next == Encoding::Float;
            let removes = if is_float { error } else { error * of_weight * (1.0 - left) };
            Some(Mend { encoding: next.name(), bytes: after as i64 - bytes as i64, removes })
        }
        _ => None,
    };
    Ok(Explained {
        tensor: weight.map_or(String::new(), |weight| weight.name.clone()),
        role: known.role(at),
        shape: vec![site.k, site.n],
        encoding: form.map_or("another form".to_owned(), |form| form.name()),
        bytes,
        error,
        share: 0.0,
        weight: effect.weight,
        kernel: effect.kernel,
        input: effect.input,
        mend,
    })
}
