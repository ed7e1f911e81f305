//! How much each weight suffers under each scheme, and which preset fits.

use std::collections::HashMap;
use std::path::PathBuf;

use super::blame::blame;
use super::judge::{Judge, Judged};
use super::notes::file;
use super::{RewriteOptions, output_of};
use crate::data;
use crate::engine::{Runner, Variant};
use crate::error::{Error, Result};
use crate::graph::{Form, Inventory, inventory};
use crate::onnx::{Checked, Model, load, load_bytes};
use crate::plan::{Encoding, choose};
use crate::preset::{Preset, builtin_names};
use crate::progress::Progress;
use crate::quant::{Algorithm, Bits, Emit, PackedRows, ScaleStorage, Scheme};
use crate::report::{Analysis, AnalyzedCandidate, AnalyzedTensor, Recommendation, Trial};
use crate::rewrite::{Metadata, rewrite as carry_out};
use crate::sensitivity::{Candidate, Reach, output_errors, reach, weight_error};
use crate::settings::{Overrides, Settings};
use crate::validate::{Outcome, figure, in_unit};

/// Samples on which single tensors are measured.
const SAMPLES: usize = 16;

/// What [`analyze`] is asked to do.
#[derive(Debug, Clone)]
pub struct AnalyzeOptions {
    /// A model file, or a folder that holds one.
    pub input: PathBuf,
    /// Samples; without them only the weights are looked at.
    pub data: Option<data::Source>,
    /// The output to compare; `None` chooses it.
    pub output_name: Option<String>,
    /// How scales are chosen; what asks for activations is taken for [`Algorithm::Search`].
    pub algorithm: Algorithm,
}

/// Measures every site under every candidate scheme, and the built-in presets as a whole where there are samples.
///
/// # Errors
/// A model or samples that cannot be read, a model that the runtime cannot run (with samples).
pub fn analyze(options: &AnalyzeOptions, progress: &dyn Progress) -> Result<Analysis> {
    progress.stage("reading", 1);
    let model = load(&options.input)?;
    let known = inventory(&model);
    let samples = options.data.as_ref().map(|source| data::load(source, &model)).transpose()?;
    let mut warnings = samples.as_ref().map_or_else(Vec::new, |samples| samples.remarks.clone());
    let wanted = candidates(&model, &known)?;
    if wanted.is_empty() {
        return Err(Error::unsupported(
            model.path().display().to_string(),
            "no weight in it can be quantized",
        )
        .help("`efq inspect` lists all with the reason"));
    }
    progress.stage("measuring the weights", wanted.len() as u64);
    let mut rows = Vec::with_capacity(wanted.len());
    for (site, candidate) in &wanted {
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        let found = known.sites.get(*site).ok_or_else(|| Error::format("site", "is not in the model"))?;
        let error = weight_error(&model, found, *candidate, options.algorithm)?;
        let encoding = Encoding::of(*candidate, options.algorithm);
        rows.push(AnalyzedCandidate {
            encoding: encoding.name(),
            bytes: encoding.bytes(found.k, found.n).unwrap_or(0),
            sqnr_db: error.sqnr_db(),
            relative_error: error.relative(),
            output_error: None,
        });
        progress.advance(1);
    }
    let mut recommendation = by_weights(&known, &wanted, &rows);
    if let Some(samples) = samples {
        let asked = RewriteOptions {
            output_name: options.output_name.clone(),
            ..RewriteOptions::new(&options.input, settings_of("balanced_production")?)
        };
        let output = output_of(&asked, &model, &known)?;
        let original = Runner::new(&model, &output.name, Variant::Deployed)?;
        let some = samples.list.get(..SAMPLES.min(samples.list.len())).unwrap_or_default();
        let each: Vec<_> =
            wanted.iter().map(|(site, candidate)| (*site, *candidate, options.algorithm)).collect();
        let errors = output_errors(&model, &known, &each, &original, some, progress)
            .map_err(|error| blame(error, &samples, &asked, &model, &known, progress))?;
        for (row, error) in rows.iter_mut().zip(errors) {
            row.output_error = error.map(f64::sqrt);
        }
        let (found, left_out) = by_trial(&model, &known, &asked, options.algorithm, samples, progress)?;
        recommendation = found;
        warnings.extend(left_out);
    }
    let mut tensors: Vec<AnalyzedTensor> = Vec::new();
    for ((site, _), row) in wanted.iter().zip(rows) {
        let name = name_of(&known, *site);
        match tensors.last_mut().filter(|tensor| tensor.name == name) {
            Some(tensor) => tensor.candidates.push(row),
            None => tensors.push(AnalyzedTensor {
                name,
                role: known.role(*site),
                shape: known.sites.get(*site).map_or(vec![], |site| vec![site.k, site.n]),
                candidates: vec![row],
            }),
        }
    }
    // What hurts most comes first: by the error at the output where it is known, else by that of the weight.
    let hurt = |tensor: &AnalyzedTensor| {
        tensor.candidates.first().map_or(0.0, |row| row.output_error.unwrap_or(row.relative_error))
    };
    tensors.sort_by(|a, b| hurt(b).total_cmp(&hurt(a)));
    Ok(Analysis {
        schema: crate::report::SCHEMA,
        model: file(&model, model.path(), model.digest()),
        algorithm: match options.algorithm {
            Algorithm::Rtn => "rtn",
            Algorithm::Percentile { .. } => "percentile",
            Algorithm::Search | Algorithm::Weighted | Algorithm::Gptq | Algorithm::Auto => "search",
        }
        .to_owned(),
        measured_at_output: options.data.is_some(),
        tensors,
        recommendation,
        warnings,
    })
}

/// What each site could become, as far as its values allow.
fn candidates(model: &Model, known: &Inventory) -> Result<Vec<(usize, Candidate)>> {
    let scheme = |bits, block, symmetric| {
        Candidate::Blocks(Scheme { bits, block, symmetric, scales: ScaleStorage::F16, emit: Emit::Qdq })
    };
    let linear = [
        scheme(Bits::Four, 64, false),
        scheme(Bits::Four, 32, false),
        scheme(Bits::Four, 128, true),
        scheme(Bits::Eight, 128, true),
    ];
    let mut found = Vec::new();
    for (at, site) in known.sites.iter().enumerate() {
        let table = [
            Candidate::Rows(ScaleStorage::F16),
            Candidate::PackedRows(PackedRows::at_most(128, site.n, ScaleStorage::F16)),
        ];
        let wanted = if matches!(site.form, Form::Gather) { &table[..] } else { &linear[..] };
        for candidate in wanted {
            if let Reach::Fits(candidate) = reach(model, site, *candidate)? {
                found.push((at, candidate));
            }
        }
    }
    Ok(found)
}

fn name_of(known: &Inventory, site: usize) -> String {
    let Some(found) = known.sites.get(site) else { return String::new() };
    known
        .weights
        .iter()
        .find(|weight| weight.origin == found.operand.origin)
        .map_or(String::new(), |weight| weight.name.clone())
}

pub(super) fn settings_of(preset: &str) -> Result<Settings> {
    let preset = Preset::builtin(preset).ok_or_else(|| Error::caller(preset, "is no built-in preset"))?;
    Settings::new(&preset, &Overrides::default())
}

/// Without samples: by how well the worst weights keep their values. Such a statement is of low confidence.
fn by_weights(
    known: &Inventory,
    wanted: &[(usize, Candidate)],
    rows: &[AnalyzedCandidate],
) -> Recommendation {
    let worst = wanted
        .iter()
        .zip(rows)
        .filter(|((site, candidate), _)| {
            matches!(candidate, Candidate::Blocks(scheme) if scheme.block == 64)
                && known.sites.get(*site).is_some_and(|site| !matches!(site.form, Form::Gather))
        })
        .map(|(_, row)| row.sqnr_db)
        .fold(f64::INFINITY, f64::min);
    if worst.is_infinite() {
        let reason = "it has no linear weight to judge by".to_owned();
        return Recommendation { preset: "balanced_production".to_owned(), reason, trials: Vec::new() };
    }
    let preset = match worst {
        db if db < 15.0 => "medical_grade",
        db if db < 18.0 => "high_accuracy",
        _ => "balanced_production",
    };
    let reason = format!(
        "the worst linear weight keeps {worst:.1} dB at 4 bits in blocks of 64; low confidence: \
         weight errors rank models badly, --data measures what counts"
    );
    Recommendation { preset: preset.to_owned(), reason, trials: Vec::new() }
}

/// With samples: every built-in preset is tried, and the smallest result that holds its target wins. With it, what of the
/// samples was left out.
fn by_trial(
    model: &Checked<Model>,
    known: &Inventory,
    asked: &RewriteOptions,
    algorithm: Algorithm,
    samples: data::Samples,
    progress: &dyn Progress,
) -> Result<(Recommendation, Vec<String>)> {
    let (mut trials, mut left_out) = (Vec::new(), Vec::new());
    for name in builtin_names() {
        let options =
            RewriteOptions { settings: Settings { algorithm, ..settings_of(name)? }, ..asked.clone() };
        let plan = choose(model, "", known, &options.settings)?;
        if !plan.changes_anything() {
            continue;
        }
        let draft = carry_out(model, known, &plan, &HashMap::new(), Metadata::none())?.draft;
        let bytes = draft.to_bytes()?;
        let size = bytes.len() as u64;
        let rewritten = load_bytes(bytes)?;
        let mut judge = Judge::new(&options, model, known, Some(samples.clone()));
        let judged = judge.judge(&rewritten, progress)?;
        left_out = judge.left_out().to_vec();
        if let Judged::Measured { verdict, .. } = judged
            && let Some(loss) = verdict.estimate
        {
            trials.push(Trial {
                preset: name.to_owned(),
                bytes: size,
                loss,
                interval: verdict.interval,
                target: verdict.target,
                unit: verdict.measure.unit().to_owned(),
                outcome: verdict.outcome,
            });
        }
    }
    trials.sort_by_key(|trial| trial.bytes);
    let holding = trials.iter().find(|trial| trial.outcome == Outcome::Passed);
    let (preset, reason) = match holding {
        Some(trial) => (
            trial.preset.clone(),
            format!(
                "the smallest result that passes its own gate: {} lost, {} accepted",
                in_unit(&figure(trial.loss), &trial.unit),
                figure(trial.target)
            ),
        ),
        None => {
            let undecided = trials.iter().any(|trial| trial.outcome == Outcome::Undecided);
            let samples = if undecided { ", and more samples decide more" } else { "" };
            let reason = format!(
                "no preset passes on these samples as it is: rewriting raises the tensors that hurt{samples}"
            );
            ("high_accuracy".to_owned(), reason)
        }
    };
    Ok((Recommendation { preset, reason, trials }, left_out))
}
