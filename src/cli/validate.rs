//! `efq validate`.

use std::path::Path;

use super::args::{General, Validate};
use super::exit::Exit;
use super::outcome::{check_reports, deliver};
use super::paths;
use super::progress::Bars;
use crate::error::Result;
use crate::pipeline::{ValidateOptions, validate};
use crate::settings::{Overrides, Settings};

pub(super) fn run(args: &Validate, general: &General) -> Result<Exit> {
    let preset = args.preset.load()?;
    let overrides = Overrides {
        accuracy_target: args.gate.accuracy_target,
        min_cosine: args.gate.min_cosine,
        ..Overrides::default()
    };
    check_reports(&args.gate.report)?;
    let reads: Vec<&Path> = args.preset.reads().into_iter().chain(args.samples.reads()).collect();
    let writes: Vec<(&str, &Path)> =
        args.gate.report.iter().map(|path| ("--report", path.as_path())).collect();
    paths::check(&[&args.original, &args.rewritten], &reads, None, &writes, args.force)?;
    let options = ValidateOptions {
        original: args.original.clone(),
        rewritten: args.rewritten.clone(),
        settings: Settings::new(&preset, &overrides)?,
        data: args.samples.sources(None)?.0,
        output_name: args.samples.output_name.clone(),
        seed: args.samples.seed,
    };
    let progress = Bars::new(general);
    let report = validate(&options, &progress)?;
    drop(progress);
    deliver(&report, &args.gate, general, args.force)
}
