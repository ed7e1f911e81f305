//! How many samples would decide.

use super::evidence::Evidence;

/// Beyond this no number is given.
const MOST: u64 = 10_000_000;

/// The smallest number of samples whose interval would lie on one side of `target` if estimate and spread
/// stayed as they are; an order of magnitude, since they will not stay exactly.
///
/// `None` if there are not two samples to go by, estimate and target are the same, or ten million are not
/// enough.
pub(super) fn samples_needed(evidence: Evidence, target: f64) -> Option<u64> {
    if evidence.samples() < 2 {
        return None;
    }
    let estimate = evidence.estimate();
    let decides = |n: u64| {
        let evidence = evidence.scaled(n);
        evidence.is_enough()
            && evidence.interval().is_some_and(|interval| {
                (estimate < target && interval.high <= target) || (estimate > target && interval.low > target)
            })
    };
    let mut low = evidence.samples();
    let mut high = low;
    while !decides(high) {
        if high >= MOST {
            return None;
        }
        (low, high) = (high, high.saturating_mul(2).min(MOST));
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if decides(middle) { high = middle } else { low = middle }
    }
    Some(high)
}
