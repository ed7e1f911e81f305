//! Names of a function's values where it is written out, and its weights, which all calls share.

use std::collections::{HashMap, HashSet};

use super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use super::{node, tensor, walk};

/// Constants of at least this many elements are weights.
const WEIGHT_ELEMENTS: usize = 512;

pub(super) fn is_weight(tensor: &TensorProto) -> bool {
    tensor::elements(tensor).is_ok_and(|count| count >= WEIGHT_ELEMENTS)
}

/// The weight that a Constant node holds.
pub(super) fn weight_of(node: &NodeProto) -> Option<&TensorProto> {
    let constant = node::is(node, "Constant").then(|| node::attribute(node, "value"))??;
    constant.t.as_ref().filter(|tensor| is_weight(tensor))
}

/// Weights of functions that stand in the main graph, once for all calls.
#[derive(Default)]
pub(super) struct Shared {
    pub tensors: Vec<TensorProto>,
    /// By the function, and which of its weights it is, in the order in which they are met.
    names: HashMap<(usize, usize), String>,
}

/// What the names of a function are called outside.
pub(super) struct Names<'a> {
    pub stem: &'a str,
    pub known: HashMap<String, String>,
    pub taken: &'a mut HashSet<String>,
    pub numbers: &'a mut HashMap<String, usize>,
    /// Number and name of the function.
    pub function: (usize, &'a str),
    /// Weights of the function that were met.
    pub met: usize,
    pub shared: &'a mut Shared,
}

impl Names<'_> {
    fn value(&mut self, name: &mut String) {
        if name.is_empty() {
            return;
        }
        if let Some(known) = self.known.get(name) {
            name.clone_from(known);
            return;
        }
        let fresh = self.fresh(format!("{}/{name}", self.stem));
        self.known.insert(name.clone(), fresh.clone());
        *name = fresh;
    }

    /// `stem`, or `stem` with a number: a name that nothing has.
    fn fresh(&mut self, stem: String) -> String {
        let mut fresh = stem.clone();
        let number = self.numbers.entry(stem.clone()).or_insert(2);
        while !self.taken.insert(fresh.clone()) {
            fresh = format!("{stem}_{number}");
            *number += 1;
        }
        fresh
    }

    /// Moves the weight called `name` to the main graph, unless another call did.
    fn share(&mut self, name: &str, tensor: &TensorProto) {
        let key = (self.function.0, self.met);
        self.met += 1;
        let known = self.shared.names.get(&key).cloned();
        let shared = known.unwrap_or_else(|| {
            let fresh = self.fresh(format!("{}/{name}", self.function.1));
            self.shared.tensors.push(TensorProto { name: Some(fresh.clone()), ..tensor.clone() });
            self.shared.names.insert(key, fresh.clone());
            fresh
        });
        self.known.insert(name.to_owned(), shared);
    }

    /// Renames what `nodes` make and take; weights that are not `returned` are taken out.
    pub fn nodes(
        &mut self,
        nodes: &mut Vec<NodeProto>,
        returned: &HashSet<&str>,
        given: &HashMap<&str, &AttributeProto>,
    ) {
        nodes.retain(|node| match (weight_of(node), node.output.first()) {
            (Some(tensor), Some(name)) if !returned.contains(name.as_str()) => {
                self.share(name, tensor);
                false
            }
            _ => true,
        });
        nodes.iter_mut().for_each(|node| self.node(node, given));
    }

    fn node(&mut self, node: &mut NodeProto, given: &HashMap<&str, &AttributeProto>) {
        if !node.name().is_empty() {
            node.name = Some(format!("{}/{}", self.stem, node.name()));
        }
        node.input.iter_mut().chain(&mut node.output).for_each(|name| self.value(name));
        walk::graphs_of_mut(node).for_each(|body| self.graph(body, given));
        for attribute in std::mem::take(&mut node.attribute) {
            match attribute.ref_attr_name() {
                "" => node.attribute.push(attribute),
                wanted => node.attribute.extend(
                    given
                        .get(wanted)
                        .map(|given| AttributeProto { name: attribute.name.clone(), ..(*given).clone() }),
                ),
            }
        }
    }

    fn graph(&mut self, graph: &mut GraphProto, given: &HashMap<&str, &AttributeProto>) {
        let ends: HashSet<String> =
            graph.input.iter().chain(&graph.output).map(|value| value.name().to_owned()).collect();
        let ends: HashSet<&str> = ends.iter().map(String::as_str).collect();
        graph.initializer.retain(|tensor| {
            let stays = !is_weight(tensor) || ends.contains(tensor.name());
            if !stays {
                self.share(tensor.name(), tensor);
            }
            stays
        });
        let values = graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info);
        values.filter_map(|value| value.name.as_mut()).for_each(|name| self.value(name));
        let sparse = graph.sparse_initializer.iter_mut().filter_map(|sparse| sparse.values.as_mut());
        let stored = graph.initializer.iter_mut().chain(sparse);
        stored.filter_map(|tensor| tensor.name.as_mut()).for_each(|name| self.value(name));
        graph.quantization_annotation.clear();
        self.nodes(&mut graph.node, &ends, given);
    }
}
