//! Planning every rewrite before the first one is made, so that a refusal leaves the model as it was.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashSet},
};

use super::{
    LOWEST, TARGET, bodies, bodies_mut, default_opset, is_default,
    known::Scope,
    site::{Constants, Names, Site},
    table::{self, Need},
};
use crate::{
    error::{Error, Result},
    onnx::proto::{FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto},
};

/// What raising a model takes.
pub(super) struct Plan {
    pub from: i64,
    /// Absent when the model is at [`TARGET`] or above already.
    rewrites: Option<Rewrites>,
}

struct Rewrites {
    graph: Body,
    functions: Vec<Body>,
}

/// The rewrites of one list of nodes.
#[derive(Default)]
struct Body {
    /// By index of the node, ascending.
    nodes: Vec<(usize, Replacement)>,
    initializers: Vec<TensorProto>,
    /// Of every body in the nodes' attributes, in order.
    bodies: Vec<Body>,
}

/// What stands in place of one node.
struct Replacement {
    before: Vec<NodeProto>,
    node: NodeProto,
    after: Vec<NodeProto>,
}

/// What is the same for all nodes of a model.
struct Planner<'m> {
    model: &'m ModelProto,
    /// Operators that model-local functions define, by domain and name.
    defined: HashSet<(&'m str, &'m str)>,
    names: Names,
    used: OnceCell<HashSet<&'m str>>,
}

/// Where the nodes are that are planned.
#[derive(Clone, Copy)]
struct Place {
    opset: Option<i64>,
    in_function: bool,
    /// Whether initializers that are graph inputs too can be overridden by a caller.
    overridable: bool,
}

/// Plans raising `model`.
pub(super) fn model(model: &ModelProto) -> Result<Plan> {
    let opset = default_opset(&model.opset_import)?;
    // A model without the default domain needs only the import.
    let from = opset.unwrap_or(TARGET);
    if from >= TARGET && opset.is_some() {
        return Ok(Plan { from, rewrites: None });
    }
    at_least_lowest("model", opset)?;
    if !model.training_info.is_empty() {
        return Err(Error::unsupported(
            "model",
            format!("it carries training graphs, which efq does not raise from opset {from}"),
        ));
    }
    let mut planner = Planner {
        model,
        defined: model.functions.iter().map(|f| (plain_domain(f.domain()), f.name())).collect(),
        names: Names::of(model),
        used: OnceCell::new(),
    };
    let overridable = model.ir_version() >= super::OPTIONAL_INPUT_IR;
    let place = Place { opset, in_function: false, overridable };
    let graph = match &model.graph {
        Some(graph) => planner.graph(graph, place, None)?,
        None => Body::default(),
    };
    let mut functions = Vec::with_capacity(model.functions.len());
    for function in &model.functions {
        let body = planner.function(function, opset)?;
        functions.push(body);
    }
    Ok(Plan { from, rewrites: Some(Rewrites { graph, functions }) })
}

fn at_least_lowest(subject: &str, opset: Option<i64>) -> Result<()> {
    match opset {
        Some(opset) if opset < LOWEST => {
            let what = format!("opset {opset} is older than {LOWEST}, the oldest that efq raises");
            Err(Error::unsupported(subject, what).help("raise it first with onnx.version_converter"))
        }
        _ => Ok(()),
    }
}

/// `domain` with the default one spelled one way.
fn plain_domain(domain: &str) -> &str {
    if is_default(domain) { "" } else { domain }
}

impl<'m> Planner<'m> {
    fn graph(&mut self, graph: &'m GraphProto, place: Place, outer: Option<&Scope<'_, 'm>>) -> Result<Body> {
        let scope = Scope::of_graph(graph, outer, place.overridable);
        self.nodes(&graph.node, place, scope)
    }

    fn function(&mut self, function: &'m FunctionProto, model_opset: Option<i64>) -> Result<Body> {
        let subject = format!("function {}:{}", function.domain(), function.name());
        let opset = default_opset(&function.opset_import).map_err(|error| error.within(&subject))?;
        at_least_lowest(&subject, opset)?;
        if let Some(opset) = opset
            && opset > TARGET
        {
            let what = format!("opset {opset} is above {TARGET}, to which the model is raised");
            return Err(Error::unsupported(subject, what));
        }
        if function.attribute_proto.iter().any(|default| default.g.is_some() || !default.graphs.is_empty()) {
            return Err(Error::unsupported(
                subject,
                "it has a graph as default of an attribute, which is not raised",
            ));
        }
        let place = Place { opset: opset.or(model_opset), in_function: true, overridable: true };
        self.nodes(&function.node, place, Scope::of_function(function)).map_err(|error| error.within(subject))
    }

    fn nodes(&mut self, nodes: &'m [NodeProto], place: Place, mut scope: Scope<'_, 'm>) -> Result<Body> {
        let mut body = Body::default();
        let mut constants = Constants::new(place.in_function);
        for (index, node) in nodes.iter().enumerate() {
            for graph in bodies(node) {
                body.bodies.push(self.graph(graph, place, Some(&scope))?);
            }
            let operator = self.is_operator(node);
            if operator && let Some(replacement) = self.operator(node, place, &scope, &mut constants)? {
                body.nodes.push((index, replacement));
            }
            scope.learn(node, operator);
        }
        body.initializers = constants.into_initializers();
        Ok(body)
    }

    /// Whether `node` is an operator of the default domain and not a call of a function of that name.
    fn is_operator(&self, node: &NodeProto) -> bool {
        is_default(node.domain()) && !self.defined.contains(&("", node.op_type()))
    }

    fn operator(
        &mut self,
        node: &'m NodeProto,
        place: Place,
        scope: &Scope<'_, 'm>,
        constants: &mut Constants,
    ) -> Result<Option<Replacement>> {
        let absent = |opset| {
            let what = format!("opset {opset} has no operator {}", node.op_type());
            Error::unsupported(super::site::label(node), what)
        };
        let Some(opset) = place.opset else {
            let what = format!("{} is used without an opset import for it", node.op_type());
            return Err(Error::format(super::site::label(node), what));
        };
        let need = table::find(node.op_type()).map_or(Need::Absent, |operator| operator.need(opset));
        let rewrite = match need {
            Need::Nothing => return Ok(None),
            Need::Absent => return Err(absent(opset)),
            Need::Rewrite(rewrite) => rewrite,
        };
        let used = |name: &str| self.used.get_or_init(|| used_values(self.model)).contains(name);
        let mut site = Site::new(node, opset, scope, &used, &mut self.names, constants);
        rewrite(&mut site)?;
        let (before, node, after) = site.finish();
        Ok(Some(Replacement { before, node, after }))
    }
}

/// Every value of the model that a node reads or that a graph or function gives, in all scopes.
fn used_values(model: &ModelProto) -> HashSet<&str> {
    fn of_nodes<'m>(nodes: &'m [NodeProto], used: &mut HashSet<&'m str>) {
        for node in nodes {
            used.extend(node.input.iter().map(String::as_str));
            bodies(node).for_each(|graph| of_graph(graph, used));
        }
    }
    fn of_graph<'m>(graph: &'m GraphProto, used: &mut HashSet<&'m str>) {
        used.extend(graph.output.iter().map(|value| value.name()));
        of_nodes(&graph.node, used);
    }
    let mut used = HashSet::new();
    model.graph.iter().for_each(|graph| of_graph(graph, &mut used));
    for function in &model.functions {
        used.extend(function.output.iter().map(String::as_str));
        of_nodes(&function.node, &mut used);
    }
    used
}

impl Plan {
    /// Makes the planned rewrites and declares [`TARGET`]; counts the nodes in `converted` by operator.
    pub fn apply(self, model: &mut ModelProto, converted: &mut BTreeMap<String, usize>) {
        let Some(Rewrites { graph: body, functions }) = self.rewrites else { return };
        if let Some(graph) = &mut model.graph {
            body.apply(&mut graph.node, &mut graph.initializer, converted);
        }
        for (function, body) in model.functions.iter_mut().zip(functions) {
            // A function has no initializers, so its constants were planned as nodes.
            body.apply(&mut function.node, &mut Vec::new(), converted);
            declare_target(&mut function.opset_import, false);
        }
        declare_target(&mut model.opset_import, true);
    }
}

/// Sets the default domain's import to [`TARGET`]; without one, adds it if `add` says so.
fn declare_target(imports: &mut Vec<OperatorSetIdProto>, add: bool) {
    let mut found = false;
    for import in imports.iter_mut().filter(|import| is_default(import.domain())) {
        import.version = Some(TARGET);
        found = true;
    }
    if !found && add {
        imports.push(OperatorSetIdProto { domain: Some(String::new()), version: Some(TARGET) });
    }
}

impl Body {
    fn apply(
        self,
        nodes: &mut Vec<NodeProto>,
        initializers: &mut Vec<TensorProto>,
        converted: &mut BTreeMap<String, usize>,
    ) {
        for (graph, body) in nodes.iter_mut().flat_map(bodies_mut).zip(self.bodies) {
            body.apply(&mut graph.node, &mut graph.initializer, converted);
        }
        initializers.extend(self.initializers);
        if self.nodes.is_empty() {
            return;
        }
        let mut replacements = self.nodes.into_iter().peekable();
        for (index, node) in std::mem::take(nodes).into_iter().enumerate() {
            match replacements.next_if(|(at, _)| *at == index) {
                None => nodes.push(node),
                Some((_, replacement)) => {
                    *converted.entry(node.op_type().to_owned()).or_default() += 1;
                    nodes.extend(replacement.before);
                    nodes.push(replacement.node);
                    nodes.extend(replacement.after);
                }
            }
        }
    }
}
