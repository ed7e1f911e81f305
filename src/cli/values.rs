//! What is read from the value of an option.

use std::num::NonZeroUsize;

use crate::engine::Release;

/// More threads than any machine has cores for.
const MOST_THREADS: usize = 1024;
/// The least limit of memory that makes sense.
const LEAST_MEMORY: u64 = 100_000_000;

/// A release of ONNX Runtime: `ort-1.24`, or `ort-web`.
pub(super) fn target(text: &str) -> std::result::Result<Release, String> {
    let known: Vec<String> = Release::targets().map(Release::target).chain(["ort-web".to_owned()]).collect();
    Release::named(text).ok_or_else(|| format!("one of {} is expected", known.join(", ")))
}

/// A number of threads that a machine can be expected to start.
pub(super) fn threads(text: &str) -> std::result::Result<NonZeroUsize, String> {
    let wanted = text.parse().ok().filter(|threads: &NonZeroUsize| threads.get() <= MOST_THREADS);
    wanted.ok_or_else(|| format!("a number from 1 to {MOST_THREADS} is expected"))
}

/// Bytes in which efq itself has room.
pub(super) fn memory(text: &str) -> std::result::Result<u64, String> {
    let bytes = bytes(text)?;
    if bytes >= LEAST_MEMORY {
        Ok(bytes)
    } else {
        Err("efq itself takes about 50MB: at least 100MB".to_owned())
    }
}

/// A number of bytes: `15MB`, `14.7 MB`, `16MiB`, `1500000`.
pub(super) fn bytes(text: &str) -> std::result::Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("'{other}' is no unit of bytes: kB, MB, GB, KiB, MiB or GiB")),
    };
    let number: f64 = number.parse().map_err(|_| "a size as 15MB is expected".to_owned())?;
    let bytes = number * factor;
    if (1.0..1e18).contains(&bytes) { Ok(bytes as u64) } else { Err("a size above 0 is expected".to_owned()) }
}
