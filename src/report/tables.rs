//! What `efq inspect` and `efq analyze` show.

use std::fmt::Write as _;

use serde::Serialize;

use super::text::{figure, heading, interval, loss_in, shape, size};
use super::{File, Grid, for_terminal};
use crate::role::Role;
use crate::validate::{self, Interval, Outcome, in_unit};

/// What is in a model, and what would be done with it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// The model.
    pub model: File,
    /// IR version.
    pub ir_version: i64,
    /// Who wrote it.
    pub producer: String,
    /// How the model is quantized already and what shows it; absent where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantized: Option<String>,
    /// Nodes of the main graph.
    pub nodes: usize,
    /// Names of the graph inputs.
    pub inputs: Vec<String>,
    /// Names of the graph outputs.
    pub outputs: Vec<String>,
    /// The preset that the last columns are for.
    pub preset: String,
    /// Every tensor, the largest first.
    pub tensors: Vec<InspectedTensor>,
}

/// One tensor of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InspectedTensor {
    /// What it is for.
    pub role: Role,
    /// Name.
    pub name: String,
    /// The body that it is stored in, as `then_branch of If 'cond'`; absent in the main graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Element type.
    pub data_type: String,
    /// Payload bytes.
    pub bytes: u64,
    /// Share of all payload bytes, 0 to 1.
    pub share: f64,
    /// The nodes that use it.
    pub uses: Vec<String>,
    /// Their operators, each once, joined by ` + `.
    pub operators: String,
    /// How it would be stored.
    pub encoding: String,
    /// Why.
    pub reason: String,
    /// Payload bytes that it would take.
    pub bytes_after: u64,
}

/// How much each weight suffers under each scheme.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analysis {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// The model.
    pub model: File,
    /// How scales were chosen: `rtn`, `percentile` or `search`.
    pub algorithm: String,
    /// Whether errors at the output were measured.
    pub measured_at_output: bool,
    /// Every weight, the one that hurts most first.
    pub tensors: Vec<AnalyzedTensor>,
    /// The preset that fits.
    pub recommendation: Recommendation,
    /// What the reader should know beside that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One weight under several schemes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnalyzedTensor {
    /// Name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Sizes as its use sees them.
    pub shape: Vec<usize>,
    /// One per scheme.
    pub candidates: Vec<AnalyzedCandidate>,
}

/// One weight under one scheme.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnalyzedCandidate {
    /// The scheme.
    pub encoding: String,
    /// Payload bytes.
    pub bytes: u64,
    /// Signal to quantization noise of the weight in dB.
    pub sqnr_db: f64,
    /// Relative L2 error of the weight.
    pub relative_error: f64,
    /// Relative L2 error of the output when only this weight is quantized.
    pub output_error: Option<f64>,
}

/// The preset that fits, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recommendation {
    /// Its name.
    pub preset: String,
    /// Why.
    pub reason: String,
    /// What each preset would cost; empty without samples.
    pub trials: Vec<Trial>,
}

/// One preset tried as a whole.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trial {
    /// Its name.
    pub preset: String,
    /// Bytes of the result.
    pub bytes: u64,
    /// Measured loss.
    pub loss: f64,
    /// 95 % interval of the loss; absent for a single sample.
    pub interval: Option<Interval>,
    /// Accepted loss.
    pub target: f64,
    /// Unit of all three.
    pub unit: String,
    /// The verdict of the gate.
    pub outcome: Outcome,
}

impl Inspection {
    /// As text; small tensors that stay are summed up unless `verbose` is set.
    pub fn text(&self, verbose: bool) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{}  {}  opset {}  IR {}  {} {}  {}",
            for_terminal(&self.model.path),
            size(self.model.bytes),
            self.model.opset,
            self.ir_version,
            self.nodes,
            if self.nodes == 1 { "node" } else { "nodes" },
            for_terminal(&self.producer)
        );
        if let Some(how) = &self.quantized {
            let _ = writeln!(out, "quantized already: {}", for_terminal(how));
        }
        let total: u64 = self.tensors.iter().map(|tensor| tensor.bytes).sum();
        let mut rest = (0usize, 0u64);
        let mut groups: Vec<((&str, &str), Vec<&InspectedTensor>)> = Vec::new();
        for tensor in &self.tensors {
            if !verbose && tensor.bytes * 1000 < total && tensor.encoding == "float" {
                rest = (rest.0 + 1, rest.1 + tensor.bytes);
                continue;
            }
            let key = (tensor.encoding.as_str(), tensor.reason.as_str());
            match groups.iter_mut().find(|(known, _)| *known == key) {
                Some((_, tensors)) => tensors.push(tensor),
                None => groups.push((key, vec![tensor])),
            }
        }
        let mut rows =
            Grid::new(&["tensor", "role", "operator", "shape", "type", "bytes", "share", "becomes"])
                .right(&[5, 6, 7])
                .names(&[0, 2]);
        for ((encoding, reason), tensors) in groups {
            let bytes = |of: fn(&InspectedTensor) -> u64| tensors.iter().map(|t| of(t)).sum::<u64>();
            let (before, after) = (bytes(|t| t.bytes), bytes(|t| t.bytes_after));
            rows.heading(heading(encoding, reason, tensors.len(), before, after));
            for tensor in tensors {
                rows.row([
                    for_terminal(&tensor.name),
                    tensor.role.name().to_owned(),
                    for_terminal(&tensor.operators),
                    shape(&tensor.shape),
                    tensor.data_type.clone(),
                    size(tensor.bytes),
                    format!("{:.1} %", 100.0 * tensor.share),
                    size(tensor.bytes_after),
                ]);
            }
        }
        let _ = writeln!(out, "\n{}", rows.render());
        if rest.0 > 0 {
            let _ = writeln!(
                out,
                "and {} small tensors of {} that stay as they are (-v lists them)",
                rest.0,
                size(rest.1)
            );
        }
        let after: u64 = self.tensors.iter().map(|tensor| tensor.bytes_after).sum();
        if self.quantized.is_some() {
            let what =
                "`efq rewrite` refuses it without --allow-requantize, which quantizes what is still float";
            let _ = writeln!(out, "\n{what}");
            if after == total {
                return out;
            }
        }
        let _ = writeln!(
            out,
            "\nunder {}: {} of tensors become {} ({:.2} times smaller)",
            for_terminal(&self.preset),
            size(total),
            size(after),
            total as f64 / after.max(1) as f64
        );
        out
    }
}

impl Analysis {
    /// As text; the ten tensors that hurt most unless `verbose` is set.
    pub fn text(&self, verbose: bool) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "{}  {}\n", for_terminal(&self.model.path), size(self.model.bytes));
        let mut header = vec!["stored as", "bytes", "SQNR dB", "rel. error"];
        if self.measured_at_output {
            header.push("at the output");
        }
        let _ = writeln!(out, "scales chosen by {}\n", self.algorithm);
        let mut rows = Grid::new(&header).right(&[1, 2, 3, 4]);
        let shown = if verbose { self.tensors.len() } else { 10 };
        for tensor in self.tensors.iter().take(shown) {
            let (name, role) = (for_terminal(&tensor.name), tensor.role.name());
            rows.heading(format!("{name}  {}  {role}", shape(&tensor.shape)));
            for row in &tensor.candidates {
                let mut cells = vec![
                    row.encoding.clone(),
                    size(row.bytes),
                    format!("{:.1}", row.sqnr_db),
                    format!("{:.4}", row.relative_error),
                ];
                if self.measured_at_output {
                    cells.push(figure(row.output_error, 5, ""));
                }
                rows.row(cells);
            }
        }
        let _ = writeln!(out, "{}", rows.render());
        if self.tensors.len() > shown {
            let _ = writeln!(out, "and {} that hurt less (-v lists them)", self.tensors.len() - shown);
        }
        if !self.recommendation.trials.is_empty() {
            let mut rows =
                Grid::new(&["preset", "bytes", "loss", "95 % interval", "accepted", ""]).right(&[1, 2, 3, 4]);
            for trial in &self.recommendation.trials {
                rows.row([
                    trial.preset.clone(),
                    size(trial.bytes),
                    loss_in(trial.loss, &trial.unit),
                    interval(trial.interval),
                    in_unit(&validate::figure(trial.target), &trial.unit),
                    match trial.outcome {
                        Outcome::Passed => "holds",
                        Outcome::Failed => "misses",
                        Outcome::Undecided | Outcome::NotVerified => "undecided",
                    }
                    .to_owned(),
                ]);
            }
            let _ = writeln!(
                out,
                "\n{}\n\nevery linear by {}; `efq rewrite` fits to activations, which mostly loses less",
                rows.render(),
                self.algorithm
            );
        }
        let _ =
            writeln!(out, "\nrecommended: {}: {}", self.recommendation.preset, self.recommendation.reason);
        for warning in &self.warnings {
            let _ = writeln!(out, "note: {}", for_terminal(warning));
        }
        out
    }
}
