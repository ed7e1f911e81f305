//! Ways to fit a weight, compared on held-out rows.

use std::ops::Range;

use rayon::prelude::*;

use super::shared::{DAMPINGS, FIRM, Shared};
use super::{Likeness, Steps, product};
use crate::progress::Progress;
use crate::quant::compensate::{self, Coded, compensate, target};
use crate::quant::{Algorithm, Matrix, Scheme, fit as fit_grid, fit_weighted, quantize};
use crate::sensitivity::decoded_blocks;
use crate::statistics::{Moments, Sums};

/// Columns on which they are compared.
const TRIAL_COLUMNS: usize = 128;

/// Held-out rows.
pub(super) enum Judges {
    /// Of X̂ and of X.
    Rows(Vec<f32>, Vec<f32>),
    /// Sums over them, of X alone.
    Sums(Sums),
}

impl Judges {
    /// How many there are, of `k` inputs.
    pub fn rows(&self, k: usize) -> usize {
        match self {
            Judges::Rows(rewritten, _) => rewritten.len() / k.max(1),
            Judges::Sums(held) => held.rows(),
        }
    }
}

/// Squared errors of a linear's output on held-out rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Errors {
    pub searched: f64,
    pub fitted: f64,
    signal: f64,
}

impl Errors {
    /// Those of both.
    pub fn and(self, other: Self) -> Self {
        Self {
            searched: self.searched + other.searched,
            fitted: self.fitted + other.fitted,
            signal: self.signal + other.signal,
        }
    }

    /// By search and as fitted, relative to the square of the output.
    pub fn relative(self) -> (f64, f64) {
        (self.searched / self.signal, self.fitted / self.signal)
    }
}

/// What a comparison came to.
pub(super) enum Choice {
    /// The best way, and its errors beside those of search.
    Best(Way, Errors),
    /// Search, or the output itself, has no finite error.
    NotFinite,
    /// No way could be followed to its end.
    None,
}

/// A way to fit, with the damping that it is tried with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub name: &'static str,
    pub damping: usize,
    steps: Steps,
    /// Added to the weights of all rows, which are 1 on average, where first scales are found.
    evenly: f32,
}

/// GPTQ and what follows it.
const GPTQ: &str = "gptq";
/// Scales and zero points by the mean squares of the inputs, codes to nearest.
const WEIGHTED: &str = "weighted";

/// Rows make up for one another's errors, so what an error costs is more even than the mean squares are; and those of few
/// samples say little (digits ViT by one sample: relative L2 0.0179 with 0, 0.0162 with 2, means of six).
const EVENLY: f32 = 2.0;

impl Way {
    /// Made-up samples say too little of the mean squares for first scales.
    fn gptq(damping: usize, likeness: Likeness, steps: Steps) -> Self {
        let steps = Steps { weighted: steps.weighted && likeness == Likeness::Close, ..steps };
        Self { name: GPTQ, damping, steps, evenly: EVENLY }
    }

    fn weighted(damping: usize, steps: Steps) -> Self {
        let steps = Steps { codes: compensate::Steps::NONE, asymmetric: false, weighted: true, ..steps };
        Self { name: WEIGHTED, damping, steps, evenly: 0.0 }
    }

    /// Those that are compared on held-out rows.
    pub fn tried(algorithm: Algorithm, likeness: Likeness, steps: Steps) -> Vec<Self> {
        let dampings = match likeness {
            Likeness::Rough => FIRM..DAMPINGS.len(),
            Likeness::Close if steps.damping => 0..DAMPINGS.len(),
            Likeness::Close => 0..FIRM,
        };
        let gptq = dampings.map(|damping| Self::gptq(damping, likeness, steps));
        let weighted = Self::weighted(FIRM, steps);
        match algorithm {
            Algorithm::Weighted => vec![weighted],
            Algorithm::Gptq => gptq.collect(),
            _ => gptq.chain([weighted]).collect(),
        }
    }

    /// The one taken where nothing can be compared.
    pub fn untried(algorithm: Algorithm, likeness: Likeness, few: bool, steps: Steps) -> Self {
        let damping = if few || likeness == Likeness::Rough { FIRM } else { 0 };
        if algorithm == Algorithm::Weighted {
            Self::weighted(FIRM, steps)
        } else {
            Self::gptq(damping, likeness, steps)
        }
    }
}

/// A weight that is fitted.
pub(super) struct Task<'a> {
    pub matrix: &'a Matrix<'a>,
    /// The values of the matrix, `[K,N]`.
    pub weight: &'a [f32],
    pub scheme: Scheme,
    /// Whether the bias takes the mean over.
    pub centred: bool,
    pub progress: &'a dyn Progress,
}

impl Task<'_> {
    /// Codes of some columns, whose weights are `own`, and what the bias takes over. `part` as of [`Shared::get`].
    pub fn code(
        &self,
        own: &[f32],
        columns: Range<usize>,
        way: Way,
        shared: &Shared,
        part: usize,
    ) -> Option<(Coded, Option<Vec<f32>>)> {
        let Self { matrix, scheme, centred, progress, .. } = *self;
        let (k, width) = (matrix.k(), columns.len());
        let (moments, prepared) = shared.get(centred, way.damping, part)?;
        let start = if way.steps.weighted {
            let weights: Vec<f32> = prepared.diagonal().iter().map(|weight| weight + way.evenly).collect();
            fit_weighted(matrix, scheme, &weights)
        } else {
            fit_grid(matrix, scheme, Algorithm::Search)
        };
        let start = start.columns(matrix.n(), columns);
        let aim = way
            .steps
            .asymmetric
            .then(|| target(own, &moments.square, &moments.drift, (k, width), DAMPINGS[way.damping]))
            .flatten();
        let aim = aim.as_deref().unwrap_or(own);
        let coded =
            compensate(own, aim, width, 0..width, &start, scheme, prepared, way.steps.codes, progress);
        let shift = centred.then(|| shift(own, &coded.values(width, scheme.block), moments, width));
        Some((coded, shift))
    }

    /// Compares search and the ways `tried` on held-out rows, each fitted to the others.
    pub fn choose(&self, tried: &[Way], shared: &mut Shared, judges: &Judges) -> Choice {
        let (k, n) = (self.matrix.k(), self.matrix.n());
        let columns = 0..n.min(TRIAL_COLUMNS);
        let width = columns.len();
        let cut = |from: &[f32]| -> Vec<f32> {
            from.chunks_exact(n).flat_map(|row| row[columns.clone()].iter().copied()).collect()
        };
        let own = cut(self.weight);
        let reference = match judges {
            Judges::Rows(_, original) => product(original, &own, k, width),
            Judges::Sums(_) => Vec::new(),
        };
        let distance = |values: &[f32], shift: Option<&[f32]>| -> f64 {
            let rewritten = match judges {
                Judges::Rows(rewritten, _) => rewritten,
                Judges::Sums(held) => {
                    let errors: Vec<f32> = values.iter().zip(&own).map(|(new, old)| new - old).collect();
                    return held.distance(&errors, width, shift);
                }
            };
            let products = product(rewritten, values, k, width);
            let rows = products.chunks_exact(width).zip(reference.chunks_exact(width));
            rows.map(|(row, wanted)| {
                (0..width)
                    .map(|c| f64::from(row[c] + shift.map_or(0.0, |shift| shift[c]) - wanted[c]).powi(2))
                    .sum::<f64>()
            })
            .sum()
        };
        let scheme = self.scheme;
        let quantized = quantize(self.matrix, scheme, Algorithm::Search);
        let searched = distance(&cut(&decoded_blocks(&quantized, scheme, k, n).unwrap_or_default()), None);
        let signal = match judges {
            Judges::Rows(..) => reference.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>(),
            Judges::Sums(held) => held.distance(&own, width, None),
        };
        let signal = signal.max(1e-30);
        if !(searched.is_finite() && signal.is_finite()) {
            return Choice::NotFinite;
        }
        let dampings: Vec<usize> = tried.iter().map(|way| way.damping).collect();
        shared.make_trials(self.centred, &dampings);
        let shared = &*shared;
        let measured = tried.par_iter().map(|way| {
            let (coded, shift) = self.code(&own, columns.clone(), *way, shared, 1)?;
            let fitted = distance(&coded.values(width, scheme.block), shift.as_deref());
            fitted.is_finite().then_some((*way, Errors { searched, fitted, signal }))
        });
        let measured: Vec<_> = measured.collect();
        let best = measured.into_iter().flatten().min_by(|a, b| a.1.fitted.total_cmp(&b.1.fitted));
        best.map_or(Choice::None, |(way, errors)| Choice::Best(way, errors))
    }
}

/// What the bias must take over: the mean of X W less that of X̂ Ŵ.
fn shift(weight: &[f32], values: &[f32], moments: &Moments, n: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64; n];
    for (row, (old, new)) in weight.chunks_exact(n).zip(values.chunks_exact(n)).enumerate() {
        let (original, rewritten) = (f64::from(moments.original[row]), f64::from(moments.rewritten[row]));
        for ((sum, old), new) in sums.iter_mut().zip(old).zip(new) {
            *sum += f64::from(*old) * original - f64::from(*new) * rewritten;
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}
