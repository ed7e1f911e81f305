//! Numbers that were attributes and became inputs of the type of the data.

use crate::{error::Result, opset::site::Site};

/// `Clip` before 11: attributes `min` and `max` become scalar inputs 1 and 2.
pub fn clip(site: &mut Site<'_, '_>) -> Result<()> {
    let data = site.required_input(0)?;
    for (index, attribute) in [(1, "min"), (2, "max")] {
        if let Some(bound) = site.take_float(attribute)? {
            let bound = site.float_like(attribute, bound, &data);
            site.set_new_input(index, bound)?;
        }
    }
    Ok(())
}

/// `Pad` before 11: attributes `pads` and `value` become input 1 and scalar input 2. Only mode `constant` has a
/// value, and 0 is what an absent input means.
pub fn pad(site: &mut Site<'_, '_>) -> Result<()> {
    let data = site.required_input(0)?;
    let pads = site.take_ints("pads")?;
    let pads = site.required("pads", pads)?;
    let pads = site.ints("pads", &pads);
    site.set_new_input(1, pads)?;
    let constant = site.text("mode")?.is_none_or(|mode| mode == "constant");
    match site.take_float("value")? {
        Some(value) if constant && value != 0.0 => {
            let value = site.float_like("pad_value", value, &data);
            site.set_new_input(2, value)
        }
        _ => Ok(()),
    }
}
