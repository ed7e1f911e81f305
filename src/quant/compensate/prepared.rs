//! What the columns of a linear share: its moments, damped and factored.

use faer::Side;
use faer::mat::Mat;

/// What is added to the diagonal of the moments, in parts of its mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Damping {
    /// Where the moments are inverted to compensate rounding.
    pub factor: f32,
    /// Where the error is measured: by refit and descent.
    pub descent: f32,
    /// Where the target is moved: the pull back to the original weight.
    pub target: f32,
}

/// Moments H `[K,K]` made ready for every column.
pub struct Prepared {
    k: usize,
    /// H, damped for refit and descent, in natural order.
    pub(super) natural: Vec<f32>,
    /// The same in [`Prepared::order`].
    pub(super) ordered: Vec<f32>,
    /// U with UᵀU = H⁻¹, upper triangular, in the same order.
    pub(super) upper: Vec<f32>,
    /// Rows, the largest diagonal first.
    pub(super) order: Vec<usize>,
}

impl Prepared {
    /// `None` where the moments are of no use: not finite, or all zero.
    pub fn new(moments: &[f32], k: usize, damping: Damping) -> Option<Self> {
        let diagonal: Vec<f32> = (0..k).map(|at| moments.get(at * k + at).copied()).collect::<Option<_>>()?;
        let mean = diagonal.iter().map(|value| f64::from(*value)).sum::<f64>() / k.max(1) as f64;
        if !(mean.is_finite() && mean > 0.0) || moments.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut order: Vec<usize> = (0..k).collect();
        order.sort_by(|a, b| diagonal[*b].total_cmp(&diagonal[*a]).then(a.cmp(b)));

        let mut natural = moments.to_vec();
        for at in 0..k {
            natural[at * k + at] += damping.descent * mean as f32;
        }
        let ordered = permuted(&natural, &order);
        // With J the reversal: J H J = L Lᵀ gives H = R Rᵀ for the upper R = J L J, and U = R⁻¹ = J L⁻¹ J.
        let extra = f64::from(damping.factor) * mean;
        let at = |i: usize| order[k - 1 - i];
        let reversed = Mat::<f64>::from_fn(k, k, |i, j| {
            f64::from(moments[at(i) * k + at(j)]) + if i == j { extra } else { 0.0 }
        });
        let factor = reversed.llt(Side::Lower).ok()?;
        let mut inverse = Mat::<f64>::zeros(k, k);
        faer::linalg::triangular_inverse::invert_lower_triangular(
            inverse.as_mut(),
            factor.L(),
            faer::Par::Seq,
        );
        let mut upper = vec![0.0f32; k * k];
        for i in 0..k {
            for j in i..k {
                upper[i * k + j] = inverse[(k - 1 - i, k - 1 - j)] as f32;
            }
        }
        upper.iter().all(|value| value.is_finite()).then_some(Self { k, natural, ordered, upper, order })
    }

    /// What an error in each row counts for itself: the mean squares of the inputs, damped as for refit and descent, in
    /// parts of their mean.
    pub fn diagonal(&self) -> Vec<f32> {
        let diagonal: Vec<f32> = self.natural.iter().step_by(self.k + 1).copied().collect();
        let mean = diagonal.iter().map(|value| f64::from(*value)).sum::<f64>() / self.k.max(1) as f64;
        diagonal.iter().map(|value| (f64::from(*value) / mean) as f32).collect()
    }

    /// Rows of the weights that it is for.
    pub fn k(&self) -> usize {
        self.k
    }
}

fn permuted(matrix: &[f32], order: &[usize]) -> Vec<f32> {
    let k = order.len();
    let mut out = Vec::with_capacity(k * k);
    for row in order {
        out.extend(order.iter().map(|column| matrix[row * k + column]));
    }
    out
}
