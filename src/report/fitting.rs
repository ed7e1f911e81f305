//! What weights were fitted to, and what that gained.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::escape::for_markdown;
use super::text::count;
use super::{Data, for_terminal};

/// How the blocked weights were fitted to activations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fitting {
    /// Where the calibration samples came from.
    pub data: Data,
    /// The file of statistics that took their place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<StatisticsFile>,
    /// How many there were.
    pub samples: usize,
    /// How many were made up beside them, so that the weights are not narrowed to them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub beside: usize,
    /// Whether the held-out samples that judge a fit are the user's; below a number of them made-up ones are taken.
    #[serde(default)]
    pub judged_by_real: bool,
    /// Rows of activations (tokens, patches) of which the largest statistics are.
    pub rows: usize,
    /// Every blocked weight that statistics were asked for, in the order in which the network uses them.
    pub layers: Vec<FittedLayer>,
    /// Why there are no statistics; the weights were then fitted to their own values.
    pub skipped: Option<String>,
}

/// Statistics that an earlier run kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatisticsFile {
    /// Path as given.
    pub path: String,
    /// BLAKE3 of the contents.
    pub blake3: String,
}

/// How one weight was fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FittedLayer {
    /// Tensor.
    pub tensor: String,
    /// `gptq`, `weighted` or `search`.
    pub algorithm: String,
    /// Relative squared error of the layer's output on held-out samples, by search.
    pub error_by_search: Option<f64>,
    /// The same, as taken.
    pub error: Option<f64>,
    /// Why search was taken where statistics were asked for.
    pub fallback: Option<String>,
}

impl Fitting {
    /// Whether the user's samples were to be fitted to and no weight was.
    pub fn leaves_samples_aside(&self) -> bool {
        self.skipped.is_some() && matches!(self.data, Data::File { .. })
    }

    /// One or two sentences.
    pub(super) fn sentences(&self) -> Vec<String> {
        let (from, advice) = match &self.data {
            Data::File { path, .. } => (format!("{} of {path}", count(self.samples as u64, "sample")), None),
            Data::Synthetic { seed, made } => {
                // What real ones brought in docs/calibration.md.
                let (what, less) = match made.as_str() {
                    "sequences" => {
                        ("token sequences from the embedding table, ", "usually lower the error by a third")
                    }
                    "texts" => ("texts that the model wrote, ", "usually lower the error by an eighth"),
                    "images" => {
                        ("noise with the spectrum of photographs, ", "usually lower the error by a third")
                    }
                    "values" => ("random values, ", "lower the error further"),
                    _ => ("", "lower the error further"),
                };
                (
                    format!("{} ({what}seed {seed})", count(self.samples as u64, "made-up sample")),
                    Some(format!("a few hundred real ones {less}: --calibration FILE")),
                )
            }
        };
        if let Some(reason) = &self.skipped {
            return vec![format!("weights not fitted to activations: {reason}")];
        }
        let beside = match self.beside {
            0 => String::new(),
            1 => " and a made-up one beside them".to_owned(),
            beside => format!(" and {beside} made-up ones beside them"),
        };
        let fitted = self.layers.iter().filter(|layer| layer.algorithm != "search").count();
        let mut out = vec![format!(
            "{fitted} of {} fitted to the activations of {from}{beside}{}, {}",
            count(self.layers.len() as u64, "linear layer"),
            self.statistics
                .as_ref()
                .map_or(String::new(), |kept| format!(" by the statistics in {}", kept.path)),
            count(self.rows as u64, "row")
        )];
        let pairs = self.layers.iter().filter_map(|layer| Some((layer.error_by_search?, layer.error?)));
        let (before, after) = pairs.fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        if before > 0.0 {
            out.push(format!(
                "which leaves {:.0} % of the squared error that search leaves, on held-out {} samples",
                100.0 * after / before,
                if self.judged_by_real { "real" } else { "made-up" }
            ));
        }
        out.extend(advice);
        for layer in &self.layers {
            if let Some(why) = &layer.fallback {
                out.push(format!("{} by search: {why}", layer.tensor));
            }
        }
        out
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

pub(super) fn text(out: &mut String, fitting: Option<&Fitting>) {
    for sentence in fitting.iter().flat_map(|fitting| fitting.sentences()) {
        let _ = writeln!(out, "{}", for_terminal(&sentence));
    }
}

pub(super) fn markdown(out: &mut String, fitting: Option<&Fitting>) {
    let Some(fitting) = fitting else { return };
    let _ = writeln!(out, "\n## Calibration\n");
    for sentence in fitting.sentences() {
        let _ = writeln!(out, "- {}", for_markdown(&sentence));
    }
    if let Data::File { blake3, .. } = &fitting.data {
        let _ = writeln!(out, "- BLAKE3 of the samples: {blake3}");
    }
    if let Some(kept) = &fitting.statistics {
        let _ = writeln!(out, "- BLAKE3 of the statistics: {}", kept.blake3);
    }
}
