//! Which files a command reads and writes, looked at before any work.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::onnx::save::side_path;
use crate::onnx::{check_file, check_target, files};

/// Refuses a write that is one of the reads, a file of one of the `models`, or another write, that exists (without
/// `overwrite`), or that cannot be a file. The model `output` takes its side file's name too.
pub(super) fn check(
    models: &[&Path],
    reads: &[&Path],
    output: Option<&Path>,
    writes: &[&Path],
    overwrite: bool,
) -> Result<()> {
    if output.is_none() && writes.is_empty() {
        return Ok(());
    }
    let files: Vec<PathBuf> = models.iter().flat_map(|model| files(model)).collect();
    let inputs: Vec<&Path> = files.iter().map(PathBuf::as_path).chain(reads.iter().copied()).collect();
    let mut seen: Vec<PathBuf> = Vec::new();
    if let Some(path) = output {
        check_target(path, &inputs, overwrite)?;
        seen.extend([full(path), full(&side_path(path))]);
    }
    for path in writes {
        check_file(path, &inputs, overwrite)?;
        let full = full(path);
        if seen.contains(&full) {
            return Err(Error::caller(path.display().to_string(), "two results would be written to it")
                .help("name another file for one of them"));
        }
        seen.push(full);
    }
    Ok(())
}

/// The name without links in its folders.
fn full(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    folder.canonicalize().unwrap_or_default().join(path.file_name().unwrap_or_default())
}
