//! What is wrong at a place of a preset, before the file is known.

use super::nearest;
use crate::error::Error;

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

/// What is wrong, where, and the way out.
#[derive(Debug)]
pub(super) struct Fault {
    place: Option<Place>,
    what: String,
    help: Option<String>,
}

impl Fault {
    pub fn new(place: Place, what: impl Into<String>) -> Self {
        Self { place: Some(place), what: what.into(), help: None }
    }

    /// A fault of the text as a whole.
    pub fn whole(what: impl Into<String>) -> Self {
        Self { place: None, what: what.into(), help: None }
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the word nearest to `found` and all `allowed` ones as the way out.
    pub fn allowed(self, found: &str, allowed: &[&'static str]) -> Self {
        let all = format!("allowed: {}", allowed.join(", "));
        // 'int4' is no slip for 'int8', nor is 48 for 64.
        let slip = !found.contains(|character: char| character.is_ascii_digit());
        match nearest(found, allowed.iter().copied(), 1).first() {
            Some(near) if slip => self.help(format!("did you mean '{near}'? {all}")),
            _ => self.help(all),
        }
    }

    /// The error in `file`.
    pub fn in_file(self, file: &str) -> Error {
        let subject = match self.place {
            Some(Place { line, column }) => format!("{file}:{line}:{column}"),
            None => file.to_owned(),
        };
        let error = Error::caller(subject, self.what);
        match self.help {
            Some(help) => error.help(help),
            None => error,
        }
    }
}

/// `text` as messages quote it: one line, not too long.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown = String::from("'");
    for (index, character) in text.chars().enumerate() {
        if index == SHOWN {
            shown.push('…');
            break;
        }
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown.push('\'');
    shown
}
