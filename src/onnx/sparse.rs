//! Sparse tensors → dense ones.
//!
//! Rules: `SparseTensorProto` in `proto/onnx-ml.proto`; values that are not given are zero.

use super::proto::{GraphProto, SparseTensorProto, TensorProto};
use super::{node, tensor, walk};
use crate::error::{Error, Result};

/// Bytes of one dense tensor: a few indices may stand for any shape.
const DENSE_BYTES: usize = 1 << 30;

/// Replaces sparse initializers and constants of `graph` and its bodies.
///
/// # Errors
/// [`crate::error::Kind::Unsupported`] for a dense form beyond 1 GiB or of elements that are no whole bytes;
/// [`crate::error::Kind::Format`] for indices that lie outside.
pub fn densify(graph: &mut GraphProto) -> Result<()> {
    for sparse in std::mem::take(&mut graph.sparse_initializer) {
        graph.initializer.push(dense(&sparse)?);
    }
    for node in &mut graph.node {
        if node::is(node, "Constant") {
            for attribute in &mut node.attribute {
                if let Some(sparse) = attribute.sparse_tensor.take() {
                    *attribute = node::tensor_attribute("value", dense(&sparse)?);
                }
            }
        }
        walk::graphs_of_mut(node).try_for_each(densify)?;
    }
    Ok(())
}

/// The dense form of one, under the name of its values.
///
/// # Errors
/// As [`densify`].
pub(super) fn dense(sparse: &SparseTensorProto) -> Result<TensorProto> {
    let empty = TensorProto::default();
    let values = sparse.values.as_ref().unwrap_or(&empty);
    let indices = sparse.indices.as_ref().unwrap_or(&empty);
    let subject = || tensor::subject(values);
    let unsupported = |what: String| Error::unsupported(subject(), what);
    let damaged = |what: &str| Error::format(subject(), what.to_owned());
    let kind = tensor::data_type(values).ok_or_else(|| damaged("has no type"))?;
    let bits = tensor::element_bits(kind).filter(|bits| bits % 8 == 0);
    let width = bits.ok_or_else(|| unsupported(format!("sparse values of {}", tensor::type_name(kind))))? / 8;
    let shell = TensorProto { dims: sparse.dims.clone(), ..Default::default() };
    let shape = tensor::shape(&shell).map_err(|error| error.within(subject()))?;
    let length = shape.iter().product::<usize>().checked_mul(width).filter(|length| *length <= DENSE_BYTES);
    let length = length.ok_or_else(|| unsupported(format!("a sparse tensor of shape {shape:?}")))?;
    let mut raw = vec![0u8; length];
    let positions = tensor::integers(indices).ok_or_else(|| damaged("has no integer indices"))?;
    let axes = if indices.dims.len() == 2 { shape.len().max(1) } else { 1 };
    let payload = tensor::payload(values)?;
    if positions.len() != payload.len() / width * axes {
        return Err(damaged("has another number of values than of indices"));
    }
    for (value, position) in payload.chunks_exact(width).zip(positions.chunks_exact(axes)) {
        let place = match axes {
            1 => position.first().and_then(|at| usize::try_from(*at).ok()),
            _ => position.iter().zip(&shape).try_fold(0usize, |place, (at, size)| {
                let at = usize::try_from(*at).ok().filter(|at| at < size)?;
                Some(place * size + at)
            }),
        };
        let slot = place.and_then(|place| raw.chunks_exact_mut(width).nth(place));
        slot.ok_or_else(|| damaged("has an index outside its shape"))?.copy_from_slice(value);
    }
    Ok(tensor::from_raw(values.name(), kind, &shape, raw))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::tensor_proto::DataType;

    fn sparse(indices: &[i64], dims: &[usize]) -> SparseTensorProto {
        let floats: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let places: Vec<u8> = indices.iter().flat_map(|at| at.to_le_bytes()).collect();
        SparseTensorProto {
            values: Some(tensor::from_raw("w", DataType::Float, &[2], floats)),
            indices: Some(tensor::from_raw("", DataType::Int64, dims, places)),
            dims: vec![2, 3],
        }
    }

    #[test]
    fn flat_and_by_axis_indices_give_the_same_tensor() {
        let flat = dense(&sparse(&[1, 5], &[2])).unwrap();
        let by_axis = dense(&sparse(&[0, 1, 1, 2], &[2, 2])).unwrap();
        assert_eq!(flat, by_axis);
        assert_eq!(tensor::floats(&flat).unwrap(), [0.0, 1.5, 0.0, 0.0, 0.0, -2.0]);
        assert_eq!(flat.dims, [2, 3]);
    }

    #[test]
    fn indices_outside_and_shapes_beyond_memory_are_refused() {
        for bad in [sparse(&[1, 6], &[2]), sparse(&[0, 1, 1, 3], &[2, 2]), sparse(&[-1, 0], &[2])] {
            assert!(dense(&bad).unwrap_err().to_string().contains("outside"));
        }
        let huge = SparseTensorProto { dims: vec![1 << 20, 1 << 20], ..sparse(&[0, 1], &[2]) };
        assert!(dense(&huge).unwrap_err().to_string().contains("a sparse tensor of shape"));
    }
}
