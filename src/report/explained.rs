//! Which tensors cause the loss, as text.

use std::fmt::Write as _;

use serde::Serialize;

use super::text::{count, figure, size};
use super::{Data, File, Grid, for_terminal};
use crate::role::Role;

/// Tensors listed without `verbose`.
const WORST: usize = 12;

/// The loss of a rewritten model by tensors. All errors are squares, relative to the square of what they are errors of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// The model as it was.
    pub original: File,
    /// The model in question.
    pub rewritten: File,
    /// The output whose error is explained.
    pub output: String,
    /// Where the samples came from.
    pub data: Data,
    /// How many of them were run.
    pub samples: usize,
    /// Every weight that is stored in another form, the worst first.
    pub tensors: Vec<Explained>,
    /// Sum of the errors of single weights at the output.
    pub sum: f64,
    /// The error at the output with all of them changed.
    pub together: Option<f64>,
    /// What a reader should know besides.
    pub warnings: Vec<String>,
}

/// What one weight does.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explained {
    /// Its name in the original.
    pub tensor: String,
    /// What it is for.
    pub role: Role,
    /// `[K,N]`.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub encoding: String,
    /// Payload bytes; absent for a form that is none of efq's.
    pub bytes: Option<u64>,
    /// Error at the output when this weight alone is changed, as deployed.
    pub error: f64,
    /// Its part of the sum, 0 to 1.
    pub share: f64,
    /// Error at its layer's output by the values of the weight; of tables not measured, 0.
    pub weight: f64,
    /// There, by the int8 activations of the kernel.
    pub kernel: f64,
    /// There, by what the changed layers before it hand on.
    pub input: f64,
    /// Its next precision.
    pub mend: Option<Mend>,
}

/// What the next precision of a weight would cost and bring.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mend {
    /// How it would be stored.
    pub encoding: String,
    /// Payload bytes added.
    pub bytes: i64,
    /// What it would take from the error at the output, predicted.
    pub removes: f64,
}

impl Explanation {
    /// A table, the worst first, with what to do next.
    pub fn text(&self, verbose: bool) -> String {
        let mut out = String::new();
        for file in [&self.original, &self.rewritten] {
            let _ = writeln!(out, "{}  {}", for_terminal(&file.path), size(file.bytes));
        }
        let samples = match &self.data {
            Data::File { path, .. } => {
                format!("{} of {}", count(self.samples as u64, "sample"), for_terminal(path))
            }
            Data::Synthetic { seed, .. } => {
                let samples = count(self.samples as u64, "synthetic sample");
                format!("{samples} (seed {seed}), which say nothing of real ones")
            }
        };
        let output = for_terminal(&self.output);
        let _ = writeln!(out, "error of output '{output}' on {samples}\n");
        let mut rows = Grid::new(&[
            "tensor",
            "stored as",
            "of the sum",
            "weights",
            "int8",
            "inputs",
            "next",
            "bytes",
            "removes",
        ])
        .right(&[2, 3, 4, 5, 7, 8])
        .names(&[0]);
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let shown = if verbose { self.tensors.len() } else { WORST };
        for tensor in self.tensors.iter().take(shown) {
            let mend = tensor.mend.as_ref();
            rows.row([
                for_terminal(&tensor.tensor),
                tensor.encoding.clone(),
                percent(tensor.share),
                relative(tensor.weight),
                relative(tensor.kernel),
                relative(tensor.input),
                mend.map_or(String::new(), |mend| short(&mend.encoding).to_owned()),
                mend.map_or(String::new(), |mend| format!("+{}", size(mend.bytes.unsigned_abs()))),
                mend.map_or(String::new(), |mend| percent(mend.removes / self.sum.max(f64::MIN_POSITIVE))),
            ]);
        }
        let rest = self.tensors.iter().skip(shown);
        if self.tensors.len() > shown {
            let share = percent(rest.map(|tensor| tensor.share).sum());
            rows.row([format!("{} others, see -v", self.tensors.len() - shown), String::new(), share]);
        }
        let _ = writeln!(out, "{}\n", rows.render());
        self.sums(&mut out);
        for warning in &self.warnings {
            let _ = writeln!(out, "note: {}", for_terminal(warning));
        }
        out
    }

    /// The lines below the table.
    fn sums(&self, out: &mut String) {
        let part = |of: fn(&Explained) -> f64| -> f64 {
            let whole = |tensor: &Explained| (tensor.weight + tensor.kernel).max(f64::MIN_POSITIVE);
            self.tensors.iter().map(|tensor| tensor.error * of(tensor) / whole(tensor)).sum()
        };
        let (weights, kernel) = (part(|tensor| tensor.weight), part(|tensor| tensor.kernel));
        let tables = (self.sum - weights - kernel).max(0.0);
        let percent = |part: f64| 100.0 * part / self.sum.max(f64::MIN_POSITIVE);
        let _ = writeln!(
            out,
            "sum: relative L2 {:.4}, of its square {:.1} % by weights, {:.1} % by int8 activations{}",
            self.sum.sqrt(),
            percent(weights),
            percent(kernel),
            if tables > 1e-9 * self.sum {
                format!(", {:.1} % by tables", percent(tables))
            } else {
                String::new()
            },
        );
        if let Some(together) = self.together {
            let _ = writeln!(
                out,
                "all of them together: relative L2 {}, measured",
                figure(Some(together.sqrt()), 4, "")
            );
        }
        let _ = writeln!(
            out,
            "the sum and its parts: squared errors of the output with one weight changed at a time, added up\n\
             weights, int8 and inputs: relative L2 errors at the layer's own output, by its values, by the\n\
             int8 activations of the kernel, and by what the layers before it hand on"
        );
        let gain = |tensor: &Explained| {
            let mend = tensor.mend.as_ref().filter(|mend| mend.removes > 0.0)?;
            Some(mend.removes / mend.bytes.max(1) as f64)
        };
        let able = self.tensors.iter().filter(|tensor| gain(tensor).is_some());
        let best = able.max_by(|a, b| {
            let order = gain(a).unwrap_or(0.0).total_cmp(&gain(b).unwrap_or(0.0));
            order.then_with(|| b.tensor.cmp(&a.tensor))
        });
        if let Some((tensor, mend)) = best.and_then(|tensor| Some((tensor, tensor.mend.as_ref()?))) {
            let _ = writeln!(
                out,
                "\nmost for its bytes: efq rewrite … --tensor '{}={}'\n\
                 adds {} and is predicted to take {:.1} % of the sum away",
                for_terminal(&tensor.tensor),
                short(&mend.encoding),
                size(mend.bytes.unsigned_abs()),
                percent(mend.removes)
            );
            if let Some(together) = self.together {
                let left = (together * (1.0 - percent(mend.removes) / 100.0).max(0.0)).sqrt();
                let _ = writeln!(
                    out,
                    "as much of all together would leave relative L2 {left:.4} of {:.4}, on these samples",
                    together.sqrt()
                );
            }
        }
    }
}

/// The word of `--tensor` for an encoding.
fn short(encoding: &str) -> &str {
    encoding.split(' ').next().unwrap_or(encoding)
}

/// A relative L2 error of its square; nothing for none.
fn relative(square: f64) -> String {
    figure(Some(square.sqrt()).filter(|error| *error > 0.0), 4, "")
}
