//! Edits of a graph under way: new names, new initializers with promised payloads, nodes put before others.

use std::collections::{HashMap, HashSet};

use super::Errors;
use crate::graph::{Index, Origin, Path, ranks, stored_at};
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::{Draft, LazyPart, Model, Produce, tensor, walk};

pub(super) struct Edit<'m> {
    pub(super) model: &'m Model,
    index: Index<'m>,
    /// Of values of the original, where all graphs that have one of the name agree.
    ranks: HashMap<&'m str, Option<usize>>,
    pub(super) errors: Errors,
    proto: ModelProto,
    names: HashSet<String>,
    /// By stem, the number that the next name of it gets.
    numbers: HashMap<String, usize>,
    /// By the path of their graph.
    first: HashMap<Path, Vec<NodeProto>>,
    removed: HashSet<(Path, String)>,
    /// Vectors that the plan stores as float16: so do those that take their places.
    pub(super) halved: HashSet<String>,
    /// By the number of a node, as below.
    before: HashMap<usize, Vec<NodeProto>>,
    replaced: HashMap<usize, Vec<NodeProto>>,
    changed: HashMap<usize, NodeProto>,
    /// By the path of their graph.
    added: HashMap<Path, Vec<TensorProto>>,
    lazy: HashMap<String, LazyPart>,
    groups: Vec<Produce<'m>>,
}

impl<'m> Edit<'m> {
    pub(super) fn new(model: &'m Model, errors: Errors) -> Self {
        let index = Index::new(model.graph(), model.proto.ir_version());
        let mut known: HashMap<&str, Option<usize>> = HashMap::new();
        for (name, rank) in index.all().flat_map(|here| ranks(&here)) {
            let agreed = known.entry(name).or_insert(Some(rank));
            *agreed = agreed.filter(|other| *other == rank);
        }
        Self {
            model,
            index,
            ranks: known,
            errors,
            proto: model.proto.clone(),
            names: walk::names(&model.proto),
            numbers: HashMap::new(),
            first: HashMap::new(),
            removed: HashSet::new(),
            halved: HashSet::new(),
            before: HashMap::new(),
            replaced: HashMap::new(),
            changed: HashMap::new(),
            added: HashMap::new(),
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

    /// The model, looked at from the graph of node `at`.
    pub(super) fn index(&self, at: usize) -> Index<'m> {
        self.index.of(at)
    }

    /// The rank of a value of the original, where it is known.
    pub(super) fn rank(&self, value: &str) -> Option<usize> {
        self.ranks.get(value).copied().flatten()
    }

    /// Node `at`, as it is now.
    pub(super) fn node(&mut self, at: usize) -> Option<&mut NodeProto> {
        let original = self.index.node(at)?;
        Some(self.changed.entry(at).or_insert_with(|| original.clone()))
    }

    /// Puts `node` before node `at`, after those put there earlier.
    pub(super) fn insert_before(&mut self, at: usize, node: NodeProto) {
        self.before.entry(at).or_default().push(node);
    }

    /// Puts `node` before all nodes of the graph at `path`, after those put there earlier.
    pub(super) fn put_first(&mut self, path: &Path, node: NodeProto) {
        self.first.entry(path.clone()).or_default().push(node);
    }

    /// Takes the constant `name` out: an initializer, or the result of a Constant node. Gives the path of its graph.
    pub(super) fn remove(&mut self, name: &str, origin: Origin) -> Path {
        let path = self.index.holding(origin).path();
        match origin {
            Origin::Initializer(_) => {
                self.removed.insert((path.clone(), name.to_owned()));
            }
            Origin::Constant(at) => self.replace(at, Vec::new()),
            Origin::Function(_) | Origin::Sparse => {}
        }
        path
    }

    /// The stored tensor of `origin`.
    pub(super) fn stored(&self, origin: Origin) -> Option<&'m TensorProto> {
        stored_at(&self.index, origin)
    }

    /// Puts `nodes` in the place of node `at`.
    pub(super) fn replace(&mut self, at: usize, nodes: Vec<NodeProto>) {
        self.replaced.insert(at, nodes);
    }

    /// Adds an initializer whose payload is known to the graph of node `at`.
    pub(super) fn add(&mut self, at: usize, tensor: TensorProto) {
        self.add_to(&self.index.of(at).path(), tensor);
    }

    /// The same for the graph at `path`.
    pub(super) fn add_to(&mut self, path: &Path, tensor: TensorProto) {
        self.added.entry(path.clone()).or_default().push(tensor);
    }

    /// Adds initializers whose payloads `produce` gives, in their order, to the graph of node `at`: ONNX Runtime refuses
    /// a body that takes quantized weights from around it.
    pub(super) fn promise(
        &mut self,
        at: usize,
        parts: Vec<(String, DataType, Vec<usize>)>,
        produce: Produce<'m>,
    ) {
        self.promise_to(&self.index.of(at).path(), parts, produce);
    }

    /// The same for the graph at `path`.
    pub(super) fn promise_to(
        &mut self,
        path: &Path,
        parts: Vec<(String, DataType, Vec<usize>)>,
        produce: Produce<'m>,
    ) {
        let group = self.groups.len();
        self.groups.push(produce);
        for (part, (name, data_type, dims)) in parts.into_iter().enumerate() {
            let shell =
                TensorProto { raw_data: None, ..tensor::from_raw(&name, data_type, &dims, Vec::new()) };
            let len = tensor::payload_len(&shell).unwrap_or(0);
            self.lazy.insert(name, LazyPart { group, part, len });
            self.add_to(path, shell);
        }
    }

    /// The edited model.
    pub(super) fn finish(mut self) -> Draft<'m> {
        if let Some(mut graph) = self.proto.graph.take() {
            self.edit(&mut graph, &mut Vec::new(), &mut 0);
            self.proto.graph = Some(graph);
        }
        Draft { proto: self.proto, lazy: self.lazy, groups: self.groups, closing: None }
    }

    /// Puts the edits into the graph at `path`, whose first node has the number `next`, and into its bodies.
    fn edit(&mut self, graph: &mut GraphProto, path: &mut Vec<(usize, usize)>, next: &mut usize) {
        let first = *next;
        *next += graph.node.len();
        let here = Path::from(path.as_slice());
        if !self.removed.is_empty() {
            graph
                .initializer
                .retain(|tensor| !self.removed.contains(&(here.clone(), tensor.name().to_owned())));
        }
        graph.initializer.extend(self.added.remove(path.as_slice()).unwrap_or_default());
        for (at, node) in graph.node.iter_mut().enumerate() {
            for (number, body) in walk::graphs_of_mut(node).enumerate() {
                path.push((at, number));
                self.edit(body, path, next);
                path.pop();
            }
        }
        let nodes = std::mem::take(&mut graph.node);
        graph.node.reserve(nodes.len());
        graph.node.extend(self.first.remove(&here).unwrap_or_default());
        for (at, node) in nodes.into_iter().enumerate().map(|(at, node)| (first + at, node)) {
            graph.node.extend(self.before.remove(&at).unwrap_or_default());
            match self.replaced.remove(&at) {
                Some(nodes) => graph.node.extend(nodes),
                None => graph.node.push(self.changed.remove(&at).unwrap_or(node)),
            }
        }
    }
}
