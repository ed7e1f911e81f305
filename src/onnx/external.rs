//! Tensors stored beside the model: finding the file without leaving the model's folder, and slicing it.
//!
//! Rules: `external_data` in `proto/onnx-ml.proto`; the refusals answer CVE-2022-25882, CVE-2024-27318,
//! CVE-2026-27489, CVE-2026-34446 and their kin.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use sha1::{Digest as _, Sha1};

use super::mapping::map_same;
use super::proto::TensorProto;
use super::tensor;
use crate::error::{Error, Result};

/// The side files of one model, each mapped once.
pub(super) struct SideFiles {
    folder: Option<PathBuf>,
    /// Where the model itself lies, if its path is a link: caches of downloads link a model and its side files one by one.
    linked: Option<PathBuf>,
    /// The model itself, which is no side file.
    model: Option<PathBuf>,
    mapped: BTreeMap<PathBuf, Bytes>,
    /// SHA-1 of those of which a checksum is given.
    sums: BTreeMap<PathBuf, [u8; 20]>,
}

impl SideFiles {
    /// `model` is the path of the `.onnx` file; `None` (a model from memory) has no side files.
    pub(super) fn beside(model: Option<&Path>) -> Result<Self> {
        let folder = match model {
            None => None,
            Some(path) => {
                let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                Some(folder.canonicalize().map_err(|error| Error::io(folder, &error))?)
            }
        };
        let model = model.and_then(|path| path.canonicalize().ok());
        let linked = model.as_deref().and_then(Path::parent).map(Path::to_owned);
        Ok(Self { folder, linked, model, mapped: BTreeMap::new(), sums: BTreeMap::new() })
    }

    /// The bytes that `tensor`'s `external_data` entries point at.
    ///
    /// # Errors
    /// Unknown, repeated or missing keys; a location outside the folder, or that is not one regular file
    /// with a single link; a range that the file does not hold; a checksum that is not the file's.
    pub(super) fn resolve(&mut self, tensor: &TensorProto) -> Result<Bytes> {
        let subject = tensor::subject(tensor);
        let mut entries: BTreeMap<&str, &str> = BTreeMap::new();
        for entry in &tensor.external_data {
            if !["location", "offset", "length", "checksum"].contains(&entry.key()) {
                return Err(Error::format(subject, format!("unknown external_data key '{}'", entry.key())));
            }
            if entries.insert(entry.key(), entry.value()).is_some() {
                return Err(Error::format(subject, format!("external_data key '{}' twice", entry.key())));
            }
        }
        let location = entries
            .get("location")
            .ok_or_else(|| Error::format(&subject, "external_data has no location"))?;
        let (path, bytes) = self.map(location).map_err(|error| error.within(&subject))?;
        if let Some(sum) = entries.get("checksum") {
            self.compare(path, &bytes, sum).map_err(|what| {
                Error::format(&subject, format!("the checksum of '{location}' {what}"))
                    .help("the side file was changed or belongs to another model")
            })?;
        }
        let number = |key: &str| match entries.get(key) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| {
                Error::format(&subject, format!("external_data {key} '{text}' is not a number of bytes"))
            }),
        };
        let size = bytes.len() as u64;
        let offset = number("offset")?.unwrap_or(0);
        let expected = tensor::payload_len(tensor)? as u64;
        let length = number("length")?.filter(|length| *length > 0 || expected == 0).unwrap_or(expected);
        if length != expected {
            return Err(Error::format(
                subject,
                format!("the shape {:?} takes {expected} bytes, external_data says {length}", tensor.dims),
            ));
        }
        if offset > size || length > size - offset {
            return Err(Error::format(
                subject,
                format!(
                    "bytes {offset} to {} of '{location}', which has {size}",
                    offset.saturating_add(length)
                ),
            )
            .help("the side file is cut short or belongs to another model"));
        }
        Ok(bytes.slice(offset as usize..(offset + length) as usize))
    }

    /// Contents of the side files in use, in the order of their paths.
    pub(super) fn contents(&self) -> Vec<Bytes> {
        self.mapped.values().cloned().collect()
    }

    /// Paths of the side files in use.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.mapped.keys().cloned().collect()
    }

    /// Holds the checksum `text`, which ONNX defines as the SHA-1 of the file, against the file.
    fn compare(&mut self, path: PathBuf, bytes: &Bytes, text: &str) -> std::result::Result<(), String> {
        if text.len() != 40 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(format!("is '{text}', 40 hexadecimal digits of its SHA-1 are expected"));
        }
        let sum = self.sums.entry(path).or_insert_with(|| Sha1::digest(bytes).into());
        let found: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        if found.eq_ignore_ascii_case(text) {
            Ok(())
        } else {
            Err(format!("is {text}, its SHA-1 is {found}"))
        }
    }

    fn map(&mut self, location: &str) -> Result<(PathBuf, Bytes)> {
        let Some(folder) = &self.folder else {
            return Err(Error::format(format!("'{location}'"), "a model from memory has no side files"));
        };
        let named = |what: &str| Error::format(format!("external data '{location}'"), what.to_owned());
        let relative = Path::new(location);
        let plain = !location.is_empty()
            && !location.contains(['\0', '\n', '\\', ':'])
            && relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !plain {
            return Err(named("must be a file inside the model's folder"));
        }
        if location.starts_with("*/") {
            return Err(named("is a marker of ONNX Runtime for weights in memory, which no file may have"));
        }
        let path = folder.join(relative);
        let real = path.canonicalize().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                named("no such file beside the model").help("download or copy it into the model's folder")
            }
            _ => Error::io(&path, &error),
        })?;
        if !real.starts_with(folder) && !self.linked.as_ref().is_some_and(|linked| real.starts_with(linked)) {
            return Err(named("leads out of the model's folder through a link")
                .help("put the file itself there, for example with `cp -rL` of the folder"));
        }
        if self.model.as_ref() == Some(&real) {
            return Err(named("is the model itself"));
        }
        if let Some(bytes) = self.mapped.get(&real) {
            return Ok((real, bytes.clone()));
        }
        let meta = real.symlink_metadata().map_err(|error| Error::io(&real, &error))?;
        if !meta.is_file() {
            return Err(named("is not a regular file"));
        }
        #[cfg(unix)]
        if std::os::unix::fs::MetadataExt::nlink(&meta) > 1 {
            return Err(named("has more than one hard link").help("copy the file to give it one name"));
        }
        let bytes = map_same(&real, Some(&meta))?;
        self.mapped.insert(real.clone(), bytes.clone());
        Ok((real, bytes))
    }
}
