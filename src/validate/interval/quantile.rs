//! Quantiles and roots. statrs' own inverses do not return for some arguments (0.19), hence bisection.

use statrs::function::beta::checked_beta_reg;

/// Probability beyond each end of a two-sided 95 % interval.
pub(super) const TAIL: f64 = 0.025;

/// Quantile of the normal distribution at 0.975.
pub(super) const Z: f64 = 1.959_963_984_540_054;

/// The point in `low..=high` up to which `holds` is true, to the last bit.
pub(super) fn last(mut low: f64, mut high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    loop {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            return middle;
        }
        *(if holds(middle) { &mut low } else { &mut high }) = middle;
    }
}

/// Quantile of Beta(a, b) at `probability`, for a, b > 0.
pub(super) fn beta(a: f64, b: f64, probability: f64) -> f64 {
    last(0.0, 1.0, |x| checked_beta_reg(a, b, x).is_ok_and(|below| below < probability))
}

/// Quantile of Student's t at 0.975 with `freedom` ≥ 1 degrees of freedom.
///
/// P(|T| > t) = I_x(freedom / 2, 1 / 2) at x = freedom / (freedom + t²).
pub(super) fn student(freedom: f64) -> f64 {
    let beyond = |t: f64| checked_beta_reg(freedom / 2.0, 0.5, freedom / (freedom + t * t));
    last(Z, 13.0, |t| beyond(t).is_ok_and(|beyond| beyond > 2.0 * TAIL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn student_of_the_tables() {
        for (freedom, t) in [(1.0, 12.706205), (2.0, 4.302653), (9.0, 2.262157), (29.0, 2.045230)] {
            assert!((student(freedom) - t).abs() < 5e-7, "{freedom}: {}", student(freedom));
        }
        assert!((student(1e9) - Z).abs() < 1e-6);
    }

    #[test]
    fn beta_of_one_parameter() {
        // Beta(1, b) has the distribution function 1 − (1 − x)^b.
        for b in [1.0, 10.0, 1e7] {
            let expected = -(TAIL.ln() / b).exp_m1();
            assert!((beta(1.0, b, 1.0 - TAIL) / expected - 1.0).abs() < 1e-7);
        }
    }
}
