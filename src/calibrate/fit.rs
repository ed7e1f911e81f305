//! Choosing how one weight is fitted.

use super::shared::Shared;
use super::trial::{Choice, Errors, Judges, Task, Way};
use super::{Fitted, Likeness, Steps};
use crate::progress::Progress;
use crate::quant::{Algorithm, Matrix, Scheme, quantize};

/// What is taken where nothing is fitted.
pub(super) const SEARCH: &str = "search";
/// Why it is taken where no way of fitting can be followed.
const NOT_FACTORED: &str = "its statistics cannot be factored";

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
    if shared.rows() == 0 {
        return plain(Some("no statistics of its activations"));
    }
    let task = Task { matrix, weight, scheme, centred, progress };
    let few = shared.is_few(k);
    let tried = Way::tried(algorithm, likeness, steps);
    let (way, errors) = match judges.rows(k) {
        0 => (Way::untried(algorithm, likeness, few, steps), None),
        _ => match task.choose(&tried, shared, judges) {
            Choice::NotFinite => return plain(Some("its activations are not finite")),
            Choice::None => return plain(Some(NOT_FACTORED)),
            Choice::Best(_, errors) if errors.fitted >= errors.searched && algorithm != Algorithm::Gptq => {
                return plain(Some("no better on held-out samples"));
            }
            Choice::Best(way, errors) => (way, Some(errors)),
        },
    };
    shared.make(centred, way.damping);
    let Some((coded, shift)) = task.code(weight, 0..n, way, shared, 0) else {
        return plain(Some(NOT_FACTORED));
    };
    let quantized = coded.pack(weight, n, scheme);
    Outcome { fitted: Fitted { quantized, shift }, algorithm: way.name, errors, fallback: None }
}
