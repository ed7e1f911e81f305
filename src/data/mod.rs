//! Samples: what is fed to a model, one at a time, with labels where there are any.
//!
//! From arrays in an `.npz` or `.safetensors`, from text and its tokenizer, from images, from folders of ONNX
//! test data, or made from the graph's own limits. What they are for is not known here.

mod arrays;
mod folder;
mod ids;
mod images;
mod inputs;
mod npz;
mod padding;
mod positions;
mod preprocess;
mod resample;
mod safetensors;
mod sequences;
mod synthetic;
mod tables;
mod text;
mod tokenizer;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::onnx::proto::tensor_proto::DataType;

pub use inputs::{Dim, InputSpec, as_integers, inputs};
pub use positions::Sequence;
pub use synthetic::{Drafts, drafts, synthetic, synthetic_calibration};

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

/// The label of a position that does not count.
pub const IGNORED: i64 = -100;

/// What is known to be right for one sample.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Label {
    /// Nothing.
    #[default]
    None,
    /// The class of the sample.
    Class(i64),
    /// One class per position, [`IGNORED`] where none counts; each stands at the scores that predict it.
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
    /// A file or folder and the BLAKE3 of its contents.
    File { path: PathBuf, blake3: String },
    /// Made by efq with this seed: they say nothing about real inputs.
    Synthetic { seed: u64, made: Made },
}

/// What made-up samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// Sequences of tokens from the embedding table.
    Sequences,
    /// Texts that the model writes itself.
    Texts,
    /// Noise with the spectrum of photographs.
    Images,
    /// Random numbers.
    Values,
}

impl Made {
    /// As reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Made::Sequences => "sequences",
            Made::Texts => "texts",
            Made::Images => "images",
            Made::Values => "values",
        }
    }
}

/// Samples for one model.
#[derive(Debug, Clone)]
pub struct Samples {
    /// In the order of the source.
    pub list: Vec<Sample>,
    /// Where they came from.
    pub origin: Origin,
    /// What of the source is not in them, by its name.
    pub remarks: Vec<String>,
}

impl Samples {
    /// Whether the samples are the user's and not made up.
    pub fn are_real(&self) -> bool {
        matches!(self.origin, Origin::File { .. })
    }

    /// Whether they are named arrays in a file, of which one may hold the labels.
    pub fn are_arrays(&self) -> bool {
        let Origin::File { path, .. } = &self.origin else { return false };
        matches!(Form::of(path, path.is_dir()), Ok(Form::Safetensors | Form::Archive))
    }

    /// The same without the padding at the end of samples that an `attention_mask` leaves out, where the graph, of
    /// which `specs` are the inputs, takes any length.
    pub fn without_padding(&self, specs: &[InputSpec]) -> Self {
        let cut = |sample: &Sample| padding::unpadded(sample, specs).unwrap_or_else(|| sample.clone());
        let list = self.list.iter().map(cut).collect();
        Self { list, origin: self.origin.clone(), remarks: self.remarks.clone() }
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

    /// Whether the `attention_mask` counts no position.
    pub fn is_masked(&self) -> bool {
        self.mask().is_some_and(|mask| !mask.contains(&true))
    }

    /// Whether a floating-point input holds NaN or +∞; −∞ may stand for what is masked out.
    pub fn has_no_number(&self) -> bool {
        self.holds(|value| value.is_nan() || value == f64::INFINITY)
    }

    /// Whether a floating-point input holds NaN.
    pub fn has_nan(&self) -> bool {
        self.holds(f64::is_nan)
    }

    /// Whether a floating-point input holds NaN or an infinity.
    pub fn is_not_finite(&self) -> bool {
        self.holds(|value| !value.is_finite())
    }

    /// Whether an input holds a number that `is` says so of.
    fn holds(&self, is: impl Fn(f64) -> bool) -> bool {
        let numbers = self.inputs.iter().filter_map(|(_, array)| inputs::as_floats(array));
        numbers.flatten().any(is)
    }

    /// The sizes of each input.
    pub fn shapes(&self) -> Vec<Vec<usize>> {
        self.inputs.iter().map(|(_, array)| array.shape.clone()).collect()
    }

    /// BLAKE3 of names, types, sizes and bytes of the inputs, padding apart.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for (name, array) in padding::counted(self) {
            let head = format!("{name:?} {} {:?} ", array.data_type as i32, array.shape);
            hasher.update(head.as_bytes());
            hasher.update(&array.bytes);
        }
        hasher.finalize().into()
    }
}

/// Where samples are to be read from, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// A file (`.npz`, `.safetensors`, `.txt`, `.jsonl`), or a folder of images or of ONNX test data.
    pub path: PathBuf,
    /// For text: the `tokenizer.json`. Default: the one beside the model or in the folder above.
    pub tokenizer: Option<PathBuf>,
    /// For `.jsonl`: the field that holds the text. Default: `text`.
    pub field: Option<String>,
    /// For text: tokens of a sample at most. Default: 512, and 256 for windows of running text.
    pub length: Option<usize>,
}

impl Source {
    /// The defaults, for `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), tokenizer: None, field: None, length: None }
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Self::new(path)
    }
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        Self::new(path)
    }
}

/// The forms of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    TestData,
    Images,
    Safetensors,
    Lines,
    Objects,
    Archive,
}

impl Form {
    /// By kind and ending; what has no known ending is taken for an `.npz`.
    fn of(path: &Path, is_folder: bool) -> Result<Self> {
        if is_folder {
            if folder::holds(path)? {
                return Ok(Self::TestData);
            }
            return match images::list(path)?.is_empty() {
                false => Ok(Self::Images),
                true => Err(folder::nothing_in(path)?),
            };
        }
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        Ok(match ending.as_deref() {
            Some("safetensors") => Self::Safetensors,
            Some("txt") => Self::Lines,
            Some("jsonl") => Self::Objects,
            Some("json") => {
                return Err(Error::format(path.display().to_string(), "samples are not read from .json")
                    .help("texts, one JSON object a line, belong into a .jsonl, arrays into an .npz"));
            }
            _ => Self::Archive,
        })
    }

    /// Refuses options that are for other forms.
    fn check(self, source: &Source) -> Result<()> {
        if source.tokenizer.is_some() && !matches!(self, Self::Lines | Self::Objects) {
            return Err(Error::caller("--tokenizer", "is for text: a .txt or .jsonl file"));
        }
        if source.field.is_some() && self != Self::Objects {
            return Err(Error::caller("--field", "is for a .jsonl file"));
        }
        Ok(())
    }
}

/// Reads the samples of `source` for `model`.
///
/// # Errors
/// A missing or unknown form, arrays that fit no input or are missing, other sizes than the graph declares or two sizes
/// for one of its names, ids without
/// a row in their table, labels of another count than samples, text without its tokenizer, images without their
/// preprocessing.
pub fn load(source: &Source, model: &Model) -> Result<Samples> {
    let path = source.path.as_path();
    let shown = path.display().to_string();
    let meta = path.metadata().map_err(|error| Error::io(path, &error))?;
    let form = Form::of(path, meta.is_dir())?;
    form.check(source)?;
    let within = |error: Error| error.within(&shown);
    let mut remarks = Vec::new();
    let (list, blake3) = match form {
        Form::TestData => {
            remarks.extend(images::beside_test_data(path)?);
            folder::load(path, model).map_err(within)?
        }
        Form::Images => {
            let items = images::list(path)?;
            remarks.extend(images::remarks(path, &items)?);
            images::load(path, &items, model).map_err(within)?
        }
        _ => {
            let bytes = crate::onnx::map_file(path)?;
            let (list, remark) = parse(form, &bytes, source, model).map_err(within)?;
            remarks.extend(remark);
            (list, blake3::hash(&bytes).to_hex().to_string())
        }
    };
    if list.is_empty() {
        return Err(Error::format(shown, "holds no sample"));
    }
    inputs::agree(&list, model).map_err(within)?;
    ids::check(&list, model).map_err(within)?;
    let remarks = remarks.into_iter().map(|remark| format!("{shown}: {remark}")).collect();
    Ok(Samples { list, origin: Origin::File { path: path.to_owned(), blake3 }, remarks })
}

/// Reads the samples of a file that lies in memory; the ending of `source.path` says its form, nothing is read there.
///
/// # Errors
/// As [`load`].
#[doc(hidden)]
pub fn load_bytes(bytes: &Bytes, source: &Source, model: &Model) -> Result<Vec<Sample>> {
    Ok(parse(Form::of(&source.path, false)?, bytes, source, model)?.0)
}

/// The samples in the bytes of a file, and what of it is not in them.
fn parse(form: Form, bytes: &Bytes, source: &Source, model: &Model) -> Result<(Vec<Sample>, Option<String>)> {
    let list = match form {
        Form::Safetensors => arrays::samples(safetensors::read(bytes)?, model)?,
        Form::Lines => sequences::samples(&text::lines(bytes)?, source, model)?,
        Form::Objects => {
            let texts = text::objects(bytes, source.field.as_deref())?;
            let list = sequences::samples(&texts, source, model)?;
            let labels = texts.iter().filter(|text| text.class.is_some()).count();
            let are_used = list.iter().any(|sample| matches!(sample.label, Label::Class(_)));
            let unused =
                || format!("{labels} labels are not used: the model gives no classes of a whole text");
            return Ok((list, (labels > 0 && !are_used).then(unused)));
        }
        _ => arrays::samples(npz::read(bytes)?, model)?,
    };
    Ok((list, None))
}

/// How many samples of `b` have the same inputs as one of `a`, byte for byte where they are no padding.
pub fn coincide(a: &Samples, b: &Samples) -> usize {
    let known: HashSet<[u8; 32]> = a.list.iter().map(Sample::digest).collect();
    b.list.iter().filter(|sample| known.contains(&sample.digest())).count()
}

/// Where a file that goes with `model` may lie: in its folder, and in the one above (as with `onnx/model.onnx`).
fn beside(model: &Model, name: &str) -> Vec<PathBuf> {
    // Not canonical: a link into a cache stands where its companions stand.
    let full = std::path::absolute(model.path()).unwrap_or_default();
    full.ancestors().skip(1).take(2).map(|folder| folder.join(name)).collect()
}
