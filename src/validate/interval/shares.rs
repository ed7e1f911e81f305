//! Mean of shares, one per sample.

use super::Interval;
use super::quantile::{TAIL, beta};

/// Interval of the mean of `n` > 0 shares in 0..=1 that add up to `sum`.
///
/// Clopper-Pearson with `sum` successes: the quantiles at 0.025 of Beta(sum, n − sum + 1) and at 0.975 of
/// Beta(sum + 1, n − sum). If every share is 0 or 1 this is the exact interval of a proportion. For shares
/// of several positions it takes the positions of a sample as one observation, as if they all changed
/// together or not at all. No distribution on 0..=1 with the same mean varies more, so it errs on the wide
/// side, and it needs no variance, of which few changes give no estimate. Without a change the upper end is
/// 1 − 0.025^(1/n), about 3.7 / n.
///
/// C. J. Clopper, E. S. Pearson, The use of confidence or fiducial limits illustrated in the case of the
/// binomial, Biometrika 26 (1934) 404-413.
pub(in crate::validate) fn shares(sum: f64, n: f64) -> Interval {
    let low = if sum > 0.0 { beta(sum, n - sum + 1.0, TAIL) } else { 0.0 };
    let high = if sum < n { beta(sum + 1.0, n - sum, 1.0 - TAIL) } else { 1.0 };
    Interval { low: low.min(sum / n), high: high.max(sum / n) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_examples() {
        // Newcombe 1998 (first three); Fagerland, Lydersen & Laake 2017.
        for (sum, n, low, high) in [
            (15.0, 148.0, 0.0578, 0.1617),
            (0.0, 20.0, 0.0, 0.1684),
            (1.0, 29.0, 0.0009, 0.1776),
            (13.0, 16.0, 0.5435, 0.9595),
            (10.0, 10.0, 0.6915, 1.0),
        ] {
            let found = shares(sum, n);
            assert!((found.low - low).abs() <= 5e-5 && (found.high - high).abs() <= 5e-5, "{found:?}");
        }
    }

    #[test]
    fn large_counts() {
        // Binomial tails summed in numpy.
        for (sum, n, high) in
            [(1000.0, 1e7, 1.063948734e-4), (2000.0, 4000.0, 0.5156150977), (2e4, 4e4, 0.5049122608)]
        {
            assert!((shares(sum, n).high / high - 1.0).abs() < 1e-8, "{:?}", shares(sum, n));
        }
    }
}
