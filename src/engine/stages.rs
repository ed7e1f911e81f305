//! A model cut at its linears and tables.
//!
//! What lies between the cuts (the glue) runs in the runtime, stage by stage; the products of linears and the
//! rows of tables are left to the caller. So two runs with different weights advance side by side, the
//! activations of each linear can be looked at before its weight is chosen, and glue is planned once for both.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::glue::{Glue, Ready};
use super::value::Value;
use super::{lower, switch};
use crate::data::Sample;
use crate::error::{Error, Kind, Result};
use crate::graph::{Form, Frame, Inventory, Site};
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::{Checked, Model, node, tensor, walk};

/// The values of one sample's run that are still needed, by name.
#[derive(Debug, Clone, Default)]
pub struct Run(pub(super) HashMap<String, Value>);

/// A site whose activation (or ids) a stage makes known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Index of the site in the inventory.
    pub site: usize,
    /// Name of the activation, or of the ids.
    pub input: String,
    /// Name under which the caller puts the product, or the rows.
    pub output: String,
}

/// Glue, and the cuts that can be made after it.
pub struct Stage {
    glue: Glue,
    /// In node order.
    pub cuts: Vec<Cut>,
    /// Values that nothing after this stage needs.
    dead: Vec<String>,
}

/// By stage, and the digest of what its inputs look like.
type Plans = HashMap<(usize, Vec<u8>), Arc<Ready>>;

/// A model in stages.
pub struct Stages {
    /// In order.
    pub list: Vec<Stage>,
    output: String,
    plans: Mutex<Plans>,
}

impl Run {
    /// The value called `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Puts a value.
    pub fn put(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }
}

/// Whether a network is cut at `site`: it stands in the main graph.
pub fn enters(model: &Model, site: &Site) -> bool {
    site.at.node < model.graph().node.len()
}

/// The name under which a stage gives the activation of `site`, which is of `node`, as rows.
pub fn rows_name(site: &Site, node: &NodeProto) -> String {
    frame(site, node).rows
}

/// The nodes around the product that stands for `node`, under names that are the same in every run, with those that add
/// the bias of a Gemm.
fn frame(site: &Site, node: &NodeProto) -> Frame {
    let mut names = 0;
    let mut name = |stem: &str| {
        names += 1;
        format!("{stem}/efq_{names}")
    };
    let output = node.output.first().cloned().unwrap_or_default();
    match (&site.form, node.input.get(2).filter(|name| !name.is_empty())) {
        (Form::Gemm { beta, .. }, Some(bias)) if *beta != 0.0 => {
            let product = format!("{output}/efq_product");
            let linear = NodeProto { output: vec![product.clone()], ..node.clone() };
            let mut frame = site.frame(&linear, &mut name);
            frame.after.extend(bias_nodes(&product, bias, *beta, &output));
            frame
        }
        _ => site.frame(node, &mut name),
    }
}

impl Stages {
    /// Cuts `model` at the sites of `inventory`, up to `output`.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] when the runtime cannot run the graph, or it cannot be cut.
    pub fn new(model: &Checked<Model>, inventory: &Inventory, output: &str) -> Result<Self> {
        switch::allowed()?;
        let mut proto = lower::lower_whole(model, output)?;
        let graph = proto.graph.take().unwrap_or_default();
        let mut sites = HashMap::new();
        for (number, site) in inventory.sites.iter().enumerate().filter(|(_, site)| enters(model, site)) {
            // Lowering takes nodes out, so the place of a node does not tell it, but its result does.
            let result = model.graph().node.get(site.at.node).and_then(|node| node.output.first());
            if let Some(name) = result {
                sites.insert(name.clone(), (number, site));
            }
        }
        let mut nodes = Vec::with_capacity(graph.node.len());
        let mut cuts = Vec::new();
        for node in graph.node.clone() {
            let found = node.output.first().and_then(|name| sites.get(name));
            let Some((number, site)) = found else {
                nodes.push(node);
                continue;
            };
            let frame = frame(site, &node);
            nodes.extend(frame.shapes.into_iter().map(constant));
            nodes.extend(frame.before);
            cuts.push(Cut { site: *number, input: frame.rows, output: frame.product });
            nodes.extend(frame.after);
        }
        let planner = Planner::new(&proto, &graph, nodes, cuts, output);
        let list = planner.stages()?;
        Ok(Self { list, output: output.to_owned(), plans: Mutex::default() })
    }

    /// The start of a run on `sample`.
    pub fn start(&self, sample: &Sample) -> Result<Run> {
        let mut run = Run::default();
        for (name, array) in &sample.inputs {
            run.put(name, Value::from_array(array)?);
        }
        Ok(run)
    }

    /// Runs the glue of stage `at`: afterwards the activations of its cuts are known.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] when the runtime fails.
    pub fn advance(&self, at: usize, run: &mut Run) -> Result<()> {
        let Some(stage) = self.list.get(at) else { return Ok(()) };
        if stage.glue.is_empty() {
            return Ok(());
        }
        let missing = |name: &str| Error::unsupported("runtime", format!("value '{name}' is not known"));
        let mut fixed = Vec::new();
        for name in stage.glue.fixed() {
            fixed.push((name.as_str(), run.get(name).ok_or_else(|| missing(name))?));
        }
        let mut fed = Vec::new();
        for name in stage.glue.fed() {
            fed.push((name.as_str(), run.get(name).ok_or_else(|| missing(name))?));
        }
        let key = key(&fixed, &fed);
        let poisoned = |_| Error::new(Kind::Unsupported, "runtime", "a thread that made a plan ended early");
        let known = self.plans.lock().map_err(poisoned)?.get(&(at, key.clone())).cloned();
        let ready = match known {
            Some(ready) => ready,
            None => {
                let ready = Arc::new(stage.glue.ready(&fixed, &fed)?);
                self.plans.lock().map_err(poisoned)?.insert((at, key), ready.clone());
                ready
            }
        };
        let values = ready.run(&fed)?;
        for (name, value) in stage.glue.given().iter().zip(values) {
            run.put(name, value);
        }
        Ok(())
    }

    /// Lets go of what is not needed after stage `at`.
    pub fn finish(&self, at: usize, run: &mut Run) {
        for name in self.list.get(at).iter().flat_map(|stage| &stage.dead) {
            run.0.remove(name);
        }
    }

    /// Lets go of the plans of stage `at`.
    pub fn forget(&self, at: usize) {
        if let Ok(mut plans) = self.plans.lock() {
            plans.retain(|(stage, _), _| *stage != at);
        }
    }

    /// The measured output, after the last stage.
    pub fn output<'r>(&self, run: &'r Run) -> Option<&'r Value> {
        run.get(&self.output)
    }
}

/// `output = product + beta · bias`.
fn bias_nodes(product: &str, bias: &str, beta: f32, output: &str) -> Vec<NodeProto> {
    if beta == 1.0 {
        return vec![node::build("Add", output, &[product, bias], &[output], vec![])];
    }
    let (factor, scaled) = (format!("{output}/efq_beta"), format!("{output}/efq_scaled"));
    vec![
        constant(tensor::from_raw(&factor, DataType::Float, &[], beta.to_le_bytes().to_vec())),
        node::build("Mul", &scaled, &[bias, &factor], &[&scaled], vec![]),
        node::build("Add", output, &[product, &scaled], &[output], vec![]),
    ]
}

/// The node that gives `tensor` under its name.
fn constant(tensor: TensorProto) -> NodeProto {
    let name = tensor.name().to_owned();
    node::build("Constant", &name, &[], &[&name], vec![node::tensor_attribute("value", tensor)])
}

fn key(fixed: &[(&str, &Value)], fed: &[(&str, &Value)]) -> Vec<u8> {
    let mut hash = blake3::Hasher::new();
    for (_, value) in fed {
        hash.update(value.kind().as_bytes());
    }
    for (_, value) in fixed {
        hash.update(value.kind().as_bytes());
        hash.update(&value.raw());
    }
    hash.finalize().as_bytes().to_vec()
}

/// What a value depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Nature {
    /// Nothing: it is stored, or computed from what is stored.
    Constant,
    /// The sizes of the inputs.
    Fixed,
    /// The values of the inputs.
    Fed,
}

struct Planner<'a> {
    proto: &'a ModelProto,
    graph: &'a GraphProto,
    nodes: Vec<NodeProto>,
    cuts: Vec<Cut>,
    output: &'a str,
    /// What each node takes, captured values included.
    takes: Vec<Vec<String>>,
}

impl<'a> Planner<'a> {
    fn new(
        proto: &'a ModelProto,
        graph: &'a GraphProto,
        nodes: Vec<NodeProto>,
        cuts: Vec<Cut>,
        output: &'a str,
    ) -> Self {
        let takes = nodes.iter().map(taken).collect();
        Self { proto, graph, nodes, cuts, output, takes }
    }

    fn stages(&self) -> Result<Vec<Stage>> {
        let producer: HashMap<&str, usize> = self
            .nodes
            .iter()
            .enumerate()
            .flat_map(|(at, node)| node.output.iter().map(move |name| (name.as_str(), at)))
            .collect();
        let natures = self.natures();
        let nature = |name: &str| natures.get(name).copied().unwrap_or(Nature::Constant);
        let needed = self.needed(&producer);
        let mut known: HashSet<&str> = self.graph.input.iter().map(|input| input.name()).collect();
        let mut waiting: BTreeSet<usize> = needed
            .iter()
            .copied()
            .filter(|at| self.outputs(*at).any(|name| nature(name) != Nature::Constant))
            .collect();
        let mut open: Vec<&Cut> = self.cuts.iter().collect();
        let mut rounds: Vec<(Vec<usize>, Vec<Cut>)> = Vec::new();
        loop {
            let mut round = Vec::new();
            loop {
                let able: Vec<usize> = waiting
                    .iter()
                    .copied()
                    .filter(|at| {
                        let takes = self.takes.get(*at).map_or(&[][..], Vec::as_slice);
                        takes
                            .iter()
                            .all(|name| nature(name) == Nature::Constant || known.contains(name.as_str()))
                    })
                    .collect();
                if able.is_empty() {
                    break;
                }
                for at in able {
                    waiting.remove(&at);
                    known.extend(self.outputs(at));
                    round.push(at);
                }
            }
            let (ready, later): (Vec<&Cut>, Vec<&Cut>) =
                open.into_iter().partition(|cut| known.contains(cut.input.as_str()));
            open = later;
            if ready.is_empty() && round.is_empty() {
                break;
            }
            known.extend(ready.iter().map(|cut| cut.output.as_str()));
            let last = ready.is_empty();
            rounds.push((round, ready.into_iter().cloned().collect()));
            if last {
                break;
            }
        }
        if !waiting.is_empty() || !open.is_empty() {
            return Err(Error::unsupported("runtime", "the graph cannot be run in stages"));
        }
        let mut last_use: HashMap<&str, usize> = HashMap::new();
        for (number, (round, cuts)) in rounds.iter().enumerate() {
            for name in round.iter().flat_map(|at| &self.takes[*at]).chain(cuts.iter().map(|cut| &cut.input))
            {
                last_use.insert(name, number);
            }
        }
        last_use.insert(self.output, rounds.len());
        let mut stages = Vec::with_capacity(rounds.len());
        for (number, (round, cuts)) in rounds.iter().enumerate() {
            let made: HashSet<&str> = round.iter().flat_map(|at| self.outputs(*at)).collect();
            let outside = |kind: Nature| -> Vec<String> {
                let names: BTreeSet<&str> = round
                    .iter()
                    .flat_map(|at| &self.takes[*at])
                    .map(String::as_str)
                    .filter(|name| nature(name) == kind && !made.contains(name))
                    .collect();
                names.into_iter().map(str::to_owned).collect()
            };
            let given: BTreeSet<&str> = made
                .iter()
                .copied()
                .filter(|name| {
                    last_use.get(name).is_some_and(|last| *last > number)
                        || cuts.iter().any(|cut| cut.input == *name)
                })
                .collect();
            let (fixed, fed) = (outside(Nature::Fixed), outside(Nature::Fed));
            let given: Vec<String> = given.into_iter().map(str::to_owned).collect();
            let nodes = self.with_constants(round, &producer, &nature);
            let glue = Glue::new(self.proto, self.graph, nodes, fixed, fed, given);
            let dead =
                last_use.iter().filter(|(_, last)| **last == number).map(|(name, _)| (*name).to_owned());
            stages.push(Stage { glue, cuts: cuts.clone(), dead: dead.collect() });
        }
        Ok(stages)
    }

    fn outputs(&self, at: usize) -> impl Iterator<Item = &str> {
        self.nodes
            .get(at)
            .into_iter()
            .flat_map(|node| &node.output)
            .map(String::as_str)
            .filter(|n| !n.is_empty())
    }

    /// The nodes of a round in file order, with the constant ones that they need.
    fn with_constants(
        &self,
        round: &[usize],
        producer: &HashMap<&str, usize>,
        nature: &dyn Fn(&str) -> Nature,
    ) -> Vec<NodeProto> {
        let mut all: BTreeSet<usize> = round.iter().copied().collect();
        let mut queue: Vec<usize> = round.to_vec();
        while let Some(at) = queue.pop() {
            for name in
                self.takes.get(at).into_iter().flatten().filter(|name| nature(name) == Nature::Constant)
            {
                if let Some(&from) = producer.get(name.as_str())
                    && all.insert(from)
                {
                    queue.push(from);
                }
            }
        }
        all.into_iter().filter_map(|at| self.nodes.get(at).cloned()).collect()
    }

    /// The nodes before any cut or the output.
    fn needed(&self, producer: &HashMap<&str, usize>) -> HashSet<usize> {
        let mut found = HashSet::new();
        let mut queue: Vec<&str> = self.cuts.iter().map(|cut| cut.input.as_str()).collect();
        queue.push(self.output);
        while let Some(name) = queue.pop() {
            if let Some(&at) = producer.get(name)
                && found.insert(at)
            {
                queue.extend(self.takes.get(at).into_iter().flatten().map(String::as_str));
            }
        }
        found
    }

    fn natures(&self) -> HashMap<String, Nature> {
        let mut natures: HashMap<String, Nature> =
            self.graph.input.iter().map(|input| (input.name().to_owned(), Nature::Fed)).collect();
        for tensor in &self.graph.initializer {
            natures.insert(tensor.name().to_owned(), Nature::Constant);
        }
        natures.extend(self.cuts.iter().map(|cut| (cut.output.clone(), Nature::Fed)));
        // Nodes may stand in any order: repeat until nothing changes, which in file order is at once.
        loop {
            let mut changed = false;
            for (node, takes) in self.nodes.iter().zip(&self.takes) {
                let known: Option<Vec<Nature>> =
                    takes.iter().map(|name| natures.get(name).copied()).collect();
                let Some(known) = known else { continue };
                let most = known.into_iter().max().unwrap_or(Nature::Constant);
                let nature = match node.op_type() {
                    "Shape" | "Size" if most == Nature::Fed => Nature::Fixed,
                    op if op.starts_with("Random") || op == "Multinomial" || op == "Bernoulli" => Nature::Fed,
                    _ => most,
                };
                for name in node.output.iter().filter(|name| !name.is_empty()) {
                    changed |= natures.insert(name.clone(), nature) != Some(nature);
                }
            }
            if !changed {
                return natures;
            }
        }
    }
}

/// The values that a node takes, with those that its bodies capture.
pub(super) fn taken(node: &NodeProto) -> Vec<String> {
    let mut names: Vec<String> = node.input.iter().filter(|name| !name.is_empty()).cloned().collect();
    let mut note = |body: &GraphProto| {
        let own: HashSet<&str> = body
            .node
            .iter()
            .flat_map(|inner| inner.output.iter().map(String::as_str))
            .chain(body.input.iter().map(|input| input.name()))
            .chain(body.initializer.iter().map(|tensor| tensor.name()))
            .collect();
        let used = body.node.iter().flat_map(|inner| inner.input.iter().map(String::as_str));
        let used = used.chain(body.output.iter().map(|output| output.name()));
        names.extend(used.filter(|name| !name.is_empty() && !own.contains(name)).map(str::to_owned));
    };
    for body in walk::graphs_of(node) {
        note(body);
        walk::bodies(&body.node, &mut |inner| note(inner));
    }
    names.sort();
    names.dedup();
    names
}
