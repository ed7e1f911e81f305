//! Arrays in a numpy `.npz` file.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use bytes::Bytes;

use super::Array;
use crate::error::{Error, Result};
use crate::limits;
use crate::onnx::proto::tensor_proto::DataType;

/// The arrays of the archive by name.
pub(super) fn read(bytes: &Bytes) -> Result<BTreeMap<String, Array>> {
    let broken = |error: zip::result::ZipError| {
        Error::format("npz", format!("cannot be read: {error}")).help(
            "an .npz from numpy.savez is expected where the name ends in none of .safetensors, .txt, .jsonl",
        )
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
        let array = parse(member, size).map_err(|error| error.within(format!("array '{name}'")))?;
        if arrays.insert(name.clone(), array).is_some() {
            return Err(Error::format(format!("array '{name}'"), "is there twice"));
        }
    }
    Ok(arrays)
}

/// The array in `member`, which announces `whole` bytes; they are unpacked only if its header asks for as many.
fn parse(mut member: impl Read, whole: u64) -> Result<Array> {
    let wrong = |what: String| Error::format("npy", what);
    let mut data = Vec::new();
    let mut read = |most: u64, data: &mut Vec<u8>| {
        member.by_ref().take(most).read_to_end(data).map_err(|error| wrong(error.to_string()))
    };
    read(limits::NPY_HEADER_BYTES as u64 + 12, &mut data)?;
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
    let held = whole.max(data.len() as u64).saturating_sub(start as u64);
    let unfit = |held: u64| wrong(format!("shape {:?} does not fit {held} bytes", header.shape()));
    match (shape, wanted) {
        (Some(shape), Some(wanted)) if wanted as u64 == held => {
            read(whole.saturating_sub(data.len() as u64) + 1, &mut data)?;
            if data.len() - start != wanted {
                return Err(unfit((data.len() - start) as u64));
            }
            Ok(Array { data_type, shape, bytes: Bytes::from(data).slice(start..) })
        }
        _ => Err(unfit(held)),
    }
}
