//! The choice: one decision with its reason for every stored tensor, before anything is changed.
//!
//! A [`Plan`] is a value: it can be shown (a dry run), written down, read back and carried out to the same
//! bytes. Nothing in it depends on how it is carried out.

mod budget;
mod choose;
mod fitted;
mod repair;
mod share;
mod small;
mod stored;
mod unforeseen;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::quant::{Algorithm, Emit, PackedRows, ScaleStorage, Scheme};
use crate::role::Role;
use crate::sensitivity::Candidate;

pub use budget::{Choice, Limit, totals, within};
pub use choose::{choose, choose_unseen, tied_bytes};
pub use fitted::FittedTo;
pub use repair::{Step, raise_to};
pub use share::{are_twins, share};
pub use stored::{Stored, matrix as stored_matrix};
pub use unforeseen::{check_values, unforeseen, unforeseen_error};

/// Version of the plan's format; raised when a reader of the old one would be misled.
pub const SCHEMA: u32 = 1;

/// The first operator set that counts the axes of Concat and Slice from the end, which takes 4-bit rows apart.
pub const PACKED_OPSET: i64 = 11;

/// What is done with every stored tensor of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`SCHEMA`].
    pub schema: u32,
    /// efq's version that made the plan.
    pub efq: String,
    /// BLAKE3 of the model file it was made for.
    pub model_blake3: String,
    /// The preset it came from, for the record.
    pub preset: String,
    /// What the weights are fitted to whose algorithm asks for activations; absent where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fitted_to: Option<FittedTo>,
    /// One per initializer, and per Constant node that holds a weight.
    pub decisions: Vec<Decision>,
}

/// What is done with one stored tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// Name of the tensor.
    pub tensor: String,
    /// The body that it is stored in, as `then_branch of If 'cond'`; absent in the main graph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// What it is for.
    pub role: Role,
    /// Sizes as stored.
    pub shape: Vec<usize>,
    /// Type as stored.
    pub data_type: String,
    /// Payload bytes in the original.
    pub bytes_before: u64,
    /// Payload bytes of everything that replaces it.
    pub bytes_after: u64,
    /// One per use; empty for a tensor that nothing uses.
    pub uses: Vec<UsePlan>,
    /// How the tensor itself is stored where no use takes it in quantized form; absent: as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Stored>,
}

/// What is done for one use of a tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsePlan {
    /// The using node, as messages name it.
    pub node: String,
    /// Number of the node and index of its input; absent for uses that cannot be encoded. The nodes of the main graph
    /// have their index, those of bodies are counted on in the order in which the bodies begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<(usize, usize)>,
    /// `[K,N]` as the node sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matrix: Option<(usize, usize)>,
    /// How it is stored for this use.
    pub encoding: Encoding,
    /// Why.
    pub reason: String,
    /// Whether a rule decided it, so that no budget may change it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fixed: bool,
}

/// How a weight is stored for one use.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "as", deny_unknown_fields)]
pub enum Encoding {
    /// As it is.
    Float,
    /// Blocked codes behind DequantizeLinear, for a linear.
    Blocks {
        /// Format.
        scheme: Scheme,
        /// How scales and zero points are chosen.
        algorithm: Algorithm,
    },
    /// 4-bit rows with a scale for every block, gathered first, then taken apart and scaled, for a table.
    PackedRows {
        /// Format.
        format: PackedRows,
        /// How the scales are chosen.
        algorithm: Algorithm,
    },
    /// INT8 rows with a scale each, gathered first and scaled after, for a table.
    Rows {
        /// Type of the scales.
        scales: ScaleStorage,
        /// How the scales are chosen.
        algorithm: Algorithm,
    },
}

impl Encoding {
    /// A candidate, fitted by `algorithm`.
    pub fn of(candidate: Candidate, algorithm: Algorithm) -> Self {
        match candidate {
            Candidate::Blocks(scheme) => Encoding::Blocks { scheme, algorithm },
            Candidate::PackedRows(format) => Encoding::PackedRows { format, algorithm },
            Candidate::Rows(scales) => Encoding::Rows { scales, algorithm },
        }
    }

    /// The candidate and how it is fitted; `None` for float.
    pub fn candidate(self) -> Option<(Candidate, Algorithm)> {
        Some(match self {
            Encoding::Float => return None,
            Encoding::Blocks { scheme, algorithm } => (Candidate::Blocks(scheme), algorithm),
            Encoding::PackedRows { format, algorithm } => (Candidate::PackedRows(format), algorithm),
            Encoding::Rows { scales, algorithm } => (Candidate::Rows(scales), algorithm),
        })
    }

    /// Whether it is one for tables that are gathered from.
    pub fn is_for_tables(&self) -> bool {
        matches!(self, Encoding::Rows { .. } | Encoding::PackedRows { .. })
    }

    /// Payload bytes of a `[k,n]` weight in this form; `None` for float, which has the stored one's, and for more than can
    /// be.
    pub fn bytes(&self, k: usize, n: usize) -> Option<u64> {
        // A block is at most 256 values, and each has at most 8 bytes in all.
        k.checked_add(512)?.checked_mul(n.checked_add(512)?)?.checked_mul(8)?;
        match self {
            Encoding::Float => None,
            Encoding::Blocks { scheme, .. } => Some(scheme.stored_len(k, n) as u64),
            Encoding::PackedRows { format, .. } => {
                Some((format.codes_len(k, n) + format.scales_len(k, n)) as u64)
            }
            Encoding::Rows { scales, .. } => Some((k * n + k * scales.bytes()) as u64),
        }
    }

    /// In the words of reports: `int4 block 64`, `int4 block 64 in MatMulNBits`, `int4 rows block 64`, `int8 rows`, `float`.
    pub fn name(&self) -> String {
        match self {
            Encoding::Float => "float".to_owned(),
            Encoding::PackedRows { format, .. } => format!("int4 rows block {}", format.block),
            Encoding::Rows { .. } => "int8 rows".to_owned(),
            Encoding::Blocks { scheme, .. } => {
                let place = if scheme.emit == Emit::MatMulNBits { " in MatMulNBits" } else { "" };
                format!("{} block {}{place}", scheme.code_kind().name(), scheme.block)
            }
        }
    }
}

impl Decision {
    /// Values of the tensor.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|size| *size as u64).product()
    }

    /// Whether the original tensor stays in the file.
    pub fn keeps_original(&self) -> bool {
        self.stored.is_none() && self.uses.iter().any(|usage| usage.encoding == Encoding::Float)
    }

    /// Whether the tensor or any use of it is encoded.
    pub fn is_encoded(&self) -> bool {
        self.stored.is_some() || self.uses.iter().any(|usage| usage.encoding != Encoding::Float)
    }

    /// How it is stored for each use, in the words of reports.
    pub fn encodings(&self) -> impl Iterator<Item = String> {
        self.uses.iter().map(|usage| match (usage.encoding, self.stored) {
            (Encoding::Float, Some(stored)) => stored.name().to_owned(),
            (encoding, _) => encoding.name(),
        })
    }

    /// Recomputes [`Decision::bytes_after`] from the uses.
    pub fn recount(&mut self) {
        let encoded: u64 = self
            .uses
            .iter()
            .filter_map(|usage| usage.matrix.and_then(|(k, n)| usage.encoding.bytes(k, n)))
            .sum();
        self.bytes_after = encoded
            + match self.stored {
                Some(stored) => stored.bytes(&self.shape, self.role),
                None if self.keeps_original() => self.bytes_before,
                None => 0,
            };
    }
}

impl Plan {
    /// Whether any tensor is encoded.
    pub fn changes_anything(&self) -> bool {
        self.decisions.iter().any(Decision::is_encoded)
    }

    /// Whether any tensor has a use that could be encoded.
    pub fn has_sites(&self) -> bool {
        self.decisions.iter().flat_map(|decision| &decision.uses).any(|usage| usage.slot.is_some())
    }

    /// Whether a weight is to be fitted to activations.
    pub fn is_fitted(&self) -> bool {
        let mut uses = self.decisions.iter().flat_map(|decision| &decision.uses);
        uses.any(
            |usage| matches!(usage.encoding, Encoding::Blocks { algorithm, .. } if algorithm.wants_statistics()),
        )
    }

    /// Uses that become blocked codes, for a linear.
    pub fn blocked_uses(&self) -> usize {
        self.blocks().count()
    }

    /// Whether a blocked use is written as `emit`.
    pub fn emits(&self, emit: Emit) -> bool {
        self.blocks().any(|scheme| scheme.emit == emit)
    }

    fn blocks(&self) -> impl Iterator<Item = Scheme> {
        let uses = self.decisions.iter().flat_map(|decision| &decision.uses);
        uses.filter_map(|usage| match usage.encoding {
            Encoding::Blocks { scheme, .. } => Some(scheme),
            _ => None,
        })
    }

    /// Uses that become 4-bit rows, which are taken apart by operators of opset 11.
    pub fn packed_uses(&self) -> usize {
        let uses = self.decisions.iter().flat_map(|decision| &decision.uses);
        uses.filter(|usage| matches!(usage.encoding, Encoding::PackedRows { .. })).count()
    }

    /// The plan as JSON, the same bytes for the same plan.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads a plan back and holds it against `model`.
    ///
    /// # Errors
    /// [`crate::error::Kind::Caller`] when the text is no plan, of another schema, or for another model.
    pub fn from_json(text: &str, model: &Model, digest: &str) -> Result<Self> {
        let plan: Plan = serde_json::from_str(text)
            .map_err(|error| Error::caller("plan", format!("not a plan of efq: {error}")))?;
        if plan.schema != SCHEMA {
            return Err(Error::caller("plan", format!("schema {}, this efq reads {SCHEMA}", plan.schema)));
        }
        if plan.model_blake3 != digest {
            return Err(Error::caller(
                "plan",
                format!("made for another model than {}", model.path().display()),
            )
            .help("make it again with `efq rewrite --dry-run --plan FILE`"));
        }
        Ok(plan)
    }
}
