//! Edits of a graph under way: new names, new initializers with promised payloads, nodes put before others.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Errors;
use crate::graph::Index;
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::{Draft, LazyPart, Model, Produce, tensor, walk};

pub(super) struct Edit<'m> {
    pub(super) model: &'m Model,
    pub(super) index: Index<'m>,
    pub(super) errors: Errors,
    proto: ModelProto,
    names: HashSet<String>,
    /// By stem, the number that the next name of it gets.
    numbers: HashMap<String, usize>,
    first: Vec<NodeProto>,
    removed: HashSet<String>,
    /// Vectors that the plan stores as float16: so do those that take their places.
    pub(super) halved: HashSet<String>,
    before: BTreeMap<usize, Vec<NodeProto>>,
    replaced: HashMap<usize, Vec<NodeProto>>,
    lazy: HashMap<String, LazyPart>,
    groups: Vec<Produce<'m>>,
}

impl<'m> Edit<'m> {
    pub(super) fn new(model: &'m Model, errors: Errors) -> Self {
        Self {
            model,
            index: Index::new(model.graph(), model.proto.ir_version()),
            errors,
            proto: model.proto.clone(),
            names: names(&model.proto),
            numbers: HashMap::new(),
            first: Vec::new(),
            removed: HashSet::new(),
            halved: HashSet::new(),
            before: BTreeMap::new(),
            replaced: HashMap::new(),
            lazy: HashMap::new(),
            groups: Vec::new(),
        }
    }

    /// A name that no value or node of the model has: `stem`, or `stem` with a number.
    pub(super) fn name(&mut self, stem: &str) -> String {
        let mut name = stem.to_owned();
        let number = self.numbers.entry(stem.to_owned()).or_insert(2);
        while !self.names.insert(name.clone()) {
            name = format!("{stem}_{number}");
            *number += 1;
        }
        name
    }

    /// The node at `at`, as it is now.
    pub(super) fn node(&mut self, at: usize) -> Option<&mut NodeProto> {
        self.proto.graph.as_mut()?.node.get_mut(at)
    }

    /// Puts `node` before the node at `at`, after those put there earlier.
    pub(super) fn insert_before(&mut self, at: usize, node: NodeProto) {
        self.before.entry(at).or_default().push(node);
    }

    /// Puts `node` before all nodes, after those put there earlier.
    pub(super) fn put_first(&mut self, node: NodeProto) {
        self.first.push(node);
    }

    /// Takes the initializer `name` out.
    pub(super) fn remove(&mut self, name: &str) {
        self.removed.insert(name.to_owned());
    }

    /// Puts `nodes` in the place of the node at `at`.
    pub(super) fn replace(&mut self, at: usize, nodes: Vec<NodeProto>) {
        self.replaced.insert(at, nodes);
    }

    /// Adds an initializer whose payload is known.
    pub(super) fn add(&mut self, tensor: TensorProto) {
        if let Some(graph) = &mut self.proto.graph {
            graph.initializer.push(tensor);
        }
    }

    /// Adds initializers whose payloads `produce` gives, in their order.
    pub(super) fn promise(&mut self, parts: Vec<(String, DataType, Vec<usize>)>, produce: Produce<'m>) {
        let group = self.groups.len();
        self.groups.push(produce);
        for (part, (name, data_type, dims)) in parts.into_iter().enumerate() {
            let shell =
                TensorProto { raw_data: None, ..tensor::from_raw(&name, data_type, &dims, Vec::new()) };
            let len = tensor::payload_len(&shell).unwrap_or(0);
            self.lazy.insert(name, LazyPart { group, part, len });
            self.add(shell);
        }
    }

    /// The edited model.
    pub(super) fn finish(mut self) -> Draft<'m> {
        if let Some(graph) = &mut self.proto.graph {
            let nodes = std::mem::take(&mut graph.node);
            graph.initializer.retain(|tensor| !self.removed.contains(tensor.name()));
            graph.node = self.first;
            graph.node.reserve(nodes.len() + self.before.len());
            for (at, node) in nodes.into_iter().enumerate() {
                graph.node.extend(self.before.remove(&at).unwrap_or_default());
                match self.replaced.remove(&at) {
                    Some(nodes) => graph.node.extend(nodes),
                    None => graph.node.push(node),
                }
            }
        }
        Draft { proto: self.proto, lazy: self.lazy, groups: self.groups }
    }
}

/// Every name of a value or node in the model, in bodies and functions too.
fn names(model: &ModelProto) -> HashSet<String> {
    let mut found = HashSet::new();
    let mut of_nodes = |nodes: &[NodeProto]| {
        for node in nodes {
            found.extend(node.input.iter().chain(&node.output).cloned());
            found.extend(node.name.clone());
        }
    };
    let mut graphs: Vec<&GraphProto> = model.graph.iter().collect();
    if let Some(graph) = &model.graph {
        walk::bodies(&graph.node, &mut |body| graphs.push(body));
    }
    for function in &model.functions {
        of_nodes(&function.node);
        walk::bodies(&function.node, &mut |body| graphs.push(body));
    }
    for graph in &graphs {
        of_nodes(&graph.node);
    }
    for graph in graphs {
        found.extend(graph.initializer.iter().map(|tensor| tensor.name().to_owned()));
        found.extend(graph.input.iter().chain(&graph.output).map(|value| value.name().to_owned()));
        let sparse = graph.sparse_initializer.iter().filter_map(|sparse| sparse.values.as_ref());
        found.extend(sparse.map(|values| values.name().to_owned()));
    }
    found
}
