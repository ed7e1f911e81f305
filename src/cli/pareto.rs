//! `efq pareto`.

use std::path::Path;

use super::args::{General, Pareto};
use super::exit::Exit;
use super::progress::Bars;
use super::{paths, tell};
use crate::error::{Error, Result};
use crate::limits;
use crate::onnx::find;
use crate::onnx::staged::write_text;
use crate::pipeline::{ParetoOptions, pareto};
use crate::report::to_json;

pub(super) fn run(args: &Pareto, general: &General) -> Result<Exit> {
    let preset = args.preset.load()?;
    let settings = args.weights.settings_for_any_budget(&preset)?;
    let model = find(&args.model)?;
    let own = args.preset.reads().into_iter();
    let reads: Vec<&Path> = own.chain(args.samples.reads()).chain(args.calibration.as_deref()).collect();
    if let Some(report) = &args.report {
        if report.extension().is_none_or(|extension| extension != "svg" && extension != "json") {
            return Err(Error::caller(report.display().to_string(), "a name in .svg or .json is expected"));
        }
        paths::check(&[&model], &reads, None, &[("--report", report)], args.force)?;
    }
    let (data, calibration) = args.samples.sources(args.calibration.as_deref())?;
    let options = ParetoOptions {
        input: args.model.clone(),
        settings,
        data,
        calibration,
        output_name: args.samples.output_name.clone(),
        seed: args.samples.seed,
        points: args.points.into(),
        max_memory: args.limits.max_memory.unwrap_or(limits::RUN_BYTES),
    };
    let progress = Bars::new(general);
    let found = pareto(&options, &progress)?;
    drop(progress);
    if let Some(report) = &args.report {
        let is_plot = report.extension().is_some_and(|extension| extension == "svg");
        let text = if is_plot { found.svg() } else { to_json(&found) };
        write_text(report, &text, args.force)?;
    }
    tell(general, || found.text(), || to_json(&found))?;
    Ok(Exit::Done)
}
