//! Which output is measured, and whether it holds scores of classes.

use super::index::Index;
use super::operand::operand;
use super::site::Inventory;
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::onnx::proto::{TypeProto, tensor_proto::DataType, type_proto};
use crate::preset::nearest;
use crate::role::Role;

/// The output that is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// Whether its last axis holds scores of classes, so that the largest is a prediction.
    pub logits: bool,
}

/// The output called `wanted`; without it the first floating-point one with "logits" in its name, else the
/// first floating-point one.
///
/// # Errors
/// [`crate::error::Kind::Caller`] when there is no such output.
pub fn measured_output(model: &Model, inventory: &Inventory, wanted: Option<&str>) -> Result<Measured> {
    let graph = model.graph();
    let is_float = |at: &&crate::onnx::proto::ValueInfoProto| match &at.r#type {
        Some(TypeProto { value: Some(type_proto::Value::TensorType(kind)), .. }) => {
            [DataType::Float, DataType::Float16, DataType::Double]
                .iter()
                .any(|t| *t as i32 == kind.elem_type())
        }
        _ => false,
    };
    let names: Vec<&str> = graph.output.iter().map(|output| output.name()).collect();
    let name = match wanted {
        Some(wanted) if names.contains(&wanted) => wanted,
        Some(wanted) => {
            let near = nearest(wanted, names.iter().copied(), 1)
                .first()
                .map_or(String::new(), |near| format!("; nearest: {near}"));
            return Err(Error::caller(format!("--output-name '{wanted}'"), "is no output of the model")
                .help(format!("outputs: {}{near}", names.join(", "))));
        }
        None => {
            let floats: Vec<&str> =
                graph.output.iter().filter(is_float).map(|output| output.name()).collect();
            let by_name = floats.iter().find(|name| name.to_lowercase().contains("logits"));
            by_name.or(floats.first()).copied().ok_or_else(|| {
                Error::unsupported(
                    "outputs",
                    "none of the model's is floating-point, so nothing can be measured",
                )
            })?
        }
    };
    Ok(Measured { name: name.to_owned(), logits: is_logits(model, inventory, name) })
}

fn is_logits(model: &Model, inventory: &Inventory, output: &str) -> bool {
    let lower = output.to_lowercase();
    if ["logit", "prob", "score"].iter().any(|part| lower.contains(part)) {
        return true;
    }
    let index = Index::new(model.graph(), model.proto.ir_version());
    let mut value = output;
    for _ in 0..16 {
        let Some((at, node)) = index.producer(value) else { return false };
        if let Some(site) = inventory.sites.iter().position(|site| site.at.node == at) {
            let role = inventory.roles.get(site);
            return role == Some(&Role::LmHead) && inventory.sites.get(site).is_some_and(|site| site.n > 1);
        }
        match node.op_type() {
            "Softmax" | "LogSoftmax" => return true,
            "Add" | "Sub" | "Mul" | "Div" | "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze"
            | "Identity" | "Cast" | "Flatten" => {}
            _ => return false,
        }
        match node.input.iter().find(|name| operand(&index, name).is_none()) {
            Some(next) => value = next,
            None => return false,
        }
    }
    false
}
