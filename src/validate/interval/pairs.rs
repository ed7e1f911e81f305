//! Difference of two proportions seen on the same samples.

use super::Interval;
use super::quantile::{Z, last};

/// Interval of the difference p(original right) − p(rewritten right), as a fraction.
///
/// `lost` of `n` samples only the original has right, `gained` only the rewritten model; `n` > 0. Fractional
/// counts are allowed. This is Tango's score interval: all δ whose score test is not rejected,
///
/// |lost − gained − nδ| ≤ 1.96 √(n (2q + δ(1 − δ))), q = (√(B² − 8nC) − B) / 4n,
/// B = (2n − lost + gained) δ − lost − gained, C = −gained δ (1 − δ),
///
/// where q is the maximum-likelihood estimate of p(gained) under δ. Without a discordant sample it is
/// ± 1.96² / (n + 1.96²).
///
/// T. Tango, Equivalence test and confidence interval for the difference in proportions for the
/// paired-sample design, Statistics in Medicine 17 (1998) 891-908.
pub(in crate::validate) fn pairs(lost: f64, gained: f64, n: f64) -> Interval {
    Interval { low: -upper(gained, lost, n), high: upper(lost, gained, n) }
}

fn upper(lost: f64, gained: f64, n: f64) -> f64 {
    last((lost - gained) / n, 1.0, |delta| {
        let b = (2.0 * n - lost + gained) * delta - lost - gained;
        let c = -gained * delta * (1.0 - delta);
        let q = ((b * b - 8.0 * n * c).max(0.0).sqrt() - b) / (4.0 * n);
        let variance = (n * (2.0 * q + delta * (1.0 - delta))).max(0.0);
        n * delta - (lost - gained) <= Z * variance.sqrt()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lost: f64, gained: f64, n: f64, low: f64, high: f64, rounding: f64) {
        let found = pairs(lost, gained, n);
        assert!((found.low - low).abs() <= rounding && (found.high - high).abs() <= rounding, "{found:?}");
    }

    #[test]
    fn published_examples() {
        // Tango 1998; Agresti & Min 2005; Fagerland, Lydersen & Laake 2014 (two).
        check(9.0, 3.0, 32.0, -0.027, 0.390, 5e-4);
        check(16.0, 8.0, 86.0, -0.020, 0.207, 5e-4);
        check(1.0, 7.0, 21.0, -0.517, -0.026, 5e-4);
        check(6.0, 16.0, 161.0, -0.1240, -0.0054, 5e-5);
    }

    #[test]
    fn without_discordant_samples() {
        for n in [1.0, 10.0, 2000.0, 1e7] {
            let end = Z * Z / (n + Z * Z);
            check(0.0, 0.0, n, -end, end, 1e-9 * end);
        }
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(pairs(5.0, 0.0, 5.0).high, 1.0);
        assert_eq!(pairs(0.0, 5.0, 5.0).low, -1.0);
        let found = pairs(5.0, 0.0, 5.0);
        assert!(found.low > 0.0 && found.low < 1.0);
    }
}
