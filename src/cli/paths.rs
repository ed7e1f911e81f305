//! Which files a command reads and writes, looked at before any work.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::onnx::check_target;

/// Refuses a write that is one of the reads or another write, that exists (without `overwrite`), or that cannot
/// be a file.
pub(super) fn check(reads: &[&Path], writes: &[&Path], overwrite: bool) -> Result<()> {
    let mut seen: Vec<PathBuf> = Vec::new();
    for path in writes {
        check_target(path, reads, overwrite)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let full = folder.canonicalize().unwrap_or_default().join(path.file_name().unwrap_or_default());
        if seen.contains(&full) {
            return Err(Error::caller(path.display().to_string(), "two results would be written to it")
                .help("name another file for one of them"));
        }
        seen.push(full);
    }
    Ok(())
}
