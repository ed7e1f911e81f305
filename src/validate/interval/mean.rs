//! Mean of values without a bound.

use super::Interval;
use super::quantile::student;

/// What the interval of a mean is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::validate) struct Moments {
    pub mean: f64,
    /// Standard deviation, with n − 1.
    pub deviation: f64,
    /// Third central moment over the cube of the standard deviation, both with n.
    pub skewness: f64,
    pub n: f64,
}

impl Moments {
    /// The moments of `values`.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n.max(1.0);
        let central = |power: i32| values.iter().map(|value| (value - mean).powi(power)).sum::<f64>();
        let square = central(2);
        let skewness = central(3) / square * (n / square).sqrt();
        // Values that hardly differ or not at all have none.
        let skewness = if skewness.is_finite() { skewness } else { 0.0 };
        Self { mean, deviation: (square / (n - 1.0).max(1.0)).sqrt(), skewness, n }
    }
}

/// Interval of the mean that the values were drawn around; `None` below two values.
///
/// Student's t, x̄ ± t s/√n, with each end moved outwards where Hall's transformation for skewed values
/// asks for more: x̄ − g⁻¹(±t) s/√n with g⁻¹(y) = 3/k (∛(1 + k (y − k/6)) − 1) and k = skewness/√n. Losses
/// are skewed to the right: with t alone the upper end misses too often, with Hall's alone the lower.
///
/// P. Hall, On the removal of skewness by transformation, J. R. Stat. Soc. B 54 (1992) 221-228; the inverse
/// with a = 1/3, b = 1/6 as in X.-H. Zhou, S. Gao, One-sided confidence intervals for means of positively
/// skewed distributions, The American Statistician 54 (2000) 100-104.
pub(in crate::validate) fn mean(moments: &Moments) -> Option<Interval> {
    let &Moments { mean, deviation, skewness, n } = moments;
    if n < 2.0 {
        return None;
    }
    let t = student(n - 1.0);
    let error = deviation / n.sqrt();
    let k = skewness / n.sqrt();
    let below = hall(k, t).max(t);
    let above = -hall(k, -t).min(-t);
    Some(Interval { low: mean - below * error, high: mean + above * error })
}

fn hall(k: f64, y: f64) -> f64 {
    // Below this the cube root cancels; the limit at 0 is y itself.
    if k.abs() < 1e-6 {
        return y;
    }
    3.0 / k * ((1.0 + k * (y - k / 6.0)).cbrt() - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_text_book() {
        let moments = Moments::of(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!(
            (moments.mean, moments.skewness) == (3.0, 0.0)
                && (moments.deviation - 2.5_f64.sqrt()).abs() < 1e-15
        );
        let found = mean(&moments).unwrap();
        // 3 ± 2.776445 · √(2.5 / 5)
        assert!((found.high - 4.963243).abs() < 1e-6 && (found.low - 1.036757).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn skew_widens_its_own_side() {
        let right = mean(&Moments { mean: 0.0, deviation: 1.0, skewness: 2.0, n: 30.0 }).unwrap();
        let left = mean(&Moments { mean: 0.0, deviation: 1.0, skewness: -2.0, n: 30.0 }).unwrap();
        assert!(right.high > -right.low && (right.high + left.low).abs() < 1e-12);
        let t = student(29.0) / 30.0_f64.sqrt();
        assert!((right.low + t).abs() < 1e-12);
    }

    #[test]
    fn one_value_says_nothing_about_the_spread() {
        assert_eq!(mean(&Moments::of(&[1.0])), None);
        assert_eq!(mean(&Moments::of(&[])), None);
        assert_eq!(mean(&Moments::of(&[1.0, 1.0])), Some(Interval { low: 1.0, high: 1.0 }));
    }
}
