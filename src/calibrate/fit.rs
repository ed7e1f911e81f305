//! Choosing how one weight is fitted.

use std::ops::Range;

use rayon::prelude::*;

use super::{Fitted, Likeness, Steps, product};
use crate::progress::Progress;
use crate::quant::compensate::{Damping, Prepared, compensate, target};
use crate::quant::{Algorithm, Matrix, Scheme, fit as fit_grid, quantize};
use crate::sensitivity::decoded_blocks;
use crate::statistics::{Moments, Sums};

/// Dampings that are tried, from a trusting one to one for few or other samples.
const DAMPINGS: [Damping; 2] = [
    Damping { factor: 0.05, descent: 0.02, target: 0.2 },
    Damping { factor: 0.1, descent: 0.1, target: 1.0 },
];
/// The first of them that holds on to the original weight.
const FIRM: usize = 1;
/// Rows for each input of a weight below which statistics are few.
const FEW: usize = 4;
/// Columns on which dampings are compared.
const TRIAL_COLUMNS: usize = 128;

/// What is taken where nothing is fitted.
pub(super) const SEARCH: &str = "search";

/// What weights that share an input and a block share.
pub(super) struct Shared {
    /// Sums over the rows that take part, and over those held out.
    sums: Option<(Sums, Sums)>,
    /// By centring: means over all rows, and over those that take part.
    moments: [Option<(Moments, Moments)>; 2],
    /// By centring and damping: prepared from all rows, and from those that take part.
    prepared: [[[Option<Option<Prepared>>; 2]; 2]; 2],
}

/// Held-out rows.
pub(super) enum Judges {
    /// Of X̂ and of X.
    Rows(Vec<f32>, Vec<f32>),
    /// Sums over them, of X alone.
    Sums(Sums),
}

/// How a weight was fitted.
pub(super) struct Outcome {
    pub fitted: Fitted,
    pub algorithm: &'static str,
    pub errors: Option<Errors>,
    pub fallback: Option<&'static str>,
}

impl Outcome {
    /// Whether it is another weight than search gives.
    pub fn is_fitted(&self) -> bool {
        self.algorithm != SEARCH
    }
}

/// Squared errors of a linear's output on held-out rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Errors {
    searched: f64,
    fitted: f64,
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

impl Shared {
    pub fn new(sums: Option<(Sums, Sums)>) -> Self {
        Self { sums, moments: Default::default(), prepared: Default::default() }
    }

    /// Rows that take part.
    pub fn rows(&self) -> usize {
        self.sums.as_ref().map_or(0, |(sums, _)| sums.rows())
    }

    /// Prepares one damping on all rows.
    fn make(&mut self, centred: bool, damping: usize) {
        self.make_moments(centred);
        let at = usize::from(centred);
        let Some((all, _)) = &self.moments[at] else { return };
        self.prepared[at][damping][0]
            .get_or_insert_with(|| Prepared::new(&all.square, all.rewritten.len(), DAMPINGS[damping]));
    }

    /// Prepares the dampings `tried` on the rows that take part, side by side.
    fn make_trials(&mut self, centred: bool, tried: Range<usize>) {
        self.make_moments(centred);
        let at = usize::from(centred);
        let Some((_, train)) = &self.moments[at] else { return };
        let slots = self.prepared[at][tried.clone()].par_iter_mut();
        slots.zip(&DAMPINGS[tried]).for_each(|(slots, damping)| {
            slots[1].get_or_insert_with(|| Prepared::new(&train.square, train.rewritten.len(), *damping));
        });
    }

    fn make_moments(&mut self, centred: bool) {
        let Some((train, held)) = &self.sums else { return };
        self.moments[usize::from(centred)].get_or_insert_with(|| {
            let mut all = train.clone();
            all.merge(held);
            (all.moments(centred), train.moments(centred))
        });
    }

    fn get(&self, centred: bool, damping: usize, part: usize) -> Option<(&Moments, &Prepared)> {
        let at = usize::from(centred);
        let moments = self.moments[at].as_ref()?;
        let prepared = self.prepared[at][damping][part].as_ref()?.as_ref()?;
        Some((if part == 0 { &moments.0 } else { &moments.1 }, prepared))
    }
}

#[expect(clippy::too_many_arguments, reason = "called once")]
/// Fits `weight` (`[K,N]`, the values of `matrix`); `judges` are the held-out rows.
pub(super) fn fit(
    matrix: &Matrix<'_>,
    weight: &[f32],
    scheme: Scheme,
    algorithm: Algorithm,
    centred: bool,
    likeness: Likeness,
    steps: Steps,
    shared: &mut Shared,
    judges: &Judges,
    progress: &dyn Progress,
) -> Outcome {
    let (k, n) = (matrix.k(), matrix.n());
    let plain = |fallback| Outcome {
        fitted: Fitted { quantized: quantize(matrix, scheme, algorithm), shift: None },
        algorithm: SEARCH,
        errors: None,
        fallback,
    };
    if !algorithm.wants_statistics() {
        return plain(None);
    }
    if shared.sums.as_ref().is_none_or(|(train, _)| train.rows() == 0) {
        return plain(Some("no statistics of its activations"));
    }
    let start = fit_grid(matrix, scheme, Algorithm::Search);
    let held = match judges {
        Judges::Rows(rewritten, _) => rewritten.len() / k.max(1),
        Judges::Sums(held) => held.rows(),
    };
    let few = shared.sums.as_ref().is_some_and(|(train, held)| train.rows() + held.rows() < FEW * k);
    let tried = match likeness {
        Likeness::Rough => FIRM..DAMPINGS.len(),
        Likeness::Close if steps.damping => 0..DAMPINGS.len(),
        Likeness::Close => 0..FIRM,
    };
    let mut chosen = if few { FIRM } else { tried.start };
    let mut errors = None;
    if held > 0 {
        let columns = 0..n.min(TRIAL_COLUMNS);
        let width = columns.len();
        let cut = |from: &[f32]| -> Vec<f32> {
            from.chunks_exact(n).flat_map(|row| row[columns.clone()].iter().copied()).collect()
        };
        let own = cut(weight);
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
        let searched = decoded_blocks(&quantize(matrix, scheme, Algorithm::Search), scheme, k, n);
        let base = distance(&cut(&searched.unwrap_or_default()), None);
        let signal = match judges {
            Judges::Rows(..) => reference.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>(),
            Judges::Sums(held) => held.distance(&own, width, None),
        };
        let signal = signal.max(1e-30);
        shared.make_trials(centred, tried.clone());
        let grid = start.columns(n, columns.clone());
        let trials: Vec<Option<(f64, usize)>> = tried
            .into_par_iter()
            .map(|damping| {
                let (moments, prepared) = shared.get(centred, damping, 1)?;
                let aim = steps
                    .asymmetric
                    .then(|| target(&own, &moments.square, &moments.drift, (k, width), DAMPINGS[damping]))
                    .flatten();
                let aim = aim.as_deref().unwrap_or(&own);
                let coded =
                    compensate(&own, aim, width, 0..width, &grid, scheme, prepared, steps.codes, progress);
                let values = coded.values(width, scheme.block);
                let shift = centred.then(|| shift(&own, &values, moments, width));
                Some((distance(&values, shift.as_deref()), damping))
            })
            .collect();
        let found = trials.into_iter().flatten().filter(|(error, _)| error.is_finite());
        let best = found.min_by(|a, b| a.0.total_cmp(&b.0));
        match best {
            _ if !(base.is_finite() && signal.is_finite()) => {
                return plain(Some("its activations are not finite"));
            }
            Some((error, damping)) if error < base || algorithm == Algorithm::Gptq => {
                chosen = damping;
                errors = Some(Errors { searched: base, fitted: error, signal });
            }
            Some(_) => return plain(Some("no better on held-out samples")),
            None => return plain(Some("its statistics cannot be factored")),
        }
    }
    shared.make(centred, chosen);
    let Some((moments, prepared)) = shared.get(centred, chosen, 0) else {
        return plain(Some("its statistics cannot be factored"));
    };
    let aim = steps
        .asymmetric
        .then(|| target(weight, &moments.square, &moments.drift, (k, n), DAMPINGS[chosen]))
        .flatten();
    let coded = compensate(
        weight,
        aim.as_deref().unwrap_or(weight),
        n,
        0..n,
        &start,
        scheme,
        prepared,
        steps.codes,
        progress,
    );
    let values = coded.values(n, scheme.block);
    let shift = centred.then(|| shift(weight, &values, moments, n));
    let quantized = coded.pack(weight, n, scheme);
    Outcome { fitted: Fitted { quantized, shift }, algorithm: "gptq", errors, fallback: None }
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
