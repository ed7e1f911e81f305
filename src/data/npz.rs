//! Samples in a numpy `.npz` file: one array per graph input, first axis = samples, and optionally `labels`.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use bytes::Bytes;

use super::inputs::{Dim, InputSpec, as_integers, fit, inputs};
use super::{Array, Label, Sample};
use crate::error::{Error, Result};
use crate::limits;
use crate::onnx::Model;
use crate::onnx::proto::tensor_proto::DataType;
use crate::preset::nearest;

/// The array that holds what is right.
const LABELS: &str = "labels";

pub(super) fn load(bytes: &Bytes, model: &Model) -> Result<Vec<Sample>> {
    let specs = inputs(model)?;
    let mut arrays = read(bytes)?;
    let labels = match specs.iter().any(|spec| spec.name == LABELS) {
        true => None,
        false => arrays.remove(LABELS),
    };
    let wanted: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    if let Some(name) = arrays.keys().find(|name| !wanted.contains(&name.as_str())) {
        let near = nearest(name, wanted.iter().copied(), 1);
        let hint = near.first().map_or(String::new(), |near| format!("; nearest: {near}"));
        return Err(Error::format(format!("array '{name}'"), "is no input of the model and not `labels`")
            .help(format!("inputs: {}{hint}", wanted.join(", "))));
    }
    let mut count = None;
    for spec in &specs {
        let array = arrays.get(&spec.name).ok_or_else(|| {
            Error::format(format!("array '{}'", spec.name), "is missing")
                .help(format!("one array for each input: {}", wanted.join(", ")))
        })?;
        let first = array.shape.first().copied().unwrap_or(1);
        match count {
            None => count = Some((first, &spec.name)),
            Some((other, name)) if other != first => {
                return Err(Error::format(
                    format!("array '{}'", spec.name),
                    format!("{first} samples, '{name}' has {other}"),
                ));
            }
            Some(_) => {}
        }
    }
    let count = count.map_or(0, |(count, _)| count);
    if count > limits::SAMPLES
        || specs.iter().any(|spec| arrays.get(&spec.name).is_some_and(|a| a.bytes.is_empty()))
    {
        return Err(Error::format("arrays", format!("{count} samples, or samples without a value")));
    }
    let labels = labels.map(|array| split_labels(&array, count)).transpose()?;
    (0..count)
        .map(|at| {
            let taken = specs.iter().map(|spec| {
                let array = arrays.get(&spec.name).ok_or_else(|| Error::format("array", "is missing"))?;
                Ok((spec.name.clone(), fit(spec, slice(array, at, spec)?)?))
            });
            let label = labels.as_ref().and_then(|labels| labels.get(at).cloned()).unwrap_or_default();
            Ok(Sample { inputs: taken.collect::<Result<_>>()?, label })
        })
        .collect()
}

/// Sample `at` as a batch of one; without that axis where the input has one axis less than the array.
fn slice(array: &Array, at: usize, spec: &InputSpec) -> Result<Array> {
    let size = array.shape.first().copied().filter(|count| *count > 0).map_or(0, |n| array.bytes.len() / n);
    let mut shape = array.shape.clone();
    let whole = spec
        .dims
        .as_ref()
        .is_none_or(|dims| dims.len() + 1 != array.shape.len() || matches!(dims.first(), Some(Dim::Free(_))));
    match shape.first_mut() {
        Some(first) if whole => *first = 1,
        Some(_) => drop(shape.remove(0)),
        None => return Ok(array.clone()),
    }
    if whole && matches!(spec.dims.as_deref(), Some([Dim::Fixed(batch), ..]) if *batch > 1) {
        return Err(Error::unsupported(
            format!("input '{}'", spec.name),
            format!("the model takes exactly {} samples at a time", spec.shape_text()),
        )
        .help("export it with a free batch size, or give a folder of ONNX test data"));
    }
    let bytes = array.bytes.slice(at * size..(at + 1) * size);
    Ok(Array { data_type: array.data_type, shape, bytes })
}

fn split_labels(array: &Array, samples: usize) -> Result<Vec<Label>> {
    let wrong = |what: String| Error::format("array 'labels'", what);
    let values = as_integers(array).ok_or_else(|| wrong("class numbers must be integers".to_owned()))?;
    let count = array.shape.first().copied().unwrap_or(0);
    if count != samples {
        return Err(wrong(format!("{count} labels for {samples} samples")));
    }
    match array.shape.as_slice() {
        [_] => Ok(values.into_iter().map(Label::Class).collect()),
        [_, 0] => Err(wrong("no position in a sample".to_owned())),
        [_, width] => Ok(values.chunks(*width).map(|row| Label::Positions(row.to_vec())).collect()),
        shape => Err(wrong(format!("shape {shape:?}, one class a sample or one a position are expected"))),
    }
}

fn read(bytes: &Bytes) -> Result<BTreeMap<String, Array>> {
    let broken = |error: zip::result::ZipError| {
        Error::format("npz", format!("cannot be read: {error}"))
            .help("an .npz from numpy.savez, or a folder with test_data_set_*, is expected")
    };
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    let mut arrays = BTreeMap::new();
    let mut total = 0u64;
    for at in 0..archive.len() {
        let member = archive.by_index(at).map_err(broken)?;
        let full = member.name().map_err(broken)?.into_owned();
        let name = full.strip_suffix(".npy").unwrap_or(&full).to_owned();
        let (size, packed) = (member.size(), member.compressed_size());
        total = total.saturating_add(size);
        if total > limits::SAMPLE_BYTES
            || size > packed.saturating_mul(limits::COMPRESSION_RATIO).max(1 << 20)
        {
            return Err(Error::limit(
                format!("array '{name}'"),
                format!("{packed} compressed bytes announce {size}"),
            ));
        }
        let mut data = Vec::new();
        member
            .take(size.saturating_add(1))
            .read_to_end(&mut data)
            .map_err(|error| Error::format(format!("array '{name}'"), error.to_string()))?;
        let array = parse(data.into()).map_err(|error| error.within(format!("array '{name}'")))?;
        if arrays.insert(name.clone(), array).is_some() {
            return Err(Error::format(format!("array '{name}'"), "is there twice"));
        }
    }
    Ok(arrays)
}

fn parse(data: Bytes) -> Result<Array> {
    let wrong = |what: String| Error::format("npy", what);
    // The reader allocates what the header announces, so that is looked at first.
    let announced = match (data.get(6), data.get(8..10), data.get(8..12)) {
        (Some(1), Some([a, b]), _) => usize::from(u16::from_le_bytes([*a, *b])),
        (Some(_), _, Some([a, b, c, d])) => u32::from_le_bytes([*a, *b, *c, *d]) as usize,
        _ => return Err(wrong("no header".to_owned())),
    };
    if announced > limits::NPY_HEADER_BYTES.min(data.len()) {
        return Err(wrong(format!("the header announces {announced} bytes")));
    }
    // Its parser goes as deep as the text nests; a plain header nests two levels.
    let nested = data.iter().skip(8).take(announced + 4).filter(|byte| b"([{".contains(byte)).count();
    if nested > 8 {
        return Err(wrong("the header is no plain array's".to_owned()));
    }
    let mut cursor = Cursor::new(&data);
    let header = npyz::NpyHeader::from_reader(&mut cursor).map_err(|error| wrong(error.to_string()))?;
    let start = cursor.position() as usize;
    let npyz::DType::Plain(kind) = header.dtype() else {
        return Err(wrong("structured arrays are not read".to_owned()));
    };
    let text = kind.to_string();
    use DataType as D;
    let (data_type, size) = match text.trim_start_matches(['<', '|', '=']) {
        "f4" => (D::Float, 4),
        "f8" => (D::Double, 8),
        "f2" => (D::Float16, 2),
        "i8" => (D::Int64, 8),
        "i4" => (D::Int32, 4),
        "i2" => (D::Int16, 2),
        "i1" => (D::Int8, 1),
        "u4" => (D::Uint32, 4),
        "u2" => (D::Uint16, 2),
        "u1" => (D::Uint8, 1),
        "b1" => (D::Bool, 1),
        _ => {
            return Err(wrong(format!("element type '{text}' is not read"))
                .help("save little-endian numbers, for example with .astype('<f4')"));
        }
    };
    if header.order() == npyz::Order::Fortran && header.shape().len() > 1 {
        return Err(wrong("column-major order".to_owned()).help("save numpy.ascontiguousarray(x)"));
    }
    let shape: Option<Vec<usize>> = header.shape().iter().map(|size| usize::try_from(*size).ok()).collect();
    let wanted = shape
        .as_ref()
        .and_then(|shape| shape.iter().try_fold(size, |product: usize, dim| product.checked_mul(*dim)));
    match (shape, wanted) {
        (Some(shape), Some(wanted)) if wanted == data.len() - start => {
            Ok(Array { data_type, shape, bytes: data.slice(start..) })
        }
        _ => Err(wrong(format!("shape {:?} does not fit {} bytes", header.shape(), data.len() - start))),
    }
}
