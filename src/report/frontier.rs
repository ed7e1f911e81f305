//! The frontier of size against loss, as text and as a plot.

use std::fmt::Write as _;

use serde::Serialize;

use super::text::{figure, size};
use super::{File, Grid, for_terminal};

/// Size against loss.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Frontier {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// The model.
    pub model: File,
    /// The preset whose rules were kept.
    pub preset: String,
    /// Whether the samples were the user's.
    pub real_samples: bool,
    /// From the smallest file to the largest.
    pub points: Vec<FrontierPoint>,
}

/// One plan on it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FrontierPoint {
    /// Bytes of the file.
    pub bytes: u64,
    /// Relative L2 error of the output that was predicted.
    pub predicted: f64,
    /// The same, measured as deployed.
    pub rel_l2: Option<f64>,
    /// Loss in the unit of the gate.
    pub loss: Option<f64>,
    /// Its unit.
    pub unit: String,
    /// Whether the curve bends most here.
    pub knee: bool,
}

impl Frontier {
    /// A table, one line a plan.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "{}  {}\n", for_terminal(&self.model.path), size(self.model.bytes));
        let mut rows =
            Grid::new(&["size", "smaller", "relative L2", "predicted", "loss", ""]).right(&[0, 1, 2, 3, 4]);
        for point in &self.points {
            rows.row([
                size(point.bytes),
                format!("{:.2} x", self.model.bytes as f64 / point.bytes.max(1) as f64),
                figure(point.rel_l2, 4, ""),
                format!("{:.4}", point.predicted),
                figure(point.loss, 3, &format!(" {}", point.unit)),
                if point.knee { "knee".to_owned() } else { String::new() },
            ]);
        }
        let _ = writeln!(out, "{}", rows.render());
        if !self.real_samples {
            let _ = writeln!(
                out,
                "\nmeasured on synthetic samples: they say nothing about real inputs (--data FILE)"
            );
        }
        let _ = writeln!(out, "\n`efq rewrite … --target-size BYTES` writes the plan for a size");
        out
    }

    /// A plot, both axes logarithmic, as SVG.
    pub fn svg(&self) -> String {
        let seen: Vec<(f64, f64, bool)> = self
            .points
            .iter()
            .filter_map(|point| {
                Some((point.bytes as f64, point.rel_l2.filter(|error| *error > 0.0)?, point.knee))
            })
            .collect();
        let range = |of: &dyn Fn(&(f64, f64, bool)) -> f64| {
            let values = || seen.iter().map(of);
            let low = values().fold(f64::INFINITY, f64::min);
            let high = values().fold(f64::NEG_INFINITY, f64::max);
            if low < high { (low.ln(), high.ln()) } else { (low.ln() - 0.5, low.ln() + 0.5) }
        };
        let (across, up) = (range(&|point| point.0), range(&|point| point.1));
        let x = |bytes: f64| PLOT.left + (bytes.ln() - across.0) / (across.1 - across.0) * PLOT.width;
        let y = |error: f64| PLOT.top + (up.1 - error.ln()) / (up.1 - up.0) * PLOT.height;
        let (right, bottom) = (PLOT.left + PLOT.width, PLOT.top + PLOT.height);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
            right + 40.0,
            bottom + 50.0
        );
        let _ = writeln!(
            out,
            "<path d=\"M{:.1} {:.1}V{bottom:.1}H{right:.1}\" fill=\"none\" stroke=\"black\"/>",
            PLOT.left, PLOT.top
        );
        let line: Vec<String> = seen.iter().map(|(b, e, _)| format!("{:.1},{:.1}", x(*b), y(*e))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#2563eb\" stroke-width=\"2\"/>",
            line.join(" ")
        );
        for (bytes, error, knee) in &seen {
            let (cx, cy) = (x(*bytes), y(*error));
            let (radius, colour) = if *knee { (6, "#dc2626") } else { (4, "#2563eb") };
            let _ = writeln!(out, "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"{radius}\" fill=\"{colour}\"/>");
            let _ = writeln!(
                out,
                "<text x=\"{cx:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 18.0,
                size(*bytes as u64)
            );
            let _ = writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\">{error:.4}</text>", cx + 8.0, cy - 8.0);
        }
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">bytes of the file</text>",
            PLOT.left + PLOT.width / 2.0,
            bottom + 40.0
        );
        let _ = writeln!(
            out,
            "<text transform=\"translate(20 {:.1}) rotate(-90)\" text-anchor=\"middle\">relative L2 error of the \
             output</text>\n</svg>",
            PLOT.top + PLOT.height / 2.0
        );
        out
    }
}

/// Where the curve is drawn, in pixels.
struct Plot {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

const PLOT: Plot = Plot { left: 60.0, top: 30.0, width: 560.0, height: 320.0 };
