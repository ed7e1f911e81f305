//! One value that says what a run did, and its renderings. Nothing is computed here.
//!
//! The JSON form is the value itself, see `docs/report.md`; names of a model stand in it as they are. The
//! terminal and Markdown forms escape them.

mod escape;
mod explained;
mod fitting;
mod frontier;
mod grid;
mod markdown;
mod tables;
mod text;

use serde::{Deserialize, Serialize};

use crate::role::Role;
use crate::validate::Verdict;

pub use escape::for_terminal;
pub use explained::{Explained, Explanation, Mend};
pub use fitting::{FittedLayer, Fitting, StatisticsFile};
pub use frontier::{Frontier, FrontierPoint};
pub use grid::Grid;
pub use markdown::markdown;
pub use tables::{
    Analysis, AnalyzedCandidate, AnalyzedTensor, InspectedTensor, Inspection, Recommendation, Trial,
};
pub(crate) use text::size;
pub use text::text;

/// Version of the JSON form; raised when a reader of the old one would be misled.
pub const SCHEMA: u32 = 1;

/// What stands for the least ONNX Runtime where no known one loads the model.
pub const NO_RUNTIME: &str = "none known";

/// What a run did with a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of efq.
    pub efq: String,
    /// `rewrite`, `dry-run` or `validate`.
    pub action: String,
    /// The model as it was.
    pub original: File,
    /// The model that was written or judged; absent when nothing was.
    pub result: Option<File>,
    /// The preset and what it accepts.
    pub preset: PresetNote,
    /// Every tensor with its decision; empty for `validate`.
    pub tensors: Vec<Tensor>,
    /// Payload bytes stored more than once because one weight has several uses.
    pub tied_bytes: u64,
    /// What ONNX Runtime does with the blocked weights.
    pub fusion: Fusion,
    /// How weights were fitted to activations; absent where that was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fitting: Option<Fitting>,
    /// What was raised to meet the target, in order.
    pub repair: Vec<Repair>,
    /// What it costs, and on what that statement stands.
    pub validation: Validation,
    /// What the reader should know beside that.
    pub warnings: Vec<String>,
}

/// A model file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Path as given.
    pub path: String,
    /// Bytes with side files.
    pub bytes: u64,
    /// BLAKE3 of the `.onnx` file; empty in a dry run.
    pub blake3: String,
    /// Version of the default operator set.
    pub opset: i64,
}

/// The preset and what it accepts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PresetNote {
    /// Name.
    pub name: String,
    /// Accepted loss in percent.
    pub accuracy_target: f64,
    /// Accepted mean likeness or concordance, for outputs that are neither labelled nor logits.
    pub min_cosine: f64,
    /// `interval` or `estimate`: what must hold the target.
    pub decide_by: String,
}

/// What was decided for one tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tensor {
    /// Name.
    pub name: String,
    /// The body that it is stored in, as `then_branch of If 'cond'`; absent in the main graph.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// What it is for.
    pub role: Role,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Element type as stored before.
    pub data_type: String,
    /// Payload bytes before.
    pub bytes_before: u64,
    /// Payload bytes after.
    pub bytes_after: u64,
    /// `uint4 block 64`, `int8 rows`, `float`; several uses joined by ` + `.
    pub encoding: String,
    /// Why.
    pub reason: String,
    /// Signal to quantization noise in dB; absent where nothing was quantized.
    pub sqnr_db: Option<f64>,
    /// Relative L2 error of the weights; absent where nothing was quantized.
    pub relative_error: Option<f64>,
}

/// What ONNX Runtime does with the blocked weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Fusion {
    /// Linear layers that become one quantized product.
    pub fused: usize,
    /// Linear layers with blocked weights.
    pub total: usize,
    /// The least ONNX Runtime that loads the model and fuses them all, or [`NO_RUNTIME`].
    pub least_onnxruntime: String,
    /// Node and reason of each that is not fused.
    pub unfused: Vec<(String, String)>,
}

impl Fusion {
    /// The ONNX Runtime that fuses them, in words.
    fn runtime(&self) -> String {
        match self.least_onnxruntime.as_str() {
            NO_RUNTIME => "no known ONNX Runtime".to_owned(),
            least => format!("ONNX Runtime ≥ {least}"),
        }
    }
}

/// One tensor raised to meet the target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Repair {
    /// Tensor.
    pub tensor: String,
    /// Encoding before.
    pub from: String,
    /// Encoding after.
    pub to: String,
    /// Payload bytes added.
    pub bytes: i64,
    /// The loss measured after the round in which this was done.
    pub loss_after: f64,
    /// Its unit.
    pub unit: String,
}

/// What it costs, and on what that statement stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum Validation {
    /// Both models were run on the samples.
    Measured {
        /// The output that was compared.
        output: String,
        /// As deployed: with the int8 activations of ONNX Runtime's fused kernels.
        deployed: Box<Verdict>,
        /// With the weights' error alone.
        weights_only: Box<Verdict>,
        /// Where the samples came from.
        data: Data,
        /// What ran the models.
        engine: String,
    },
    /// Nothing was run, for this reason.
    Skipped {
        /// Why.
        reason: String,
    },
    /// The runtime cannot run the model.
    Unavailable {
        /// What stood against it.
        reason: String,
    },
}

/// Where samples came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "source")]
pub enum Data {
    /// The user's.
    File {
        /// Path as given.
        path: String,
        /// BLAKE3 of the contents.
        blake3: String,
        /// Whether there were labels.
        labelled: bool,
    },
    /// Made up; they say nothing about real inputs.
    Synthetic {
        /// Of the generator.
        seed: u64,
        /// `sequences`, `texts`, `images` or `values`; absent where none were made after all.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        made: String,
    },
}

impl Report {
    /// The JSON form.
    pub fn json(&self) -> String {
        to_json(self)
    }
}

/// A value as indented JSON with a final line break.
pub fn to_json(value: &impl Serialize) -> String {
    let mut text = escape::for_json(&serde_json::to_string_pretty(value).unwrap_or_default());
    text.push('\n');
    text
}
