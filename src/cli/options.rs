//! Options that several commands share, and what they mean.

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, ValueEnum};

use super::values::bytes;
use crate::data::Source;
use crate::error::{Error, Result};
use crate::preset::{self, AlgorithmName, BlockSize, Emit, Preset, Scales, Store};
use crate::role::Role;
use crate::settings::{Budget, Overrides, Settings};

#[derive(Debug, ClapArgs)]
pub(super) struct PresetArgs {
    /// Built-in preset, or a YAML file
    #[arg(short, long, value_name = "NAME|FILE")]
    pub preset: String,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Samples")]
pub(super) struct SampleArgs {
    /// Samples: .npz or .safetensors with one array per input (first axis: samples) and optionally
    /// `labels`; .txt or .jsonl; a folder of images, or with test_data_set_*; without it synthetic samples
    /// are made
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// tokenizer.json for text [default: beside the model or in the folder above]
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Field of a .jsonl that holds the text [default: text]
    #[arg(long, value_name = "NAME")]
    pub field: Option<String>,
    /// Seed of synthetic samples
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub seed: u64,
    /// Output to compare [default: the one called logits, else the first]
    #[arg(long, value_name = "NAME")]
    pub output_name: Option<String>,
}

#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "Gate")]
pub(super) struct GateArgs {
    /// Exit with 4 when the samples cannot decide or nothing was verified
    #[arg(long)]
    pub strict: bool,
    /// Accepted loss in percent, instead of the preset's
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    pub accuracy_target: Option<f64>,
    /// Accepted mean likeness of outputs without labels and classes, instead of the preset's
    #[arg(long, value_name = "LIKENESS", allow_negative_numbers = true)]
    pub min_cosine: Option<f64>,
    /// Write the report to FILE.json or FILE.md; may be given for each
    #[arg(long, value_name = "FILE")]
    pub report: Vec<PathBuf>,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Weights")]
pub(super) struct WeightArgs {
    /// Bytes of the whole file: spend them where they help most, in INT4 blocks, INT8 and float
    #[arg(long, value_name = "SIZE", value_parser = bytes, allow_negative_numbers = true, help_heading = "Budget", group = "budget")]
    pub target_size: Option<u64>,
    /// The same in bits per weight, scales included
    #[arg(
        long,
        value_name = "BITS",
        help_heading = "Budget",
        group = "budget",
        allow_negative_numbers = true
    )]
    pub target_bpw: Option<f64>,
    /// The smallest file within this loss in percent, which is also the gate's target; needs --data
    #[arg(
        long,
        value_name = "PERCENT",
        help_heading = "Budget",
        group = "budget",
        allow_negative_numbers = true
    )]
    pub target_loss: Option<f64>,
    /// How scales and zero points are chosen
    #[arg(long, value_enum)]
    pub algorithm: Option<AlgorithmArg>,
    /// Rows that share a scale
    #[arg(long, value_enum)]
    pub block_size: Option<BlockArg>,
    /// Blocks without zero points
    #[arg(long, conflicts_with = "asymmetric")]
    pub symmetric: bool,
    /// Blocks with zero points
    #[arg(long)]
    pub asymmetric: bool,
    /// Type of the scales
    #[arg(long, value_enum)]
    pub scales: Option<ScalesArg>,
    /// The node that takes an INT4 or INT8 weight of a linear
    #[arg(long, value_enum)]
    pub emit: Option<EmitArg>,
    /// How embedding tables are stored, whatever the preset keeps
    #[arg(long, value_enum)]
    pub embeddings: Option<StoreArg>,
    /// How the head is stored, whatever the preset keeps
    #[arg(long, value_enum)]
    pub head: Option<StoreArg>,
    /// How weights are stored that no fused product takes, such as convolutions and biases: they run as float
    #[arg(long, value_enum, value_name = "HOW")]
    pub unfused: Option<UnfusedArg>,
    /// Keep these in full precision: a role, or a glob over tensor and node names; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub keep: Vec<String>,
    /// Store these so: PATTERN=int4|int8|float; may be repeated, the first that matches wins
    #[arg(long, value_name = "PATTERN=HOW")]
    pub tensor: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum UnfusedArg {
    /// As they are
    Keep,
    /// INT8, vectors float16; ONNX Runtime makes floats of them at load
    Int8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum AlgorithmArg {
    /// Round to nearest
    Rtn,
    /// Round to nearest after clipping at a percentile
    Percentile,
    /// Least squared error of the weights over scales and zero points
    Search,
    /// As search, errors counted with the mean square of the activations they meet
    Weighted,
    /// Least squared error of the outputs over the statistics of the activations
    Gptq,
    /// gptq or weighted, whichever is better on samples it has not seen, or else search
    Auto,
}

/// The ways that look at weights alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum WeightAlgorithmArg {
    /// Round to nearest
    Rtn,
    /// Round to nearest after clipping at a percentile
    Percentile,
    /// Least squared error of the weights over scales and zero points
    Search,
}

impl From<AlgorithmArg> for AlgorithmName {
    fn from(arg: AlgorithmArg) -> Self {
        match arg {
            AlgorithmArg::Rtn => AlgorithmName::Rtn,
            AlgorithmArg::Percentile => AlgorithmName::Percentile,
            AlgorithmArg::Search => AlgorithmName::Search,
            AlgorithmArg::Weighted => AlgorithmName::Weighted,
            AlgorithmArg::Gptq => AlgorithmName::Gptq,
            AlgorithmArg::Auto => AlgorithmName::Auto,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum BlockArg {
    #[value(name = "16")]
    B16,
    #[value(name = "32")]
    B32,
    #[value(name = "64")]
    B64,
    #[value(name = "128")]
    B128,
    #[value(name = "256")]
    B256,
    /// Attention 32, feed-forward 128, else 64
    Adaptive,
}

impl From<BlockArg> for BlockSize {
    fn from(arg: BlockArg) -> Self {
        match arg {
            BlockArg::B16 => BlockSize::B16,
            BlockArg::B32 => BlockSize::B32,
            BlockArg::B64 => BlockSize::B64,
            BlockArg::B128 => BlockSize::B128,
            BlockArg::B256 => BlockSize::B256,
            BlockArg::Adaptive => BlockSize::Adaptive,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ScalesArg {
    /// Half the bytes, where every scale of a tensor fits
    Fp16,
    Fp32,
    /// A quarter: 8 bits, in units of one size for each tensor; tables keep fp16
    Int8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum EmitArg {
    /// A standard DequantizeLinear, which ONNX Runtime fuses with the product; needs opset 21
    Qdq,
    /// com.microsoft.MatMulNBits: for ONNX Runtime only, at any opset, loads faster
    #[value(name = "matmulnbits")]
    MatMulNBits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum StoreArg {
    Keep,
    Int8,
    Int4,
    /// What a budget makes of it, also where the preset keeps it
    Auto,
}

impl StoreArg {
    /// `None` leaves it to the budget.
    fn store(self) -> Option<Store> {
        match self {
            StoreArg::Keep => Some(Store::Float),
            StoreArg::Int8 => Some(Store::Int8),
            StoreArg::Int4 => Some(Store::Int4),
            StoreArg::Auto => None,
        }
    }
}

impl WeightArgs {
    /// The budget that is asked for.
    pub(super) fn budget(&self) -> Option<Budget> {
        match (self.target_size, self.target_bpw, self.target_loss) {
            (Some(bytes), _, _) => Some(Budget::Size(bytes)),
            (_, Some(bits), _) => Some(Budget::BitsPerWeight(bits)),
            (_, _, loss) => loss.map(Budget::Loss),
        }
    }

    /// The settings of `preset` with these and the gate's options.
    ///
    /// # Errors
    /// Values that are out of range; a choice that is left to a budget, without one.
    pub(super) fn settings(&self, preset: &Preset, gate: &GateArgs) -> Result<Settings> {
        if self.budget().is_none() && !self.lifted().is_empty() {
            return Err(Error::caller("auto", "leaves the choice to a budget, and there is none")
                .help("--target-size, --target-bpw or --target-loss"));
        }
        self.combined(preset, gate)
    }

    /// The settings of `preset` with these, for several budgets.
    ///
    /// # Errors
    /// Values that are out of range; a budget.
    pub(super) fn settings_for_any_budget(&self, preset: &Preset) -> Result<Settings> {
        let option = match self.budget() {
            None => return self.combined(preset, &GateArgs::default()),
            Some(Budget::Size(_)) => "--target-size",
            Some(Budget::BitsPerWeight(_)) => "--target-bpw",
            Some(Budget::Loss(_)) => "--target-loss",
        };
        Err(Error::caller(option, "is one budget, and several are tried")
            .help("leave it out, or efq rewrite"))
    }

    /// Roles that a budget may touch though the preset keeps them.
    fn lifted(&self) -> Vec<Role> {
        let mut lifted = Vec::new();
        if self.embeddings == Some(StoreArg::Auto) {
            lifted.extend([Role::TokenEmbeddings, Role::PositionEmbeddings, Role::TokenTypeEmbeddings]);
        }
        if self.head == Some(StoreArg::Auto) {
            lifted.push(Role::LmHead);
        }
        lifted
    }

    fn combined(&self, preset: &Preset, gate: &GateArgs) -> Result<Settings> {
        let symmetric = match (self.symmetric, self.asymmetric) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        };
        let overrides = Overrides {
            algorithm: self.algorithm.map(AlgorithmName::from),
            block_size: self.block_size.map(BlockSize::from),
            symmetric,
            scales: self.scales.map(|scales| match scales {
                ScalesArg::Fp16 => Scales::Fp16,
                ScalesArg::Fp32 => Scales::Fp32,
                ScalesArg::Int8 => Scales::Int8,
            }),
            emit: self.emit.map(|emit| match emit {
                EmitArg::Qdq => Emit::Qdq,
                EmitArg::MatMulNBits => Emit::MatMulNBits,
            }),
            embeddings: self.embeddings.and_then(StoreArg::store),
            head: self.head.and_then(StoreArg::store),
            unfused: self.unfused.map(|how| match how {
                UnfusedArg::Keep => Store::Float,
                UnfusedArg::Int8 => Store::Int8,
            }),
            budget: self.budget(),
            lifted: self.lifted(),
            keep: self.keep.clone(),
            tensors: self.tensor.clone(),
            accuracy_target: gate.accuracy_target,
            min_cosine: gate.min_cosine,
        };
        Settings::new(preset, &overrides)
    }
}

impl SampleArgs {
    /// Where the samples that judge come from, and those at `calibration`. The tokenizer is for text and the field for
    /// objects; of what is neither it is told that they are not for it.
    ///
    /// # Errors
    /// A tokenizer or a field, and no samples at all.
    pub(super) fn sources(&self, calibration: Option<&Path>) -> Result<(Option<Source>, Option<Source>)> {
        let data = self.data.as_deref();
        let option =
            self.tokenizer.as_ref().map(|_| "--tokenizer").or(self.field.as_ref().map(|_| "--field"));
        if let (Some(option), None, None) = (option, data, calibration) {
            return Err(Error::caller(option, "is for samples, and there are none").help("--data FILE"));
        }
        let ends = |path: &Path, ending: &str| path.extension().is_some_and(|ext| ext == ending);
        let objects = |path: &Path| ends(path, "jsonl");
        let text = |path: &Path| ends(path, "txt") || objects(path);
        let source = |path: &Path, other: Option<&Path>| {
            let tokenizer = self.tokenizer.clone().filter(|_| text(path) || !other.is_some_and(text));
            let field = self.field.clone().filter(|_| objects(path) || !other.is_some_and(objects));
            Source { tokenizer, field, ..Source::new(path) }
        };
        Ok((data.map(|path| source(path, calibration)), calibration.map(|path| source(path, data))))
    }

    /// The files that are read for them.
    pub(super) fn reads(&self) -> impl Iterator<Item = &Path> {
        self.data.as_deref().into_iter().chain(self.tokenizer.as_deref())
    }
}

impl PresetArgs {
    /// The file that it may be.
    pub(super) fn reads(&self) -> Option<&Path> {
        Some(Path::new(&self.preset)).filter(|path| path.is_file())
    }

    pub(super) fn load(&self) -> Result<Preset> {
        preset::load(&self.preset).map_err(Error::of_caller)
    }
}
