//! Softmax and its relatives.

use crate::{
    error::Result,
    opset::site::{Site, int_attribute},
};

/// `Softmax`, `LogSoftmax` and `Hardmax` before 13 took all axes from `axis` (default 1) on as one; since 13 they
/// take that axis alone (default -1). For the last axis both are the same; otherwise, or when the rank is not known,
/// the data is flattened to `[before axis, from axis]` and given back its shape.
pub fn softmax(site: &mut Site<'_, '_>) -> Result<()> {
    let data = site.required_input(0)?;
    let output = site.required_output()?;
    let axis = site.take_int("axis")?.unwrap_or(1);
    site.set(int_attribute("axis", -1));
    let last = site.scope.rank(&data).and_then(|rank| i64::try_from(rank).ok()).map(|rank| rank - 1);
    if axis == -1 || Some(axis) == last {
        return Ok(());
    }
    let flat = site.add_before("Flatten", &[&data], "flat", vec![int_attribute("axis", axis)]);
    let shape = site.add_before("Shape", &[&data], "shape", Vec::new());
    let result = site.fresh("flat_result");
    site.node.input[0] = flat;
    site.node.output[0].clone_from(&result);
    // With allowzero an axis of size 0 is kept wherever it is.
    site.add_after("Reshape", &[&result, &shape], output, vec![int_attribute("allowzero", 1)]);
    Ok(())
}
