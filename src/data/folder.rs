//! Samples in folders of ONNX test data: `test_data_set_N/input_M.pb`, one TensorProto a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prost::Message as _;

use super::images::ENDINGS;
use super::inputs::{fit, inputs};
use super::{Array, Label, Sample};
use crate::error::{Error, Result};
use crate::onnx::proto::TensorProto;
use crate::onnx::{Model, map_file, tensor};

/// Kinds of files that an error lists.
const LISTED: usize = 5;

/// Reads every `test_data_set_*` below `path`, or `path` itself if it is one; gives a digest of the files too.
pub(super) fn load(path: &Path, model: &Model) -> Result<(Vec<Sample>, String)> {
    let mut sets: Vec<PathBuf> = entries(path)?
        .into_iter()
        .filter(|entry| entry.is_dir() && file_name(entry).starts_with("test_data_set"))
        .collect();
    sets.sort_by_key(|set| number_in(&file_name(set)));
    if sets.is_empty() {
        sets.push(path.to_owned());
    }
    let specs = inputs(model)?;
    let mut hasher = blake3::Hasher::new();
    let mut samples = Vec::with_capacity(sets.len());
    for set in sets {
        let mut files: Vec<PathBuf> = entries(&set)?
            .into_iter()
            .filter(|file| file_name(file).starts_with("input_") && file_name(file).ends_with(".pb"))
            .collect();
        files.sort_by_key(|file| number_in(&file_name(file)));
        let shown = file_name(&set);
        if files.len() != specs.len() {
            let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
            return Err(Error::format(
                shown,
                format!("{} input_*.pb files, the model has {} inputs", files.len(), specs.len()),
            )
            .help(format!("one file for each of: {}", names.join(", "))));
        }
        let mut taken = Vec::with_capacity(specs.len());
        for (file, by_position) in files.iter().zip(&specs) {
            let bytes = map_file(file)?;
            hasher.update(&bytes);
            let proto = TensorProto::decode(bytes)
                .map_err(|error| Error::format(file.display().to_string(), format!("no tensor: {error}")))?;
            let spec = specs.iter().find(|spec| spec.name == proto.name()).unwrap_or(by_position);
            let data_type = tensor::data_type(&proto)
                .ok_or_else(|| Error::format(file.display().to_string(), "unknown element type"))?;
            let array = Array { data_type, shape: tensor::shape(&proto)?, bytes: tensor::payload(&proto)? };
            taken.push((spec.name.clone(), fit(spec, array)?));
        }
        let place = |name: &str| specs.iter().position(|spec| spec.name == name);
        taken.sort_by_key(|(name, _)| place(name));
        samples.push(Sample { inputs: taken, label: Label::None });
    }
    Ok((samples, hasher.finalize().to_hex().to_string()))
}

/// Whether `path` holds test data, or is a set of it.
pub(super) fn holds(path: &Path) -> Result<bool> {
    Ok(entries(path)?.iter().any(|entry| {
        let name = file_name(entry);
        (name.starts_with("test_data_set") && entry.is_dir())
            || (name.starts_with("input_") && name.ends_with(".pb"))
    }))
}

/// That `path` holds nothing that is read, with what is there instead.
pub(super) fn nothing_in(path: &Path) -> Result<Error> {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for entry in entries(path)? {
        let kind = match entry.extension().map(|ending| ending.to_string_lossy().to_lowercase()) {
            _ if entry.is_dir() => "folder".to_owned(),
            Some(ending) => format!(".{ending}"),
            None => "without an ending".to_owned(),
        };
        *kinds.entry(kind).or_default() += 1;
    }
    let mut kinds: Vec<(String, usize)> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let more = if kinds.len() > LISTED { ", …" } else { "" };
    let found: Vec<String> =
        kinds.iter().take(LISTED).map(|(kind, count)| format!("{count} {kind}")).collect();
    let what = match found.is_empty() {
        true => "is an empty folder".to_owned(),
        false => format!("holds no samples: {}{more}", found.join(", ")),
    };
    Ok(Error::format(path.display().to_string(), what).help(format!(
        "a folder holds images ({}), also one folder deep, or test_data_set_* of input_*.pb; a file is .npz, \
         .safetensors, .txt or .jsonl",
        ENDINGS.join(", ")
    )))
}

pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = folder.read_dir().map_err(|error| Error::io(folder, &error))?;
    Ok(list.flatten().map(|entry| entry.path()).collect())
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn number_in(name: &str) -> u64 {
    name.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(u64::MAX)
}
