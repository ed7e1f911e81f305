//! Samples: what is fed to a model, one at a time, with labels where there are any.
//!
//! From an `.npz` file, from folders of ONNX test data, or made from the graph's own limits. What they are
//! for is not known here.

mod folder;
mod inputs;
mod npz;
mod synthetic;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::{Model, hex};

pub use inputs::{Dim, InputSpec, inputs};
pub use synthetic::synthetic;

/// A dense array with little-endian elements in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Element type.
    pub data_type: DataType,
    /// Sizes.
    pub shape: Vec<usize>,
    /// `product(shape) * size of an element` bytes.
    pub bytes: Bytes,
}

/// What is known to be right for one sample.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Label {
    /// Nothing.
    #[default]
    None,
    /// The class of the sample.
    Class(i64),
    /// One class per position; -100 where none counts.
    Positions(Vec<i64>),
}

/// One feed of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// By graph input, in the graph's order, in the element type that the graph declares.
    pub inputs: Vec<(String, Array)>,
    /// What is known to be right.
    pub label: Label,
}

/// Where samples came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file or folder and the SHA-256 of its contents.
    File { path: PathBuf, sha256: String },
    /// Made by efq with this seed: they say nothing about real inputs.
    Synthetic { seed: u64 },
}

/// Samples for one model.
#[derive(Debug, Clone)]
pub struct Samples {
    /// In the order of the source.
    pub list: Vec<Sample>,
    /// Where they came from.
    pub origin: Origin,
}

impl Samples {
    /// Whether the samples are the user's and not made up.
    pub fn are_real(&self) -> bool {
        matches!(self.origin, Origin::File { .. })
    }

    /// Whether any sample has a label.
    pub fn labelled(&self) -> bool {
        self.list.iter().any(|sample| sample.label != Label::None)
    }
}

impl Sample {
    /// The `attention_mask` as one flag per position, if there is such an input.
    pub fn mask(&self) -> Option<Vec<bool>> {
        let (_, array) = self.inputs.iter().find(|(name, _)| name == "attention_mask")?;
        inputs::as_integers(array).map(|values| values.into_iter().map(|value| value != 0).collect())
    }
}

/// Reads the samples at `path` for `model`: an `.npz` file, or a folder with `test_data_set_*` in it.
///
/// # Errors
/// A missing or unknown form, arrays that fit no input or are missing, other sizes than the graph declares,
/// labels of another count than samples.
pub fn load(path: &Path, model: &Model) -> Result<Samples> {
    let shown = path.display().to_string();
    let meta = path.metadata().map_err(|error| Error::io(path, &error))?;
    let (list, sha256) = if meta.is_dir() {
        folder::load(path, model)
    } else {
        let bytes = crate::onnx::map_file(path)?;
        npz::load(&bytes, model).map(|list| (list, hex(&Sha256::digest(&bytes))))
    }
    .map_err(|error| error.within(&shown))?;
    if list.is_empty() {
        return Err(Error::format(shown, "holds no sample"));
    }
    Ok(Samples { list, origin: Origin::File { path: path.to_owned(), sha256 } })
}
