//! `efq rewrite`.

use super::args::{General, Rewrite, ValidateWhen};
use super::exit::Exit;
use super::outcome::{check_reports, deliver};
use super::progress::Bars;
use crate::error::{Error, Result};
use crate::limits;
use crate::onnx::check_target;
use crate::onnx::save::write_text;
use crate::pipeline::{RewriteOptions, When, rewrite};

pub(super) fn run(args: &Rewrite, general: &General) -> Result<Exit> {
    let preset = args.preset.load()?;
    let settings = args.weights.settings(&preset, &args.gate)?;
    check_reports(&args.gate.report, args.force)?;
    if let Some(plan) = &args.plan {
        check_target(plan, &[], args.force)?;
    }
    let options = RewriteOptions {
        output: args.output.clone().filter(|_| !args.dry_run),
        plan: args.from_plan.as_deref().map(read_plan).transpose()?,
        data: args.samples.data.clone(),
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
        seed: args.samples.seed,
        ..RewriteOptions::new(&args.model, settings)
    };
    let progress = Bars::new(general);
    let done = rewrite(&options, &progress)?;
    drop(progress);
    if let Some(plan) = &args.plan {
        write_text(plan, &done.plan.to_json(), args.force)?;
    }
    deliver(&done.report, &args.gate, general, args.force)
}

fn read_plan(path: &std::path::Path) -> Result<String> {
    let size = path.metadata().map_err(|error| Error::io(path, &error))?.len();
    if size > limits::TEXT_BYTES {
        return Err(Error::limit(path.display().to_string(), format!("{size} bytes are no plan")));
    }
    std::fs::read_to_string(path).map_err(|error| Error::io(path, &error))
}
