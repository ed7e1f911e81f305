//! The part of a graph between two cuts, run by the runtime.

use std::collections::HashSet;
use std::sync::Arc;

use tract_onnx::prelude::*;
use tract_onnx::tract_hir::internal::InferenceModelExt;

use super::runtime::{guarded, parse};
use super::value::Value;
use crate::error::Result;
use crate::onnx::node_subject;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};

/// Nodes between two cuts, with what they take and give.
pub(super) struct Glue {
    /// Without the values of `fixed`, which are put in when sizes are known.
    proto: ModelProto,
    fixed: Vec<String>,
    fed: Vec<String>,
    given: Vec<String>,
}

/// Glue, planned for inputs of certain sizes.
pub(super) struct Ready {
    plan: Arc<TypedRunnableModel>,
    /// Which part of the graph it is, as messages name it.
    part: String,
}

impl Glue {
    pub(super) fn new(
        model: &ModelProto,
        graph: &GraphProto,
        nodes: Vec<NodeProto>,
        fixed: Vec<String>,
        fed: Vec<String>,
        given: Vec<String>,
    ) -> Self {
        let mut used = HashSet::new();
        for node in &nodes {
            used.extend(super::stages::taken(node));
        }
        let named = |name: &String| ValueInfoProto { name: Some(name.clone()), ..Default::default() };
        let initializer: Vec<TensorProto> =
            graph.initializer.iter().filter(|tensor| used.contains(tensor.name())).cloned().collect();
        let inner = GraphProto {
            node: nodes,
            initializer,
            output: given.iter().map(named).collect(),
            name: Some("glue".to_owned()),
            ..Default::default()
        };
        let proto = ModelProto { graph: Some(inner), ..model.clone() };
        Self { proto, fixed, fed, given }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// Values that depend on sizes only: they are put in as constants.
    pub(super) fn fixed(&self) -> &[String] {
        &self.fixed
    }

    /// Values that are fed.
    pub(super) fn fed(&self) -> &[String] {
        &self.fed
    }

    /// Values that come out.
    pub(super) fn given(&self) -> &[String] {
        &self.given
    }

    /// Plans it for values of these types and sizes.
    pub(super) fn ready(&self, fixed: &[(&str, &Value)], fed: &[(&str, &Value)]) -> Result<Ready> {
        let part = self.part();
        let plan = guarded(&format!("planning {part}"), || {
            let mut proto = self.proto.clone();
            if let Some(graph) = &mut proto.graph {
                for (name, value) in fixed {
                    graph.initializer.push(value.to_proto(name)?);
                }
                for (name, value) in fed {
                    graph.input.push(value.declaration(name)?);
                }
            }
            parse(&proto)?.into_optimized()?.into_runnable()
        })?;
        Ok(Ready { plan, part })
    }

    /// The part of the graph, by its last node.
    fn part(&self) -> String {
        match self.proto.graph.as_ref().and_then(|graph| graph.node.last()) {
            Some(last) => format!("the part of the graph up to {}", node_subject(last)),
            None => "a part of the graph".to_owned(),
        }
    }
}

impl Ready {
    /// Runs it; values come in the order of [`Glue::given`].
    pub(super) fn run(&self, fed: &[(&str, &Value)]) -> Result<Vec<Value>> {
        guarded(&format!("running {}", self.part), || {
            let inputs = fed.iter().map(|(_, value)| value.0.clone().into_tvalue()).collect();
            let outputs = self.plan.run(inputs)?;
            outputs.into_iter().map(|value| Value::from_runtime(value.into_arc_tensor())).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::OperatorSetIdProto;

    #[test]
    fn what_cannot_be_planned_is_named_by_its_last_node() {
        let node = |op: &str, name: &str, inputs: &[&str], output: &str| {
            crate::onnx::node::build(op, name, inputs, &[output], vec![])
        };
        let nodes = vec![node("Relu", "first", &["x"], "a"), node("Add", "last", &["a", "x"], "y")];
        let (fed, given) = (vec!["x".to_owned()], vec!["y".to_owned()]);
        let opset = OperatorSetIdProto { domain: Some(String::new()), version: Some(17) };
        let model = ModelProto { ir_version: Some(8), opset_import: vec![opset], ..ModelProto::default() };
        let glue = Glue::new(&model, &GraphProto::default(), nodes, Vec::new(), fed, given);
        let value = Value::from_floats(&[2], &[1.0, 2.0]).unwrap();
        // Nothing is fed.
        let error = glue.ready(&[], &[]).map(drop).unwrap_err().to_string();
        assert!(
            error.starts_with("runtime: planning the part of the graph up to node 'last' (Add) failed: "),
            "{error}"
        );
        assert!(glue.ready(&[], &[("x", &value)]).is_ok());
    }
}
