//! Whether models are run in this process at all.

use std::sync::OnceLock;

use crate::error::{Error, Result};

static OFF: OnceLock<String> = OnceLock::new();

/// From now on no model is run in this process: whatever would run one fails with
/// [`crate::error::Kind::Unsupported`] and `reason`, as for a model that the runtime does not know.
pub fn switch_off(reason: String) {
    // A second reason adds nothing to the first.
    let _ = OFF.set(reason);
}

pub(super) fn allowed() -> Result<()> {
    match OFF.get() {
        Some(reason) => Err(Error::unsupported("runtime", reason.as_str())),
        None => Ok(()),
    }
}
