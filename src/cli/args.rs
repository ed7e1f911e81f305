//! What can be typed.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::data::Source;
use crate::engine::Release;
use crate::error::Error;
use crate::error::Result;
use crate::preset::{self, AlgorithmName, BlockSize, Emit, Preset, Scales, Store};
use crate::role::Role;
use crate::settings::Budget;
use crate::settings::{Overrides, Settings};

/// The least limit of memory that makes sense.
const LEAST_MEMORY: u64 = 100_000_000;

/// INT4 weights for ONNX models, with a statement of what they cost.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  efq rewrite bert.onnx -p automotive_adas -o bert.int4.onnx --data test.npz
  efq inspect bert.onnx
  efq presets show automotive_adas > mine.yaml

Exit codes: 0 done, 1 gate failed, 2 usage or preset error, 3 bad model or data,
4 undecided or not verified under --strict, 130 interrupted"
)]
pub(super) struct Args {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub general: General,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "General")]
pub(super) struct General {
    /// Print nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// List every tensor
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Form of the result on standard output
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// Threads to use [default: all]
    #[arg(long, global = true, value_name = "N", allow_negative_numbers = true)]
    pub threads: Option<NonZeroUsize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    Auto,
    Always,
    Never,
}

impl Color {
    pub(super) fn apply(self) {
        match self {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Quantize a model's weights and say what it costs
    Rewrite(Box<Rewrite>),
    /// Hold a rewritten model, from any tool, against its original
    Validate(Validate),
    /// Show how much each weight suffers under each scheme, and which preset fits
    Analyze(Analyze),
    /// Show which tensors cause the loss, by what, and what it takes to mend them
    Explain(Explain),
    /// Show size against loss over plans for several budgets, and where the curve bends
    Pareto(Box<Pareto>),
    /// Show every tensor: role, shape, bytes, operator, and what efq would do
    Inspect(Inspect),
    /// List the built-in presets, or show one
    Presets(Presets),
    /// Print a completion script for a shell
    Completions(Completions),
}

impl Command {
    /// The limits of a command that may run a model, and what it writes.
    #[cfg(unix)]
    pub(super) fn runs_models(&self) -> Option<(&Limits, Vec<&Path>)> {
        match self {
            Command::Rewrite(args) => args.runs_models().then(|| (&args.limits, args.writes())),
            Command::Validate(args) => {
                Some((&args.limits, args.gate.report.iter().map(PathBuf::as_path).collect()))
            }
            Command::Analyze(args) => args.samples.data.as_ref().map(|_| (&args.limits, Vec::new())),
            Command::Pareto(args) => Some((&args.limits, args.report.as_deref().into_iter().collect())),
            Command::Explain(args) => Some((&args.limits, Vec::new())),
            Command::Inspect(_) | Command::Presets(_) | Command::Completions(_) => None,
        }
    }
}

/// What a run of a model may take.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Limits")]
pub(super) struct Limits {
    /// Memory for running models: what would take more is not run, what does is ended, and the report says so
    /// [default: 4GB by estimate, all of the machine's in fact]
    #[arg(long, value_name = "SIZE", value_parser = memory, allow_negative_numbers = true)]
    pub max_memory: Option<u64>,
    /// Seconds without progress after which a run is ended
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
    pub max_seconds: u32,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  efq rewrite bert.onnx -p automotive_adas -o bert.int4.onnx --data test.npz
  efq rewrite vit/ -p high_compression -o vit.onnx --dry-run
  efq rewrite gpt.onnx -p mine.yaml -o gpt.int4.onnx --keep '*/lm_head/*' --tensor 'h.0.*=int8'
  efq rewrite bert.onnx -p medical_grade -o out.onnx --data test.npz --strict --report out.md")]
pub(super) struct Rewrite {
    /// Model file, or a folder that holds model.onnx or onnx/model.onnx
    pub model: PathBuf,
    #[command(flatten)]
    pub preset: PresetArgs,
    /// Where the result goes
    #[arg(short, long, value_name = "FILE", required_unless_present = "dry_run")]
    pub output: Option<PathBuf>,
    /// Decide and show, write no model
    #[arg(long, conflicts_with_all = ["strict", "keep_output"])]
    pub dry_run: bool,
    /// Write the plan (a decision for every tensor) to this file
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// Repeat a plan: with the same samples to fit to, to the same bytes on the same kind of processor
    #[arg(long, value_name = "FILE", conflicts_with_all = ["keep", "tensor", "algorithm", "block_size", "symmetric", "asymmetric", "scales", "emit", "embeddings", "head", "unfused", "target_size", "target_bpw", "target_loss"])]
    pub from_plan: Option<PathBuf>,
    /// Samples that weights are fitted to, in the forms of --data; without it synthetic ones are made
    #[arg(long, value_name = "FILE", help_heading = "Samples")]
    pub calibration: Option<PathBuf>,
    /// Statistics of the calibration samples: where FILE exists they are used in the place of samples, else they are
    /// written there
    #[arg(long, value_name = "FILE", help_heading = "Samples")]
    pub statistics: Option<PathBuf>,
    #[command(flatten)]
    pub samples: SampleArgs,
    /// Run original and result on the samples
    #[arg(long, value_enum, default_value_t = ValidateWhen::Auto, value_name = "WHEN")]
    pub validate: ValidateWhen,
    #[command(flatten)]
    pub gate: GateArgs,
    #[command(flatten)]
    pub weights: WeightArgs,
    /// Do not raise tensors when the target is missed
    #[arg(long)]
    pub no_repair: bool,
    /// Write the result also when the gate fails
    #[arg(long)]
    pub keep_output: bool,
    /// Replace an existing output
    #[arg(long)]
    pub force: bool,
    /// Make constants of weights that are also graph inputs, so that they can be quantized
    #[arg(long)]
    pub freeze_inputs: bool,
    /// Go on with a model that is quantized already: what is still float is quantized
    #[arg(long)]
    pub allow_requantize: bool,
    /// The ONNX Runtime that is to run the result: the report warns of what it would not load or fuse
    #[arg(long, value_name = "ort-1.N|ort-web", value_parser = target)]
    pub target: Option<Release>,
    /// Put weights into FILE_data beside the output
    #[arg(long)]
    pub external_data: bool,
    #[command(flatten)]
    pub limits: Limits,
}

#[cfg(unix)]
impl Rewrite {
    /// What the command writes.
    fn writes(&self) -> Vec<&Path> {
        let files = [&self.output, &self.plan, &self.statistics].into_iter().flatten();
        files.chain(&self.gate.report).map(PathBuf::as_path).collect()
    }

    /// Whether a model may be run; presets do not name an algorithm that does without, so the option tells.
    fn runs_models(&self) -> bool {
        let fits = !matches!(
            self.weights.algorithm,
            Some(AlgorithmArg::Rtn | AlgorithmArg::Percentile | AlgorithmArg::Search)
        );
        self.validate != ValidateWhen::Never || fits || self.weights.budget().is_some()
    }
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  efq validate bert.onnx bert.int4.onnx -p automotive_adas --data test.npz
  efq validate bert.onnx other-tool.onnx -p medical_grade --data test.npz --strict --report gate.json")]
pub(super) struct Validate {
    /// The model as it was
    pub original: PathBuf,
    /// The model in question
    pub rewritten: PathBuf,
    #[command(flatten)]
    pub preset: PresetArgs,
    #[command(flatten)]
    pub samples: SampleArgs,
    #[command(flatten)]
    pub gate: GateArgs,
    /// Replace existing report files
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub limits: Limits,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  efq explain bert.onnx bert.int4.onnx --data test.npz
  efq explain bert.onnx bert.int4.onnx --data test.npz --format json")]
pub(super) struct Explain {
    /// The model as it was
    pub original: PathBuf,
    /// The model that was rewritten from it
    pub rewritten: PathBuf,
    #[command(flatten)]
    pub samples: SampleArgs,
    #[command(flatten)]
    pub limits: Limits,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  efq pareto bert.onnx -p high_compression --data test.npz --calibration calib.npz
  efq pareto vit.onnx -p high_compression --data test.npz --report frontier.svg")]
pub(super) struct Pareto {
    /// Model file or folder
    pub model: PathBuf,
    #[command(flatten)]
    pub preset: PresetArgs,
    /// Plans from the smallest to the most precise
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u8).range(2..=50), allow_negative_numbers = true)]
    pub points: u8,
    /// Write the frontier to FILE.svg or FILE.json
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    pub force: bool,
    /// Samples that weights are fitted to, in the forms of --data; without it synthetic ones are made
    #[arg(long, value_name = "FILE", help_heading = "Samples")]
    pub calibration: Option<PathBuf>,
    #[command(flatten)]
    pub samples: SampleArgs,
    #[command(flatten)]
    pub weights: WeightArgs,
    #[command(flatten)]
    pub limits: Limits,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  efq analyze bert.onnx
  efq analyze bert.onnx --data calib.npz")]
pub(super) struct Analyze {
    /// Model file or folder
    pub model: PathBuf,
    #[command(flatten)]
    pub samples: SampleArgs,
    /// How scales are chosen
    #[arg(long, value_enum, default_value_t = WeightAlgorithmArg::Search)]
    pub algorithm: WeightAlgorithmArg,
    #[command(flatten)]
    pub limits: Limits,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  efq inspect bert.onnx
  efq inspect bert.onnx -p high_compression -v
  efq inspect bert.onnx --format json")]
pub(super) struct Inspect {
    /// Model file or folder
    pub model: PathBuf,
    /// Preset for the column of what efq would do
    #[arg(short, long, value_name = "NAME|FILE", default_value = "balanced_production")]
    pub preset: String,
}

#[derive(Debug, ClapArgs)]
pub(super) struct Presets {
    #[command(subcommand)]
    pub show: Option<PresetsCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum PresetsCommand {
    /// Print a preset as YAML, to start one of your own from
    Show {
        /// Built-in name
        name: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(super) struct Completions {
    /// Shell
    pub shell: clap_complete::Shell,
}

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
pub(super) enum ValidateWhen {
    /// Where it is possible
    Auto,
    /// An error where it is not
    Always,
    /// Not at all
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum AlgorithmArg {
    /// Round to nearest
    Rtn,
    /// Round to nearest after clipping at a percentile
    Percentile,
    /// Least squared error of the weights over scales and zero points
    Search,
    /// Least squared error of the outputs over the statistics of the activations
    Gptq,
    /// gptq where that is better on samples it has not seen, else search
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
    fn budget(&self) -> Option<Budget> {
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
        preset::load(&self.preset).map_err(crate::error::Error::of_caller)
    }
}

/// A release of ONNX Runtime: `ort-1.24`, or `ort-web`.
fn target(text: &str) -> std::result::Result<Release, String> {
    let known: Vec<String> = Release::targets().map(Release::target).chain(["ort-web".to_owned()]).collect();
    Release::named(text).ok_or_else(|| format!("one of {} is expected", known.join(", ")))
}

/// Bytes in which efq itself has room.
fn memory(text: &str) -> std::result::Result<u64, String> {
    let bytes = bytes(text)?;
    if bytes >= LEAST_MEMORY {
        Ok(bytes)
    } else {
        Err("efq itself takes about 50MB: at least 100MB".to_owned())
    }
}

/// A number of bytes: `15MB`, `14.7 MB`, `16MiB`, `1500000`.
fn bytes(text: &str) -> std::result::Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("'{other}' is no unit of bytes: kB, MB, GB, KiB, MiB or GiB")),
    };
    let number: f64 = number.parse().map_err(|_| "a size as 15MB is expected".to_owned())?;
    let bytes = number * factor;
    if (1.0..1e18).contains(&bytes) { Ok(bytes as u64) } else { Err("a size above 0 is expected".to_owned()) }
}
