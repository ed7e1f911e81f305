//! Rows of a table by their ids.

use crate::engine::{Cut, Run, Value};

/// The rows of `table` (`[k,n]`) for the ids that `cut` takes; `None` for ids outside of it.
pub(super) fn rows(run: &Run, cut: &Cut, table: &[f32], (k, n): (usize, usize)) -> Option<Value> {
    let ids = run.get(&cut.input)?;
    let mut rows = Vec::new();
    for id in ids.integers()? {
        let row = if id < 0 { id + i64::try_from(k).ok()? } else { id };
        let row = usize::try_from(row).ok().filter(|row| *row < k)?;
        rows.extend_from_slice(table.get(row * n..(row + 1) * n)?);
    }
    let shape: Vec<usize> = ids.shape().iter().copied().chain([n]).collect();
    Value::from_floats(&shape, &rows)
}
