//! Raising a model to the opset that has block-quantized INT4 weights.
//!
//! Blocked `DequantizeLinear` and INT4 tensors came with opset 21 and IR 10. An older model is raised to both: each
//! operator that changed its meaning or form since the model's opset is rewritten by its rule, in the main graph, in
//! `If`, `Loop` and `Scan` bodies at any depth, and in model-local functions. `table` lists every operator and the
//! opsets at which it changed; `rules` has one function per change that matters. The rewritten forms were compared
//! with the original ones in ONNX Runtime 1.32, see `tests/deploy/opset.py`.

mod known;
mod plan;
mod rules;
mod site;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::{
    error::{Error, Result},
    onnx::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto},
};

/// The opset to which models are raised.
pub const TARGET: i64 = 21;
/// The highest opset whose DequantizeLinear a known ONNX Runtime has a kernel for (measured on 1.32, which loads opset
/// 28).
pub const DEQUANTIZES: i64 = 27;
/// The lowest opset that is raised, which is also the lowest that ONNX Runtime has kernels for.
pub const LOWEST: i64 = 7;
/// The IR version that goes with [`TARGET`].
pub const TARGET_IR: i64 = 10;
/// From this IR version on an initializer need not be a graph input, and one that is has only a default value.
const OPTIONAL_INPUT_IR: i64 = 4;

/// What [`raise`] changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Raised {
    /// The model's opset of the default domain before.
    pub from: i64,
    /// The model's opset of the default domain now.
    pub to: i64,
    /// The model's IR version before.
    pub from_ir: i64,
    /// The model's IR version now.
    pub to_ir: i64,
    /// Rewritten nodes by operator, bodies and functions included.
    pub converted: BTreeMap<String, usize>,
    /// Inputs that are gone because they were initializers of a model of IR 3 or older, which had to list them.
    /// A caller can no longer override these.
    pub removed_inputs: Vec<String>,
}

/// Raises `model` to opset [`TARGET`] and IR [`TARGET_IR`] in place, so that it computes what it did.
///
/// A model at [`TARGET`] or above keeps its opset and nodes; an IR version of [`TARGET_IR`] or above is kept too.
/// Nodes of other domains, and those whose operator a model-local function defines, are left as they are (their
/// bodies are raised). Declared types, names and the order of existing nodes stay; new constants are initializers of
/// the graph that uses them, or `Constant` nodes in a function, and all new names begin with `efq_`.
///
/// # Errors
///
/// [`Kind::Unsupported`](crate::error::Kind::Unsupported) names the node and operator that cannot be raised, or the
/// opset that is too old; [`Kind::Format`](crate::error::Kind::Format) one that its own opset does not allow. The
/// model is then as it was.
pub fn raise(model: &mut ModelProto) -> Result<Raised> {
    let plan = plan::model(model)?;
    let from_ir = model.ir_version();
    let mut raised = Raised {
        from: plan.from,
        to: plan.from.max(TARGET),
        from_ir,
        to_ir: from_ir.max(TARGET_IR),
        converted: BTreeMap::new(),
        removed_inputs: Vec::new(),
    };
    if from_ir < OPTIONAL_INPUT_IR
        && let Some(graph) = &mut model.graph
    {
        remove_initializer_inputs(graph, &mut raised.removed_inputs);
    }
    plan.apply(model, &mut raised.converted);
    model.ir_version = Some(raised.to_ir);
    Ok(raised)
}

/// Raises a model of an IR version that lists initializers as inputs to the first that need not, and nothing else;
/// `None` where that is not needed.
pub fn free_initializers(model: &mut ModelProto) -> Option<Raised> {
    let from_ir = model.ir_version();
    if from_ir >= OPTIONAL_INPUT_IR {
        return None;
    }
    let opset = default_opset(&model.opset_import).ok().flatten().unwrap_or(TARGET);
    let mut removed_inputs = Vec::new();
    model.graph.iter_mut().for_each(|graph| remove_initializer_inputs(graph, &mut removed_inputs));
    model.ir_version = Some(OPTIONAL_INPUT_IR);
    let (converted, to_ir) = (BTreeMap::new(), OPTIONAL_INPUT_IR);
    Some(Raised { from: opset, to: opset, from_ir, to_ir, converted, removed_inputs })
}

/// Whether `domain` is that of the ONNX operators, which has two spellings.
fn is_default(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// The version that `imports` has for the default domain.
fn default_opset(imports: &[OperatorSetIdProto]) -> Result<Option<i64>> {
    let mut versions =
        imports.iter().filter(|import| is_default(import.domain())).map(|import| import.version());
    let first = versions.next();
    match versions.find(|version| Some(*version) != first) {
        None => Ok(first),
        Some(other) => Err(Error::format(
            "opset imports",
            format!("the default domain is imported twice, as {} and {other}", first.unwrap_or_default()),
        )),
    }
}

/// Removes from the inputs of `graph` and of its bodies those that are initializers there.
fn remove_initializer_inputs(graph: &mut GraphProto, removed: &mut Vec<String>) {
    let GraphProto { node, initializer, input, .. } = graph;
    if !initializer.is_empty() {
        let stored: std::collections::HashSet<_> = initializer.iter().map(|tensor| tensor.name()).collect();
        input.retain(|value| {
            let keep = !stored.contains(value.name());
            if !keep {
                removed.push(value.name().to_owned());
            }
            keep
        });
    }
    for body in node.iter_mut().flat_map(bodies_mut) {
        remove_initializer_inputs(body, removed);
    }
}

/// The graphs in the attributes of `node`.
fn bodies(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
}

/// The graphs in the attributes of `node`, in the order of [`bodies`].
fn bodies_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute.iter_mut().flat_map(|attribute| attribute.g.iter_mut().chain(&mut attribute.graphs))
}
