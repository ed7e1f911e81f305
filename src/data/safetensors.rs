//! Arrays in a `.safetensors` file.
//!
//! Format: <https://github.com/huggingface/safetensors>.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::Deserializer as _;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};

use super::Array;
use crate::error::{Error, Result, one_line};
use crate::limits;
use crate::onnx::proto::tensor_proto::DataType;

/// The arrays of the file by name, as slices of `bytes`.
pub(super) fn read(bytes: &Bytes) -> Result<BTreeMap<String, Array>> {
    if bytes.len() as u64 > limits::SAMPLE_BYTES {
        return Err(Error::limit("safetensors", format!("{} bytes", bytes.len())));
    }
    let unreadable = |error: &dyn std::fmt::Display| {
        Error::format("safetensors", format!("cannot be read: {}", one_line(&error.to_string())))
            .help("a file from safetensors.numpy.save_file is expected")
    };
    let file = SafeTensors::deserialize(bytes).map_err(|error| match error {
        // The crate names any of those that are in each other's way.
        SafeTensorError::InvalidOffset(_) => unreadable(&"arrays overlap, or bytes lie between them"),
        error => unreadable(&error),
    })?;
    // The crate keeps the last of two arrays of one name.
    let header = bytes.get(8..).unwrap_or_default();
    let mut header = serde_json::Deserializer::from_slice(header);
    header.deserialize_map(UniqueKeys).map_err(|error| unreadable(&error))?;
    let mut arrays = BTreeMap::new();
    for (name, view) in file.iter() {
        let data_type = data_type(view.dtype()).ok_or_else(|| {
            Error::format(format!("array '{name}'"), format!("element type {} is not read", view.dtype()))
                .help("save numbers of 8 to 64 bits or bool")
        })?;
        if view.shape().len() > limits::RANK {
            return Err(Error::limit(
                format!("array '{name}'"),
                format!("{} dimensions", view.shape().len()),
            ));
        }
        let array = Array { data_type, shape: view.shape().to_vec(), bytes: bytes.slice_ref(view.data()) };
        arrays.insert(name.to_owned(), array);
    }
    Ok(arrays)
}

/// An object in which no key stands twice.
struct UniqueKeys;

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some((key, _)) = map.next_entry::<String, IgnoredAny>()? {
            if let Some(key) = seen.replace(key) {
                return Err(A::Error::custom(format!("'{key}' stands twice")));
            }
        }
        Ok(())
    }
}

fn data_type(stored: Dtype) -> Option<DataType> {
    use DataType as D;
    Some(match stored {
        Dtype::F64 => D::Double,
        Dtype::F32 => D::Float,
        Dtype::F16 => D::Float16,
        Dtype::BF16 => D::Bfloat16,
        Dtype::I64 => D::Int64,
        Dtype::I32 => D::Int32,
        Dtype::I16 => D::Int16,
        Dtype::I8 => D::Int8,
        Dtype::U32 => D::Uint32,
        Dtype::U16 => D::Uint16,
        Dtype::U8 => D::Uint8,
        Dtype::BOOL => D::Bool,
        _ => return None,
    })
}
