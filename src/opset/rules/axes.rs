//! Attribute `axes` that became input 1.

use crate::{error::Result, opset::site::Site};

/// `ReduceSum` before 13, the other `Reduce*` before 18: attribute `axes` becomes input 1. Absent or empty means all
/// axes, as an absent input does.
pub fn reduce(site: &mut Site<'_, '_>) -> Result<()> {
    match site.take_ints("axes")? {
        Some(axes) if !axes.is_empty() => set_axes(site, &axes),
        _ => Ok(()),
    }
}

/// `Squeeze` before 13: as [`reduce`]; absent means all axes of size 1.
pub fn squeeze(site: &mut Site<'_, '_>) -> Result<()> {
    reduce(site)
}

/// `Unsqueeze` before 13: the required attribute `axes` becomes input 1.
pub fn unsqueeze(site: &mut Site<'_, '_>) -> Result<()> {
    let axes = site.take_ints("axes")?;
    let axes = site.required("axes", axes)?;
    set_axes(site, &axes)
}

fn set_axes(site: &mut Site<'_, '_>, axes: &[i64]) -> Result<()> {
    let axes = site.ints("axes", axes);
    site.set_new_input(1, axes)
}
