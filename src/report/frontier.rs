//! The frontier of size against loss, as text and as a plot.

use std::fmt::Write as _;

use serde::Serialize;

use super::text::{figure, loss_in, size};
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
    /// What the reader should know beside that.
    pub warnings: Vec<String>,
}

/// One plan on it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FrontierPoint {
    /// Bytes of the file.
    pub bytes: u64,
    /// Relative L2 error of the output as deployed.
    pub rel_l2: Option<f64>,
    /// The same by the values of the weights alone, without the int8 activations of the kernels.
    pub weights_only: Option<f64>,
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
        let mut rows = Grid::new(&["size", "smaller", "relative L2", "weights alone", "loss", ""])
            .right(&[0, 1, 2, 3, 4]);
        for point in &self.points {
            rows.row([
                size(point.bytes),
                format!("{:.2} x", self.model.bytes as f64 / point.bytes.max(1) as f64),
                figure(point.rel_l2, 4, ""),
                figure(point.weights_only, 4, ""),
                point.loss.map_or(String::new(), |loss| loss_in(loss, &point.unit)),
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
        for warning in &self.warnings {
            let _ = writeln!(out, "note: {}", for_terminal(warning));
        }
        out
    }

    /// A plot, both axes logarithmic, as SVG.
    pub fn svg(&self) -> String {
        let dots = self.dots();
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"{FONT}\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        let (right, bottom) = (PLOT.left + PLOT.width, PLOT.top + PLOT.height);
        let _ = writeln!(
            out,
            "<path d=\"M{:.1} {:.1}V{bottom:.1}H{right:.1}\" fill=\"none\" stroke=\"black\"/>",
            PLOT.left, PLOT.top
        );
        let line: Vec<String> = dots.iter().map(|dot| format!("{:.1},{:.1}", dot.x, dot.y)).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#2563eb\" stroke-width=\"2\"/>",
            line.join(" ")
        );
        for dot in &dots {
            let (radius, colour) = if dot.knee { (6, "#dc2626") } else { (4, "#2563eb") };
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\" fill=\"{colour}\"/>",
                dot.x, dot.y
            );
        }
        for label in labels(&dots) {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                label.left, label.baseline, label.text
            );
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

    /// The points that were measured, where they stand on the plot.
    fn dots(&self) -> Vec<Dot> {
        let seen: Vec<(u64, f64, bool)> = self
            .points
            .iter()
            .filter_map(|point| Some((point.bytes, point.rel_l2.filter(|error| *error > 0.0)?, point.knee)))
            .collect();
        let range = |of: &dyn Fn(&(u64, f64, bool)) -> f64| {
            let values = || seen.iter().map(of);
            let low = values().fold(f64::INFINITY, f64::min);
            let high = values().fold(f64::NEG_INFINITY, f64::max);
            if low < high { (low.ln(), high.ln()) } else { (low.ln() - 0.5, low.ln() + 0.5) }
        };
        let (across, up) = (range(&|point| point.0 as f64), range(&|point| point.1));
        let dot = |&(bytes, error, knee): &(u64, f64, bool)| Dot {
            x: PLOT.left + ((bytes as f64).ln() - across.0) / (across.1 - across.0) * PLOT.width,
            y: PLOT.top + (up.1 - error.ln()) / (up.1 - up.0) * PLOT.height,
            bytes,
            error,
            knee,
        };
        seen.iter().map(dot).collect()
    }
}

/// A point on the plot.
#[derive(Debug, Clone)]
struct Dot {
    x: f64,
    y: f64,
    bytes: u64,
    error: f64,
    knee: bool,
}

/// A text on the plot.
#[derive(Debug, Clone)]
struct Label {
    text: String,
    left: f64,
    baseline: f64,
}

impl Label {
    /// `text` around or beside `x`: `share` of it stands left of there. Near an edge it is moved inwards.
    fn new(text: String, x: f64, share: f64, baseline: f64) -> Self {
        let width = text.chars().count() as f64 * GLYPH;
        let left = (x - share * width).clamp(EDGE, WIDTH - EDGE - width);
        Self { text, left, baseline: baseline.clamp(FONT, HEIGHT - EDGE) }
    }

    /// Left, top, right and bottom.
    fn frame(&self) -> [f64; 4] {
        let width = self.text.chars().count() as f64 * GLYPH;
        [self.left, self.baseline - FONT, self.left + width, self.baseline + EDGE]
    }
}

impl Dot {
    fn frame(&self) -> [f64; 4] {
        [self.x - DOT, self.y - DOT, self.x + DOT, self.y + DOT]
    }
}

fn overlap(a: [f64; 4], b: [f64; 4]) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

/// The size and the error of each dot as far as they have room: the knee first, then the ends, then from left to right.
fn labels(dots: &[Dot]) -> Vec<Label> {
    let last = dots.len().saturating_sub(1);
    let mut order: Vec<usize> = (0..dots.len()).collect();
    order.sort_by_key(|at| (!dots.get(*at).is_some_and(|dot| dot.knee), *at != 0 && *at != last, *at));
    let mut placed: Vec<Label> = Vec::new();
    let place = |placed: &mut Vec<Label>, label: Label| {
        let frame = label.frame();
        let taken = placed.iter().map(Label::frame).chain(dots.iter().map(Dot::frame));
        let free = !taken.into_iter().any(|other| overlap(frame, other));
        if free {
            placed.push(label);
        }
        free
    };
    for dot in order.into_iter().filter_map(|at| dots.get(at)) {
        place(&mut placed, Label::new(size(dot.bytes), dot.x, 0.5, PLOT.top + PLOT.height + 18.0));
        let error = |share: f64, down: f64| {
            let x = dot.x + (1.0 - 2.0 * share) * (DOT + 1.0);
            Label::new(format!("{:.4}", dot.error), x, share, dot.y + down)
        };
        // Above it and to the right, where the curve is not; else where there is room.
        let _ = [(0.0, -DOT - EDGE), (1.0, -DOT - EDGE), (0.0, DOT + FONT), (1.0, DOT + FONT)]
            .into_iter()
            .any(|(share, down)| place(&mut placed, error(share, down)));
    }
    placed
}

/// Where the curve is drawn, in pixels.
struct Plot {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

const PLOT: Plot = Plot { left: 60.0, top: 30.0, width: 560.0, height: 320.0 };
/// The whole picture.
const WIDTH: f64 = 680.0;
const HEIGHT: f64 = 400.0;
/// Height of the font, the widest that a digit of usual fonts is in it, and what is left free around.
const FONT: f64 = 12.0;
const GLYPH: f64 = 7.7;
const EDGE: f64 = 4.0;
/// Half the room of a dot.
const DOT: f64 = 6.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn frontier(points: &[(u64, f64)]) -> Frontier {
        let point = |(at, (bytes, error)): (usize, &(u64, f64))| FrontierPoint {
            bytes: *bytes,
            rel_l2: Some(*error),
            weights_only: None,
            loss: None,
            unit: "%".to_owned(),
            knee: at == points.len() / 2,
        };
        let model = File { path: "m.onnx".to_owned(), bytes: 9, blake3: String::new(), opset: 17 };
        let points = points.iter().enumerate().map(point).collect();
        Frontier { schema: 1, model, preset: String::new(), real_samples: true, points, warnings: Vec::new() }
    }

    #[test]
    fn labels_lie_in_the_picture_and_apart() {
        let even: Vec<(u64, f64)> = (0..7).map(|at| (10_000_000 << at, 0.1 / f64::from(1 << at))).collect();
        let dense: Vec<(u64, f64)> =
            (0..50).map(|at| (10_000_000 + at * 100_000, 0.2 / (1.0 + at as f64))).collect();
        let together = vec![(5_000, 0.1), (5_001, 0.1), (5_002, 0.1)];
        for (points, least) in [(even, 14), (dense, 12), (together, 4), (vec![(5_000, 0.1)], 2)] {
            let found = labels(&frontier(&points).dots());
            assert!(found.len() >= least, "{found:?}");
            for (at, label) in found.iter().enumerate() {
                let [left, top, right, bottom] = label.frame();
                assert!(left >= 0.0 && top >= 0.0 && right <= WIDTH && bottom <= HEIGHT, "{label:?}");
                assert!(found.iter().skip(at + 1).all(|other| !overlap(label.frame(), other.frame())));
            }
        }
        assert!(frontier(&[]).svg().ends_with("</svg>\n"));
    }
}
