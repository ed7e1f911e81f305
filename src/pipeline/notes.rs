//! Writing the report: what was decided, written and measured, put into one value.

use std::collections::HashMap;
use std::path::Path;

use super::Written;
use super::inspect::distinct;
use super::judge::Judged;
use crate::data::{IGNORED, Label, Samples};
use crate::engine::{Release, fusion};
use crate::error::Result;
use crate::onnx::{Checked, Layout, Model, SaveOptions, Saved};
use crate::opset::Raised;
use crate::plan::{Decision, FittedTo, Plan, Step, tied_bytes};
use crate::quant::WeightError;
use crate::report::{self, File, Fusion, PresetNote, Repair, Report, Tensor, Validation};
use crate::rewrite::{Metadata, Rewritten};
use crate::settings::Settings;
use crate::validate::{Measure, figure};

/// Outputs that a warning names.
const SOME_OUTPUTS: usize = 3;
/// The share of the way from guessing to always being right, below which a model does hardly better than guessing.
const HARDLY: f64 = 0.1;
/// Labels of which there are so many times as many as different ones tell how often each occurs.
const OFTEN: usize = 10;

/// What is known of a run from its start, and the repairs on the way.
pub(super) struct Notes<'m> {
    original: &'m Checked<Model>,
    preset: PresetNote,
    unknown_fields: Vec<String>,
    repair: Vec<Repair>,
    /// What was tried and taken back.
    given_up: Option<String>,
    /// Initializers that were graph inputs.
    frozen: usize,
}

impl<'m> Notes<'m> {
    pub(super) fn new(model: &'m Checked<Model>, settings: &Settings) -> Self {
        let target = settings.target;
        Self {
            original: model,
            preset: PresetNote {
                name: settings.preset.clone(),
                accuracy_target: target.accuracy,
                min_cosine: target.min_cosine,
                decide_by: if target.by_interval { "interval" } else { "estimate" }.to_owned(),
            },
            unknown_fields: model
                .unknown_fields()
                .iter()
                .map(|field| format!("field {} of {}", field.number, field.message))
                .collect(),
            repair: Vec::new(),
            given_up: None,
            frozen: 0,
        }
    }

    pub(super) fn with_frozen(self, frozen: usize) -> Self {
        Self { frozen, ..self }
    }

    /// efq's entries for the model's metadata.
    pub(super) fn metadata(&self, plan: &Plan) -> Metadata<'m> {
        let (model, plan) = (self.original, plan.clone());
        Metadata {
            known: vec![
                ("efq.version", env!("CARGO_PKG_VERSION").to_owned()),
                ("efq.preset", plan.preset.clone()),
            ],
            digests: vec!["efq.source_blake3", "efq.plan_blake3"],
            tell: Box::new(move || {
                let of_model = model.digest().to_owned();
                let plan = Plan { model_blake3: of_model.clone(), ..plan.clone() };
                vec![of_model, blake3::hash(plan.to_json().as_bytes()).to_hex().to_string()]
            }),
        }
    }

    /// Notes the steps of a round of repair, after which `plan` was judged so.
    pub(super) fn repaired(&mut self, plan: &Plan, steps: Vec<Step>, judged: &Judged) {
        for step in steps {
            let Some(decision) = plan.decisions.get(step.decision) else { continue };
            self.repair.push(Repair {
                tensor: decision.tensor.clone(),
                from: step.from.name(),
                to: step.to.name(),
                bytes: step.bytes,
                loss_after: judged.estimate(),
                unit: judged.unit().to_owned(),
            });
        }
    }

    /// Takes back the repairs of so many rounds, which decided nothing.
    pub(super) fn give_up(&mut self, rounds: usize) {
        self.repair.clear();
        self.given_up = Some(format!(
            "{rounds} rounds of raising tensors did not bring the interval within the target: the result is the one before \
             them, more samples would say more"
        ));
    }

    /// The report of a dry run.
    pub(super) fn planned(self, plan: &Plan, made: &Rewritten<'_>, external: bool) -> Result<Report> {
        let draft = &made.draft;
        let layout = Layout::new(draft, self.original.path(), SaveOptions { external })?;
        let (model, side) = layout.sizes();
        let result = File {
            path: String::new(),
            bytes: model + side,
            blake3: String::new(),
            opset: crate::onnx::opset_version(&draft.proto.opset_import, ""),
        };
        let skipped = Validation::Skipped { reason: "a dry run".to_owned() };
        let mut report = self.report("dry-run", Some(result), skipped);
        report.tensors = tensors(plan, &[]);
        report.tied_bytes = tied_bytes(plan);
        let why = not_smaller(&report, plan, made.raised.as_ref(), made.raised_bytes);
        report.warnings.extend(why);
        Ok(report)
    }

    /// The report of a model that stays as it is; without `saved`, of a dry run.
    pub(super) fn copied(self, plan: &Plan, saved: Option<&Saved>, target: &Path) -> Report {
        let model = self.original;
        let mut result = file(model, target, saved.map_or(model.digest(), |saved| &saved.blake3));
        result.bytes = saved.map_or(result.bytes, |saved| saved.bytes + saved.side_bytes);
        let skipped = Validation::Skipped { reason: "nothing was changed".to_owned() };
        let action = if saved.is_some() { "rewrite" } else { "dry-run" };
        let mut report = self.with_frozen(0).report(action, Some(result), skipped);
        report.tensors = tensors(plan, &[]);
        report.fusion = note_fusion(model);
        report.warnings.push("every tensor is kept, so the model is copied as it is".to_owned());
        report
    }

    /// The report of a rewritten model.
    pub(super) fn written(
        self,
        plan: &Plan,
        written: &Written,
        judged: Judged,
        fitting: Option<report::Fitting>,
    ) -> Report {
        let saved = written.staged.saved();
        let mut result = file(&written.model, written.staged.target(), &saved.blake3);
        result.bytes = saved.bytes + saved.side_bytes;
        let mut report = self.report("rewrite", Some(result), judged.into_validation());
        report.tensors = tensors(plan, &written.errors.sorted());
        report.tied_bytes = tied_bytes(plan);
        report.fitting = fitting;
        report.fusion = note_fusion(&written.model);
        let removed = written.raised.as_ref().map_or(0, |raised| raised.removed_inputs.len());
        if removed > 0 {
            report.warnings.push(format!(
                "{removed} weights were graph inputs, as IR 3 wants it; callers can no longer replace them"
            ));
        }
        let why = not_smaller(&report, plan, written.raised.as_ref(), written.raised_bytes);
        report.warnings.extend(why);
        report
    }

    /// The report of a comparison.
    pub(super) fn compared(self, rewritten: &Checked<Model>, judged: Judged) -> Report {
        let result = file(rewritten, rewritten.path(), rewritten.digest());
        let mut report = self.report("validate", Some(result), judged.into_validation());
        report.fusion = note_fusion(rewritten);
        report
    }

    fn report(self, action: &str, result: Option<File>, validation: Validation) -> Report {
        let mut warnings: Vec<String> =
            self.given_up.into_iter().chain(unjudged(self.original, &validation)).collect();
        if !self.unknown_fields.is_empty() && action != "validate" {
            warnings.push(format!(
                "fields that ONNX does not define are dropped: {}",
                self.unknown_fields.join(", ")
            ));
        }
        if self.frozen > 0 && result.is_some() {
            warnings.push(format!(
                "--freeze-inputs: {} graph inputs became constants; callers can no longer replace them",
                self.frozen
            ));
        }
        Report {
            schema: report::SCHEMA,
            efq: env!("CARGO_PKG_VERSION").to_owned(),
            action: action.to_owned(),
            original: file(self.original, self.original.path(), self.original.digest()),
            result,
            preset: self.preset,
            tensors: Vec::new(),
            tied_bytes: 0,
            fusion: Fusion::default(),
            fitting: None,
            repair: self.repair,
            validation,
            warnings,
        }
    }
}

/// The outputs of which a verdict says nothing.
fn unjudged(original: &Model, validation: &Validation) -> Option<String> {
    let Validation::Measured { output, .. } = validation else { return None };
    let all = &original.graph().output;
    let others: Vec<&str> = all.iter().map(|other| other.name()).filter(|other| other != output).collect();
    if others.is_empty() {
        return None;
    }
    let more = others.len().saturating_sub(SOME_OUTPUTS);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = others.get(..SOME_OUTPUTS).unwrap_or(&others).join(", ");
    Some(format!(
        "the verdict is about 1 of {} outputs, '{output}'; not about {named}{more} (--output-name chooses another)",
        all.len()
    ))
}

/// What a run under `preset`, whose weights are fitted to what `now` says, does not repeat of `plan`.
pub(super) fn repeated(plan: &Plan, preset: &str, now: Option<&FittedTo>) -> Vec<String> {
    let mut out = Vec::new();
    if plan.preset != preset {
        out.push(format!(
            "the plan was made under {}, which decided every tensor: of {preset} only the gate counts",
            plan.preset
        ));
    }
    match (&plan.fitted_to, now) {
        (Some(told), Some(now)) if !told.is_same(now) => out.push(format!(
            "the plan's weights were fitted to {told}, those of this run to {now}: the bytes are others ({} repeats them)",
            told.options()
        )),
        (None, Some(now)) => out.push(format!(
            "the plan does not say what its weights were fitted to, those of this run were fitted to {now}: the bytes may be \
             others"
        )),
        _ => {}
    }
    let version = env!("CARGO_PKG_VERSION");
    if plan.efq != version {
        out.push(format!(
            "the plan was made by efq {}, this is {version}: the bytes may be others",
            plan.efq
        ));
    }
    out
}

/// What makes the labels of `samples` doubtful: an original that is right hardly more often than who always gives the
/// commonest of them.
pub(super) fn chance(samples: Option<&Samples>, validation: &Validation) -> Option<String> {
    let Validation::Measured { deployed, .. } = validation else { return None };
    let (right, _) = deployed.accuracy.filter(|_| deployed.measure == Measure::Accuracy)?;
    let mut counts: HashMap<i64, usize> = HashMap::new();
    for sample in &samples?.list {
        if let Label::Class(class) = sample.label {
            *counts.entry(class).or_default() += 1;
        }
    }
    let (most, all) = (counts.values().max()?, counts.values().sum::<usize>());
    let guessed = 100.0 * *most as f64 / all as f64;
    (counts.len() > 1 && right < guessed + HARDLY * (100.0 - guessed)).then(|| {
        format!(
            "the original is right on {right:.1} % of the samples, always giving the commonest label on {guessed:.1} %: \
             the labels, or how the inputs were made, may not be those of this model"
        )
    })
}

/// What makes the labels of positions in `samples` doubtful: an original to which they are less likely than to who gives each
/// of as many `classes` the same chance, or each label the share that it has among many.
pub(super) fn blind(
    samples: Option<&Samples>,
    classes: Option<usize>,
    validation: &Validation,
) -> Option<String> {
    let Validation::Measured { deployed, .. } = validation else { return None };
    let (found, _) = deployed.perplexity.filter(|_| deployed.measure == Measure::Perplexity)?;
    let mut counts: HashMap<i64, usize> = HashMap::new();
    for sample in &samples?.list {
        let Label::Positions(labels) = &sample.label else { continue };
        labels
            .iter()
            .filter(|label| **label != IGNORED)
            .for_each(|label| *counts.entry(*label).or_default() += 1);
    }
    let all = counts.values().sum::<usize>() as f64;
    let entropy: f64 =
        counts.values().map(|count| *count as f64 / all).map(|share| -share * share.ln()).sum();
    let known = counts.len() > 1 && all >= (OFTEN * counts.len()) as f64;
    let (blind, by_share) = (classes? as f64, entropy.exp());
    let (guess, guessed) = if known && by_share < blind {
        ("a guess by how often each occurs", by_share)
    } else {
        ("a blind guess", blind)
    };
    (guessed > 1.0 && found > guessed).then(|| {
        let [found, guessed] = [found, guessed].map(figure);
        format!(
            "the original's perplexity of the labels is {found}, that of {guess} {guessed}: the labels (at the scores that predict \
             them?), or how the inputs were made, may not be those of this model"
        )
    })
}

pub(super) fn file(model: &Model, path: &Path, blake3: &str) -> File {
    File {
        path: path.display().to_string(),
        bytes: model.size(),
        blake3: blake3.to_owned(),
        opset: model.opset(),
    }
}

/// Where the bytes went, if the result is not smaller than the original.
fn not_smaller(report: &Report, plan: &Plan, raised: Option<&Raised>, raised_bytes: usize) -> Option<String> {
    let (before, after) = (report.original.bytes, report.result.as_ref()?.bytes);
    if after < before {
        return None;
    }
    let sum = |bytes: fn(&Decision) -> u64| plan.decisions.iter().map(bytes).sum::<u64>();
    let (old, new) = (sum(|decision| decision.bytes_before), sum(|decision| decision.bytes_after));
    let mut why = vec![format!("weights took {old} and take {new}")];
    if let Some(raised) = raised.filter(|_| raised_bytes > 0) {
        let mut nodes: Vec<(&String, &usize)> = raised.converted.iter().collect();
        nodes.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let nodes: Vec<String> = nodes.iter().take(3).map(|(op, count)| format!("{count} {op}")).collect();
        let of = if nodes.is_empty() { String::new() } else { format!(" ({})", nodes.join(", ")) };
        why.push(format!("raising to opset {} added {raised_bytes}{of}", raised.to));
    }
    let rest = (after as i128 - before as i128) - (new as i128 - old as i128) - raised_bytes as i128;
    if rest > 0 {
        why.push(format!("nodes, names, metadata and alignment added {rest}"));
    }
    Some(format!("the result is not smaller: {after} bytes instead of {before}: {}", why.join(", ")))
}

/// What `target` would not do with `model`.
pub(super) fn against(model: &Checked<Model>, target: Release) -> Option<String> {
    let found = fusion(model);
    let Some(least) = found.least_runtime() else {
        return Some(format!("no known ONNX Runtime loads {}", found.because));
    };
    if let Some(loads) = found.loads.filter(|loads| *loads > target) {
        return Some(format!(
            "ONNX Runtime {target} does not load {}: {loads} is the first that does",
            found.because
        ));
    }
    let slow = found.fused.iter().filter(|fused| fused.since > target).count();
    (slow > 0).then(|| {
        format!(
            "ONNX Runtime {target} dequantizes {slow} of {} linear layers on every run: {} is the first that fuses \
             them, --emit matmulnbits has them fused from {} on",
            found.total(),
            least,
            Release::DIRECT
        )
    })
}

fn note_fusion(model: &Checked<Model>) -> Fusion {
    let found = fusion(model);
    let least = found.least_runtime().map(|least| least.to_string());
    Fusion {
        fused: found.fused.len(),
        total: found.total(),
        least_onnxruntime: least.unwrap_or(report::NO_RUNTIME.to_owned()),
        unfused: found.unfused,
    }
}

fn tensors(plan: &Plan, errors: &[(usize, usize, WeightError)]) -> Vec<Tensor> {
    let of =
        |at: usize| errors.iter().filter(move |(decision, _, _)| *decision == at).map(|(_, _, error)| *error);
    let row = |(at, decision): (usize, &Decision)| {
        let error = of(at).reduce(WeightError::and);
        Tensor {
            name: decision.tensor.clone(),
            place: decision.place.clone(),
            role: decision.role,
            shape: decision.shape.clone(),
            data_type: decision.data_type.clone(),
            bytes_before: decision.bytes_before,
            bytes_after: decision.bytes_after,
            encoding: distinct(decision.encodings(), "float"),
            reason: distinct(decision.uses.iter().map(|usage| usage.reason.clone()), "nothing uses it"),
            sqnr_db: error.map(|error| error.sqnr_db()).filter(|db| db.is_finite()),
            relative_error: error.map(|error| error.relative()).filter(|error| error.is_finite()),
        }
    };
    plan.decisions.iter().enumerate().map(row).collect()
}
