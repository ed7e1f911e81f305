//! 95 % intervals, one file per kind of evidence.

mod mean;
mod pairs;
mod quantile;
mod shares;

use serde::{Deserialize, Serialize};

pub(super) use mean::{Moments, mean};
pub(super) use pairs::pairs;
pub(super) use shares::shares;

/// A two-sided 95 % confidence interval: 2.5 % are meant to lie beyond each end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// The interval of a quantity that never falls when this one rises.
    pub(super) fn map(self, rising: impl Fn(f64) -> f64) -> Self {
        Self { low: rising(self.low), high: rising(self.high) }
    }
}
