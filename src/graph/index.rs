//! Who produces and who consumes each value, in the main graph and in every body.
//!
//! Nodes and initializers are numbered through the model: those of the main graph first, then those of each body, in the
//! order in which [`walk::bodies`] meets them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::operand::Origin;
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto};
use crate::onnx::{node_subject, walk};

/// One input slot of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Use {
    /// Number of the node in the model; that of a node of the main graph is its index.
    pub node: usize,
    /// Index of the input.
    pub input: usize,
}

/// Where a graph stands in its model: for each body on the way, the index of the node that holds it, in the graph around
/// it, and the index of the body among those of the node. Empty for the main graph.
pub type Path = Arc<[(usize, usize)]>;

/// Producers and consumers of the values of a model, looked at from one of its graphs; borrowed from it.
///
/// A name means what it means in that graph: a value of its own, else one of the graphs around it.
#[derive(Clone)]
pub struct Index<'g> {
    graphs: Arc<Vec<Graph<'g>>>,
    here: usize,
    ir_version: i64,
}

struct Graph<'g> {
    graph: &'g GraphProto,
    path: Path,
    /// The graph around it, the number of the node that holds it, and the attribute.
    owner: Option<(usize, usize, &'g str)>,
    first_node: usize,
    first_initializer: usize,
    producer: HashMap<&'g str, usize>,
    consumers: HashMap<&'g str, Vec<Use>>,
    initializer: HashMap<&'g str, usize>,
    captured: HashMap<&'g str, Captured>,
    inputs: HashSet<&'g str>,
    sparse: HashSet<&'g str>,
    outputs: HashSet<&'g str>,
}

/// What bodies do with a value of a graph around them.
#[derive(Default)]
struct Captured {
    nodes: Vec<usize>,
    slots: Vec<Use>,
    returned: Vec<usize>,
}

impl<'g> Index<'g> {
    /// Indexes `graph`, the main graph of a model of `ir_version`, and its bodies, in time linear in their size.
    pub fn new(graph: &'g GraphProto, ir_version: i64) -> Self {
        let mut graphs = Vec::new();
        let mut numbers = (0, 0);
        add(&mut graphs, graph, None, Arc::from([]), &mut numbers);
        for at in 0..graphs.len() {
            link(&mut graphs, at);
        }
        Self { graphs: Arc::new(graphs), here: 0, ir_version }
    }

    /// The same model, looked at from each of its graphs: the main graph, then the bodies.
    pub fn all(&self) -> impl Iterator<Item = Index<'g>> + '_ {
        (0..self.graphs.len()).map(|here| Self { here, ..self.clone() })
    }

    /// The same model, looked at from the graph of node `at`.
    pub fn of(&self, at: usize) -> Self {
        Self { here: self.graph_of(at), ..self.clone() }
    }

    fn graph_of(&self, node: usize) -> usize {
        self.graphs.partition_point(|graph| graph.first_node <= node).saturating_sub(1)
    }

    fn here(&self) -> Option<&Graph<'g>> {
        self.graphs.get(self.here)
    }

    /// The graph that `value` is defined in, if any.
    fn home(&self, value: &str) -> Option<&Graph<'g>> {
        self.graphs.get(home(&self.graphs, self.here, value)?.0)
    }

    /// The graph that it is looked at from.
    pub fn graph(&self) -> &'g GraphProto {
        static EMPTY: GraphProto = crate::onnx::EMPTY_GRAPH;
        self.here().map_or(&EMPTY, |graph| graph.graph)
    }

    /// Where that graph stands.
    pub fn path(&self) -> Path {
        self.here().map_or_else(|| Arc::from([]), |graph| graph.path.clone())
    }

    /// Whether that graph is the body of a node.
    pub fn is_body(&self) -> bool {
        self.here != 0
    }

    /// The number of the node that holds that graph; `None` for the main graph.
    pub fn owner(&self) -> Option<usize> {
        Some(self.here()?.owner?.1)
    }

    /// Where that graph stands, in words: `then_branch of If 'cond'`; `None` for the main graph.
    pub fn place(&self) -> Option<String> {
        let mut place: Option<String> = None;
        let mut at = self.here;
        while let Some((outer, node, attribute)) = self.graphs.get(at).and_then(|graph| graph.owner) {
            let here = format!("{attribute} of {}", self.node(node).map_or_else(String::new, short));
            place = Some(place.map_or(here.clone(), |inner| format!("{inner} in {here}")));
            at = outer;
        }
        place
    }

    fn attribute(&self) -> Option<&'g str> {
        Some(self.here()?.owner?.2)
    }

    /// The nodes of that graph with their numbers.
    pub fn nodes(&self) -> impl Iterator<Item = (usize, &'g NodeProto)> {
        let first = self.here().map_or(0, |graph| graph.first_node);
        self.graph().node.iter().enumerate().map(move |(at, node)| (first + at, node))
    }

    /// The initializers of that graph with their numbers.
    pub fn initializers(&self) -> impl Iterator<Item = (usize, &'g TensorProto)> {
        let first = self.here().map_or(0, |graph| graph.first_initializer);
        self.graph().initializer.iter().enumerate().map(move |(at, tensor)| (first + at, tensor))
    }

    /// Node `at` of the model.
    pub fn node(&self, at: usize) -> Option<&'g NodeProto> {
        let graph = self.graphs.get(self.graph_of(at))?;
        graph.graph.node.get(at.checked_sub(graph.first_node)?)
    }

    /// Initializer `at` of the model.
    pub fn stored(&self, at: usize) -> Option<&'g TensorProto> {
        let graph = self.graphs.get(self.graph_with(at))?;
        graph.graph.initializer.get(at.checked_sub(graph.first_initializer)?)
    }

    fn graph_with(&self, initializer: usize) -> usize {
        self.graphs.partition_point(|graph| graph.first_initializer <= initializer).saturating_sub(1)
    }

    /// The graph that a constant stands in, and its index there.
    pub(super) fn home_of(&self, origin: Origin) -> Option<(Path, usize)> {
        let (graph, at, first) = match origin {
            Origin::Initializer(at) => {
                let graph = self.graphs.get(self.graph_with(at))?;
                (graph, at, graph.first_initializer)
            }
            Origin::Constant(at) => {
                let graph = self.graphs.get(self.graph_of(at))?;
                (graph, at, graph.first_node)
            }
            Origin::Function(_) | Origin::Sparse => return None,
        };
        Some((graph.path.clone(), at.checked_sub(first)?))
    }

    /// The same model, looked at from the graph that holds a constant.
    pub fn holding(&self, origin: Origin) -> Self {
        let here = match origin {
            Origin::Initializer(at) => self.graph_with(at),
            Origin::Constant(at) => self.graph_of(at),
            Origin::Function(_) | Origin::Sparse => 0,
        };
        Self { here, ..self.clone() }
    }

    /// How messages name node `at`, with the body that it stands in.
    pub fn subject(&self, at: usize) -> String {
        let node = self.node(at).map_or_else(String::new, node_subject);
        match self.of(at).place() {
            Some(place) => format!("{node} in {place}"),
            None => node,
        }
    }

    /// The operator of `node`, which stands in that graph, with the body: `MatMul in then_branch`.
    pub fn operator(&self, node: &NodeProto) -> String {
        match self.attribute() {
            Some(attribute) => format!("{} in {attribute}", node.op_type()),
            None => node.op_type().to_owned(),
        }
    }

    /// The node that produces `value`.
    pub fn producer(&self, value: &str) -> Option<(usize, &'g NodeProto)> {
        let at = *self.home(value)?.producer.get(value)?;
        Some((at, self.node(at)?))
    }

    /// The input slots that take `value` in the graph that defines it; bodies apart.
    pub fn consumers(&self, value: &str) -> &[Use] {
        self.home(value).and_then(|graph| graph.consumers.get(value)).map_or(&[], Vec::as_slice)
    }

    fn captured(&self, value: &str) -> Option<&Captured> {
        self.home(value)?.captured.get(value)
    }

    /// The nodes in whose bodies `value` is used.
    pub fn captured_by(&self, value: &str) -> &[usize] {
        self.captured(value).map_or(&[], |captured| &captured.nodes)
    }

    /// The input slots in bodies that take `value` from around them.
    pub fn captured_at(&self, value: &str) -> &[Use] {
        self.captured(value).map_or(&[], |captured| &captured.slots)
    }

    /// The nodes of whose bodies `value`, from around them, is an output.
    pub fn returned_by(&self, value: &str) -> &[usize] {
        self.captured(value).map_or(&[], |captured| &captured.returned)
    }

    /// The initializer called `value` and its number.
    pub fn initializer(&self, value: &str) -> Option<(usize, &'g TensorProto)> {
        let graph = self.home(value)?;
        let at = *graph.initializer.get(value)?;
        Some((graph.first_initializer + at, graph.graph.initializer.get(at)?))
    }

    /// Whether `value` is defined in this very graph and not around it.
    pub fn is_here(&self, value: &str) -> bool {
        self.here().is_some_and(|graph| graph.defines(value))
    }

    /// Whether `value` is an input of its graph.
    pub fn is_input(&self, value: &str) -> bool {
        self.home(value).is_some_and(|graph| graph.inputs.contains(value))
    }

    /// Whether `value` is an output of its graph.
    pub fn is_output(&self, value: &str) -> bool {
        self.home(value).is_some_and(|graph| graph.outputs.contains(value))
    }

    /// The values that the output `value` of an If's branch becomes outside, looked at from there.
    pub fn beyond(&self, value: &str) -> Option<(Self, Vec<&'g str>)> {
        let (outer, node, _) = self.here()?.owner?;
        let node = self.node(node).filter(|node| node.op_type() == "If")?;
        let outputs = self.graph().output.iter().zip(&node.output);
        let same = outputs.filter(|(inner, _)| inner.name() == value).map(|(_, name)| name.as_str());
        Some((Self { here: outer, ..self.clone() }, same.collect()))
    }

    /// Whether a caller may replace the initializer `value`: it is also a graph input, which since IR 4
    /// makes it a default and not a constant.
    pub fn is_overridable(&self, value: &str) -> bool {
        self.ir_version >= 4 && self.is_input(value)
    }
}

/// `If 'name'`, or the name of its first result where it has none.
fn short(node: &NodeProto) -> String {
    match (node.name(), node.output.iter().find(|name| !name.is_empty())) {
        ("", Some(output)) => format!("{} giving '{output}'", node.op_type()),
        ("", None) => node.op_type().to_owned(),
        (name, _) => format!("{} '{name}'", node.op_type()),
    }
}

impl Graph<'_> {
    fn defines(&self, value: &str) -> bool {
        self.producer.contains_key(value)
            || self.initializer.contains_key(value)
            || self.inputs.contains(value)
            || self.sparse.contains(value)
    }
}

/// The graph that `value` means one of, seen from graph `at`, and the node there that holds `at`, if it is another.
fn home(graphs: &[Graph<'_>], mut at: usize, value: &str) -> Option<(usize, Option<usize>)> {
    let mut through = None;
    loop {
        let graph = graphs.get(at)?;
        if graph.defines(value) {
            return Some((at, through));
        }
        let (outer, node, _) = graph.owner?;
        (at, through) = (outer, Some(node));
    }
}

/// Adds `graph` and its bodies, with what they define.
fn add<'g>(
    graphs: &mut Vec<Graph<'g>>,
    graph: &'g GraphProto,
    owner: Option<(usize, usize, &'g str)>,
    path: Path,
    numbers: &mut (usize, usize),
) {
    let (first_node, first_initializer) = *numbers;
    let here = graphs.len();
    numbers.0 += graph.node.len();
    numbers.1 += graph.initializer.len();
    let mut producer = HashMap::new();
    for (at, node) in graph.node.iter().enumerate() {
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            producer.insert(output.as_str(), first_node + at);
        }
    }
    let sparse = graph.sparse_initializer.iter().filter_map(|sparse| sparse.values.as_ref());
    graphs.push(Graph {
        graph,
        path: path.clone(),
        owner,
        first_node,
        first_initializer,
        producer,
        consumers: HashMap::new(),
        initializer: graph.initializer.iter().enumerate().map(|(i, t)| (t.name(), i)).collect(),
        captured: HashMap::new(),
        inputs: graph.input.iter().map(|value| value.name()).collect(),
        sparse: sparse.map(|values| values.name()).collect(),
        outputs: graph.output.iter().map(|value| value.name()).collect(),
    });
    for (at, node) in graph.node.iter().enumerate() {
        for (number, (attribute, body)) in walk::named_graphs_of(node).enumerate() {
            let inner = path.iter().copied().chain([(at, number)]).collect();
            add(graphs, body, Some((here, first_node + at, attribute)), inner, numbers);
        }
    }
}

/// Notes who takes what in graph `here`.
fn link<'g>(graphs: &mut [Graph<'g>], here: usize) {
    let Some((graph, first)) = graphs.get(here).map(|graph| (graph.graph, graph.first_node)) else { return };
    let mut note = |name: &'g str, slot: Option<Use>| {
        let (at, through) = home(graphs, here, name).unwrap_or((here, None));
        let Some(home) = graphs.get_mut(at) else { return };
        let Some(through) = through else {
            if let Some(slot) = slot {
                home.consumers.entry(name).or_default().push(slot);
            }
            return;
        };
        let captured = home.captured.entry(name).or_default();
        if captured.nodes.last() != Some(&through) {
            captured.nodes.push(through);
        }
        match slot {
            Some(slot) => captured.slots.push(slot),
            None => captured.returned.push(through),
        }
    };
    for (at, node) in graph.node.iter().enumerate() {
        for (input, name) in node.input.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            note(name, Some(Use { node: first + at, input }));
        }
    }
    for output in &graph.output {
        note(output.name(), None);
    }
}
