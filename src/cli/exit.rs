//! Exit codes, one table; the README shows the same.

use std::process::ExitCode;

use crate::error::{Error, Kind};

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// Passed; or undecided or not verified, with a warning.
    Done = 0,
    /// The gate failed.
    GateFailed = 1,
    /// An option, preset, pattern or path is wrong.
    Usage = 2,
    /// A model or data is broken, missing, or cannot be worked on.
    Input = 3,
    /// Undecided, not verified, or no weight fitted to the samples given for that, under `--strict`.
    NotDecided = 4,
    /// Stopped by a signal.
    Interrupted = 130,
}

impl Exit {
    pub(super) fn of(error: &Error) -> Self {
        match error.kind() {
            Kind::Caller | Kind::Unforeseen => Exit::Usage,
            Kind::Io | Kind::Format | Kind::Limit | Kind::Unsupported => Exit::Input,
            Kind::Interrupted => Exit::Interrupted,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}
