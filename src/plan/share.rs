//! Tensors that stay in float and hold the same values are stored once.

use super::{Plan, Stored};
use crate::graph::Inventory;

/// Bytes of the node that makes one tensor of another.
const NODE_BYTES: u64 = 128;

/// Lets every tensor that `plan` keeps whole be made of the first kept one with the same values, where there is one.
/// What was shared before stays so.
pub fn share(plan: &mut Plan, inventory: &Inventory) {
    for group in &inventory.twins {
        let kept =
            |number: usize| plan.decisions.get(number).is_some_and(|decision| decision.keeps_original());
        let Some((first, turned)) = group.iter().copied().find(|(number, _)| kept(*number)) else { continue };
        let copies: Vec<(usize, bool)> =
            group.iter().copied().filter(|(number, _)| *number != first && kept(*number)).collect();
        let name = plan.decisions.get(first).map(|decision| decision.tensor.clone()).unwrap_or_default();
        for (number, transposed) in copies {
            let transposed = transposed != turned;
            let Some(decision) = plan.decisions.get_mut(number) else { continue };
            if decision.bytes_before <= NODE_BYTES {
                continue;
            }
            decision.stored = Some(Stored::Twin { of: first, transposed });
            let how = if transposed { "the transpose of" } else { "the same as" };
            for usage in decision.uses.iter_mut().filter(|usage| usage.encoding == super::Encoding::Float) {
                usage.reason = format!("{}; {how} '{name}'", usage.reason);
            }
            decision.recount();
        }
    }
}

/// Whether decision `number` may be made of decision `of`, as `inventory` found them.
pub fn are_twins(inventory: &Inventory, number: usize, of: usize, transposed: bool) -> bool {
    inventory.twins.iter().any(|group| {
        let turned =
            |wanted: usize| group.iter().find(|(number, _)| *number == wanted).map(|(_, turned)| *turned);
        turned(number).zip(turned(of)).is_some_and(|(a, b)| number != of && (a != b) == transposed)
    })
}
