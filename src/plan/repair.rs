//! Raising the precision of a plan step by step, when the measured loss misses its target.

use super::{Decision, Encoding, Plan, UsePlan};
use crate::quant::{Algorithm, Bits, Scheme};

/// Block of the 8-bit form: the size at which it is smallest and as good as at any other.
const EIGHT_BIT_BLOCK: usize = 128;

/// One tensor raised to a higher precision.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Index of the decision.
    pub decision: usize,
    /// Index of the use.
    pub usage: usize,
    /// What replaces the present encoding.
    pub encoding: Encoding,
    /// Payload bytes that it adds.
    pub bytes: i64,
}

/// The next precision above the present one: 4 bits → 8 bits → float (of a table: 4-bit rows → 8-bit rows → float); `None` at float.
pub fn next_step(plan: &Plan, decision: usize, usage: usize) -> Option<Step> {
    let current = plan.decisions.get(decision)?;
    let UsePlan { encoding, matrix, .. } = current.uses.get(usage)?;
    let encoding = match *encoding {
        Encoding::Float => return None,
        Encoding::Blocks { scheme: Scheme { bits: Bits::Four, scales, emit, .. }, algorithm } => {
            Encoding::Blocks {
                scheme: Scheme { bits: Bits::Eight, block: EIGHT_BIT_BLOCK, symmetric: true, scales, emit }
                    .no_wider_than(matrix.map_or(usize::MAX, |(k, _)| k)),
                algorithm: search_for(algorithm),
            }
        }
        Encoding::PackedRows { format, algorithm } => {
            Encoding::Rows { scales: format.scales, algorithm: search_for(algorithm) }
        }
        Encoding::Blocks { .. } | Encoding::Rows { .. } => Encoding::Float,
    };
    let mut raised: Decision = current.clone();
    raised.uses.get_mut(usage)?.encoding = encoding;
    raised.recount();
    let bytes = raised.bytes_after as i64 - current.bytes_after as i64;
    Some(Step { decision, usage, encoding, bytes })
}

/// Carries `step` out on the plan, with its reason.
pub fn raise_to(plan: &mut Plan, step: &Step, reason: String) {
    let Some(decision) = plan.decisions.get_mut(step.decision) else { return };
    if let Some(usage) = decision.uses.get_mut(step.usage) {
        usage.encoding = step.encoding;
        usage.reason = reason;
    }
    decision.recount();
}

/// Clipping costs more than it gains at 8 bits.
fn search_for(algorithm: Algorithm) -> Algorithm {
    match algorithm {
        Algorithm::Percentile { .. } => Algorithm::Search,
        other => other,
    }
}
