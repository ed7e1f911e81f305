//! Operators that have another name or form, and one that has none.

use crate::{error::Result, opset::site::Site};

/// `Scatter`, removed at 11: `ScatterElements` is the same.
pub fn scatter(site: &mut Site<'_, '_>) -> Result<()> {
    site.node.op_type = Some("ScatterElements".to_owned());
    Ok(())
}

/// `Scan` 8 ran over a batch axis with a length per sequence, which later ones do not have.
pub fn scan(site: &mut Site<'_, '_>) -> Result<()> {
    Err(site.unsupported("has a batch axis and sequence lengths, which later opsets do not have"))
}
