//! Images in a folder, or one folder a class, as a `preprocessor_config.json` wants them.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use image::{ImageReader, RgbImage};
use rayon::prelude::*;

use super::folder::{entries, file_name};
use super::inputs::{Dim, InputSpec, fit, inputs};
use super::preprocess::Preprocess;
use super::{Array, Label, Sample, beside};
use crate::error::{Error, Result, one_line};
use crate::limits;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::{Model, map_file};
use crate::panics;

const CONFIG: &str = "preprocessor_config.json";
pub(super) const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];
/// Endings of images in forms that are not read: left out in silence, the samples would be others than were given.
const UNREAD: [&str; 8] = ["gif", "tif", "tiff", "avif", "heic", "heif", "jxl", "jp2"];
/// Files that are in memory at once, beside the samples.
const TOGETHER: usize = 64;

/// An image file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    path: PathBuf,
    /// Name of the subfolder that it is in.
    folder: Option<String>,
}

/// The images in `path` and in the folders right below it, by name.
pub(super) fn list(path: &Path) -> Result<Vec<Item>> {
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    let is_hidden = |path: &Path| file_name(path).starts_with('.');
    for entry in entries(path)?.into_iter().filter(|entry| !is_hidden(entry)) {
        let (inner, folder) = match entry.is_dir() {
            true => (entries(&entry)?, Some(file_name(&entry))),
            false => (vec![entry], None),
        };
        for file in inner.into_iter().filter(|file| !is_hidden(file)) {
            if ends(&file, &UNREAD) {
                unread.push(file);
            } else if ends(&file, &ENDINGS) {
                found.push(Item { path: file, folder: folder.clone() });
            }
        }
        if found.len() > limits::SAMPLES {
            return Err(Error::limit("images", format!("more than {}", limits::SAMPLES)));
        }
    }
    if let Some(some) = some(path, unread.iter().map(PathBuf::as_path)) {
        let what = format!("holds images in a form that is not read: {some}");
        return Err(Error::format(path.display().to_string(), what)
            .help("convert them, or take them out: PNG, JPEG, WebP and BMP are read"));
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Whether it is named as a file of one of `endings`; where that cannot be read, reading it will say so.
fn ends(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    ending.is_some_and(|ending| endings.contains(&ending.as_str())) && !path.is_dir()
}

/// The images `items` of `path` as samples for `model`, with a digest of the files in their order.
///
/// # Errors
/// No preprocessing beside the model, sizes that the graph does not take, a file that is no image.
pub(super) fn load(path: &Path, items: &[Item], model: &Model) -> Result<(Vec<Sample>, String)> {
    let target = Target::of(model)?;
    let config = config(path, model, &target)?;
    let classes = classes(items);
    let (mut samples, mut hasher, mut total) = (Vec::with_capacity(items.len()), blake3::Hasher::new(), 0u64);
    for group in items.chunks(TOGETHER) {
        let read: Vec<Result<(Bytes, Array)>> = group
            .par_iter()
            .map(|item| {
                let bytes = map_file(&item.path)?;
                let array = array(&bytes, &config, &target)
                    .map_err(|error| error.within(item.path.strip_prefix(path).unwrap_or(path).display()))?;
                Ok((bytes, array))
            })
            .collect();
        for read in read {
            let (bytes, array) = read?;
            hasher.update(&bytes);
            total = total.saturating_add(array.bytes.len() as u64);
            if total > limits::SAMPLE_BYTES {
                let what = format!("more than {} bytes once they are resized", limits::SAMPLE_BYTES);
                return Err(Error::limit("images", what).help("give fewer"));
            }
            let label = classes.get(samples.len()).copied().map_or(Label::None, Label::Class);
            samples.push(Sample { inputs: vec![(target.spec.name.clone(), array)], label });
        }
    }
    Ok((samples, hasher.finalize().to_hex().to_string()))
}

/// The class of each image, where all are in folders that are numbers; else none.
fn classes(items: &[Item]) -> Vec<i64> {
    items.iter().map(class).collect::<Option<Vec<i64>>>().unwrap_or_default()
}

/// The number that the folder of an image is.
fn class(item: &Item) -> Option<i64> {
    item.folder.as_ref()?.parse::<u32>().ok().map(i64::from)
}

/// Why the images `items` of `path` have no labels though some lie in folders, and which images are none of them.
pub(super) fn remarks(path: &Path, items: &[Item]) -> Result<Vec<String>> {
    let in_folders = items.iter().any(|item| item.folder.is_some());
    let outside = items.iter().filter(|item| in_folders && class(item).is_none()).map(|item| &*item.path);
    let mut deep = Vec::new();
    for folder in folders(path)? {
        for inner in folders(&folder)? {
            deep.extend(entries(&inner)?.into_iter().filter(|file| ends(file, &ENDINGS)));
        }
    }
    let unlabelled = some(path, outside).map(|some| {
        format!("no labels: not every image lies in a folder that is a class number (0, 1, …): {some}")
    });
    let deep = some(path, deep.iter().map(PathBuf::as_path))
        .map(|some| format!("left out, for they lie deeper than one folder: {some}"));
    Ok(unlabelled.into_iter().chain(deep).collect())
}

/// That images lie beside the test data in `path`, of which nothing is read.
pub(super) fn beside_test_data(path: &Path) -> Result<Option<String>> {
    let mut all = entries(path)?;
    for folder in folders(path)? {
        all.extend(entries(&folder)?);
    }
    let images = all.iter().filter(|file| ends(file, &ENDINGS) || ends(file, &UNREAD));
    let left = some(path, images.map(PathBuf::as_path));
    Ok(left.map(|some| format!("left out, for they lie beside test_data_set_*, which is read alone: {some}")))
}

/// The first of `files` of `path` and how many more there are; `None` without any.
fn some<'a>(path: &Path, files: impl Iterator<Item = &'a Path>) -> Option<String> {
    let files: Vec<&Path> = files.collect();
    let first = files.iter().min()?;
    let shown = first.strip_prefix(path).unwrap_or(first).display();
    Some(match files.len() - 1 {
        0 => shown.to_string(),
        more => format!("{shown} and {more} more"),
    })
}

/// The folders in `path` that are not hidden.
fn folders(path: &Path) -> Result<Vec<PathBuf>> {
    let is_shown = |entry: &PathBuf| entry.is_dir() && !file_name(entry).starts_with('.');
    Ok(entries(path)?.into_iter().filter(is_shown).collect())
}

/// The input that takes images.
struct Target {
    spec: InputSpec,
    channels: usize,
    /// Fixed height and width.
    sides: [Option<usize>; 2],
}

impl Target {
    fn of(model: &Model) -> Result<Self> {
        let mut specs = inputs(model)?.into_iter();
        let (Some(spec), None) = (specs.next(), specs.next()) else {
            return Err(Error::unsupported("images", "fill one input, the model has another number of them")
                .help("give an .npz with one array for each input"));
        };
        let fixed = |dim: &Dim| match dim {
            Dim::Fixed(size) => Some(*size),
            Dim::Free(_) => None,
        };
        let (channels, sides) = match spec.dims.as_deref() {
            Some([_, channels, height, width]) => {
                (fixed(channels).unwrap_or(3), [fixed(height), fixed(width)])
            }
            _ => (0, [None; 2]),
        };
        if !matches!(channels, 1 | 3) {
            let what = format!("takes {}, images fill [batch, 3 or 1, height, width]", spec.shape_text());
            return Err(Error::unsupported(format!("input '{}'", spec.name), what)
                .help("give an .npz with one array for each input"));
        }
        spec.takes_one_sample()?;
        Ok(Self { spec, channels, sides })
    }
}

/// The preprocessing beside the model, in the folder above it, or among the images.
fn config(path: &Path, model: &Model, target: &Target) -> Result<Preprocess> {
    let places = beside(model, CONFIG).into_iter().chain([path.join(CONFIG)]);
    let Some(file) = places.into_iter().find(|place| place.is_file()) else {
        let size = match target.sides {
            [Some(height), Some(width)] => {
                format!("\"size\": {{\"height\": {height}, \"width\": {width}}}, ")
            }
            _ => String::new(),
        };
        let example = format!(
            "put one there, for example {{{size}\"image_mean\": {0}, \"image_std\": {0}}}",
            if target.channels == 1 { "[0.5]" } else { "[0.5, 0.5, 0.5]" }
        );
        let what = format!("no {CONFIG} beside the model, in the folder above, or among the images");
        return Err(Error::caller("images", what).help(example));
    };
    let bytes = map_file(&file)?;
    if bytes.len() as u64 > limits::CONFIG_BYTES {
        return Err(Error::limit(file.display().to_string(), format!("{} bytes", bytes.len())));
    }
    let config = Preprocess::parse(&bytes, target.channels).map_err(|error| error.within(file.display()))?;
    let fits = |(given, side): (u32, Option<usize>)| side.is_none_or(|side| side == given as usize);
    match config.final_size() {
        Some((height, width))
            if ![(height, target.sides[0]), (width, target.sides[1])].into_iter().all(fits) =>
        {
            let what = format!(
                "gives images of {height} x {width}, input '{}' takes {}",
                target.spec.name,
                target.spec.shape_text()
            );
            Err(Error::format(file.display().to_string(), what)
                .help("it belongs to another model, or adapt it"))
        }
        _ => Ok(config),
    }
}

fn array(bytes: &Bytes, config: &Preprocess, target: &Target) -> Result<Array> {
    let values = config.apply(decode(bytes)?)?;
    let fits = [values.height, values.width]
        .into_iter()
        .zip(target.sides)
        .all(|(size, side)| side.is_none_or(|side| side == size));
    if !fits {
        let what = format!(
            "is {} x {} after {CONFIG}, input '{}' takes {}",
            values.height,
            values.width,
            target.spec.name,
            target.spec.shape_text()
        );
        return Err(Error::format("image", what).help("give the config a size or a crop_size"));
    }
    let raw: Vec<u8> = values.planes.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![1, target.channels, values.height, values.width];
    fit(&target.spec, Array { data_type: DataType::Float, shape, bytes: raw.into() })
}

fn decode(bytes: &Bytes) -> Result<RgbImage> {
    if bytes.len() as u64 > limits::IMAGE_BYTES {
        return Err(Error::limit("image", format!("{} bytes", bytes.len())));
    }
    let wrong = |what: &str| {
        Error::format("image", format!("does not decode: {what}"))
            .help("a PNG, JPEG, WebP or BMP is expected")
    };
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| wrong(&error.to_string()))?;
    let mut accepted = image::Limits::default();
    (accepted.max_image_width, accepted.max_image_height) =
        (Some(limits::IMAGE_SIDE), Some(limits::IMAGE_SIDE));
    reader.limits(accepted);
    let decoded = panics::caught(|| reader.decode().map(|image| image.to_rgb8()));
    let image = decoded.ok_or_else(|| wrong("the decoder panicked"))?;
    let image = image.map_err(|error| wrong(&one_line(&error.to_string())))?;
    let (width, height) = image.dimensions();
    if width == 0 || height == 0 || u64::from(width) * u64::from(height) > limits::IMAGE_PIXELS {
        return Err(Error::limit("image", format!("{height} x {width} pixels")));
    }
    Ok(image)
}
