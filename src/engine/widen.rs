//! Half precision → float32: the runtime knows no bfloat16, and computes float16 slowly and not all of it.
//!
//! ONNX Runtime's CPU provider does the same: it casts to float32 where it has no kernel for the half type.

use crate::error::Result;
use crate::onnx::proto::{
    GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto::DataType, type_proto::Value,
};
use crate::onnx::{tensor, walk};

/// Attributes that name an element type.
const TYPES: &[&str] = &["to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision"];

/// Whether values of this type become float32.
pub(super) fn is_half(kind: i32) -> bool {
    kind == DataType::Float16 as i32 || kind == DataType::Bfloat16 as i32
}

/// Makes every float16 and bfloat16 of `model` a float32: tensors, declared types, types in attributes.
///
/// # Errors
/// A tensor whose payload cannot be read.
pub(super) fn widen(model: &mut ModelProto) -> Result<()> {
    walk::tensors_mut(model, &mut |tensor: &mut TensorProto| {
        if is_half(tensor.data_type()) {
            let shape = tensor::shape(tensor)?;
            tensor::payload(tensor)?;
            let values = tensor::floats(tensor).unwrap_or_default();
            let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            *tensor = tensor::from_raw(tensor.name(), DataType::Float, &shape, raw);
        }
        Ok(())
    })?;
    model.graph.iter_mut().for_each(graph);
    Ok(())
}

fn graph(graph: &mut GraphProto) {
    graph.input.iter_mut().chain(&mut graph.output).for_each(declaration);
    graph.node.iter_mut().for_each(node);
}

fn declaration(value: &mut ValueInfoProto) {
    if let Some(Value::TensorType(kind)) = value.r#type.as_mut().and_then(|kind| kind.value.as_mut())
        && is_half(kind.elem_type())
    {
        kind.elem_type = Some(DataType::Float as i32);
    }
}

fn node(node: &mut NodeProto) {
    for attribute in &mut node.attribute {
        if TYPES.contains(&attribute.name()) && i32::try_from(attribute.i()).is_ok_and(is_half) {
            attribute.i = Some(DataType::Float as i64);
        }
    }
    walk::graphs_of_mut(node).for_each(graph);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::node as onnx_node;

    #[test]
    fn tensors_and_types_in_attributes_become_float() {
        let weight = tensor::from_raw("w", DataType::Bfloat16, &[1], vec![0x80, 0x3f]);
        let to = onnx_node::int_attribute("to", DataType::Float16 as i64);
        let axis = onnx_node::int_attribute("axis", 10);
        let mut model = ModelProto {
            graph: Some(GraphProto {
                node: vec![onnx_node::build("Cast", "", &["x"], &["y"], vec![to, axis])],
                initializer: vec![weight],
                ..Default::default()
            }),
            ..Default::default()
        };
        widen(&mut model).unwrap();
        let graph = model.graph.unwrap();
        assert_eq!(tensor::floats(&graph.initializer[0]).unwrap(), [1.0]);
        assert_eq!(graph.initializer[0].data_type(), DataType::Float as i32);
        assert_eq!(onnx_node::int(&graph.node[0], "to", 0), DataType::Float as i64);
        assert_eq!(onnx_node::int(&graph.node[0], "axis", 0), 10);
    }
}
