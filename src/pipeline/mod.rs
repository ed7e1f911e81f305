//! The story of a run: the only place that knows the order of the rooms.

mod aim;
mod analyze;
mod blame;
mod budget;
mod explain;
mod fitting;
mod forms;
mod inspect;
mod judge;
mod left_out;
mod memory;
mod notes;
mod pairs;
mod pareto;

use std::collections::HashMap;
use std::path::PathBuf;

use crate::calibrate::{Fitted, Steps};
use crate::data::{self, Samples};
use crate::engine::{Release, fusion};
use crate::error::{Error, Kind, Result};
use crate::graph::{self, Inventory, QuantizedForm, inventory};
use crate::limits;
use crate::onnx::save::{stage, stage_copy};
use crate::onnx::{Checked, Model, SaveOptions, Staged, check_target, load};
use crate::opset::Raised;
use crate::plan::{Decision, Plan, check_values, choose, choose_unseen, share};
use crate::progress::Progress;
use crate::report::{Report, Validation};
use crate::rewrite::{Errors, Rewritten, check, rewrite as carry_out, verify};
use crate::settings::{Budget, Settings};
use crate::validate::Outcome;

pub use analyze::{AnalyzeOptions, analyze};
pub use explain::{ExplainOptions, explain};
pub use inspect::inspect;
pub use pareto::{ParetoOptions, pareto};

use aim::{Attempt, Workshop};
use budget::{Costs, Scope};
use fitting::Fitting;
use judge::Judge;

/// Samples that are made up where the user gives none.
const SYNTHETIC: usize = 32;

/// When both models are run on samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum When {
    /// Where it is possible.
    #[default]
    Auto,
    /// Always: it is an error if they cannot be run.
    Always,
    /// Never.
    Never,
}

/// What [`rewrite`] is asked to do.
#[derive(Debug, Clone)]
pub struct RewriteOptions {
    /// A model file, or a folder that holds one.
    pub input: PathBuf,
    /// Where the result goes; `None` plans and writes nothing.
    pub output: Option<PathBuf>,
    /// What to do with the weights.
    pub settings: Settings,
    /// A plan to repeat, instead of making one.
    pub plan: Option<String>,
    /// Samples that judge; without them synthetic ones are made.
    pub data: Option<data::Source>,
    /// Samples that weights are fitted to; without them synthetic ones are made.
    pub calibration: Option<data::Source>,
    /// Statistics of the calibration samples: used in their place where the file exists, else written there.
    pub statistics: Option<PathBuf>,
    /// The output to compare; `None` chooses it.
    pub output_name: Option<String>,
    /// When to run both models. Default: [`When::Auto`].
    pub validate: When,
    /// Raise tensors while the estimate misses the target. Default: true.
    pub repair: bool,
    /// Write the result also when the gate fails. Default: false.
    pub keep_output: bool,
    /// Replace an existing output. Default: false.
    pub overwrite: bool,
    /// Put weights into a file beside the model. Default: only where they must.
    pub external: bool,
    /// Make constants of initializers that callers may replace, which are quantized then. Default: false.
    pub freeze_inputs: bool,
    /// Go on with a model that is quantized already, of which only what is still float is quantized. Default: false.
    pub allow_requantize: bool,
    /// The ONNX Runtime that is to run the result, to be warned of. Default: none in particular.
    pub target: Option<Release>,
    /// Of synthetic samples. Default: 0.
    pub seed: u64,
    /// Bytes of memory that running models may take by estimate. Default: 4 GB.
    pub max_memory: u64,
    /// Parts of the fitting to leave out. Default: none.
    pub steps: Steps,
}

impl RewriteOptions {
    /// The defaults, for `input` under `settings`.
    pub fn new(input: impl Into<PathBuf>, settings: Settings) -> Self {
        Self {
            input: input.into(),
            output: None,
            settings,
            plan: None,
            data: None,
            calibration: None,
            statistics: None,
            output_name: None,
            validate: When::Auto,
            repair: true,
            keep_output: false,
            overwrite: false,
            external: false,
            freeze_inputs: false,
            allow_requantize: false,
            target: None,
            seed: 0,
            max_memory: limits::RUN_BYTES,
            steps: Steps::default(),
        }
    }
}

/// What a run ended with.
#[derive(Debug, Clone)]
pub struct Done {
    /// What it did and what that cost.
    pub report: Report,
    /// The plan that was carried out, repairs included.
    pub plan: Plan,
}

impl Done {
    /// Says of what `model` the plan is.
    fn new(report: Report, plan: Plan, model: &Model) -> Self {
        Self { report, plan: Plan { model_blake3: model.digest().to_owned(), ..plan } }
    }
}

/// Rewrites a model: load, decide, carry out, write, read back, judge, mend, publish.
///
/// # Errors
/// Whatever stands against it, see [`crate::error::Kind`]. A gate that fails is no error: the report says so,
/// and no output is left unless [`RewriteOptions::keep_output`] asks for it.
pub fn rewrite(options: &RewriteOptions, progress: &dyn Progress) -> Result<Done> {
    refuse_unread(options)?;
    // Weights that are written as they are planned are read once: what their values forbid is seen then, and planned for.
    let is_direct = options.output.is_some() && options.plan.is_none() && budget::asked(options).is_none();
    if !is_direct || options.settings.algorithm.wants_statistics() {
        return rewrite_planned(options, choose, progress);
    }
    let mut unseen = None;
    let first = rewrite_planned(
        options,
        |model, digest, known, settings| {
            let plan = choose_unseen(model, digest, known, settings)?;
            Ok(unseen.insert(plan).clone())
        },
        progress,
    );
    match first {
        // What stands against such a plan may not stand against one that knows the values, unless that is the same.
        Err(error) if error.kind() != Kind::Interrupted => rewrite_planned(
            options,
            |model, digest, known, settings| {
                let plan = choose(model, digest, known, settings)?;
                if unseen.as_ref() == Some(&plan) { Err(error) } else { Ok(plan) }
            },
            progress,
        ),
        done => done,
    }
}

fn rewrite_planned(
    options: &RewriteOptions,
    choose: impl FnOnce(&Model, &str, &Inventory, &Settings) -> Result<Plan>,
    progress: &dyn Progress,
) -> Result<Done> {
    progress.stage("reading", 1);
    let mut model = load(&options.input)?;
    let frozen =
        if options.freeze_inputs && model.proto.ir_version() >= 4 { model.freeze_inputs() } else { 0 };
    if let Some(target) = &options.output {
        let inputs: Vec<_> = model.side_paths().iter().map(PathBuf::as_path).chain([model.path()]).collect();
        check_target(target, &inputs, options.overwrite)?;
    }
    let by_loss = matches!(budget::asked(options), Some(Budget::Loss(_)));
    if by_loss && (options.data.is_none() || options.validate == When::Never) {
        return Err(Error::caller(
            "--target-loss",
            "is held by measuring, and there is nothing to measure it on",
        )
        .help("--data FILE, without --validate never"));
    }
    let place = |error: Error| error.within(model.path().display());
    if !options.allow_requantize {
        refuse_quantized(&model).map_err(place)?;
    }
    let known = inventory(&model);
    let samples = options.data.as_ref().map(|source| data::load(source, &model)).transpose()?;
    let remarks = samples.as_ref().map_or_else(Vec::new, |samples| samples.remarks.clone());
    let plan = match &options.plan {
        Some(text) => {
            let mut plan = Plan::from_json(text, &model, model.digest())?;
            check(&known, &plan)?;
            check_values(&model, &known, &plan).map_err(place)?;
            // The figures in a file are those of whoever wrote it.
            plan.decisions.iter_mut().for_each(Decision::recount);
            plan
        }
        None => choose(&model, "", &known, &options.settings)?,
    };
    let notes = notes::Notes::new(&model, &options.settings).with_frozen(frozen);
    // A budget of bytes tells what it cannot hold.
    let of_bytes = budget::asked(options).filter(|budget| budget.is_of_bytes());
    let is_bound = of_bytes.is_some() && options.output.is_some() && plan.has_sites();
    if !plan.changes_anything() && !is_bound {
        return unchanged(options, &model, plan, notes, progress).map_err(place);
    }
    let fitting = Fitting::new(options, &model)?;
    let repeated = match &options.plan {
        Some(_) => notes::repeated(&plan, &options.settings.preset, fitting.fitted_to(&plan).as_ref()),
        None => Vec::new(),
    };
    let Some(target) = &options.output else {
        let mut plan = plan;
        if options.plan.is_none() {
            share(&mut plan, &known);
        }
        plan.fitted_to = fitting.fitted_to(&plan);
        let made = carry_out(&model, &known, &plan, &HashMap::new(), notes.metadata(&plan)).map_err(place)?;
        let mut report = notes.planned(&plan, &made, options.external)?;
        report.warnings.extend(repeated);
        return Ok(Done::new(report, plan, &model));
    };

    let budget = budget::asked(options);
    if let Some(asked) = of_bytes {
        budget::can_hold(&model, &known, &plan, asked, &fitting, &notes).map_err(place)?;
    }
    let judge = Judge::new(options, &model, &known, samples);
    let mut work =
        Workshop { options, model: &model, known: &known, target, fitting, judge, notes, progress };
    let mut costs = budget.map(|_| work.costs(&plan, Scope::All)).transpose()?;
    let mut done = match (budget, &costs) {
        (Some(Budget::Loss(most)), Some(costs)) => work.within_loss(costs, plan, most)?,
        (Some(budget), Some(costs)) => work.within_bytes(costs, &plan, budget)?,
        _ => work.attempt(plan)?,
    };
    // A budget of bytes is a promise that repairs would break.
    if options.repair && of_bytes.is_none() && options.plan.is_none() {
        done = work.repaired(&mut costs, done)?;
    }
    let Workshop { mut fitting, judge, notes, .. } = work;
    let Attempt { plan, written, judged, fitting: fitted } = done;
    if progress.cancelled() {
        return Err(Error::interrupted());
    }
    let kept_all = !plan.changes_anything();
    let mut report = notes.written(&plan, &written, judged, fitted);
    report.warnings.extend(repeated);
    report.warnings.extend(costs.as_ref().and_then(Costs::warning));
    report.warnings.extend(options.target.and_then(|target| notes::against(&written.model, target)));
    let told =
        fitting.remarks().iter().filter(|remark| !remarks.contains(remark)).cloned().collect::<Vec<_>>();
    report.warnings.extend(remarks.into_iter().chain(told));
    report.warnings.extend(fitting.shared_with(&model, judge.samples()));
    report.warnings.extend(notes::chance(judge.samples(), &report.validation));
    report.warnings.extend(notes::blind(judge.samples(), judge.classes(), &report.validation));
    report.warnings.extend(fitting.few());
    report.warnings.extend(fitting.left_out().iter().chain(judge.left_out()).cloned());
    if let (Some(option), None) = (to_fit_to(options), &report.fitting) {
        let what =
            format!("{option} was not looked at: the plan has no weight that is fitted to activations");
        report.warnings.push(what);
    } else {
        report.warnings.extend(fitting.undone());
    }
    if let (true, Validation::Measured { deployed, .. }) = (kept_all, &mut report.validation) {
        deployed.outcome = Outcome::Failed;
        deployed.reason =
            "the target holds only with every tensor in float: nothing would be gained".to_owned();
    }
    if !report.repair.is_empty() {
        let what = "the tensors to raise were chosen on the samples of this verdict, which makes it a little optimistic; \
                    judge a release with `efq validate` on others";
        report.warnings.push(what.to_owned());
    }
    let failed = matches!(&report.validation, Validation::Measured { deployed, .. } if deployed.outcome == Outcome::Failed);
    if failed && !options.keep_output {
        report.result = None;
        report
            .warnings
            .push("no output was written: --keep-output writes it in spite of the gate".to_owned());
    } else {
        written.staged.publish(options.overwrite)?;
    }
    fitting.publish()?;
    Ok(Done::new(report, plan, &model))
}

/// The option that gives what weights are to be fitted to, if there is one.
fn to_fit_to(options: &RewriteOptions) -> Option<&'static str> {
    let statistics = options.statistics.as_ref().map(|_| "--statistics");
    options.calibration.as_ref().map(|_| "--calibration").or(statistics)
}

/// Refuses samples to fit to beside an algorithm that does not look at them. A plan to repeat has its own.
fn refuse_unread(options: &RewriteOptions) -> Result<()> {
    let algorithm = options.settings.algorithm;
    match to_fit_to(options) {
        Some(option) if options.plan.is_none() && !algorithm.wants_statistics() => {
            Err(Error::caller(option, "the algorithm that was asked for does without samples")
                .help("leave it out, or --algorithm auto"))
        }
        _ => Ok(()),
    }
}

/// Refuses a model that is quantized already.
fn refuse_quantized(model: &Model) -> Result<()> {
    let Some(found) = graph::quantized(model) else { return Ok(()) };
    let what = format!("the model is quantized already: {}", found.form.name());
    Err(Error::unsupported(found.subject, what).help(match found.form {
        QuantizedForm::Efq => {
            "give the original, or --allow-requantize, which quantizes what is still float"
        }
        _ => {
            "--allow-requantize quantizes what is still float, apart from what stands beside quantized activations"
        }
    }))
}

/// What [`validate`] is asked to do.
#[derive(Debug, Clone)]
pub struct ValidateOptions {
    /// The model as it was.
    pub original: PathBuf,
    /// The model in question, from any tool.
    pub rewritten: PathBuf,
    /// Of it, only the target counts.
    pub settings: Settings,
    /// Samples; without them synthetic ones are made.
    pub data: Option<data::Source>,
    /// The output to compare; `None` chooses it.
    pub output_name: Option<String>,
    /// Of synthetic samples.
    pub seed: u64,
}

/// Holds a rewritten model against its original, as the gate of [`rewrite`] does.
///
/// # Errors
/// A model that cannot be read, or that the runtime cannot run; samples that do not fit.
pub fn validate(options: &ValidateOptions, progress: &dyn Progress) -> Result<Report> {
    progress.stage("reading", 1);
    let original = load(&options.original)?;
    let rewritten = load(&options.rewritten)?;
    same_inputs(&original, &rewritten)?;
    not_swapped(&original, &rewritten)?;
    let known = inventory(&original);
    let samples = options.data.as_ref().map(|source| data::load(source, &original)).transpose()?;
    let asked = RewriteOptions {
        output_name: options.output_name.clone(),
        seed: options.seed,
        ..RewriteOptions::new(&options.original, options.settings.clone())
    };
    let remarks = samples.as_ref().map_or_else(Vec::new, |samples| samples.remarks.clone());
    let mut judge = Judge::new(&asked, &original, &known, samples);
    let judged = judge.judge(&rewritten, progress)?;
    let notes = notes::Notes::new(&original, &options.settings);
    let mut report = notes.compared(&rewritten, judged);
    report.warnings.extend(remarks);
    report.warnings.extend(judge.left_out().iter().cloned());
    report.warnings.extend(notes::chance(judge.samples(), &report.validation));
    report.warnings.extend(notes::blind(judge.samples(), judge.classes(), &report.validation));
    Ok(report)
}

/// Refuses two models that cannot be fed the same samples.
fn same_inputs(original: &Model, rewritten: &Model) -> Result<()> {
    let (before, after) = (data::inputs(original)?, data::inputs(rewritten)?);
    let names = |specs: &[data::InputSpec]| {
        let parts: Vec<String> =
            specs.iter().map(|spec| format!("{} {}", spec.name, spec.shape_text())).collect();
        parts.join(", ")
    };
    let same = before.len() == after.len()
        && before.iter().all(|spec| {
            after.iter().any(|other| other.name == spec.name && other.data_type == spec.data_type)
        });
    if same {
        return Ok(());
    }
    let what = format!("takes {}, the original {}", names(&after), names(&before));
    Err(Error::format(rewritten.path().display().to_string(), what).help("these are two different models"))
}

/// Refuses a result of efq in the place of its original.
fn not_swapped(original: &Model, rewritten: &Model) -> Result<()> {
    let is_result =
        |model: &Model| graph::quantized(model).is_some_and(|found| found.form == QuantizedForm::Efq);
    if is_result(original) && !is_result(rewritten) {
        let what = "was written by efq, the model after it was not";
        return Err(
            Error::caller(original.path().display().to_string(), what).help("the original comes first")
        );
    }
    Ok(())
}

/// A result on disk, not yet under its name, read back.
pub(crate) struct Written {
    staged: Staged,
    model: Checked<Model>,
    errors: Errors,
    raised: Option<Raised>,
    /// Bytes that raising the operator set added.
    raised_bytes: usize,
}

#[expect(clippy::too_many_arguments, reason = "called once, with what the story has at hand")]
fn write(
    model: &Checked<Model>,
    known: &Inventory,
    plan: &Plan,
    fitted: &HashMap<(usize, usize), Fitted>,
    notes: &notes::Notes,
    target: &std::path::Path,
    save: SaveOptions,
    progress: &dyn Progress,
) -> Result<Written> {
    let Rewritten { draft, errors, raised, raised_bytes } =
        carry_out(model, known, plan, fitted, notes.metadata(plan))
            .map_err(|error| error.within(model.path().display()))?;
    let staged = stage(&draft, target, save, progress)?;
    let written = load(&staged.path())?;
    verify(&written, model, &staged)?;
    let blocks = plan.blocked_uses();
    let found = fusion(&written).total();
    if found < blocks {
        return Err(Error::new(
            Kind::Format,
            "output",
            format!("{found} of {blocks} blocked weights are in it"),
        )
        .help("this is a fault of efq: please report it"));
    }
    Ok(Written { staged, model: written, errors, raised, raised_bytes })
}

/// A model of which nothing is rewritten: copied if that was asked for, refused if there is nothing to do.
fn unchanged(
    options: &RewriteOptions,
    model: &Checked<Model>,
    plan: Plan,
    notes: notes::Notes,
    progress: &dyn Progress,
) -> Result<Done> {
    if !plan.has_sites() {
        // Indices, shapes and masks are no weights, however large.
        let is_weight = |decision: &Decision| !matches!(&*decision.data_type, "int64" | "int32" | "bool");
        let size = |decision: &&Decision| (is_weight(decision), decision.bytes_before);
        let largest = plan.decisions.iter().max_by_key(size);
        let why = largest.map_or("it has no weights".to_owned(), |decision| {
            let reason = decision.uses.first().map_or("unused", |usage| usage.reason.as_str());
            format!("its largest tensor '{}' is {}: {reason}", decision.tensor, decision.role.name())
        });
        return Err(Error::unsupported("nothing to rewrite", why)
            .help("efq quantizes MatMul and Gemm weights and embedding tables; `efq inspect` lists all"));
    }
    let report = match &options.output {
        None => notes.copied(&plan, None, model.path()),
        Some(target) => {
            let staged = stage_copy(model, target, SaveOptions { external: options.external }, progress)?;
            let written = load(&staged.path())?;
            verify(&written, model, &staged)?;
            notes.copied(&plan, Some(&staged.publish(options.overwrite)?), target)
        }
    };
    Ok(Done::new(report, plan, model))
}

/// The samples for a run: the user's, or synthetic ones.
fn samples_for(
    options: &RewriteOptions,
    model: &Model,
    known: &Inventory,
    given: Option<Samples>,
) -> Result<Samples> {
    match given {
        Some(samples) => Ok(samples),
        None => data::synthetic(model, known, SYNTHETIC, options.seed),
    }
}

/// The measured output, with what its values are.
fn output_of(options: &RewriteOptions, model: &Model, known: &Inventory) -> Result<graph::Measured> {
    graph::measured_output(model, known, options.output_name.as_deref())
}
