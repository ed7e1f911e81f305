//! How far quantized weights are from the originals.

use std::iter::Sum;

/// Distance between a weight and its quantized form, as decoded from the stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct WeightError {
    /// Sum of squared differences.
    pub squared_error: f64,
    /// Sum of squares of the original values.
    pub squared_signal: f64,
    /// Largest magnitude of a difference.
    pub max_abs_error: f32,
}

impl WeightError {
    /// Signal-to-quantization-noise ratio in dB; infinite when nothing was lost.
    pub fn sqnr_db(&self) -> f64 {
        if self.squared_error == 0.0 {
            return f64::INFINITY;
        }
        10.0 * (self.squared_signal / self.squared_error).log10()
    }

    /// Relative L2 error: 0 when nothing was lost, 1 when all was.
    pub fn relative(&self) -> f64 {
        if self.squared_error == 0.0 {
            return 0.0;
        }
        (self.squared_error / self.squared_signal).sqrt()
    }

    /// The error of two parts taken together.
    pub fn and(self, other: WeightError) -> WeightError {
        WeightError {
            squared_error: self.squared_error + other.squared_error,
            squared_signal: self.squared_signal + other.squared_signal,
            max_abs_error: self.max_abs_error.max(other.max_abs_error),
        }
    }
}

/// Adds in the order of the iterator, so that equal parts give equal sums.
impl Sum for WeightError {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(WeightError::default(), WeightError::and)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios() {
        let error = WeightError { squared_error: 1.0, squared_signal: 100.0, max_abs_error: 0.5 };
        assert_eq!(error.sqnr_db(), 20.0);
        assert_eq!(error.relative(), 0.1);
        let none = WeightError::default();
        assert_eq!((none.sqnr_db(), none.relative()), (f64::INFINITY, 0.0));
    }
}
