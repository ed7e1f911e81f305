//! What follows from a report: files, standard output, warnings, the exit code.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::args::General;
use super::exit::Exit;
use super::options::GateArgs;
use super::tell;
use crate::error::{Error, Result};
use crate::onnx::staged::write_text;
use crate::report::{Fitting, Report, Validation, markdown, text};
use crate::validate::Outcome;

/// Refuses report files of an unknown form, before any work.
pub(super) fn check_reports(files: &[PathBuf]) -> Result<()> {
    files.iter().try_for_each(|file| form(file).map(drop))
}

/// Writes and prints `report`, and gives the exit code that it means.
pub(super) fn deliver(report: &Report, gate: &GateArgs, general: &General, overwrite: bool) -> Result<Exit> {
    for file in &gate.report {
        let content = match form(file)? {
            Form::Json => report.json(),
            Form::Markdown => markdown(report),
        };
        write_text(file, &content, overwrite)?;
    }
    tell(general, || text(report, general.verbose), || report.json())?;
    Ok(exit_of(report, gate.strict, general))
}

fn exit_of(report: &Report, strict: bool, general: &General) -> Exit {
    let aside = report.fitting.as_ref().is_some_and(Fitting::leaves_samples_aside);
    let open = match &report.validation {
        Validation::Measured { deployed, .. } => match deployed.outcome {
            Outcome::Passed if aside && strict => {
                let what =
                    "no weight was fitted to the samples of --calibration, which --strict does not pass";
                let _ = writeln!(anstream::stderr(), "error: {what}");
                return Exit::NotDecided;
            }
            Outcome::Passed => {
                if deployed.samples_needed.is_some() && !general.quiet {
                    let what = "passed by the estimate, though the interval lies on both sides of the target";
                    let _ = writeln!(anstream::stderr(), "warning: {what}");
                }
                return Exit::Done;
            }
            Outcome::Failed => return Exit::GateFailed,
            Outcome::Undecided => "the samples cannot decide whether the target is held",
            Outcome::NotVerified => "not verified: no data (--data FILE)",
        },
        _ if report.action == "dry-run" => return Exit::Done,
        Validation::Skipped { .. } => "not validated",
        Validation::Unavailable { .. } => "could not be validated",
    };
    if strict {
        let _ = writeln!(anstream::stderr(), "error: {open}, and --strict asks for a verdict");
        return Exit::NotDecided;
    }
    if !general.quiet {
        let _ = writeln!(anstream::stderr(), "warning: {open}");
    }
    Exit::Done
}

enum Form {
    Json,
    Markdown,
}

fn form(file: &Path) -> Result<Form> {
    match file.extension().and_then(|end| end.to_str()) {
        Some("json") => Ok(Form::Json),
        Some("md") => Ok(Form::Markdown),
        _ => Err(Error::caller(format!("--report {}", file.display()), "the name must end in .json or .md")),
    }
}
