//! Integers that were attributes and became inputs.

use crate::{
    error::Result,
    opset::site::{Site, int_attribute},
};

/// `Slice` before 10: attributes `starts`, `ends` and `axes` become inputs 1 to 3. Without `axes` the first ones are
/// meant, before and after.
pub fn slice(site: &mut Site<'_, '_>) -> Result<()> {
    for (index, attribute) in [(1, "starts"), (2, "ends")] {
        let values = site.take_ints(attribute)?;
        let values = site.required(attribute, values)?;
        let values = site.ints(attribute, &values);
        site.set_new_input(index, values)?;
    }
    match site.take_ints("axes")? {
        Some(axes) if !axes.is_empty() => {
            let axes = site.ints("axes", &axes);
            site.set_new_input(3, axes)
        }
        _ => Ok(()),
    }
}

/// `Split`: before 13 attribute `split` becomes input 1; before 18 a node without part sizes had one equal part per
/// output, which attribute `num_outputs` now says.
pub fn split(site: &mut Site<'_, '_>) -> Result<()> {
    if site.opset < 13
        && let Some(sizes) = site.take_ints("split")?
        && !sizes.is_empty()
    {
        let sizes = site.ints("split", &sizes);
        return site.set_new_input(1, sizes);
    }
    if site.input(1).is_none() {
        site.node.input.truncate(1);
        site.set(int_attribute("num_outputs", site.node.output.len() as i64));
    }
    Ok(())
}

/// `TopK` before 10: attribute `k` becomes input 1.
pub fn top_k(site: &mut Site<'_, '_>) -> Result<()> {
    let k = site.take_int("k")?;
    let k = site.required("k", k)?;
    let k = site.ints("k", &[k]);
    site.set_new_input(1, k)
}

/// `DFT` before 20: attribute `axis` becomes scalar input 2, and its default was 1 where an absent input means -2.
pub fn dft(site: &mut Site<'_, '_>) -> Result<()> {
    let axis = site.take_int("axis")?.unwrap_or(1);
    let axis = site.int("axis", axis);
    site.set_new_input(2, axis)
}
