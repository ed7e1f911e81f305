//! Presets: YAML files that say what to quantize, how, and what it may cost.
//!
//! [`load`] takes what the user wrote after `-p`, [`Preset::parse`] takes text. Reading is strict: whatever a
//! preset says that efq does not know is an error with file, line and column, never ignored.

mod builtin;
mod fault;
mod fields;
mod load;
mod nearest;
mod pattern;
mod read;
#[cfg(test)]
mod tests;
mod tree;
mod words;

use std::fmt;
use std::path::PathBuf;

pub use builtin::{builtin_names, builtin_text};
pub use load::load;
pub use nearest::nearest;
pub use pattern::Pattern;
pub use words::{AlgorithmName, BlockSize, DecideBy, Emit, Scales, Store};

use crate::role::Role;

/// What to quantize, how, and what it may cost.
///
/// For one weight the first of [`rules`](Self::rules) that applies decides; without one,
/// [`keep`](Self::keep) does; without that, [`embeddings`](Self::embeddings) or [`head`](Self::head) for
/// weights of those roles; everything else becomes INT4.
#[derive(Debug, Clone, PartialEq)]
pub struct Preset {
    /// The only key without a default; never empty.
    pub name: String,
    pub origin: Origin,
    /// One line on what the preset is for; empty by default.
    pub description: String,
    /// The loss that is accepted, in percent: points of accuracy for labelled data, percent of perplexity for
    /// logits of a language model, percent of changed predictions otherwise. In (0, 100], 1 by default.
    pub accuracy_target: f64,
    /// The mean cosine to the original that outputs need which are neither labelled nor logits. In [0, 1],
    /// 0.95 by default.
    pub min_cosine: f64,
    /// [`DecideBy::Estimate`] by default.
    pub decide_by: DecideBy,
    /// [`BlockSize::B64`] by default.
    pub block_size: BlockSize,
    /// Whether blocks go without a zero point; `false` by default.
    pub symmetric: bool,
    /// [`AlgorithmName::Auto`] by default.
    pub algorithm: AlgorithmName,
    /// The share of a block's values, in percent, that [`AlgorithmName::Percentile`] covers without clipping.
    /// In (50, 100], 99.9 by default.
    pub percentile: f32,
    /// [`Scales::Fp16`] by default.
    pub scales: Scales,
    /// [`Emit::Qdq`] by default.
    pub emit: Emit,
    /// How embedding tables are stored that `keep` does not name: [`Store::Float`] (`keep`), [`Store::Int8`], the
    /// default, or [`Store::Int4`], in blocks of at most 128 and always without zero points.
    pub embeddings: Store,
    /// How the head is stored if `keep` does not name it: [`Store::Float`] (`keep`), [`Store::Int8`] or
    /// [`Store::Int4`], the default.
    pub head: Store,
    /// How weights are stored that no fused product takes (convolutions, recurrent and expert weights, added
    /// tables, vectors): [`Store::Float`] (`keep`), the default, or [`Store::Int8`], which ONNX Runtime turns into
    /// floats at load; vectors then become float16.
    pub unfused: Store,
    /// What stays in full precision; nothing by default.
    pub keep: Vec<Keep>,
    /// Exceptions, the first that applies wins, over `keep` too; none by default.
    pub rules: Vec<Rule>,
}

impl Preset {
    /// The built-in preset `name`.
    pub fn builtin(name: &str) -> Option<Self> {
        let (name, text) = builtin::find(name)?;
        // The tests parse every one of them, so no error is lost here.
        Self::parse(text, Origin::Builtin(name)).ok()
    }
}

/// Where a preset comes from; shown as the file that messages name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The built-in preset of this name.
    Builtin(&'static str),
    /// A file of the user's.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin(name) => write!(f, "presets/{name}.yaml"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Roles that stay in full precision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// Where it stands in the file, from 1.
    pub line: usize,
    /// The role or group as written.
    pub name: String,
    pub roles: Vec<Role>,
}

/// An exception for the weights that every given selector matches; at least one is given.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Where it begins in the file, from 1.
    pub line: usize,
    pub role: Option<RoleSelector>,
    /// Matched against the names of the weight and of the nodes that read it.
    pub pattern: Option<Pattern>,
    /// The type of a node that reads the weight, such as `Gemm`.
    pub operator: Option<String>,
    pub store: Store,
    /// The preset's if absent; always absent with [`Store::Float`].
    pub block_size: Option<BlockSize>,
    /// The preset's if absent; always absent with [`Store::Float`].
    pub symmetric: Option<bool>,
}

/// The roles of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleSelector {
    /// The role or group as written.
    pub name: String,
    pub roles: Vec<Role>,
}
