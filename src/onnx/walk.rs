//! Visiting every graph of a model: the main one, bodies at any depth, and function bodies.

use std::collections::HashSet;

use super::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

/// Calls `visit` with every graph that `nodes` hold in attributes, and with their bodies, outermost first.
pub fn bodies<'a>(nodes: &'a [NodeProto], visit: &mut dyn FnMut(&'a GraphProto)) {
    for graph in nodes.iter().flat_map(graphs_of) {
        visit(graph);
        bodies(&graph.node, visit);
    }
}

/// The graphs in the attributes of one node.
pub fn graphs_of(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    named_graphs_of(node).map(|(_, graph)| graph)
}

/// The same, with the name of the attribute of each.
pub fn named_graphs_of(node: &NodeProto) -> impl Iterator<Item = (&str, &GraphProto)> {
    node.attribute.iter().flat_map(|attribute| {
        attribute.g.iter().chain(&attribute.graphs).map(|graph| (attribute.name(), graph))
    })
}

/// The same graphs in the same order, to be changed.
pub fn graphs_of_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute.iter_mut().flat_map(|attribute| attribute.g.iter_mut().chain(&mut attribute.graphs))
}

/// Calls `visit` with the initializers of `graph`, then with those of its bodies.
pub fn initializers_mut(graph: &mut GraphProto, visit: &mut dyn FnMut(&mut TensorProto)) {
    graph.initializer.iter_mut().for_each(&mut *visit);
    for body in graph.node.iter_mut().flat_map(graphs_of_mut) {
        initializers_mut(body, visit);
    }
}

/// Calls `visit` with every tensor of the model: initializers, sparse ones' values and indices, and those in
/// attributes, in bodies and functions too.
pub fn tensors_mut<E>(
    model: &mut ModelProto,
    visit: &mut dyn FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    if let Some(graph) = &mut model.graph {
        graph_tensors(graph, visit)?;
    }
    for function in &mut model.functions {
        for node in &mut function.node {
            node_tensors(node, visit)?;
        }
    }
    Ok(())
}

fn graph_tensors<E>(
    graph: &mut GraphProto,
    visit: &mut dyn FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    for tensor in &mut graph.initializer {
        visit(tensor)?;
    }
    for sparse in &mut graph.sparse_initializer {
        for tensor in sparse.values.iter_mut().chain(&mut sparse.indices) {
            visit(tensor)?;
        }
    }
    graph.node.iter_mut().try_for_each(|node| node_tensors(node, visit))
}

fn node_tensors<E>(
    node: &mut NodeProto,
    visit: &mut dyn FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    for attribute in &mut node.attribute {
        let AttributeProto { t, tensors, sparse_tensor, sparse_tensors, g, graphs, .. } = attribute;
        for tensor in t.iter_mut().chain(tensors) {
            visit(tensor)?;
        }
        for sparse in sparse_tensor.iter_mut().chain(sparse_tensors) {
            for tensor in sparse.values.iter_mut().chain(&mut sparse.indices) {
                visit(tensor)?;
            }
        }
        for graph in g.iter_mut().chain(graphs) {
            graph_tensors(graph, visit)?;
        }
    }
    Ok(())
}

/// Every name of a value or node in the model, in bodies and functions too.
pub fn names(model: &ModelProto) -> HashSet<String> {
    let mut found = HashSet::new();
    let mut of_nodes = |nodes: &[NodeProto]| {
        for node in nodes {
            found.extend(node.input.iter().chain(&node.output).cloned());
            found.extend(node.name.clone());
        }
    };
    let mut graphs: Vec<&GraphProto> = model.graph.iter().collect();
    if let Some(graph) = &model.graph {
        bodies(&graph.node, &mut |body| graphs.push(body));
    }
    for function in &model.functions {
        of_nodes(&function.node);
        bodies(&function.node, &mut |body| graphs.push(body));
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
