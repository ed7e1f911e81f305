//! Which files a command reads and writes, looked at before any work.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::onnx::staged::side_path;
use crate::onnx::{check_file, check_target, files};

/// Refuses a write that is one of the reads, a file of one of the `models`, or another write, that exists (without
/// `overwrite`), that cannot be a file, or whose folder takes none. `writes` have the option that names them; the model
/// `output` takes its side file's name too.
pub(super) fn check(
    models: &[&Path],
    reads: &[&Path],
    output: Option<&Path>,
    writes: &[(&str, &Path)],
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
        takes_files(path)?;
        seen.extend([full(path), full(&side_path(path))]);
    }
    for (option, path) in writes {
        let shown = || path.display().to_string();
        if path.is_dir() {
            return Err(
                Error::caller(shown(), "is a folder, a file is expected").help(format!("{option} FILE"))
            );
        }
        check_file(option, path, &inputs, overwrite)?;
        takes_files(path)?;
        let full = full(path);
        if seen.contains(&full) {
            return Err(Error::caller(shown(), "two results would be written to it")
                .help("name another file for one of them"));
        }
        seen.push(full);
    }
    Ok(())
}

/// Refuses a file in a folder in which no other can be staged.
fn takes_files(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    let Err(error) = tempfile::Builder::new().prefix(".efq-").tempdir_in(folder) else { return Ok(()) };
    let why = match error.kind() {
        // It was there a moment ago: a file system such as that of /proc says so when it takes no new files.
        ErrorKind::NotFound => "its file system takes no new files".to_owned(),
        kind => kind.to_string(),
    };
    let what = format!("efq cannot write into the folder '{}': {why}", folder.display());
    Err(Error::new(Kind::Io, path.display().to_string(), what).help("name a file in another folder"))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The name without links in its folders.
fn full(path: &Path) -> PathBuf {
    folder_of(path).canonicalize().unwrap_or_default().join(path.file_name().unwrap_or_default())
}
