//! `efq rewrite`.

use std::path::Path;

use super::args::{General, Rewrite, ValidateWhen};
use super::exit::Exit;
use super::outcome::{check_reports, deliver};
use super::paths;
use super::progress::Bars;
use crate::error::{Error, Result};
use crate::limits;
use crate::onnx::find;
use crate::onnx::staged::write_text;
use crate::pipeline::{RewriteOptions, When, rewrite};

pub(super) fn run(args: &Rewrite, general: &General) -> Result<Exit> {
    let preset = args.preset.load()?;
    let settings = args.weights.settings(&preset, &args.gate)?;
    check_reports(&args.gate.report)?;
    if args.dry_run && settings.budget.is_some() {
        return Err(Error::caller(
            "--dry-run",
            "plans without measuring, and a budget is planned by measurements",
        )
        .help("leave one of them out; `efq pareto` shows what budgets come to"));
    }
    let model = find(&args.model)?;
    let mut reads: Vec<&Path> = args.preset.reads().into_iter().collect();
    reads.extend(args.samples.reads().chain(args.calibration.as_deref()));
    reads.extend(args.from_plan.as_deref());
    let (kept, to_keep): (Vec<&Path>, Vec<&Path>) =
        args.statistics.as_deref().into_iter().partition(|path| path.exists() && args.calibration.is_none());
    reads.extend(kept);
    let mut writes: Vec<(&str, &Path)> =
        args.gate.report.iter().map(|path| ("--report", path.as_path())).collect();
    writes.extend(args.plan.as_deref().map(|path| ("--plan", path)));
    // Statistics that exist are no file to write to by chance: the library says how to go on.
    let to_keep = to_keep.into_iter().filter(|path| !args.dry_run && (args.force || !path.exists()));
    writes.extend(to_keep.map(|path| ("--statistics", path)));
    let output = args.output.as_deref().filter(|_| !args.dry_run);
    paths::check(&[&model], &reads, output, &writes, args.force)?;
    let (data, calibration) = args.samples.sources(args.calibration.as_deref())?;
    let options = RewriteOptions {
        output: output.map(Path::to_owned),
        plan: args.from_plan.as_deref().map(read_plan).transpose().map_err(Error::of_caller)?,
        data,
        calibration,
        statistics: args.statistics.clone(),
        output_name: args.samples.output_name.clone(),
        validate: match args.validate {
            ValidateWhen::Auto => When::Auto,
            ValidateWhen::Always => When::Always,
            ValidateWhen::Never => When::Never,
        },
        repair: !args.no_repair,
        keep_output: args.keep_output,
        overwrite: args.force,
        external: args.external_data,
        freeze_inputs: args.freeze_inputs,
        allow_requantize: args.allow_requantize,
        target: args.target,
        seed: args.samples.seed,
        max_memory: args.limits.max_memory.unwrap_or(limits::RUN_BYTES),
        ..RewriteOptions::new(&args.model, settings)
    };
    let progress = Bars::new(general);
    let done =
        rewrite(&options, &progress).map_err(|error| match (&args.from_plan, error.is_about("plan")) {
            (Some(file), true) => error.within(file.display()),
            _ => error,
        })?;
    drop(progress);
    if let Some(plan) = &args.plan {
        write_text(plan, &done.plan.to_json(), args.force)?;
    }
    deliver(&done.report, &args.gate, general, args.force)
}

fn read_plan(path: &Path) -> Result<String> {
    let meta = path.metadata().map_err(|error| Error::io(path, &error))?;
    if !meta.is_file() || meta.len() > limits::TEXT_BYTES {
        return Err(Error::caller(path.display().to_string(), "is no plan of efq"));
    }
    std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => Error::caller(path.display().to_string(), "is no plan of efq"),
        _ => Error::io(path, &error),
    })
}
