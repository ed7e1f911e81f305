//! The values of a site's weight as a matrix, read where they are stored.

use bytes::Bytes;

use super::operand::{Operand, Origin, constant_tensor};
use super::site::{Form, Site};
use crate::error::{Error, Result};
use crate::onnx::proto::{TensorProto, tensor_proto::DataType};
use crate::onnx::{Model, tensor, walk};
use crate::quant::{Element, Layout, Matrix};

/// The stored bytes of a weight and how a site looks at them.
pub struct Values {
    bytes: Bytes,
    element: Element,
    layout: Layout,
    factor: f32,
}

impl Values {
    /// The weight of `site` as `[K,N]`, with the factor of a Gemm's alpha.
    ///
    /// # Errors
    /// [`crate::error::Kind::Format`] when the payload cannot be read.
    pub fn of(model: &Model, site: &Site) -> Result<Self> {
        let tensor = stored(model, &site.operand)
            .ok_or_else(|| Error::format("site", "its weight is not in the model"))?;
        let strides = &site.operand.strides;
        let layout = Layout {
            offset: 0,
            k: site.k,
            n: site.n,
            k_stride: strides.first().copied().unwrap_or(0),
            n_stride: strides.get(1).copied().unwrap_or(0),
        };
        let factor = match site.form {
            Form::Gemm { alpha, .. } => alpha,
            _ => 1.0,
        };
        Self::view(tensor, layout, factor)
    }

    /// `tensor` as dense rows `[rows,columns]`.
    ///
    /// # Errors
    /// [`crate::error::Kind::Format`] when its payload cannot be read.
    pub fn rows(tensor: &TensorProto, (rows, columns): (usize, usize)) -> Result<Self> {
        Self::view(tensor, Layout { offset: 0, k: rows, n: columns, k_stride: columns, n_stride: 1 }, 1.0)
    }

    fn view(tensor: &TensorProto, layout: Layout, factor: f32) -> Result<Self> {
        let element = match tensor::data_type(tensor).unwrap_or(DataType::Undefined) {
            DataType::Float => Element::F32,
            DataType::Float16 => Element::F16,
            DataType::Bfloat16 => Element::BF16,
            DataType::Double => Element::F64,
            other => {
                return Err(Error::unsupported(
                    tensor::subject(tensor),
                    format!("{} weights are not quantized", tensor::type_name(other)),
                ));
            }
        };
        Ok(Self { bytes: tensor::payload(tensor)?, element, layout, factor })
    }

    /// The view.
    ///
    /// # Errors
    /// [`crate::error::Kind::Format`] when the view leaves the payload.
    pub fn matrix(&self) -> Result<Matrix<'_>> {
        Matrix::new(&self.bytes, self.element, self.layout)
            .map(|matrix| matrix.scaled(self.factor))
            .ok_or_else(|| Error::format("weight", "its view leaves its payload"))
    }
}

/// The stored tensor that `operand` looks at in `model`.
pub fn stored<'m>(model: &'m Model, operand: &Operand) -> Option<&'m TensorProto> {
    let (path, at) = &operand.home;
    let mut graph = model.graph();
    for (node, body) in path.iter() {
        graph = walk::graphs_of(graph.node.get(*node)?).nth(*body)?;
    }
    match operand.origin {
        Origin::Initializer(_) => graph.initializer.get(*at),
        Origin::Constant(_) => constant_tensor(graph.node.get(*at)?),
        Origin::Function(_) | Origin::Sparse => None,
    }
}
