//! Files mapped for reading.

use std::fs::{File, Metadata};
use std::path::Path;

use bytes::Bytes;
use memmap2::Mmap;

use crate::error::{Error, Kind, Result};

/// Maps the regular file at `path` for reading.
///
/// # Errors
/// [`crate::error::Kind::Io`].
pub(crate) fn map_file(path: &Path) -> Result<Bytes> {
    map_same(path, None)
}

/// The same, only if what is opened is the file that `known` was read from: a path may change between two looks.
pub(super) fn map_same(path: &Path, known: Option<&Metadata>) -> Result<Bytes> {
    let irregular = |what: &str| Error::new(Kind::Io, path.display().to_string(), what);
    // Before opening: a pipe would wait for its writer.
    let meta = path.metadata().map_err(|error| Error::io(path, &error))?;
    if !meta.is_file() {
        return Err(irregular("is not a regular file"));
    }
    let file = File::open(path).map_err(|error| Error::io(path, &error))?;
    let opened = file.metadata().map_err(|error| Error::io(path, &error))?;
    if !opened.is_file() || known.is_some_and(|known| !is_same(known, &opened)) {
        return Err(irregular("was replaced while it was opened"));
    }
    if opened.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is private and read-only. Another process that truncates the file while efq
    // runs ends efq with a bus error; efq itself never writes to an input.
    let map = unsafe { Mmap::map(&file) }.map_err(|error| Error::io(path, &error))?;
    Ok(Bytes::from_owner(Mapping(map)))
}

#[cfg(unix)]
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino(), a.nlink()) == (b.dev(), b.ino(), b.nlink())
}

#[cfg(not(unix))]
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    a.len() == b.len()
}

/// A mapping whose pages are let go of by all cores.
struct Mapping(Mmap);

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(unix)]
impl Drop for Mapping {
    /// A single core takes 25 ms to unmap a gigabyte, a tenth of a run that reads it once.
    fn drop(&mut self) {
        use memmap2::UncheckedAdvice::DontNeed;
        use rayon::prelude::*;

        const PART: usize = 1 << 26;
        let map = &self.0;
        let parts = (0..map.len()).into_par_iter().step_by(PART);
        parts.filter(|_| map.len() > PART).for_each(|start| {
            // SAFETY: nothing borrows the bytes any more, and they would come back from the file, as nothing writes to them.
            let _ = unsafe { map.unchecked_advise_range(DontNeed, start, PART.min(map.len() - start)) };
        });
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_swapped_between_two_looks_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("w.bin"), folder.path().join("secret"));
        std::fs::write(&path, "weights").unwrap();
        std::fs::write(&other, "secrets").unwrap();
        let seen = path.symlink_metadata().unwrap();
        assert!(map_same(&path, Some(&seen)).is_ok());
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let error = map_same(&path, Some(&seen)).unwrap_err().to_string();
        assert!(error.ends_with("w.bin: was replaced while it was opened"), "{error}");
        // A second name that appears meanwhile counts too.
        let seen = other.symlink_metadata().unwrap();
        std::fs::hard_link(&other, folder.path().join("twin")).unwrap();
        assert!(map_same(&other, Some(&seen)).is_err());
    }
}
