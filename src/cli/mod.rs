//! The command line: arguments to options, progress, exit codes. Each subcommand has a file that reads as its
//! story; what they do is in the library.

mod analyze;
mod args;
mod completions;
mod exit;
mod explain;
mod inspect;
mod interrupt;
mod options;
mod outcome;
mod pareto;
mod paths;
mod presets;
mod progress;
mod refusal;
mod rewrite;
#[cfg(unix)]
mod supervise;
mod validate;
mod values;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;

use crate::error::{Error, Kind};
use crate::panics;
use crate::report::for_terminal;
use args::{Args, Command, Format, General};
use exit::Exit;

/// Runs the command with the arguments of the process.
pub fn main() -> ExitCode {
    panics::hush();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            return refusal::end(&error).into();
        }
    };
    args.general.color.apply();
    #[cfg(unix)]
    if let Some((limits, writes)) = args.command.runs_models()
        && let Some(code) = supervise::attend(limits, &writes)
    {
        return code;
    }
    if let Some(threads) = args.general.threads {
        // Fails only where the pool was made before, and then it serves as well.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build_global();
    }
    let general = &args.general;
    let result = match &args.command {
        Command::Rewrite(command) => rewrite::run(command, general),
        Command::Validate(command) => validate::run(command, general),
        Command::Analyze(command) => analyze::run(command, general),
        Command::Explain(command) => explain::run(command, general),
        Command::Pareto(command) => pareto::run(command, general),
        Command::Inspect(command) => inspect::run(command, general),
        Command::Presets(command) => presets::run(command, general),
        Command::Completions(command) => completions::run(command, general),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            complain(&error.to_string());
            Exit::of(&error).into()
        }
    }
}

/// Says in one line on standard error what stands against the request.
fn complain(what: &str) {
    let _ = writeln!(anstream::stderr(), "error: {}", for_terminal(what));
}

/// Prints a result in the form that was asked for; with `--quiet`, text is left out.
fn tell(general: &General, text: impl Fn() -> String, json: impl Fn() -> String) -> Result<(), Error> {
    match general.format {
        Format::Json => print(&json()),
        Format::Text if general.quiet => Ok(()),
        Format::Text => print(&text()),
    }
}

/// Writes results to standard output; a reader that went away is no error.
fn print(text: &str) -> Result<(), Error> {
    let mut stdout = anstream::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::new(Kind::Io, "standard output", error.to_string()))
        }
        _ => Ok(()),
    }
}
