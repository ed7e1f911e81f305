//! A value of a run, between the runtime and everyone else.

use std::sync::Arc;

use tract_onnx::prelude::*;

use super::runtime::{guarded, to_tensor};
use crate::data::Array;
use crate::error::Result;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::proto::{
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto::Dimension,
    tensor_shape_proto::dimension, type_proto,
};
use crate::onnx::tensor;

/// A dense array of numbers, shared and not changed.
#[derive(Debug, Clone)]
pub struct Value(pub(super) Arc<Tensor>);

impl Value {
    pub(super) fn from_array(array: &Array) -> Result<Self> {
        guarded("reading a sample", || Ok(Self(to_tensor(array)?.into_arc_tensor())))
    }

    /// Symbolic integers become numbers.
    pub(super) fn from_runtime(tensor: Arc<Tensor>) -> TractResult<Self> {
        if tensor.datum_type() == TDim::datum_type() {
            return Ok(Self(tensor.cast_to::<i64>()?.into_owned().into_arc_tensor()));
        }
        Ok(Self(tensor))
    }

    /// A float32 value; `None` when the sizes do not fit.
    pub fn from_floats(shape: &[usize], values: &[f32]) -> Option<Self> {
        Tensor::from_shape(shape, values).ok().map(|tensor| Self(tensor.into_arc_tensor()))
    }

    /// Elements where they are f32 in memory.
    pub fn as_floats(&self) -> Option<&[f32]> {
        self.0.try_as_plain_ram().ok()?.as_slice::<f32>().ok()
    }

    /// Elements as f32; `None` for values that are no numbers.
    pub fn floats(&self) -> Option<Vec<f32>> {
        let tensor = self.0.cast_to::<f32>().ok()?;
        Some(tensor.try_as_plain_ram().ok()?.as_slice::<f32>().ok()?.to_vec())
    }

    /// Elements as integers.
    pub fn integers(&self) -> Option<Vec<i64>> {
        let tensor = self.0.cast_to::<i64>().ok()?;
        Some(tensor.try_as_plain_ram().ok()?.as_slice::<i64>().ok()?.to_vec())
    }

    /// Sizes.
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// Type and sizes, for telling plans apart.
    pub(super) fn kind(&self) -> String {
        format!("{:?}{:?};", self.0.datum_type(), self.shape())
    }

    /// The elements in memory.
    pub(super) fn raw(&self) -> Vec<u8> {
        self.0.try_as_plain_ram().map(|ram| ram.as_bytes().to_vec()).unwrap_or_default()
    }

    /// It as a constant of a graph.
    pub(super) fn to_proto(&self, name: &str) -> TractResult<TensorProto> {
        Ok(tensor::from_raw(name, self.data_type()?, self.shape(), self.raw()))
    }

    /// It as an input of a graph.
    pub(super) fn declaration(&self, name: &str) -> TractResult<ValueInfoProto> {
        let dim = |size: &usize| Dimension {
            value: Some(dimension::Value::DimValue(i64::try_from(*size).unwrap_or(i64::MAX))),
            ..Default::default()
        };
        let kind = type_proto::Tensor {
            elem_type: Some(self.data_type()? as i32),
            shape: Some(TensorShapeProto { dim: self.shape().iter().map(dim).collect() }),
        };
        let kind = TypeProto { value: Some(type_proto::Value::TensorType(kind)), ..Default::default() };
        Ok(ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..Default::default() })
    }

    fn data_type(&self) -> TractResult<DataType> {
        use DataType as D;
        let known = [
            (f32::datum_type(), D::Float),
            (f64::datum_type(), D::Double),
            (f16::datum_type(), D::Float16),
            (i64::datum_type(), D::Int64),
            (i32::datum_type(), D::Int32),
            (i16::datum_type(), D::Int16),
            (i8::datum_type(), D::Int8),
            (u8::datum_type(), D::Uint8),
            (u16::datum_type(), D::Uint16),
            (u32::datum_type(), D::Uint32),
            (u64::datum_type(), D::Uint64),
            (bool::datum_type(), D::Bool),
        ];
        let found = known.iter().find(|(kind, _)| *kind == self.0.datum_type());
        found.map(|(_, kind)| *kind).ok_or_else(|| {
            TractError::msg(format!("values of type {:?} cannot be handed on", self.0.datum_type()))
        })
    }
}
