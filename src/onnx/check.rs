//! What a model must satisfy before any later room reads it: sizes, names, links.
//!
//! Rules: the ONNX IR specification (single assignment, scopes, one payload per tensor). Unsorted nodes are
//! accepted, as ONNX Runtime does; cycles are not.

use std::collections::{HashMap, HashSet};

use super::model::{Checked, Model};
use super::proto::{FunctionProto, GraphProto, NodeProto, TensorProto};
use super::{tensor, walk};
use crate::error::{Error, Result};
use crate::limits;

/// Marks `model` as well-formed.
///
/// # Errors
/// The first rule broken, naming the node or tensor: no graph, no operator set, duplicate or dangling names,
/// cycles, payloads of another length than their shape, bodies nested too deep, recursive functions.
pub fn check(model: Model) -> Result<Checked<Model>> {
    let proto = &model.proto;
    let Some(graph) = &proto.graph else {
        return Err(Error::format("model", "the file holds no graph").help("it is not an ONNX model"));
    };
    if proto.opset_import.is_empty() && proto.ir_version() >= 3 {
        return Err(Error::format("model", "no operator set is imported"));
    }
    let mut domains = HashSet::new();
    for import in &proto.opset_import {
        let domain = if import.domain() == "ai.onnx" { "" } else { import.domain() };
        if !domains.insert(domain) {
            return Err(Error::format("model", format!("operator set '{domain}' is imported twice")));
        }
        if import.version() < 1 {
            return Err(Error::format(
                "model",
                format!("operator set '{domain}' has version {}", import.version()),
            ));
        }
    }
    let mut counts = Counts::default();
    Scope { names: HashSet::new(), outer: None }.graph(graph, 0, &mut counts)?;
    for function in &proto.functions {
        self::function(function, &mut counts).map_err(|error| error.within(function_name(function)))?;
    }
    no_recursion(&proto.functions)?;
    Ok(Checked::new(model))
}

#[derive(Default)]
struct Counts {
    nodes: usize,
    initializers: usize,
}

struct Scope<'a> {
    names: HashSet<&'a str>,
    outer: Option<&'a Scope<'a>>,
}

impl<'a> Scope<'a> {
    fn knows(&self, name: &str) -> bool {
        let mut scope = Some(self);
        while let Some(here) = scope {
            if here.names.contains(name) {
                return true;
            }
            scope = here.outer;
        }
        false
    }

    fn graph(mut self, graph: &'a GraphProto, depth: usize, counts: &mut Counts) -> Result<()> {
        if depth > limits::BODY_DEPTH {
            return Err(Error::limit(
                format!("graph '{}'", graph.name()),
                format!("bodies are nested more than {} deep", limits::BODY_DEPTH),
            ));
        }
        let mut inputs = HashSet::new();
        for input in &graph.input {
            self.declare(input.name(), "graph input")?;
            inputs.insert(input.name());
        }
        let mut stored = HashSet::new();
        let sparse = graph.sparse_initializer.iter().filter_map(|sparse| sparse.values.as_ref());
        for tensor in graph.initializer.iter().chain(sparse) {
            name_is_sane(tensor.name())?;
            if tensor.name().is_empty() {
                return Err(Error::format(format!("graph '{}'", graph.name()), "an initializer has no name"));
            }
            if !stored.insert(tensor.name()) {
                return Err(Error::format(tensor::subject(tensor), "two initializers have this name"));
            }
            if !self.names.insert(tensor.name()) && !inputs.contains(tensor.name()) {
                return Err(Error::format(tensor::subject(tensor), "the name is taken"));
            }
        }
        for tensor in &graph.initializer {
            payload_fits(tensor)?;
        }
        counts.initializers += graph.initializer.len();
        if counts.initializers > limits::INITIALIZERS {
            return Err(Error::limit("model", format!("more than {} initializers", limits::INITIALIZERS)));
        }
        self.nodes(&graph.node, depth, counts)?;
        for output in &graph.output {
            if !self.knows(output.name()) {
                return Err(Error::format(
                    format!("graph output '{}'", output.name()),
                    "nothing produces it",
                ));
            }
        }
        Ok(())
    }

    fn nodes(&mut self, nodes: &'a [NodeProto], depth: usize, counts: &mut Counts) -> Result<()> {
        counts.nodes += nodes.len();
        if counts.nodes > limits::NODES {
            return Err(Error::limit("model", format!("more than {} nodes", limits::NODES)));
        }
        for node in nodes {
            let mut attributes = HashSet::new();
            for attribute in &node.attribute {
                if !attributes.insert(attribute.name()) {
                    return Err(Error::format(
                        node_subject(node),
                        format!("attribute '{}' is given twice", attribute.name()),
                    ));
                }
                for tensor in attribute.t.iter().chain(&attribute.tensors) {
                    payload_fits(tensor).map_err(|error| error.within(node_subject(node)))?;
                }
            }
            for output in node.output.iter().filter(|name| !name.is_empty()) {
                self.declare(output, "output").map_err(|error| error.within(node_subject(node)))?;
            }
        }
        for node in nodes {
            for input in node.input.iter().filter(|name| !name.is_empty()) {
                if !self.knows(input) {
                    return Err(Error::format(
                        node_subject(node),
                        format!("input '{input}' is neither an initializer, an input nor any node's output"),
                    ));
                }
            }
        }
        no_cycle(nodes)?;
        for node in nodes {
            for body in walk::graphs_of(node) {
                let inner = Scope { names: HashSet::new(), outer: Some(self) };
                inner.graph(body, depth + 1, counts).map_err(|error| error.within(node_subject(node)))?;
            }
        }
        Ok(())
    }

    fn declare(&mut self, name: &'a str, what: &str) -> Result<()> {
        name_is_sane(name)?;
        if self.names.insert(name) {
            Ok(())
        } else {
            Err(Error::format(format!("{what} '{name}'"), "the name is taken: every value is assigned once"))
        }
    }
}

fn function(function: &FunctionProto, counts: &mut Counts) -> Result<()> {
    let mut scope = Scope { names: HashSet::new(), outer: None };
    for input in &function.input {
        scope.declare(input, "input")?;
    }
    scope.nodes(&function.node, 0, counts)
}

fn function_name(function: &FunctionProto) -> String {
    format!("function '{}.{}'", function.domain(), function.name())
}

fn no_recursion(functions: &[FunctionProto]) -> Result<()> {
    let index: HashMap<(&str, &str, &str), usize> =
        functions.iter().enumerate().map(|(i, f)| ((f.domain(), f.name(), f.overload()), i)).collect();
    let mut links: Vec<Vec<usize>> = Vec::with_capacity(functions.len());
    for function in functions {
        let mut called = Vec::new();
        let mut note = |nodes: &[NodeProto]| {
            let called_by =
                |node: &NodeProto| index.get(&(node.domain(), node.op_type(), node.overload())).copied();
            called.extend(nodes.iter().filter_map(called_by));
        };
        note(&function.node);
        walk::bodies(&function.node, &mut |graph| note(&graph.node));
        links.push(called);
    }
    match on_a_cycle(&links).and_then(|at| functions.get(at)) {
        None => Ok(()),
        Some(function) => Err(Error::format(function_name(function), "calls itself")),
    }
}

fn no_cycle(nodes: &[NodeProto]) -> Result<()> {
    let producer: HashMap<&str, usize> = nodes
        .iter()
        .enumerate()
        .flat_map(|(i, node)| node.output.iter().filter(|o| !o.is_empty()).map(move |o| (o.as_str(), i)))
        .collect();
    let needs = |node: &NodeProto| {
        let mut from: Vec<usize> =
            node.input.iter().filter_map(|name| producer.get(name.as_str())).copied().collect();
        for body in walk::graphs_of(node) {
            let mut captured = |graph: &GraphProto| {
                for inner in &graph.node {
                    from.extend(inner.input.iter().filter_map(|name| producer.get(name.as_str())));
                }
                from.extend(graph.output.iter().filter_map(|o| producer.get(o.name())));
            };
            captured(body);
            walk::bodies(&body.node, &mut captured);
        }
        from
    };
    let sorted = nodes.iter().enumerate().all(|(at, node)| {
        walk::graphs_of(node).next().is_none()
            && node.input.iter().filter_map(|name| producer.get(name.as_str())).all(|p| *p < at)
    });
    if sorted {
        return Ok(());
    }
    let links: Vec<Vec<usize>> = nodes.iter().map(needs).collect();
    match on_a_cycle(&links).and_then(|at| nodes.get(at)) {
        None => Ok(()),
        Some(node) => Err(Error::format(node_subject(node), "the graph has a cycle through this node")),
    }
}

/// A vertex on a cycle of the directed graph `links`, if there is one (Kahn's algorithm).
fn on_a_cycle(links: &[Vec<usize>]) -> Option<usize> {
    let mut waiting = vec![0usize; links.len()];
    for target in links.iter().flatten() {
        if let Some(count) = waiting.get_mut(*target) {
            *count += 1;
        }
    }
    let mut ready: Vec<usize> = (0..links.len()).filter(|v| waiting.get(*v) == Some(&0)).collect();
    let mut done = 0;
    while let Some(vertex) = ready.pop() {
        done += 1;
        for target in links.get(vertex).into_iter().flatten() {
            if let Some(count) = waiting.get_mut(*target) {
                *count -= 1;
                if *count == 0 {
                    ready.push(*target);
                }
            }
        }
    }
    if done == links.len() { None } else { waiting.iter().position(|count| *count > 0) }
}

fn payload_fits(tensor: &TensorProto) -> Result<()> {
    match &tensor.raw_data {
        Some(raw) if tensor::data_type(tensor).and_then(tensor::element_bits).is_some() => {
            let expected = tensor::payload_len(tensor)?;
            let typed = tensor.float_data.is_empty()
                && tensor.int32_data.is_empty()
                && tensor.int64_data.is_empty()
                && tensor.double_data.is_empty()
                && tensor.uint64_data.is_empty();
            if raw.len() == expected && typed {
                return Ok(());
            }
            tensor::payload(tensor).map(drop)
        }
        _ if tensor::data_type(tensor) == Some(super::proto::tensor_proto::DataType::String) => {
            let count = tensor::elements(tensor)?;
            if count == tensor.string_data.len() {
                Ok(())
            } else {
                Err(Error::format(
                    tensor::subject(tensor),
                    format!("{count} strings are declared, {} are stored", tensor.string_data.len()),
                ))
            }
        }
        _ => tensor::payload(tensor).map(drop),
    }
}

fn name_is_sane(name: &str) -> Result<()> {
    if name.len() > limits::NAME_BYTES {
        let start: String = name.chars().take(40).collect();
        return Err(Error::limit(
            format!("name '{start}…'"),
            format!("{} bytes, at most {} are accepted", name.len(), limits::NAME_BYTES),
        ));
    }
    Ok(())
}

/// How messages name a node: by its name, or by its operator and first output.
pub fn node_subject(node: &NodeProto) -> String {
    if node.name().is_empty() {
        let output = node.output.first().map_or("", String::as_str);
        format!("{} node of '{output}'", node.op_type())
    } else {
        format!("node '{}' ({})", node.name(), node.op_type())
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::{ModelProto, OperatorSetIdProto, ValueInfoProto, tensor_proto::DataType};
    use super::*;

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto {
            op_type: Some(op.to_owned()),
            input: inputs.iter().map(|s| (*s).to_owned()).collect(),
            output: outputs.iter().map(|s| (*s).to_owned()).collect(),
            ..Default::default()
        }
    }

    fn verdict(change: impl FnOnce(&mut GraphProto)) -> String {
        let value = |name: &str| ValueInfoProto { name: Some(name.to_owned()), ..Default::default() };
        let mut graph = GraphProto {
            node: vec![node("MatMul", &["x", "w"], &["h"]), node("Relu", &["h"], &["y"])],
            initializer: vec![tensor::from_raw("w", DataType::Float, &[1, 1], vec![0; 4])],
            input: vec![value("x")],
            output: vec![value("y")],
            ..Default::default()
        };
        change(&mut graph);
        let proto = ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
            graph: Some(graph),
            ..Default::default()
        };
        match check(Model::from_proto(proto)) {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn names_what_is_broken() {
        assert_eq!(verdict(|_| ()), "ok");
        assert_eq!(verdict(|g| g.node.reverse()), "ok", "unsorted nodes are accepted");
        let found = [
            verdict(|g| g.node[0].input[0] = "nowhere".to_owned()),
            verdict(|g| g.node[1].output[0] = "h".to_owned()),
            verdict(|g| g.node[0].input[0] = "y".to_owned()),
            verdict(|g| g.initializer.push(g.initializer[0].clone())),
            verdict(|g| g.initializer[0].dims = vec![2, 2]),
            verdict(|g| g.output[0].name = Some("z".to_owned())),
        ];
        insta::assert_snapshot!(found.join("\n"), @r"
        MatMul node of 'h': input 'nowhere' is neither an initializer, an input nor any node's output
        Relu node of 'h': output 'h': the name is taken: every value is assigned once
        MatMul node of 'h': the graph has a cycle through this node
        tensor 'w': two initializers have this name
        tensor 'w': float32 [2, 2] takes 16 bytes, 4 are stored
        graph output 'z': nothing produces it
        ");
    }
}
