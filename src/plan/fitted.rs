//! What the weights of a plan are fitted to, so that a run that repeats it can tell whether it has the same.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Characters of a digest that a message names.
const SHOWN: usize = 12;

/// Samples, or what an earlier run learned of some. Files have no folder here: the plan's digest stands in the model, and
/// where samples lie is no part of what is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "source", deny_unknown_fields)]
pub enum FittedTo {
    /// The user's samples, and made-up ones beside them.
    Samples {
        /// Name of the file or folder.
        name: String,
        /// BLAKE3 of the contents.
        blake3: String,
        /// Of the made-up ones.
        seed: u64,
    },
    /// Statistics that an earlier run kept.
    Statistics {
        /// Name of the file.
        name: String,
        /// BLAKE3 of the contents.
        blake3: String,
    },
    /// Made-up samples alone.
    MadeUp {
        /// Of the generator.
        seed: u64,
    },
}

impl FittedTo {
    /// Whether it is the same, whatever the files are called.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Samples { blake3: a, seed: s, .. }, Self::Samples { blake3: b, seed: t, .. }) => {
                (a, s) == (b, t)
            }
            (Self::Statistics { blake3: a, .. }, Self::Statistics { blake3: b, .. }) => a == b,
            (Self::MadeUp { seed: s }, Self::MadeUp { seed: t }) => s == t,
            _ => false,
        }
    }

    /// The options that give it.
    pub fn options(&self) -> String {
        match self {
            Self::Samples { name, seed: 0, .. } => format!("--calibration {name}"),
            Self::Samples { name, seed, .. } => format!("--calibration {name} --seed {seed}"),
            Self::Statistics { name, .. } => format!("--statistics {name}"),
            Self::MadeUp { seed } => format!("--seed {seed}, without --calibration and --statistics"),
        }
    }
}

impl fmt::Display for FittedTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |blake3: &str| blake3.get(..SHOWN).unwrap_or(blake3).to_owned();
        match self {
            Self::Samples { name, blake3, seed: 0 } => write!(f, "{name} (blake3 {}…)", short(blake3)),
            Self::Samples { name, blake3, seed } => {
                write!(f, "{name} (blake3 {}…, seed {seed} beside it)", short(blake3))
            }
            Self::Statistics { name, blake3 } => {
                write!(f, "the statistics {name} (blake3 {}…)", short(blake3))
            }
            Self::MadeUp { seed } => write!(f, "made-up samples (seed {seed})"),
        }
    }
}
