//! Path → model: finding the file, mapping it, and decoding the graph without copying a weight.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::check::check;
use super::constants::plain_constants;
use super::digest::Digest;
use super::external::SideFiles;
use super::inline::inline;
use super::mapping::map_file;
use super::model::{Checked, Model, Source};
use super::proto::{ModelProto, tensor_proto::DataLocation};
use super::{walk, wire};
use crate::error::{Error, Result};
use crate::limits;

/// Where a folder as exporters write it keeps its model, first match first.
const IN_FOLDER: [&str; 2] = ["model.onnx", "onnx/model.onnx"];

/// Loads and checks the model at `path`, a file or a folder that holds one.
///
/// Weights stay in the mapping: a 4 GB model costs its graph.
///
/// # Errors
/// A file that is missing, empty, too large, of another kind, cut short or damaged; side files that are
/// missing, too short or outside the folder; a graph that [`check`] refuses.
pub fn load(path: &Path) -> Result<Checked<Model>> {
    let path = find(path)?;
    let name = path.display().to_string();
    let size = path.metadata().map_err(|error| Error::io(&path, &error))?.len();
    if size > limits::MODEL_BYTES {
        return Err(Error::limit(name, format!("{size} bytes, a protobuf file ends at 2 GiB"))
            .help("save the model with external data"));
    }
    let bytes = map_file(&path)?;
    sniff(&bytes).map_err(|error| error.within(&name))?;
    decode(bytes, Some(&path)).and_then(inlined).map_err(|error| error.within(&name))
}

/// Decodes and checks a model that lies in memory and has no side files.
///
/// # Errors
/// As [`load`].
pub fn load_bytes(bytes: Bytes) -> Result<Checked<Model>> {
    sniff(&bytes)?;
    decode(bytes, None).and_then(inlined)
}

/// `model` as its file says it, with its weights in it: functions are not written out.
pub(super) fn as_stored(model: &Model) -> Result<ModelProto> {
    Ok(decode(model.file_bytes().clone(), Some(model.path()))?.proto)
}

/// Checks a model, gives its constants one form and writes out its functions that may use weights.
fn inlined(mut model: Model) -> Result<Checked<Model>> {
    plain_constants(&mut model.proto);
    let model = check(model)?;
    let Some(proto) = inline(&model.proto) else { return Ok(model) };
    // Names may have grown too long, for example: then the functions stay.
    Ok(check(Model { proto, source: model.source.clone() }).unwrap_or(model))
}

/// The model file that `path` means: itself, or the one in a folder.
///
/// # Errors
/// A missing path, or a folder without, or with several, models.
pub fn find(path: &Path) -> Result<PathBuf> {
    let meta = path.metadata().map_err(|error| {
        let shown = Error::io(path, &error);
        if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) {
            shown.help("check the path of the model")
        } else {
            shown
        }
    })?;
    if !meta.is_dir() {
        return Ok(path.to_owned());
    }
    if let Some(file) = IN_FOLDER.iter().map(|name| path.join(name)).find(|file| file.is_file()) {
        return Ok(file);
    }
    let mut models: Vec<String> = Vec::new();
    for folder in [path.to_owned(), path.join("onnx")] {
        let Ok(entries) = folder.read_dir() else { continue };
        for entry in entries.flatten() {
            if entry.path().extension().is_some_and(|end| end == "onnx") {
                let shown = entry.path().strip_prefix(path).unwrap_or(&entry.path()).display().to_string();
                models.push(shown);
            }
        }
    }
    models.sort();
    let folder = path.display().to_string();
    match models.as_slice() {
        [] => Err(Error::caller(folder, "the folder holds no .onnx file")),
        [only] => Ok(path.join(only)),
        several => Err(Error::caller(folder, format!("the folder holds {} models", several.len()))
            .help(format!("name one: {}", several.join(", ")))),
    }
}

/// The files that the model at `path` consists of, as far as they can be told without loading it.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let Ok(path) = find(path) else { return Vec::new() };
    let mut found = vec![path.clone()];
    let small = path.metadata().is_ok_and(|meta| meta.len() <= limits::MODEL_BYTES);
    let Some(bytes) = small.then(|| map_file(&path).ok()).flatten() else { return found };
    let Some(mut proto) = wire::scan(&bytes).ok().and_then(|_| ModelProto::decode(bytes).ok()) else {
        return found;
    };
    let mut locations = BTreeSet::new();
    let _ = walk::tensors_mut(&mut proto, &mut |tensor| {
        let all = tensor.external_data.drain(..).filter(|entry| entry.key() == "location");
        locations.extend(all.filter_map(|entry| entry.value));
        Ok::<_, Error>(())
    });
    let folder = path.parent().unwrap_or(Path::new(""));
    found.extend(locations.into_iter().map(|location| folder.join(location)).filter(|file| file.is_file()));
    found
}

fn decode(bytes: Bytes, path: Option<&Path>) -> Result<Model> {
    let unknown = wire::scan(&bytes)?;
    let mut proto = ModelProto::decode(bytes.clone())
        .map_err(|error| Error::format("protobuf", format!("not a well-formed ONNX file: {error}")))?;
    let mut side = SideFiles::beside(path)?;
    walk::tensors_mut(&mut proto, &mut |tensor| {
        if tensor.data_location() == DataLocation::External {
            tensor.raw_data = Some(side.resolve(tensor)?);
            tensor.external_data.clear();
            tensor.data_location = None;
        }
        Ok::<_, Error>(())
    })?;
    let sides = side.contents();
    let digest = Arc::new(Digest::of([&bytes].into_iter().chain(&sides).cloned()));
    let source = Source {
        path: path.map(Path::to_owned).unwrap_or_default(),
        bytes,
        side_paths: side.paths(),
        sides,
        unknown,
        digest,
    };
    Ok(Model { proto, source })
}

/// Names what is commonly mistaken for a model.
fn sniff(bytes: &[u8]) -> Result<()> {
    let head = &bytes[..bytes.len().min(512)];
    let starts = |mark: &[u8]| head.starts_with(mark);
    let text = !head.is_empty()
        && std::str::from_utf8(head)
            .is_ok_and(|text| !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')));
    let (what, help) = if bytes.is_empty() {
        ("the file is empty", "an export or a download did not finish")
    } else if starts(b"version https://git-lfs") {
        ("a git-LFS pointer, not the model itself", "run `git lfs pull` where it came from")
    } else if starts(b"PK\x03\x04") {
        ("a zip archive, not an ONNX file", "unpack it first; a PyTorch .pt file must be exported to ONNX")
    } else if starts(b"\x89HDF") {
        ("an HDF5 file, not an ONNX file", "convert the Keras model with tf2onnx")
    } else if starts(b"GGUF") {
        ("a GGUF file, not an ONNX file", "efq reads ONNX only")
    } else if text && (starts(b"<") || starts(b"{") || head.len() >= 16) {
        ("a text file, not an ONNX file", "a download may have stored an error page")
    } else {
        return Ok(());
    };
    Err(Error::format("file", what).help(help))
}
