//! The choice under a budget: for every weight one of several ways to store it, so that the losses add up to
//! the least for the bytes, or the bytes to the least for the loss.
//!
//! A multiple-choice knapsack, solved by its Lagrangian: at a price per byte every weight chooses for itself;
//! the price is bisected, and what is left over goes to the best steps that still fit.

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// At most so many bytes.
    Bytes(u64),
    /// At most so much loss, in the unit of [`Choice::loss`].
    Loss(f64),
}

/// One way to store a weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Bytes in the file.
    pub bytes: u64,
    /// Predicted loss; adds up over weights.
    pub loss: f64,
}

/// For each of `items` the index of its choice; `None` when no choice holds the limit.
///
/// An item without choices makes the problem unsolvable.
pub fn within(items: &[Vec<Choice>], limit: Limit) -> Option<Vec<usize>> {
    let holds = |picked: &[usize]| {
        let (bytes, loss) = totals(items, picked);
        match limit {
            Limit::Bytes(most) => bytes <= most,
            Limit::Loss(most) => loss <= most,
        }
    };
    let (cheap, fine) = (at_price(items, f64::INFINITY)?, at_price(items, 0.0)?);
    let (mut best, far) = match limit {
        Limit::Bytes(_) => (cheap, fine),
        Limit::Loss(_) => (fine, cheap),
    };
    if !holds(&best) {
        return None;
    }
    if holds(&far) {
        return Some(far);
    }
    // Prices in loss per byte, on a logarithmic scale that covers every loss and size.
    let (mut low, mut high) = (-100.0f64, 20.0f64);
    for _ in 0..80 {
        let middle = (low + high) / 2.0;
        let picked = at_price(items, 10f64.powf(middle))?;
        let held = holds(&picked);
        match limit {
            Limit::Bytes(_) if held => high = middle,
            Limit::Bytes(_) => low = middle,
            Limit::Loss(_) if held => low = middle,
            Limit::Loss(_) => high = middle,
        }
        if held {
            best = picked;
        }
    }
    fill(items, &mut best, &holds, limit);
    Some(best)
}

/// Bytes and loss of a selection.
pub fn totals(items: &[Vec<Choice>], picked: &[usize]) -> (u64, f64) {
    let chosen = items.iter().zip(picked).filter_map(|(choices, at)| choices.get(*at));
    chosen.fold((0, 0.0), |(bytes, loss), choice| (bytes + choice.bytes, loss + choice.loss))
}

/// What every item picks when a byte costs `price`; the smaller one of equals.
fn at_price(items: &[Vec<Choice>], price: f64) -> Option<Vec<usize>> {
    let cost = |choice: &Choice| {
        if price.is_finite() { choice.loss + price * choice.bytes as f64 } else { choice.bytes as f64 }
    };
    items
        .iter()
        .map(|choices| {
            let order = |a: &(usize, &Choice), b: &(usize, &Choice)| {
                cost(a.1)
                    .total_cmp(&cost(b.1))
                    .then(a.1.bytes.cmp(&b.1.bytes))
                    .then(a.1.loss.total_cmp(&b.1.loss))
            };
            choices.iter().enumerate().min_by(order).map(|(at, _)| at)
        })
        .collect()
}

/// Spends what is left: single steps, the best ratio of gain to cost first, while the limit holds.
fn fill(items: &[Vec<Choice>], picked: &mut [usize], holds: &dyn Fn(&[usize]) -> bool, limit: Limit) {
    loop {
        let mut steps: Vec<(f64, usize, usize)> = Vec::new();
        for (item, choices) in items.iter().enumerate() {
            let Some(now) = picked.get(item).and_then(|at| choices.get(*at)) else { continue };
            for (at, choice) in choices.iter().enumerate() {
                let (bytes, loss) = (choice.bytes as f64 - now.bytes as f64, choice.loss - now.loss);
                let ratio = match limit {
                    Limit::Bytes(_) if loss < 0.0 => -loss / bytes.max(1e-9),
                    Limit::Loss(_) if bytes < 0.0 => -bytes / loss.max(1e-30),
                    _ => continue,
                };
                steps.push((ratio, item, at));
            }
        }
        steps.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let taken = steps.into_iter().find(|(_, item, at)| {
            let Some(old) = picked.get(*item).copied() else { return false };
            picked[*item] = *at;
            let fits = holds(picked);
            if !fits {
                picked[*item] = old;
            }
            fits
        });
        if taken.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn brute(items: &[Vec<Choice>], limit: Limit) -> Option<f64> {
        let mut best = None;
        let mut at = vec![0; items.len()];
        loop {
            let (bytes, loss) = totals(items, &at);
            let (fits, cost) = match limit {
                Limit::Bytes(most) => (bytes <= most, loss),
                Limit::Loss(most) => (loss <= most, bytes as f64),
            };
            if fits && best.is_none_or(|least| cost < least) {
                best = Some(cost);
            }
            let Some(next) = (0..items.len()).find(|i| at[*i] + 1 < items[*i].len()) else { return best };
            at[next] += 1;
            at[..next].fill(0);
        }
    }

    proptest! {
        #[test]
        fn it_holds_the_limit_and_is_not_far_from_the_best(
            items in prop::collection::vec(prop::collection::vec((1u64..50, 0u32..100), 1..4), 1..5),
            limit in 1u64..150,
            by_loss in any::<bool>(),
        ) {
            let items: Vec<Vec<Choice>> = items
                .into_iter()
                .map(|list| list.into_iter().map(|(bytes, loss)| Choice { bytes, loss: f64::from(loss) }).collect())
                .collect();
            let limit = if by_loss { Limit::Loss(limit as f64) } else { Limit::Bytes(limit) };
            let (found, best) = (within(&items, limit), brute(&items, limit));
            prop_assert_eq!(found.is_some(), best.is_some());
            if let (Some(picked), Some(best)) = (found, best) {
                let (bytes, loss) = totals(&items, &picked);
                let (cost, slack) = match limit {
                    Limit::Bytes(most) => { prop_assert!(bytes <= most); (loss, 100.0) }
                    Limit::Loss(most) => { prop_assert!(loss <= most); (bytes as f64, 50.0) }
                };
                // The gap of the Lagrangian is at most what one item can make.
                prop_assert!(cost <= best + slack, "{cost} against {best}");
            }
        }
    }
}
