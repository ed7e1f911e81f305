//! Model-local functions that may use weights, written out where they are called, as ONNX Runtime does at load.
//!
//! A weight that a function holds becomes one initializer of the main graph, however often the function is called. What
//! is left alone: functions without weights and without an operator that takes them, and those whose operators mean
//! something else in the operator set of the model.

use std::collections::{BTreeSet, HashMap, HashSet};

use prost::Message as _;

use super::names::{Names, Shared, is_weight, weight_of};
use super::proto::{AttributeProto, FunctionProto, ModelProto, NodeProto};
use super::{model::opset_version, node, walk};

/// Operators that take weights.
const TAKES_WEIGHTS: [&str; 4] = ["MatMul", "Gemm", "Gather", "Einsum"];
/// Operators that mean the same in all operator sets of [`STABLE`].
const UNCHANGED: [&str; 44] = [
    "Abs",
    "Add",
    "And",
    "Cast",
    "Clip",
    "Concat",
    "Constant",
    "Conv",
    "Cos",
    "Div",
    "Einsum",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Gather",
    "Gemm",
    "Identity",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "MatMul",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Pow",
    "Reciprocal",
    "Relu",
    "Reshape",
    "Shape",
    "Sigmoid",
    "Sin",
    "Slice",
    "Softmax",
    "Softplus",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Tanh",
    "Transpose",
    "Unsqueeze",
];
const STABLE: std::ops::RangeInclusive<i64> = 14..=21;
/// The last of the types of elements that all of those know: bfloat16.
const LAST_TYPE: i64 = 16;
/// Functions called by functions, how deep; nodes and bytes that all calls may make.
const DEPTH: usize = 32;
const NODES: usize = 200_000;
const BYTES: usize = 64 << 20;

/// `model` with those functions written out; `None` where there are none, or too much would come of it.
pub(super) fn inline(model: &ModelProto) -> Option<ModelProto> {
    write_out(model, chosen(model))
}

/// `model` with every function written out whose operators mean the same in the main graph; `None` as above.
pub fn inline_all(model: &ModelProto) -> Option<ModelProto> {
    write_out(model, model.functions.iter().map(|function| same_operators(model, function)).collect())
}

fn write_out(model: &ModelProto, chosen: Vec<bool>) -> Option<ModelProto> {
    if !chosen.contains(&true) {
        return None;
    }
    let mut inliner = Inliner {
        functions: by_name(model),
        list: &model.functions,
        chosen,
        expanded: BTreeSet::new(),
        names: walk::names(model),
        numbers: HashMap::new(),
        shared: Shared::default(),
        nodes: NODES,
        bytes: BYTES,
    };
    let mut made = model.clone();
    let graph = made.graph.as_mut()?;
    graph.node = inliner.nodes(std::mem::take(&mut graph.node), 0)?;
    graph.initializer.append(&mut inliner.shared.tensors);
    if inliner.expanded.is_empty() {
        return None;
    }
    for at in &inliner.expanded {
        for import in model.functions.get(*at).iter().flat_map(|function| &function.opset_import) {
            if opset_version(&made.opset_import, import.domain()) == 0 {
                made.opset_import.push(import.clone());
            }
        }
    }
    let kept = called(model, &made);
    let mut flags = kept.into_iter();
    made.functions.retain(|_| flags.next().unwrap_or(true));
    Some(made)
}

type Name<'m> = (&'m str, &'m str, &'m str);

fn name_of(node: &NodeProto) -> Name<'_> {
    (node.domain(), node.op_type(), node.overload())
}

fn by_name(model: &ModelProto) -> HashMap<Name<'_>, usize> {
    let name = |function: &'_ FunctionProto| function.name.is_some();
    let functions = model.functions.iter().enumerate().filter(|(_, function)| name(function));
    functions.map(|(at, f)| ((f.domain(), f.name(), f.overload()), at)).collect()
}

/// Calls `visit` with the nodes of `nodes` and of their bodies.
fn each<'m>(nodes: &'m [NodeProto], visit: &mut dyn FnMut(&'m NodeProto)) {
    nodes.iter().for_each(&mut *visit);
    walk::bodies(nodes, &mut |body| body.node.iter().for_each(&mut *visit));
}

/// Which functions use weights, themselves or through others, and can be written out.
fn chosen(model: &ModelProto) -> Vec<bool> {
    let functions = by_name(model);
    let mut callers: Vec<Vec<usize>> = vec![Vec::new(); model.functions.len()];
    let mut waiting = Vec::new();
    for (at, function) in model.functions.iter().enumerate() {
        let mut uses = false;
        each(&function.node, &mut |node| {
            uses |= node::is_default_domain(node) && TAKES_WEIGHTS.contains(&node.op_type());
            uses |= weight_of(node).is_some()
                || walk::graphs_of(node).any(|body| body.initializer.iter().any(is_weight));
            if let Some(callers) = functions.get(&name_of(node)).and_then(|callee| callers.get_mut(*callee)) {
                callers.push(at);
            }
        });
        if uses {
            waiting.push(at);
        }
    }
    let mut chosen = vec![false; model.functions.len()];
    while let Some(at) = waiting.pop() {
        let (Some(flag), Some(function)) = (chosen.get_mut(at), model.functions.get(at)) else { continue };
        if !*flag && same_operators(model, function) {
            *flag = true;
            waiting.extend(callers.get(at).into_iter().flatten());
        }
    }
    chosen
}

/// Why `function`, which `inline` left in `model`, was left.
pub fn function_stays(model: &ModelProto, function: &FunctionProto) -> String {
    let of = |imports| opset_version(imports, "");
    let (own, other) = (of(&function.opset_import), of(&model.opset_import));
    match own == other {
        true => "stands in a function that cannot be written out where it is called".to_owned(),
        false => format!("stands in a function of opset {own} in a model of opset {other}"),
    }
}

/// Whether the function's nodes mean the same in the main graph.
fn same_operators(model: &ModelProto, function: &FunctionProto) -> bool {
    function.opset_import.iter().all(|import| {
        let known = opset_version(&model.opset_import, import.domain());
        let version = import.version();
        known == version
            || known == 0 && !import.domain().is_empty()
            || import.domain().is_empty()
                && STABLE.contains(&known)
                && STABLE.contains(&version)
                && unchanged(function, version > known)
    })
}

/// Whether the function has only operators that mean the same in all of [`STABLE`], and, where it is `newer` than the
/// model, no types that came later.
fn unchanged(function: &FunctionProto, newer: bool) -> bool {
    let mut same = true;
    each(&function.node, &mut |node| {
        let type_of = |attribute: &AttributeProto| match attribute.name() {
            "to" => attribute.i(),
            _ => attribute.t.as_ref().map_or(0, |tensor| i64::from(tensor.data_type())),
        };
        same &= !node::is_default_domain(node) || UNCHANGED.contains(&node.op_type());
        same &= !newer || node.attribute.iter().all(|attribute| type_of(attribute) <= LAST_TYPE);
    });
    same
}

/// Which functions of `model` the graph of `made` still calls, through others too.
fn called(model: &ModelProto, made: &ModelProto) -> Vec<bool> {
    let functions = by_name(model);
    let mut kept = vec![false; model.functions.len()];
    let mut waiting: Vec<usize> = Vec::new();
    let nodes = made.graph.iter().map(|graph| graph.node.as_slice());
    nodes.for_each(|nodes| each(nodes, &mut |node| waiting.extend(functions.get(&name_of(node)))));
    while let Some(at) = waiting.pop() {
        let (Some(flag), Some(function)) = (kept.get_mut(at), model.functions.get(at)) else { continue };
        if !std::mem::replace(flag, true) {
            each(&function.node, &mut |node| waiting.extend(functions.get(&name_of(node))));
        }
    }
    kept
}

struct Inliner<'m> {
    functions: HashMap<Name<'m>, usize>,
    list: &'m [FunctionProto],
    chosen: Vec<bool>,
    expanded: BTreeSet<usize>,
    names: HashSet<String>,
    /// By stem, the number that the next name of it gets.
    numbers: HashMap<String, usize>,
    shared: Shared,
    nodes: usize,
    bytes: usize,
}

impl Inliner<'_> {
    fn nodes(&mut self, nodes: Vec<NodeProto>, depth: usize) -> Option<Vec<NodeProto>> {
        if depth > DEPTH {
            return None;
        }
        let mut made = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            for body in walk::graphs_of_mut(&mut node) {
                body.node = self.nodes(std::mem::take(&mut body.node), depth + 1)?;
            }
            let callee = self.functions.get(&name_of(&node)).copied();
            match callee.filter(|at| self.chosen.get(*at) == Some(&true)) {
                Some(callee) => {
                    let inner = self.call(callee, &node)?;
                    made.extend(self.nodes(inner, depth + 1)?);
                }
                None => made.push(node),
            }
        }
        Some(made)
    }

    /// The nodes that `call` stands for.
    fn call(&mut self, callee: usize, call: &NodeProto) -> Option<Vec<NodeProto>> {
        let function = self.list.get(callee)?;
        self.expanded.insert(callee);
        self.nodes = self.nodes.checked_sub(function.node.len())?;
        let stem = match call.name() {
            "" => call.output.iter().find(|name| !name.is_empty())?.clone(),
            name => name.to_owned(),
        };
        let mut scope = Names {
            stem: &stem,
            known: HashMap::new(),
            taken: &mut self.names,
            numbers: &mut self.numbers,
            function: (callee, function.name()),
            met: 0,
            shared: &mut self.shared,
        };
        for (at, formal) in function.input.iter().enumerate() {
            scope.known.insert(formal.clone(), call.input.get(at).cloned().unwrap_or_default());
        }
        let mut passed_on = Vec::new();
        for (at, formal) in function.output.iter().enumerate() {
            let Some(actual) = call.output.get(at).filter(|name| !name.is_empty()) else { continue };
            match scope.known.get(formal) {
                Some(known) if known.is_empty() => return None,
                Some(known) => passed_on.push(node::build("Identity", "", &[known], &[actual], vec![])),
                None => drop(scope.known.insert(formal.clone(), actual.clone())),
            }
        }
        let defaults = function.attribute_proto.iter().chain(&call.attribute);
        let given: HashMap<&str, &AttributeProto> = defaults.map(|given| (given.name(), given)).collect();
        let returned: HashSet<&str> = function.output.iter().map(String::as_str).collect();
        let mut nodes = function.node.clone();
        scope.nodes(&mut nodes, &returned, &given);
        nodes.extend(passed_on);
        let bytes = nodes.iter().map(|node| node.encoded_len()).sum();
        self.bytes = self.bytes.checked_sub(bytes)?;
        Some(nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::{GraphProto, OperatorSetIdProto};
    use super::*;

    fn function(name: &str, input: &[&str], output: &[&str], node: Vec<NodeProto>) -> FunctionProto {
        FunctionProto {
            domain: Some("f".to_owned()),
            name: Some(name.to_owned()),
            input: input.iter().map(|name| (*name).to_owned()).collect(),
            output: output.iter().map(|name| (*name).to_owned()).collect(),
            node,
            ..Default::default()
        }
    }

    fn call(name: &str, input: &str, output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
        NodeProto { domain: Some("f".to_owned()), ..node::build(name, "", &[input], &[output], attribute) }
    }

    fn model(node: Vec<NodeProto>, functions: Vec<FunctionProto>) -> ModelProto {
        let import = OperatorSetIdProto { domain: None, version: Some(18) };
        ModelProto {
            graph: Some(GraphProto { node, ..Default::default() }),
            opset_import: vec![import],
            functions,
            ..Default::default()
        }
    }

    #[test]
    fn functions_that_call_functions_take_the_attributes_of_the_call() {
        let reference = AttributeProto {
            name: Some("axis".to_owned()),
            ref_attr_name: Some("where".to_owned()),
            ..Default::default()
        };
        let inner = function(
            "Inner",
            &["a"],
            &["b"],
            vec![node::build("Softmax", "s", &["a"], &["b"], vec![reference])],
        );
        let outer = function(
            "Outer",
            &["x"],
            &["y", "x"],
            vec![
                call("Inner", "x", "t", vec![node::int_attribute("where", 1)]),
                node::build("Relu", "", &["t"], &["y"], vec![]),
            ],
        );
        let mut made = model(vec![call("Outer", "in", "out", vec![])], vec![inner, outer]);
        made.graph.as_mut().unwrap().node[0].output.push("same".to_owned());
        assert!(inline(&made).is_none(), "no weight can be in them");
        let made = inline_all(&made).unwrap();
        let nodes = &made.graph.unwrap().node;
        let ops: Vec<&str> = nodes.iter().map(|node| node.op_type()).collect();
        assert_eq!(ops, ["Softmax", "Relu", "Identity"]);
        assert_eq!(node::int(&nodes[0], "axis", -1), 1);
        assert_eq!((nodes[0].input[0].as_str(), nodes[1].output[0].as_str()), ("in", "out"));
        assert_eq!(nodes[0].output, nodes[1].input);
        assert_eq!((nodes[2].input[0].as_str(), nodes[2].output[0].as_str()), ("in", "same"));
        assert!(made.functions.is_empty());
    }

    #[test]
    fn calls_that_multiply_end_at_the_limit() {
        let mut functions = vec![function("F0", &["a"], &["a"], vec![])];
        for at in 1..30 {
            let inner = format!("F{}", at - 1);
            let nodes = vec![call(&inner, "a", "b", vec![]), call(&inner, "b", "c", vec![])];
            functions.push(function(&format!("F{at}"), &["a"], &["c"], nodes));
        }
        assert!(inline_all(&model(vec![call("F29", "in", "out", vec![])], functions)).is_none());
    }
}
