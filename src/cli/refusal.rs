//! What clap refuses, in the manner of efq: one line that says what was expected and the way out.

use std::error::Error as _;
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::complain;
use super::exit::Exit;

/// Prints the help or version that was asked for, or the one line of a refusal.
pub(super) fn end(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            return Exit::Done;
        }
        // `efq` alone.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
        }
        _ => complain(&line(error)),
    }
    Exit::Usage
}

fn line(error: &clap::Error) -> String {
    let text = |kind| texts(error, kind).into_iter().next();
    let several = |kind| texts(error, kind).join(", ");
    let argument = text(ContextKind::InvalidArg).unwrap_or_default();
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let command = command(error);
    let see = format!("see `{command} --help`");
    let near = |kind| text(kind).map_or(see.clone(), |near| format!("nearest: {near}"));
    match error.kind() {
        ErrorKind::InvalidValue if value.is_empty() => {
            format!("{argument}: a value is missing ({})", expected(error).unwrap_or(see))
        }
        ErrorKind::InvalidValue => {
            let way_out = text(ContextKind::SuggestedValue).map(|near| format!("nearest: {near}"));
            let help = expected(error).or(way_out).unwrap_or(see);
            format!("{argument}: '{value}' is not among its values ({help})")
        }
        ErrorKind::ValueValidation => {
            format!("{argument}: '{value}' {}", wrong_with(error))
        }
        ErrorKind::TooManyValues => format!("{argument}: takes no value, '{value}' was given"),
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            format!("{argument}: no such option ({})", near(ContextKind::SuggestedArg))
        }
        ErrorKind::UnknownArgument => {
            format!("{argument}: is an argument too many for `{command}` ({see})")
        }
        ErrorKind::InvalidSubcommand => {
            let name = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            format!("{name}: no such command ({})", near(ContextKind::SuggestedSubcommand))
        }
        ErrorKind::MissingRequiredArgument => {
            format!("{command}: {} must be given ({see})", several(ContextKind::InvalidArg))
        }
        ErrorKind::ArgumentConflict => match several(ContextKind::PriorArg) {
            again if again == argument || again.is_empty() => {
                format!("{argument}: may be given only once")
            }
            other => format!("{argument}: does not go together with {other} (leave one of them out)"),
        },
        _ => {
            let shown = error.render().to_string();
            let first = shown.lines().next().unwrap_or_default();
            format!("{} ({see})", first.trim_start_matches("error: "))
        }
    }
}

fn texts(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    }
}

/// The values that an option has, where they are a list.
fn expected(error: &clap::Error) -> Option<String> {
    let values = texts(error, ContextKind::ValidValue);
    (!values.is_empty()).then(|| format!("one of {}", values.join(", ")))
}

fn wrong_with(error: &clap::Error) -> String {
    let Some(source) = error.source() else { return "is not accepted".to_owned() };
    if source.is::<ParseFloatError>() {
        return "is no number".to_owned();
    }
    match source.downcast_ref::<ParseIntError>().map(ParseIntError::kind) {
        Some(IntErrorKind::PosOverflow) => "is too large".to_owned(),
        Some(IntErrorKind::Zero) => "must be 1 or more".to_owned(),
        Some(_) => "is no whole number from 0 up".to_owned(),
        None => format!("is not accepted: {source}"),
    }
}

/// `efq rewrite` out of the usage that clap wrote for the error.
fn command(error: &clap::Error) -> String {
    let Some(ContextValue::StyledStr(usage)) = error.get(ContextKind::Usage) else { return "efq".to_owned() };
    let usage = usage.to_string();
    let words = usage.trim_start_matches("Usage:").split_whitespace();
    let words: Vec<&str> = words.take_while(|word| !word.starts_with(['<', '[', '-'])).collect();
    if words.is_empty() { "efq".to_owned() } else { words.join(" ") }
}
