//! What can be typed.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::options::{AlgorithmArg, GateArgs, PresetArgs, SampleArgs, WeightAlgorithmArg, WeightArgs};
use super::values::{memory, target, threads};
use crate::engine::Release;

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
4 undecided, not verified or not fitted to --calibration under --strict, 130 interrupted"
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
    #[arg(long, global = true, value_name = "N", allow_negative_numbers = true, value_parser = threads)]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ValidateWhen {
    /// Where it is possible
    Auto,
    /// An error where it is not
    Always,
    /// Not at all
    Never,
}
