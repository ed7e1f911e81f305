//! Raising the precision of a plan step by step, when the measured loss misses its target.

use super::{Encoding, Plan};
use crate::quant::{Algorithm, Bits, Scheme};

/// Block of the 8-bit form: the size at which it is smallest and as good as at any other.
const EIGHT_BIT_BLOCK: usize = 128;

/// One use of a tensor raised to a higher precision.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Index of the decision.
    pub decision: usize,
    /// Index of the use.
    pub usage: usize,
    /// How it was stored.
    pub from: Encoding,
    /// How it is stored now.
    pub to: Encoding,
    /// Payload bytes that this adds.
    pub bytes: i64,
}

impl Encoding {
    /// The next precision above this one, for a weight of `k` rows: 4 bits → 8 bits → float (of a table: 4-bit rows →
    /// 8-bit rows → float); `None` at float.
    pub fn next(self, k: usize) -> Option<Self> {
        Some(match self {
            Encoding::Float => return None,
            Encoding::Blocks { scheme: Scheme { bits: Bits::Four, scales, emit, .. }, algorithm } => {
                Encoding::Blocks {
                    scheme: Scheme {
                        bits: Bits::Eight,
                        block: EIGHT_BIT_BLOCK,
                        symmetric: true,
                        scales,
                        emit,
                    }
                    .no_wider_than(k),
                    algorithm: search_for(algorithm),
                }
            }
            Encoding::PackedRows { format, algorithm } => {
                Encoding::Rows { scales: format.scales, algorithm: search_for(algorithm) }
            }
            Encoding::Blocks { .. } | Encoding::Rows { .. } => Encoding::Float,
        })
    }

    /// This one and all above it.
    pub fn ladder(self, k: usize) -> impl Iterator<Item = Self> {
        std::iter::successors(Some(self), move |encoding| encoding.next(k))
    }
}

/// Stores one use of `plan` as `to`, for `reason`; `None` where it is stored so or is not there.
pub fn raise_to(
    plan: &mut Plan,
    (decision, usage): (usize, usize),
    to: Encoding,
    reason: &str,
) -> Option<Step> {
    let raised = plan.decisions.get_mut(decision)?;
    let before = raised.bytes_after;
    let found = raised.uses.get_mut(usage).filter(|found| found.encoding != to)?;
    let from = std::mem::replace(&mut found.encoding, to);
    reason.clone_into(&mut found.reason);
    raised.recount();
    let bytes = raised.bytes_after as i64 - before as i64;
    Some(Step { decision, usage, from, to, bytes })
}

/// Clipping costs more than it gains at 8 bits.
fn search_for(algorithm: Algorithm) -> Algorithm {
    match algorithm {
        Algorithm::Percentile { .. } => Algorithm::Search,
        other => other,
    }
}
