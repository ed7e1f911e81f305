//! What a graph asks to be fed, and bringing arrays to it.

use std::collections::HashMap;

use super::{Array, Sample};
use crate::error::{Error, Result};
use crate::onnx::proto::{
    TypeProto,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};
use crate::onnx::{Model, tensor};

/// A declared size of a graph input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// Fixed.
    Fixed(usize),
    /// Free, under this name ("" if it has none).
    Free(String),
}

/// One input of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSpec {
    /// Name.
    pub name: String,
    /// Element type.
    pub data_type: DataType,
    /// Declared sizes; `None` if not even their number is known.
    pub dims: Option<Vec<Dim>>,
}

impl InputSpec {
    /// The sizes as people write them: `[batch, 128]`.
    pub fn shape_text(&self) -> String {
        let Some(dims) = &self.dims else { return "[?]".to_owned() };
        let parts: Vec<String> = dims
            .iter()
            .map(|dim| match dim {
                Dim::Fixed(size) => size.to_string(),
                Dim::Free(name) if name.is_empty() => "?".to_owned(),
                Dim::Free(name) => name.clone(),
            })
            .collect();
        format!("[{}]", parts.join(", "))
    }

    /// Refuses an input whose first axis is a fixed batch of several samples.
    pub(super) fn takes_one_sample(&self) -> Result<()> {
        match self.dims.as_deref() {
            Some([Dim::Fixed(batch), ..]) if *batch > 1 => Err(Error::unsupported(
                format!("input '{}'", self.name),
                format!("the model takes exactly {} samples at a time", self.shape_text()),
            )
            .help("export it with a free batch size, or give a folder of ONNX test data")),
            _ => Ok(()),
        }
    }
}

/// The inputs of the main graph that have no default, in order.
///
/// # Errors
/// [`crate::error::Kind::Unsupported`] for an input that is no tensor.
pub fn inputs(model: &Model) -> Result<Vec<InputSpec>> {
    let graph = model.graph();
    let mut found = Vec::new();
    for value in &graph.input {
        if graph.initializer.iter().any(|tensor| tensor.name() == value.name()) {
            continue;
        }
        let named = || format!("input '{}'", value.name());
        let Some(TypeProto { value: Some(type_proto::Value::TensorType(kind)), .. }) = &value.r#type else {
            return Err(Error::unsupported(named(), "is no tensor"));
        };
        let data_type = DataType::try_from(kind.elem_type())
            .map_err(|_| Error::format(named(), format!("unknown element type {}", kind.elem_type())))?;
        found.push(InputSpec { name: value.name().to_owned(), data_type, dims: dims_of(kind) });
    }
    Ok(found)
}

/// The declared sizes of the output `name`.
pub(super) fn output_dims(model: &Model, name: &str) -> Option<Vec<Dim>> {
    let output = model.graph().output.iter().find(|output| output.name() == name)?;
    match &output.r#type {
        Some(TypeProto { value: Some(type_proto::Value::TensorType(kind)), .. }) => dims_of(kind),
        _ => None,
    }
}

fn dims_of(kind: &type_proto::Tensor) -> Option<Vec<Dim>> {
    let shape = kind.shape.as_ref()?;
    let dim = |dim: &Dimension| match &dim.value {
        Some(dimension::Value::DimValue(size)) if *size >= 0 => Dim::Fixed(*size as usize),
        Some(dimension::Value::DimParam(name)) => Dim::Free(name.clone()),
        _ => Dim::Free(String::new()),
    };
    Some(shape.dim.iter().map(dim).collect())
}

/// `array` as `spec` asks for it.
///
/// # Errors
/// Another rank or other fixed sizes than declared, or a type that cannot stand for the declared one.
pub(super) fn fit(spec: &InputSpec, array: Array) -> Result<Array> {
    if let Some(dims) = &spec.dims {
        let fits = dims.len() == array.shape.len()
            && dims.iter().zip(&array.shape).all(|(dim, size)| match dim {
                Dim::Fixed(wanted) => wanted == size,
                Dim::Free(_) => true,
            });
        if !fits {
            return Err(Error::format(
                format!("array '{}'", spec.name),
                format!("a sample has shape {:?}, the model asks for {}", array.shape, spec.shape_text()),
            ));
        }
    }
    convert(&spec.name, array, spec.data_type)
}

/// Refuses samples of which two inputs differ in a size that `model` declares under one name.
///
/// # Errors
/// [`crate::error::Kind::Format`] with the inputs, the name and both sizes.
pub(super) fn agree(samples: &[Sample], model: &Model) -> Result<()> {
    let specs = inputs(model)?;
    for (at, sample) in samples.iter().enumerate() {
        let mut sizes: HashMap<&str, (&str, usize)> = HashMap::new();
        for (name, array) in &sample.inputs {
            let declared = specs.iter().find(|spec| spec.name == *name).and_then(|spec| spec.dims.as_ref());
            for (dim, size) in declared.into_iter().flatten().zip(&array.shape) {
                let Dim::Free(dim) = dim else { continue };
                let (other, first) = *sizes.entry(dim).or_insert((name, *size));
                if !dim.is_empty() && other != name && first != *size {
                    let what = format!(
                        "sample {at} has a size of {size}, '{other}' has {first}, and the model calls both '{dim}'"
                    );
                    return Err(Error::format(format!("array '{name}'"), what).help("cut or pad one of them"));
                }
            }
        }
    }
    Ok(())
}

fn convert(name: &str, array: Array, to: DataType) -> Result<Array> {
    use DataType as D;
    // A bool of numpy may hold any byte.
    if array.data_type == to && to != D::Bool {
        return Ok(array);
    }
    let wrong = || {
        let (from, to) = (tensor::type_name(array.data_type), tensor::type_name(to));
        Error::format(format!("array '{name}'"), format!("is {from}, the model asks for {to}"))
    };
    let bytes: Vec<u8> = match to {
        D::Float | D::Double | D::Float16 => {
            let values = as_floats(&array).ok_or_else(wrong)?;
            match to {
                D::Float => values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect(),
                D::Double => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                _ => values.iter().flat_map(|v| half::f16::from_f64(*v).to_le_bytes()).collect(),
            }
        }
        D::Int64 | D::Int32 | D::Bool | D::Uint8 | D::Int8 => {
            let values = as_integers(&array).ok_or_else(wrong)?;
            match to {
                D::Int64 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                D::Int32 => values.iter().flat_map(|v| (*v as i32).to_le_bytes()).collect(),
                D::Bool => values.iter().map(|v| u8::from(*v != 0)).collect(),
                _ => values.iter().map(|v| *v as u8).collect(),
            }
        }
        _ => return Err(wrong()),
    };
    Ok(Array { data_type: to, shape: array.shape, bytes: bytes.into() })
}

/// Values of an integer or bool array; `None` for other types and for 64 bits without a sign.
pub fn as_integers(array: &Array) -> Option<Vec<i64>> {
    use DataType as D;
    let bytes = &array.bytes;
    Some(match array.data_type {
        D::Int64 => bytes.as_chunks::<8>().0.iter().map(|c| i64::from_le_bytes(*c)).collect(),
        D::Int32 => bytes.as_chunks::<4>().0.iter().map(|c| i64::from(i32::from_le_bytes(*c))).collect(),
        D::Uint32 => bytes.as_chunks::<4>().0.iter().map(|c| i64::from(u32::from_le_bytes(*c))).collect(),
        D::Int16 => bytes.as_chunks::<2>().0.iter().map(|c| i64::from(i16::from_le_bytes(*c))).collect(),
        D::Uint16 => bytes.as_chunks::<2>().0.iter().map(|c| i64::from(u16::from_le_bytes(*c))).collect(),
        D::Int8 => bytes.iter().map(|c| i64::from(*c as i8)).collect(),
        D::Uint8 | D::Bool => bytes.iter().map(|c| i64::from(*c)).collect(),
        _ => return None,
    })
}

/// The values of an array of numbers; `None` for one of others.
pub(super) fn as_floats(array: &Array) -> Option<Vec<f64>> {
    use DataType as D;
    let bytes = &array.bytes;
    Some(match array.data_type {
        D::Float => bytes.as_chunks::<4>().0.iter().map(|c| f64::from(f32::from_le_bytes(*c))).collect(),
        D::Double => bytes.as_chunks::<8>().0.iter().map(|c| f64::from_le_bytes(*c)).collect(),
        D::Float16 => {
            bytes.as_chunks::<2>().0.iter().map(|c| half::f16::from_le_bytes(*c).to_f64()).collect()
        }
        D::Bfloat16 => {
            bytes.as_chunks::<2>().0.iter().map(|c| half::bf16::from_le_bytes(*c).to_f64()).collect()
        }
        _ => as_integers(array)?.into_iter().map(|value| value as f64).collect(),
    })
}
