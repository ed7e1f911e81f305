//! Views of tensors: element types, shapes, and the payload as little-endian bytes whatever field holds it.
//!
//! Storage rules: `TensorProto` in `proto/onnx-ml.proto`.

use bytes::Bytes;
use half::{f16, slice::HalfFloatSliceExt as _};

use super::proto::TensorProto;
use crate::error::{Error, Result};
use crate::limits;

pub use super::proto::tensor_proto::DataType;

/// Whether the type is one in which weights are stored.
pub fn is_float(data_type: DataType) -> bool {
    matches!(data_type, DataType::Float | DataType::Float16 | DataType::Bfloat16 | DataType::Double)
}

/// The tensor's element type, if ONNX defines the number it carries.
pub fn data_type(tensor: &TensorProto) -> Option<DataType> {
    DataType::try_from(tensor.data_type()).ok().filter(|data_type| *data_type != DataType::Undefined)
}

/// Bits that one element takes in `raw_data`; `None` for strings and undefined types.
pub fn element_bits(data_type: DataType) -> Option<usize> {
    use DataType as D;
    Some(match data_type {
        D::Undefined | D::String => return None,
        D::Int2 | D::Uint2 => 2,
        D::Float6e2m3 | D::Float6e3m2 => 6,
        D::Int4 | D::Uint4 | D::Float4e2m1 => 4,
        D::Int8
        | D::Uint8
        | D::Bool
        | D::Float8e4m3fn
        | D::Float8e4m3fnuz
        | D::Float8e5m2
        | D::Float8e5m2fnuz
        | D::Float8e8m0 => 8,
        D::Int16 | D::Uint16 | D::Float16 | D::Bfloat16 => 16,
        D::Int32 | D::Uint32 | D::Float => 32,
        D::Int64 | D::Uint64 | D::Double | D::Complex64 => 64,
        D::Complex128 => 128,
    })
}

/// The type's name as ONNX and numpy users write it: `float32`, `int4`.
pub fn type_name(data_type: DataType) -> &'static str {
    use DataType as D;
    match data_type {
        D::Undefined => "undefined",
        D::Float => "float32",
        D::Uint8 => "uint8",
        D::Int8 => "int8",
        D::Uint16 => "uint16",
        D::Int16 => "int16",
        D::Int32 => "int32",
        D::Int64 => "int64",
        D::String => "string",
        D::Bool => "bool",
        D::Float16 => "float16",
        D::Double => "float64",
        D::Uint32 => "uint32",
        D::Uint64 => "uint64",
        D::Complex64 => "complex64",
        D::Complex128 => "complex128",
        D::Bfloat16 => "bfloat16",
        D::Float8e4m3fn => "float8e4m3fn",
        D::Float8e4m3fnuz => "float8e4m3fnuz",
        D::Float8e5m2 => "float8e5m2",
        D::Float8e5m2fnuz => "float8e5m2fnuz",
        D::Uint4 => "uint4",
        D::Int4 => "int4",
        D::Float4e2m1 => "float4e2m1",
        D::Float8e8m0 => "float8e8m0",
        D::Uint2 => "uint2",
        D::Float6e2m3 => "float6e2m3",
        D::Float6e3m2 => "float6e3m2",
        D::Int2 => "int2",
    }
}

/// The shape as sizes.
///
/// # Errors
/// Negative sizes, more than [`limits::RANK`] of them, or a product beyond the address space.
pub fn shape(tensor: &TensorProto) -> Result<Vec<usize>> {
    if tensor.dims.len() > limits::RANK {
        return Err(Error::limit(
            subject(tensor),
            format!("{} dimensions, at most {} are accepted", tensor.dims.len(), limits::RANK),
        ));
    }
    let mut product = 1usize;
    let mut sizes = Vec::with_capacity(tensor.dims.len());
    for &dim in &tensor.dims {
        let size = usize::try_from(dim)
            .map_err(|_| Error::format(subject(tensor), format!("dimension {dim} in {:?}", tensor.dims)))?;
        sizes.push(size);
        if size > 0 {
            product =
                product.checked_mul(size).filter(|p| *p <= isize::MAX as usize / 16).ok_or_else(|| {
                    Error::format(subject(tensor), format!("the shape {:?} overflows", tensor.dims))
                })?;
        }
    }
    Ok(sizes)
}

/// Number of elements; see [`shape`] for the errors.
pub fn elements(tensor: &TensorProto) -> Result<usize> {
    Ok(shape(tensor)?.into_iter().product())
}

/// Bytes that the payload takes as `raw_data`: `ceil(elements * bits / 8)`; strings count their texts.
pub fn payload_len(tensor: &TensorProto) -> Result<usize> {
    match data_type(tensor).and_then(element_bits) {
        Some(bits) => elements(tensor)?
            .checked_mul(bits)
            .map(|bits| bits.div_ceil(8))
            .ok_or_else(|| Error::format(subject(tensor), format!("the shape {:?} overflows", tensor.dims))),
        None => Ok(tensor.string_data.iter().map(Bytes::len).sum()),
    }
}

/// The payload as little-endian bytes in row-major order, from `raw_data` without a copy, or from the typed
/// field that the element type prescribes.
///
/// # Errors
/// [`crate::error::Kind::Format`] when the payload has another length than the shape says, when two fields
/// are filled, or when the type has no bytes (strings).
pub fn payload(tensor: &TensorProto) -> Result<Bytes> {
    use DataType as D;
    let kind = data_type(tensor)
        .ok_or_else(|| Error::format(subject(tensor), format!("unknown data type {}", tensor.data_type())))?;
    let expected = payload_len(tensor)?;
    let typed = [
        tensor.float_data.len(),
        tensor.int32_data.len(),
        tensor.int64_data.len(),
        tensor.double_data.len(),
        tensor.uint64_data.len(),
    ];
    let filled = typed.iter().filter(|len| **len > 0).count();
    let bytes = match &tensor.raw_data {
        Some(_) if filled > 0 => {
            return Err(Error::format(subject(tensor), "raw_data and a typed field are both filled"));
        }
        Some(raw) => raw.clone(),
        None if filled > 1 => return Err(Error::format(subject(tensor), "two typed fields are filled")),
        None => match kind {
            D::Float | D::Complex64 => collect(&tensor.float_data, |v| v.to_le_bytes()),
            D::Double | D::Complex128 => collect(&tensor.double_data, |v| v.to_le_bytes()),
            D::Int64 => collect(&tensor.int64_data, |v| v.to_le_bytes()),
            D::Uint64 => collect(&tensor.uint64_data, |v| v.to_le_bytes()),
            D::Uint32 => collect(&tensor.uint64_data, |v| (*v as u32).to_le_bytes()),
            D::Int32 => collect(&tensor.int32_data, |v| v.to_le_bytes()),
            D::String | D::Undefined => {
                return Err(Error::format(subject(tensor), "strings have no numeric payload"));
            }
            // One entry holds the bits of one element, or one byte of packed 2- and 4-bit elements.
            _ if element_bits(kind) == Some(16) => collect(&tensor.int32_data, |v| (*v as u16).to_le_bytes()),
            _ => collect(&tensor.int32_data, |v| [*v as u8]),
        },
    };
    if bytes.len() != expected {
        return Err(Error::format(
            subject(tensor),
            format!(
                "{} {:?} takes {expected} bytes, {} are stored",
                type_name(kind),
                tensor.dims,
                bytes.len()
            ),
        ));
    }
    Ok(bytes)
}

/// Integers of a constant int64 or int32 tensor, as shape and axis inputs carry them.
pub fn integers(tensor: &TensorProto) -> Option<Vec<i64>> {
    let bytes = payload(tensor).ok()?;
    match data_type(tensor)? {
        DataType::Int64 => Some(bytes.as_chunks::<8>().0.iter().map(|c| i64::from_le_bytes(*c)).collect()),
        DataType::Int32 => {
            Some(bytes.as_chunks::<4>().0.iter().map(|c| i64::from(i32::from_le_bytes(*c))).collect())
        }
        _ => None,
    }
}

/// Values of a constant float32, float16, bfloat16 or float64 tensor as f32.
pub fn floats(tensor: &TensorProto) -> Option<Vec<f32>> {
    let bytes = payload(tensor).ok()?;
    Some(match data_type(tensor)? {
        DataType::Float => bytes.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect(),
        DataType::Double => bytes.as_chunks::<8>().0.iter().map(|c| f64::from_le_bytes(*c) as f32).collect(),
        // Converted as a whole: `half` looks for the fast instruction on every call.
        DataType::Float16 => {
            let halves: Vec<f16> = bytes.as_chunks().0.iter().map(|c| f16::from_le_bytes(*c)).collect();
            halves.to_f32_vec()
        }
        DataType::Bfloat16 => {
            bytes.as_chunks::<2>().0.iter().map(|c| half::bf16::from_le_bytes(*c).to_f32()).collect()
        }
        _ => return None,
    })
}

/// Values of a constant int8 or uint8 tensor.
pub fn byte_values(tensor: &TensorProto) -> Option<Vec<f32>> {
    let bytes = payload(tensor).ok()?;
    match data_type(tensor)? {
        DataType::Int8 => Some(bytes.iter().map(|byte| f32::from(*byte as i8)).collect()),
        DataType::Uint8 => Some(bytes.iter().map(|byte| f32::from(*byte)).collect()),
        _ => None,
    }
}

/// A tensor that stores `raw` as `raw_data`.
pub fn from_raw(
    name: impl Into<String>,
    data_type: DataType,
    dims: &[usize],
    raw: impl Into<Bytes>,
) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(data_type as i32),
        dims: dims.iter().map(|dim| *dim as i64).collect(),
        raw_data: Some(raw.into()),
        ..Default::default()
    }
}

/// How messages name a tensor.
pub fn subject(tensor: &TensorProto) -> String {
    format!("tensor '{}'", tensor.name())
}

fn collect<T, const N: usize>(values: &[T], bytes: impl Fn(&T) -> [u8; N]) -> Bytes {
    values.iter().flat_map(bytes).collect::<Vec<u8>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_fields_and_raw_data_give_the_same_bytes() {
        let raw = from_raw("w", DataType::Float16, &[2], vec![0x00, 0x3c, 0x00, 0xc0]);
        let typed = TensorProto {
            data_type: Some(DataType::Float16 as i32),
            dims: vec![2],
            int32_data: vec![0x3c00, 0xc000],
            ..Default::default()
        };
        assert_eq!(payload(&raw).unwrap(), payload(&typed).unwrap());
        assert_eq!(floats(&typed).unwrap(), [1.0, -2.0]);
    }

    #[test]
    fn odd_counts_of_four_bit_elements_take_a_last_half_byte() {
        let tensor = from_raw("w", DataType::Int4, &[3], vec![0x21, 0x03]);
        assert_eq!(payload_len(&tensor).unwrap(), 2);
        assert!(payload(&tensor).is_ok());
    }

    #[test]
    fn lying_shapes_are_named() {
        for dims in [vec![-1], vec![i64::MAX, i64::MAX], vec![1 << 32, 1 << 32], vec![3]] {
            let tensor = TensorProto { dims, ..from_raw("w", DataType::Float, &[], vec![0; 8]) };
            let error = payload(&tensor).expect_err("wrong shape").to_string();
            assert!(error.starts_with("tensor 'w': "), "{error}");
        }
    }
}
