//! One node that a rule rewrites, and what the rule may do with it.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::{bodies, known::Scope};
use crate::{
    error::{Error, Result},
    onnx::proto::{
        AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, attribute_proto::AttributeType,
        tensor_proto::DataType,
    },
};

/// A copy of the node under rewriting, with the nodes that come to stand around it.
pub(super) struct Site<'s, 'm> {
    /// The node; a rule edits it in place.
    pub node: NodeProto,
    /// The opset that the node is of.
    pub opset: i64,
    /// What is known of the values that the node reads.
    pub scope: &'s Scope<'s, 'm>,
    original: &'m NodeProto,
    used: &'s dyn Fn(&str) -> bool,
    before: Vec<NodeProto>,
    after: Vec<NodeProto>,
    names: &'s mut Names,
    constants: &'s mut Constants,
}

impl<'s, 'm> Site<'s, 'm> {
    pub fn new(
        node: &'m NodeProto,
        opset: i64,
        scope: &'s Scope<'s, 'm>,
        used: &'s dyn Fn(&str) -> bool,
        names: &'s mut Names,
        constants: &'s mut Constants,
    ) -> Self {
        let (before, after) = (Vec::new(), Vec::new());
        Self { node: node.clone(), opset, scope, original: node, used, before, after, names, constants }
    }

    /// The nodes before, the node, and the nodes after.
    pub fn finish(self) -> (Vec<NodeProto>, NodeProto, Vec<NodeProto>) {
        (self.before, self.node, self.after)
    }

    /// The name of input `index`; absent when it is left out or empty.
    pub fn input(&self, index: usize) -> Option<&str> {
        self.node.input.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// The name of input `index`, which the operator cannot do without.
    pub fn required_input(&self, index: usize) -> Result<String> {
        self.input(index)
            .map(str::to_owned)
            .ok_or_else(|| self.malformed(format_args!("has no input {index}")))
    }

    /// The name of the first output.
    pub fn required_output(&self) -> Result<String> {
        match self.node.output.first() {
            Some(name) if !name.is_empty() => Ok(name.clone()),
            _ => Err(self.malformed("has no output")),
        }
    }

    /// Makes `name` input `index`, which the operator did not have at the node's opset.
    pub fn set_new_input(&mut self, index: usize, name: String) -> Result<()> {
        if self.input(index).is_some() {
            return Err(self.malformed(format_args!("has an input {index}, which came later")));
        }
        let inputs = &mut self.node.input;
        inputs.resize(inputs.len().max(index + 1), String::new());
        inputs[index] = name;
        Ok(())
    }

    /// Keeps only the first output, if nothing reads the others; otherwise says `why` that cannot be.
    pub fn keep_first_output(&mut self, why: &str) -> Result<()> {
        if self.node.output.iter().skip(1).any(|name| !name.is_empty() && (self.used)(name)) {
            return Err(self.unsupported(why));
        }
        self.node.output.truncate(1);
        Ok(())
    }

    /// Takes away the integers of `attribute`.
    pub fn take_ints(&mut self, attribute: &str) -> Result<Option<Vec<i64>>> {
        Ok(self.take(attribute, AttributeType::Ints)?.map(|found| found.ints))
    }

    /// Takes away the numbers of `attribute`.
    pub fn take_floats(&mut self, attribute: &str) -> Result<Option<Vec<f32>>> {
        Ok(self.take(attribute, AttributeType::Floats)?.map(|found| found.floats))
    }

    /// Takes away the integer of `attribute`.
    pub fn take_int(&mut self, attribute: &str) -> Result<Option<i64>> {
        Ok(self.take(attribute, AttributeType::Int)?.and_then(|found| found.i))
    }

    /// Takes away the number of `attribute`.
    pub fn take_float(&mut self, attribute: &str) -> Result<Option<f32>> {
        Ok(self.take(attribute, AttributeType::Float)?.and_then(|found| found.f))
    }

    /// The text of `attribute`.
    pub fn text(&self, attribute: &str) -> Result<Option<&str>> {
        let Some(found) = self.find(attribute, AttributeType::String)? else { return Ok(None) };
        std::str::from_utf8(found.s())
            .map(Some)
            .map_err(|_| self.malformed(format_args!("has an attribute {attribute} that is no text")))
    }

    /// What [`take_ints`](Self::take_ints) and the like say when `attribute` is missing.
    pub fn required<T>(&self, attribute: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.malformed(format_args!("has no attribute {attribute}")))
    }

    fn take(&mut self, attribute: &str, kind: AttributeType) -> Result<Option<AttributeProto>> {
        if self.find(attribute, kind)?.is_none() {
            return Ok(None);
        }
        let at = self.node.attribute.iter().position(|found| found.name() == attribute);
        Ok(at.map(|at| self.node.attribute.remove(at)))
    }

    fn find(&self, attribute: &str, kind: AttributeType) -> Result<Option<&AttributeProto>> {
        let Some(found) = self.node.attribute.iter().find(|found| found.name() == attribute) else {
            return Ok(None);
        };
        if !found.ref_attr_name().is_empty() {
            return Err(self.unsupported(format_args!("takes {attribute} from the caller of the function")));
        }
        // Undefined is what models before IR 2 have.
        if found.r#type() != kind && found.r#type() != AttributeType::Undefined {
            let what = format_args!("has an attribute {attribute} of type {}", found.r#type().as_str_name());
            return Err(self.malformed(what));
        }
        Ok(Some(found))
    }

    /// Sets `attribute`, whatever it was.
    pub fn set(&mut self, attribute: AttributeProto) {
        self.node.attribute.retain(|found| found.name() != attribute.name());
        self.node.attribute.push(attribute);
    }

    /// A constant of shape `[values.len()]`; its name begins with `efq_` and says `what` it is.
    pub fn ints(&mut self, what: &'static str, values: &[i64]) -> String {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(what, DataType::Int64, vec![values.len() as i64], raw)
    }

    /// A constant of no dimensions.
    pub fn int(&mut self, what: &'static str, value: i64) -> String {
        self.constant(what, DataType::Int64, Vec::new(), value.to_le_bytes().to_vec().into())
    }

    /// A FLOAT constant of shape `[values.len()]`.
    pub fn floats(&mut self, what: &'static str, values: &[f32]) -> String {
        let raw = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(what, DataType::Float, vec![values.len() as i64], raw)
    }

    /// A constant of no dimensions and of the element type that the value `like` has. When that type is not known
    /// here, the constant is FLOAT and a `CastLike` node (opset 15) makes it that type.
    pub fn float_like(&mut self, what: &'static str, value: f32, like: &str) -> String {
        match self.scope.element_type(like) {
            Some(DataType::Float16) => {
                let raw = half::f16::from_f32(value).to_le_bytes().to_vec();
                self.constant(what, DataType::Float16, Vec::new(), raw.into())
            }
            Some(DataType::Double) => {
                let raw = f64::from(value).to_le_bytes().to_vec();
                self.constant(what, DataType::Double, Vec::new(), raw.into())
            }
            known => {
                let raw = value.to_le_bytes().to_vec();
                let float = self.constant(what, DataType::Float, Vec::new(), raw.into());
                if known == Some(DataType::Float) {
                    return float;
                }
                self.add_before("CastLike", &[&float, like], what, Vec::new())
            }
        }
    }

    fn constant(&mut self, what: &'static str, data_type: DataType, dims: Vec<i64>, raw: Bytes) -> String {
        let key = (data_type, dims, raw);
        if let Some(name) = self.constants.named.get(&key) {
            return name.clone();
        }
        let name = self.names.fresh(what);
        let (data_type, dims, raw) = key.clone();
        self.constants.named.insert(key, name.clone());
        let mut tensor = TensorProto {
            dims,
            data_type: Some(data_type as i32),
            raw_data: Some(raw),
            ..TensorProto::default()
        };
        if self.constants.as_nodes {
            let value = AttributeProto {
                name: Some("value".to_owned()),
                t: Some(tensor),
                r#type: Some(AttributeType::Tensor as i32),
                ..AttributeProto::default()
            };
            self.before.push(node("Constant", &[], name.clone(), vec![value]));
        } else {
            tensor.name = Some(name.clone());
            self.constants.initializers.push(tensor);
        }
        name
    }

    /// Adds a node right before this one and gives the name of its output, which says `what` it is.
    pub fn add_before(
        &mut self,
        operator: &str,
        inputs: &[&str],
        what: &'static str,
        attributes: Vec<AttributeProto>,
    ) -> String {
        let output = self.names.fresh(what);
        self.before.push(node(operator, inputs, output.clone(), attributes));
        output
    }

    /// Adds a node right after this one that gives `output`.
    pub fn add_after(
        &mut self,
        operator: &str,
        inputs: &[&str],
        output: String,
        attributes: Vec<AttributeProto>,
    ) {
        let mut node = node(operator, inputs, output, attributes);
        node.name = Some(self.names.fresh("node"));
        self.after.push(node);
    }

    /// A value name that no other has; it says `what` it is.
    pub fn fresh(&mut self, what: &'static str) -> String {
        self.names.fresh(what)
    }

    /// The node is right, but cannot be expressed at the target.
    pub fn unsupported(&self, what: impl std::fmt::Display) -> Error {
        let (operator, opset) = (self.original.op_type(), self.opset);
        Error::unsupported(label(self.original), format!("{operator} of opset {opset} {what}"))
    }

    /// The node is not what its operator at its opset asks for.
    pub fn malformed(&self, what: impl std::fmt::Display) -> Error {
        let (operator, opset) = (self.original.op_type(), self.opset);
        Error::format(label(self.original), format!("{operator} of opset {opset} {what}"))
    }
}

/// How an error calls `node`.
pub(super) fn label(node: &NodeProto) -> String {
    match (node.name(), node.output.iter().find(|name| !name.is_empty())) {
        ("", Some(output)) => format!("node of {output}"),
        ("", None) => "node without name and outputs".to_owned(),
        (name, _) => name.to_owned(),
    }
}

fn node(operator: &str, inputs: &[&str], output: String, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        name: Some(output.clone()),
        output: vec![output],
        op_type: Some(operator.to_owned()),
        attribute,
        ..NodeProto::default()
    }
}

/// An integer attribute.
pub(super) fn int_attribute(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        i: Some(value),
        r#type: Some(AttributeType::Int as i32),
        ..AttributeProto::default()
    }
}

/// A text attribute.
pub(super) fn text_attribute(name: &str, value: &'static str) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        s: Some(Bytes::from_static(value.as_bytes())),
        r#type: Some(AttributeType::String as i32),
        ..AttributeProto::default()
    }
}

/// The constants that the rules add to one graph or function; equal ones are added once.
pub(super) struct Constants {
    as_nodes: bool,
    initializers: Vec<TensorProto>,
    named: HashMap<(DataType, Vec<i64>, Bytes), String>,
}

impl Constants {
    /// Constants that become `Constant` nodes before their first use, or else initializers.
    pub fn new(as_nodes: bool) -> Self {
        Self { as_nodes, initializers: Vec::new(), named: HashMap::new() }
    }

    pub fn into_initializers(self) -> Vec<TensorProto> {
        self.initializers
    }
}

/// What every new name begins with.
const PREFIX: &str = "efq_";

/// Gives names that nothing in the model has, in any scope.
pub(super) struct Names {
    /// Those of the model that begin with [`PREFIX`].
    taken: HashSet<String>,
    next: HashMap<&'static str, usize>,
}

impl Names {
    /// Names beside those of `model`.
    pub fn of(model: &ModelProto) -> Self {
        let mut names = Self { taken: HashSet::new(), next: HashMap::new() };
        model.graph.iter().for_each(|graph| names.take_graph(graph));
        for function in &model.functions {
            names.take(function.input.iter().chain(&function.output));
            names.take_nodes(&function.node);
        }
        names
    }

    /// `efq_` and `what`, with a number from the second on.
    pub fn fresh(&mut self, what: &'static str) -> String {
        let next = self.next.entry(what).or_default();
        loop {
            *next += 1;
            let name = if *next == 1 { format!("{PREFIX}{what}") } else { format!("{PREFIX}{what}_{next}") };
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }

    fn take_graph(&mut self, graph: &GraphProto) {
        let values = graph.input.iter().chain(&graph.output).chain(&graph.value_info);
        self.take(values.map(|value| value.name()));
        self.take(graph.initializer.iter().map(|tensor| tensor.name()));
        self.take(
            graph.sparse_initializer.iter().filter_map(|sparse| sparse.values.as_ref()).map(|t| t.name()),
        );
        self.take_nodes(&graph.node);
    }

    fn take_nodes(&mut self, nodes: &[NodeProto]) {
        for node in nodes {
            self.take([node.name()]);
            self.take(node.input.iter().chain(&node.output));
            bodies(node).for_each(|graph| self.take_graph(graph));
        }
    }

    fn take<S: AsRef<str>>(&mut self, names: impl IntoIterator<Item = S>) {
        let ours = names.into_iter().filter(|name| name.as_ref().starts_with(PREFIX));
        self.taken.extend(ours.map(|name| name.as_ref().to_owned()));
    }
}
