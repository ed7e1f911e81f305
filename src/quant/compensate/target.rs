//! The weight to aim at when the inputs of a layer have changed.

use faer::Side;
use faer::mat::Mat;

use rayon::prelude::*;

use super::prepared::Damping;
use crate::linalg;

/// Columns that are solved on one thread.
const COLUMNS: usize = 128;

/// `W + (H + λI)⁻¹ D W` for the drift D = X̂ᵀ(X - X̂)/n: the weight that on the changed inputs X̂ comes nearest
/// to what W gives on X, with a ridge towards W (GPTAQ, arXiv 2504.02692). All `[K,K]` and `[K,N]`.
///
/// `None` where the moments cannot be factored.
pub fn target(
    weight: &[f32],
    moments: &[f32],
    drift: &[f32],
    (k, n): (usize, usize),
    damping: Damping,
) -> Option<Vec<f32>> {
    let mean = (0..k).map(|at| f64::from(moments[at * k + at])).sum::<f64>() / k.max(1) as f64;
    let ridge = f64::from(damping.target) * mean;
    if !(ridge.is_finite() && ridge > 0.0) {
        return None;
    }
    let mut pull = vec![0.0; k * n];
    linalg::product(&mut pull, drift, weight, (k, k, n), false);
    let matrix =
        Mat::<f64>::from_fn(k, k, |i, j| f64::from(moments[i * k + j]) + if i == j { ridge } else { 0.0 });
    let factor = matrix.llt(Side::Lower).ok()?;
    let solved: Vec<Mat<f64>> = (0..n.div_ceil(COLUMNS))
        .into_par_iter()
        .map(|part| {
            let left = part * COLUMNS;
            let width = COLUMNS.min(n - left);
            let mut right = Mat::<f64>::from_fn(k, width, |i, j| f64::from(pull[i * n + left + j]));
            faer::linalg::solvers::SolveCore::solve_in_place_with_conj(
                &factor,
                faer::Conj::No,
                right.as_mut(),
            );
            right
        })
        .collect();
    let moved: Vec<f32> = weight
        .par_iter()
        .enumerate()
        .map(|(at, value)| {
            let column = at % n;
            value + solved[column / COLUMNS][(at / n, column % COLUMNS)] as f32
        })
        .collect();
    moved.iter().all(|value| value.is_finite()).then_some(moved)
}
