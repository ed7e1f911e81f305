//! Who produces and who consumes each value of the main graph.

use std::collections::{HashMap, HashSet};

use crate::onnx::proto::{GraphProto, NodeProto, TensorProto};
use crate::onnx::walk;

/// One input slot of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Use {
    /// Index of the node in the graph.
    pub node: usize,
    /// Index of the input.
    pub input: usize,
}

/// Producers and consumers of the values of one graph; borrowed from it.
pub struct Index<'g> {
    graph: &'g GraphProto,
    ir_version: i64,
    producer: HashMap<&'g str, usize>,
    consumers: HashMap<&'g str, Vec<Use>>,
    initializer: HashMap<&'g str, usize>,
    captured: HashMap<&'g str, Vec<usize>>,
    inputs: HashSet<&'g str>,
    outputs: HashSet<&'g str>,
}

impl<'g> Index<'g> {
    /// Indexes `graph`, the main graph of a model of `ir_version`, in time linear in its size.
    pub fn new(graph: &'g GraphProto, ir_version: i64) -> Self {
        let mut producer = HashMap::new();
        let mut consumers: HashMap<&str, Vec<Use>> = HashMap::new();
        let mut captured: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, node) in graph.node.iter().enumerate() {
            for output in node.output.iter().filter(|name| !name.is_empty()) {
                producer.insert(output.as_str(), at);
            }
            for (input, name) in node.input.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
                consumers.entry(name).or_default().push(Use { node: at, input });
            }
            let mut note = |body: &'g GraphProto| {
                let used = body.node.iter().flat_map(|inner| &inner.input).map(String::as_str);
                for name in used.chain(body.output.iter().map(|output| output.name())) {
                    let nodes = captured.entry(name).or_default();
                    if nodes.last() != Some(&at) {
                        nodes.push(at);
                    }
                }
            };
            for body in walk::graphs_of(node) {
                note(body);
                walk::bodies(&body.node, &mut note);
            }
        }
        Self {
            graph,
            ir_version,
            producer,
            consumers,
            initializer: graph.initializer.iter().enumerate().map(|(i, t)| (t.name(), i)).collect(),
            captured,
            inputs: graph.input.iter().map(|value| value.name()).collect(),
            outputs: graph.output.iter().map(|value| value.name()).collect(),
        }
    }

    /// The indexed graph.
    pub fn graph(&self) -> &'g GraphProto {
        self.graph
    }

    /// Node `at` of the graph.
    pub fn node(&self, at: usize) -> Option<&'g NodeProto> {
        self.graph.node.get(at)
    }

    /// The node that produces `value`.
    pub fn producer(&self, value: &str) -> Option<(usize, &'g NodeProto)> {
        let at = *self.producer.get(value)?;
        Some((at, self.graph.node.get(at)?))
    }

    /// The input slots of this graph's own nodes that take `value`.
    pub fn consumers(&self, value: &str) -> &[Use] {
        self.consumers.get(value).map_or(&[], Vec::as_slice)
    }

    /// The nodes in whose bodies `value` is used (or a name that hides it).
    pub fn captured_by(&self, value: &str) -> &[usize] {
        self.captured.get(value).map_or(&[], Vec::as_slice)
    }

    /// The initializer called `value` and its index.
    pub fn initializer(&self, value: &str) -> Option<(usize, &'g TensorProto)> {
        let at = *self.initializer.get(value)?;
        Some((at, self.graph.initializer.get(at)?))
    }

    /// Whether `value` is an input of the graph.
    pub fn is_input(&self, value: &str) -> bool {
        self.inputs.contains(value)
    }

    /// Whether `value` is an output of the graph.
    pub fn is_output(&self, value: &str) -> bool {
        self.outputs.contains(value)
    }

    /// Whether a caller may replace the initializer `value`: it is also a graph input, which since IR 4
    /// makes it a default and not a constant.
    pub fn is_overridable(&self, value: &str) -> bool {
        self.ir_version >= 4 && self.is_input(value)
    }
}
