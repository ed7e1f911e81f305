//! Calls of model-local functions replaced by the nodes of the function.
//!
//! Rules: `FunctionProto` in `proto/onnx-ml.proto`. Names inside a function are its own, so each call gets a
//! prefix; attributes that refer to those of the call take their value, the default, or go away.

use std::collections::HashMap;

use prost::Message as _;

use super::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};
use super::{node, opset_version};
use crate::error::{Error, Result};
use crate::limits;

/// Inlines every call in the main graph and its bodies; no function is left.
///
/// # Errors
/// [`crate::error::Kind::Unsupported`] when a called function is of another default operator set than the
/// model, [`crate::error::Kind::Limit`] when the calls grow beyond what a file may hold.
pub fn inline(model: &mut ModelProto) -> Result<()> {
    let functions = std::mem::take(&mut model.functions);
    let Some(graph) = model.graph.as_mut().filter(|_| !functions.is_empty()) else { return Ok(()) };
    let version = opset_version(&model.opset_import, "");
    let functions: Functions<'_> = functions
        .iter()
        .map(|function| ((function.domain(), function.name(), function.overload()), function))
        .collect();
    Inliner { functions, version, calls: 0, nodes: 0, bytes: 0 }.graph(graph, 0)
}

/// By domain, name and overload.
type Functions<'f> = HashMap<(&'f str, &'f str, &'f str), &'f FunctionProto>;

struct Inliner<'f> {
    functions: Functions<'f>,
    version: i64,
    calls: usize,
    nodes: usize,
    bytes: u64,
}

impl Inliner<'_> {
    fn graph(&mut self, graph: &mut GraphProto, depth: usize) -> Result<()> {
        if depth > limits::BODY_DEPTH {
            return Err(Error::limit("functions", "bodies nested too deep after inlining"));
        }
        // A stack, because functions that call functions may go deep.
        let mut waiting: Vec<NodeProto> = std::mem::take(&mut graph.node);
        waiting.reverse();
        while let Some(mut node) = waiting.pop() {
            let called = self.functions.get(&(node.domain(), node.op_type(), node.overload())).copied();
            match called {
                Some(function) => {
                    let mut nodes = self.call(function, &node)?;
                    nodes.reverse();
                    waiting.append(&mut nodes);
                }
                None => {
                    for attribute in &mut node.attribute {
                        for body in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                            self.graph(body, depth + 1)?;
                        }
                    }
                    graph.node.push(node);
                }
            }
        }
        Ok(())
    }

    /// The nodes of `function` in the place of `call`.
    fn call(&mut self, function: &FunctionProto, call: &NodeProto) -> Result<Vec<NodeProto>> {
        let subject = || format!("function '{}.{}'", function.domain(), function.name());
        let version = opset_version(&function.opset_import, "");
        if version != self.version && version != 0 {
            let what = format!("is of opset {version}, the model of {}", self.version);
            return Err(Error::unsupported(subject(), what));
        }
        self.calls += 1;
        self.nodes = self.nodes.saturating_add(function.node.len());
        self.bytes = self.bytes.saturating_add(function.encoded_len() as u64);
        if self.nodes > limits::NODES || self.bytes > limits::MODEL_BYTES {
            return Err(Error::limit(subject(), "its calls grow beyond what a model may hold"));
        }
        let first = call.output.first().map_or("", String::as_str);
        let mut renaming = Renaming {
            names: HashMap::new(),
            prefix: format!("{first}/efq_call_{}", self.calls),
            call,
            function,
        };
        let mut through = Vec::new();
        for (at, name) in function.input.iter().enumerate() {
            renaming.names.insert(name.clone(), call.input.get(at).cloned().unwrap_or_default());
        }
        for (name, outer) in function.output.iter().zip(&call.output).filter(|(_, outer)| !outer.is_empty()) {
            match renaming.names.get(name) {
                // The same value twice, or one handed through.
                Some(inner) => through.push(node::build("Identity", outer, &[inner], &[outer], vec![])),
                None => {
                    renaming.names.insert(name.clone(), outer.clone());
                }
            }
        }
        let mut nodes = function.node.clone();
        nodes.iter_mut().for_each(|node| renaming.node(node));
        nodes.append(&mut through);
        Ok(nodes)
    }
}

/// What names and attributes of a function become at one call.
struct Renaming<'a> {
    names: HashMap<String, String>,
    prefix: String,
    call: &'a NodeProto,
    function: &'a FunctionProto,
}

impl Renaming<'_> {
    fn name(&self, name: &mut String) {
        if !name.is_empty() {
            *name = self.names.get(name).cloned().unwrap_or_else(|| format!("{}/{name}", self.prefix));
        }
    }

    fn optional(&self, name: &mut Option<String>) {
        name.iter_mut().for_each(|name| self.name(name));
    }

    fn node(&self, node: &mut NodeProto) {
        node.input.iter_mut().chain(&mut node.output).for_each(|name| self.name(name));
        if !node.name().is_empty() {
            node.name = Some(format!("{}/{}", self.prefix, node.name()));
        }
        node.attribute = std::mem::take(&mut node.attribute)
            .into_iter()
            .filter_map(|attribute| match attribute.ref_attr_name() {
                "" => Some(attribute),
                wanted => {
                    self.given(wanted).map(|given| AttributeProto { name: attribute.name.clone(), ..given })
                }
            })
            .collect();
        for attribute in &mut node.attribute {
            attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(|body| self.graph(body));
        }
    }

    /// The attribute of the call, or the function's default.
    fn given(&self, wanted: &str) -> Option<AttributeProto> {
        let default = || self.function.attribute_proto.iter().find(|attribute| attribute.name() == wanted);
        node::attribute(self.call, wanted).or_else(default).cloned()
    }

    fn graph(&self, graph: &mut GraphProto) {
        graph.node.iter_mut().for_each(|node| self.node(node));
        graph.input.iter_mut().chain(&mut graph.output).for_each(|value| self.optional(&mut value.name));
        graph.initializer.iter_mut().for_each(|tensor| self.optional(&mut tensor.name));
        let sparse = graph.sparse_initializer.iter_mut().filter_map(|sparse| sparse.values.as_mut());
        sparse.for_each(|values| self.optional(&mut values.name));
        graph.value_info.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::OperatorSetIdProto;
    use super::*;

    fn function(name: &str, input: &[&str], output: &[&str], node: Vec<NodeProto>) -> FunctionProto {
        FunctionProto {
            domain: Some("f".to_owned()),
            name: Some(name.to_owned()),
            input: input.iter().map(|name| (*name).to_owned()).collect(),
            output: output.iter().map(|name| (*name).to_owned()).collect(),
            node,
            ..Default::default()
        }
    }

    fn call(name: &str, input: &str, output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
        NodeProto { domain: Some("f".to_owned()), ..node::build(name, "", &[input], &[output], attribute) }
    }

    fn model(node: Vec<NodeProto>, functions: Vec<FunctionProto>) -> ModelProto {
        let import = OperatorSetIdProto { domain: None, version: Some(18) };
        ModelProto {
            graph: Some(GraphProto { node, ..Default::default() }),
            opset_import: vec![import],
            functions,
            ..Default::default()
        }
    }

    #[test]
    fn functions_that_call_functions_take_the_attributes_of_the_call() {
        let reference = AttributeProto {
            name: Some("axis".to_owned()),
            ref_attr_name: Some("where".to_owned()),
            ..Default::default()
        };
        let inner = function(
            "Inner",
            &["a"],
            &["b"],
            vec![node::build("Softmax", "s", &["a"], &["b"], vec![reference])],
        );
        let outer = function(
            "Outer",
            &["x"],
            &["y", "x"],
            vec![
                call("Inner", "x", "t", vec![node::int_attribute("where", 1)]),
                node::build("Relu", "", &["t"], &["y"], vec![]),
            ],
        );
        let mut made = model(vec![call("Outer", "in", "out", vec![])], vec![inner, outer]);
        made.graph.as_mut().unwrap().node[0].output.push("same".to_owned());
        inline(&mut made).unwrap();
        let nodes = &made.graph.unwrap().node;
        let ops: Vec<&str> = nodes.iter().map(|node| node.op_type()).collect();
        assert_eq!(ops, ["Softmax", "Relu", "Identity"]);
        assert_eq!(node::int(&nodes[0], "axis", -1), 1);
        assert_eq!((nodes[0].input[0].as_str(), nodes[1].output[0].as_str()), ("in", "out"));
        assert_eq!(nodes[0].output, nodes[1].input);
        assert_eq!((nodes[2].input[0].as_str(), nodes[2].output[0].as_str()), ("in", "same"));
        assert!(made.functions.is_empty());
    }

    #[test]
    fn calls_that_multiply_end_at_the_limit() {
        let mut functions = vec![function("F0", &["a"], &["a"], vec![])];
        for at in 1..40 {
            let inner = format!("F{}", at - 1);
            let nodes = vec![call(&inner, "a", "b", vec![]), call(&inner, "b", "c", vec![])];
            functions.push(function(&format!("F{at}"), &["a"], &["c"], nodes));
        }
        let mut made = model(vec![call("F39", "in", "out", vec![])], functions);
        let error = inline(&mut made).unwrap_err().to_string();
        assert!(error.contains("grow beyond"), "{error}");
    }
}
