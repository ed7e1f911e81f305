//! Removing what nothing uses any more, so that no replaced weight stays in the file.

use std::collections::{HashMap, HashSet};

use crate::onnx::proto::{GraphProto, ModelProto, NodeProto};
use crate::onnx::{node, walk};

/// Removes, from the main graph and from bodies, chain nodes and constants without a use, initializers without a use
/// (unless they are also graph inputs), and what was said about values that are gone.
pub fn sweep(model: &mut ModelProto) {
    if let Some(graph) = &mut model.graph {
        sweep_graph(graph);
    }
}

/// Sweeps `graph`, innermost bodies first; gives the names that it takes from around it.
fn sweep_graph(graph: &mut GraphProto) -> HashSet<String> {
    let mut uses: HashMap<String, usize> = HashMap::new();
    let mut note = |name: String| *uses.entry(name).or_default() += 1;
    for node in &mut graph.node {
        walk::graphs_of_mut(node).flat_map(sweep_graph).for_each(&mut note);
        node.input.iter().filter(|name| !name.is_empty()).cloned().for_each(&mut note);
    }
    graph.output.iter().map(|output| output.name().to_owned()).for_each(&mut note);
    let used = |uses: &HashMap<String, usize>, name: &str| uses.get(name).is_some_and(|count| *count > 0);

    let mut gone = vec![false; graph.node.len()];
    let producer: HashMap<&str, usize> = graph
        .node
        .iter()
        .enumerate()
        .flat_map(|(at, node)| node.output.iter().map(move |name| (name.as_str(), at)))
        .collect();
    // Nodes may stand in any order, so what a removal frees is looked up.
    let mut waiting: Vec<usize> = (0..graph.node.len()).collect();
    while let Some(at) = waiting.pop() {
        let (Some(node), Some(flag)) = (graph.node.get(at), gone.get_mut(at)) else { continue };
        if *flag || !is_removable(node) || node.output.iter().any(|name| used(&uses, name)) {
            continue;
        }
        *flag = true;
        for name in node.input.iter().filter(|name| !name.is_empty()) {
            if let Some(count) = uses.get_mut(name) {
                *count = count.saturating_sub(1);
            }
            waiting.extend(producer.get(name.as_str()));
        }
    }
    let mut flags = gone.iter();
    graph.node.retain(|_| !flags.next().copied().unwrap_or(false));
    let inputs: HashSet<String> = graph.input.iter().map(|input| input.name().to_owned()).collect();
    graph.initializer.retain(|tensor| used(&uses, tensor.name()) || inputs.contains(tensor.name()));
    let produced: HashSet<&str> = graph
        .node
        .iter()
        .flat_map(|node| &node.output)
        .map(String::as_str)
        .chain(graph.initializer.iter().map(|tensor| tensor.name()))
        .chain(inputs.iter().map(String::as_str))
        .collect();
    uses.retain(|name, count| *count > 0 && !produced.contains(name.as_str()));
    let keep: Vec<bool> = graph.value_info.iter().map(|value| produced.contains(value.name())).collect();
    let annotated: Vec<bool> =
        graph.quantization_annotation.iter().map(|note| produced.contains(note.tensor_name())).collect();
    let mut flags = keep.into_iter();
    graph.value_info.retain(|_| flags.next().unwrap_or(true));
    let mut flags = annotated.into_iter();
    graph.quantization_annotation.retain(|_| flags.next().unwrap_or(true));
    uses.into_keys().collect()
}

fn is_removable(node: &NodeProto) -> bool {
    node::is_default_domain(node)
        && matches!(
            node.op_type(),
            "Identity" | "Cast" | "Transpose" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Constant"
        )
}
