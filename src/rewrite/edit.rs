//! Edits of a graph under way: new names, new initializers with promised payloads, nodes put before others.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::Errors;
use super::bands::{Bands, Part};
use crate::error::Result;
use crate::graph::{Index, Origin, Path, ranks, stored_at};
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto};
use crate::onnx::{Draft, Lazy, LazyPart, Model, Produce, tensor, walk};

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
    lazy: Lazy,
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
            lazy: Lazy::new(),
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

    /// Adds `parts` to the graph of node `at`: ONNX Runtime refuses a body that takes quantized weights from around it.
    /// `produce` gives their payloads, in their order, of one of the `bands` at a time.
    pub(super) fn promise(
        &mut self,
        at: usize,
        parts: Vec<Part>,
        bands: &Bands,
        produce: impl Fn(Range<usize>) -> Result<Vec<Vec<u8>>> + Send + Sync + 'm,
    ) {
        self.promise_to(&self.index.of(at).path(), parts, bands, produce);
    }

    /// The same for the graph at `path`.
    pub(super) fn promise_to(
        &mut self,
        path: &Path,
        parts: Vec<Part>,
        bands: &Bands,
        produce: impl Fn(Range<usize>) -> Result<Vec<Vec<u8>>> + Send + Sync + 'm,
    ) {
        let first = self.groups.len();
        let produce = Arc::new(produce);
        self.groups.extend(bands.list.iter().cloned().map(|band| -> Produce<'m> {
            let produce = produce.clone();
            Box::new(move || produce(band.clone()))
        }));
        for (number, part) in parts.into_iter().enumerate() {
            let lens = bands.list.iter().map(|band| part.bytes(bands.rows, band));
            let lazy = lens.enumerate().map(|(at, len)| LazyPart { group: first + at, part: number, len });
            self.lazy.insert(part.name.clone(), lazy.collect());
            let shell = tensor::from_raw(&part.name, part.data_type, &part.dims, Vec::new());
            self.add_to(path, TensorProto { raw_data: None, ..shell });
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
