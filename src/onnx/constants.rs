//! The forms in which numbers are stored, made one: what a Constant node lists as numbers becomes its tensor, and a
//! sparse tensor that takes no fewer bytes than the dense one becomes dense. So later rooms see weights in one form.

use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, tensor_proto::DataType,
};
use super::sparse::dense;
use super::{node, tensor, walk};

/// Rewrites the constants of `model`, in bodies and functions too. What is damaged stays, for the check to name.
pub(super) fn plain_constants(model: &mut ModelProto) {
    model.graph.iter_mut().for_each(in_graph);
    model.functions.iter_mut().for_each(|function| function.node.iter_mut().for_each(in_node));
}

fn in_graph(graph: &mut GraphProto) {
    let GraphProto { initializer, sparse_initializer, .. } = graph;
    sparse_initializer.retain(|sparse| {
        let made = small_dense(sparse);
        let stays = made.is_none();
        initializer.extend(made);
        stays
    });
    graph.node.iter_mut().for_each(in_node);
}

fn in_node(step: &mut NodeProto) {
    if node::is(step, "Constant")
        && let [attribute] = step.attribute.as_mut_slice()
        && let Some(tensor) = listed(attribute)
    {
        *attribute = node::tensor_attribute("value", tensor);
    }
    walk::graphs_of_mut(step).for_each(in_graph);
}

/// The tensor that a Constant's attribute of another form than `value` stands for.
fn listed(attribute: &AttributeProto) -> Option<TensorProto> {
    if !attribute.ref_attr_name().is_empty() {
        return None;
    }
    let floats = |values: &[f32], dims: &[usize]| {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensor::from_raw("", DataType::Float, dims, raw)
    };
    let integers = |values: &[i64], dims: &[usize]| {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensor::from_raw("", DataType::Int64, dims, raw)
    };
    match attribute.name() {
        "value_float" => Some(floats(&[attribute.f?], &[])),
        "value_floats" => Some(floats(&attribute.floats, &[attribute.floats.len()])),
        "value_int" => Some(integers(&[attribute.i?], &[])),
        "value_ints" => Some(integers(&attribute.ints, &[attribute.ints.len()])),
        "sparse_value" => small_dense(attribute.sparse_tensor.as_ref()?),
        _ => None,
    }
}

/// The dense form of `sparse` where it takes no more bytes.
fn small_dense(sparse: &SparseTensorProto) -> Option<TensorProto> {
    let parts = sparse.values.iter().chain(&sparse.indices).map(tensor::payload_len);
    let bytes = parts.sum::<crate::error::Result<usize>>().ok()?;
    let kind = sparse.values.as_ref()?.data_type;
    let shell = TensorProto { dims: sparse.dims.clone(), data_type: kind, ..Default::default() };
    let is_small = tensor::payload_len(&shell).ok()? <= bytes;
    is_small.then(|| dense(sparse).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sparse(count: usize, size: usize) -> SparseTensorProto {
        let values = vec![0x3f; 4 * count];
        let places: Vec<u8> = (0..count as i64).flat_map(i64::to_le_bytes).collect();
        SparseTensorProto {
            values: Some(tensor::from_raw("s", DataType::Float, &[count], values)),
            indices: Some(tensor::from_raw("", DataType::Int64, &[count], places)),
            dims: vec![size as i64],
        }
    }

    #[test]
    fn what_a_constant_lists_becomes_its_tensor() {
        let attribute = |name: &str| AttributeProto {
            name: Some(name.to_owned()),
            f: Some(1.5),
            floats: vec![1.0, 2.0],
            i: Some(-3),
            ints: vec![4, 5, 6],
            sparse_tensor: Some(sparse(1, 3)),
            ..Default::default()
        };
        let made = |name: &str| listed(&attribute(name)).unwrap();
        assert_eq!(tensor::floats(&made("value_float")).unwrap(), [1.5]);
        assert_eq!(made("value_float").dims, [0i64; 0]);
        assert_eq!(tensor::floats(&made("value_floats")).unwrap(), [1.0, 2.0]);
        assert_eq!(tensor::integers(&made("value_int")).unwrap(), [-3]);
        assert_eq!(made("value_ints").dims, [3]);
        assert_eq!(made("sparse_value").dims, [3]);
        let of_function =
            AttributeProto { ref_attr_name: Some("outer".to_owned()), ..attribute("value_ints") };
        assert!(listed(&of_function).is_none());
        assert!(listed(&attribute("value_string")).is_none());
    }

    #[test]
    fn a_sparse_tensor_is_made_dense_only_where_that_is_no_larger() {
        assert_eq!(small_dense(&sparse(2, 6)).unwrap().dims, [6]);
        assert!(small_dense(&sparse(2, 7)).is_none());
        let damaged = SparseTensorProto { dims: vec![1], ..sparse(2, 6) };
        assert!(small_dense(&damaged).is_none());
    }
}
