//! Weights in model-local functions that are not written out: no graph uses them, so they stay as they are.

use std::collections::HashMap;

use super::operand::{Origin, constant_tensor};
use super::site::{CONSTANT_ELEMENTS, Weight, WeightUse};
use crate::onnx::proto::{FunctionProto, NodeProto, TensorProto};
use crate::onnx::tensor::is_float;
use crate::onnx::{Model, function_stays, tensor, walk};
use crate::role::Role;

/// The weights of all functions of `model`, with the reason why each stays.
pub(super) fn weights(model: &Model) -> Vec<Weight> {
    let mut found = Vec::new();
    for function in &model.proto.functions {
        let why = function_stays(&model.proto, function);
        let mut bodies = Vec::new();
        walk::bodies(&function.node, &mut |body| bodies.push(body));
        let nodes = || function.node.iter().chain(bodies.iter().flat_map(|body| &body.node));
        let mut users: HashMap<&str, &NodeProto> = HashMap::new();
        for node in nodes() {
            for input in &node.input {
                users.entry(input).or_insert(node);
            }
        }
        let constants =
            nodes().filter_map(|node| Some((node.output.first()?.as_str(), constant_tensor(node)?)));
        let stored = bodies.iter().flat_map(|body| &body.initializer).map(|tensor| (tensor.name(), tensor));
        for (name, tensor) in constants.chain(stored) {
            found.extend(weight(function, name, tensor, users.get(name).copied(), &why, found.len()));
        }
    }
    found
}

fn weight(
    function: &FunctionProto,
    name: &str,
    tensor: &TensorProto,
    user: Option<&NodeProto>,
    why: &str,
    number: usize,
) -> Option<Weight> {
    let data_type = tensor::data_type(tensor).filter(|found| is_float(*found))?;
    let dims = tensor::shape(tensor).ok()?;
    if dims.iter().product::<usize>() < CONSTANT_ELEMENTS {
        return None;
    }
    let place = format!("function {}:{}", function.domain(), function.name());
    let operator = format!("{} in {place}", user.map_or("nothing", |node| node.op_type()));
    Some(Weight {
        origin: Origin::Function(number),
        name: name.to_owned(),
        place: Some(place),
        dims,
        data_type,
        bytes: tensor::payload_len(tensor).ok()? as u64,
        role: Role::Other,
        uses: vec![WeightUse::Other { operator, obstacle: why.to_owned() }],
    })
}
