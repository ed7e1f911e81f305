//! What can be said of a value without running the model: its element type, its rank, its constant.
//!
//! Rules work without it, but give a simpler form with it. Exporters declare few types of inner values, so they are
//! followed through the operators that matter before the values do: those around attention and convolutions.

use std::collections::HashMap;

use super::table;
use crate::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto,
    tensor_proto::DataType, type_proto,
};

/// Greater ranks, and longer vectors of dimensions, are not followed.
const MAX_RANK: usize = 64;

/// What is known of one value; nothing by default.
#[derive(Debug, Clone, Copy, Default)]
struct Value<'m> {
    element_type: Option<DataType>,
    rank: Option<usize>,
    /// Elements of a vector that may hold dimensions or axes.
    length: Option<usize>,
    tensor: Option<&'m TensorProto>,
}

/// The values of a graph or function, and those of the graphs around it.
pub(super) struct Scope<'o, 'm> {
    outer: Option<&'o Scope<'o, 'm>>,
    values: HashMap<&'m str, Value<'m>>,
}

impl<'o, 'm> Scope<'o, 'm> {
    /// What `graph` declares. Initializers that are inputs too are no constants if a caller may override them.
    pub fn of_graph(graph: &'m GraphProto, outer: Option<&'o Self>, overridable: bool) -> Self {
        let mut scope = Self { outer, values: HashMap::new() };
        for value in graph.value_info.iter().chain(&graph.output).chain(&graph.input) {
            scope.declare(value);
        }
        let inputs: std::collections::HashSet<_> = graph.input.iter().map(|value| value.name()).collect();
        for tensor in &graph.initializer {
            let mut value = Value::of_tensor(tensor);
            if overridable && inputs.contains(tensor.name()) {
                value.tensor = None;
            }
            scope.values.insert(tensor.name(), value);
        }
        scope
    }

    /// What `function` declares.
    pub fn of_function(function: &'m FunctionProto) -> Self {
        let mut scope = Self { outer: None, values: HashMap::new() };
        function.value_info.iter().for_each(|value| scope.declare(value));
        scope
    }

    fn declare(&mut self, value: &'m ValueInfoProto) {
        let known = self.values.entry(value.name()).or_default();
        if let Some(type_proto::Value::TensorType(tensor)) =
            value.r#type.as_ref().and_then(|t| t.value.as_ref())
        {
            let element_type = tensor.elem_type.and_then(|code| DataType::try_from(code).ok());
            known.element_type = element_type.or(known.element_type);
            known.rank = tensor.shape.as_ref().map(|shape| shape.dim.len()).or(known.rank);
        }
    }

    fn value(&self, name: &str) -> Value<'m> {
        match (self.values.get(name), self.outer) {
            (Some(value), _) => *value,
            (None, Some(outer)) => outer.value(name),
            (None, None) => Value::default(),
        }
    }

    /// The element type of the value `name`, if known.
    pub fn element_type(&self, name: &str) -> Option<DataType> {
        self.value(name).element_type
    }

    /// The rank of the value `name`, if known.
    pub fn rank(&self, name: &str) -> Option<usize> {
        self.value(name).rank
    }

    /// Whether the value `name` is a constant without elements.
    pub fn is_empty(&self, name: &str) -> bool {
        let value = self.value(name);
        value.tensor.is_some() && value.length == Some(0)
    }

    /// The numbers of the constant `name`, if it is one of FLOAT and stored in the model.
    pub fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.value(name).tensor?;
        if tensor.data_type() != DataType::Float as i32 {
            return None;
        }
        match &tensor.raw_data {
            Some(raw) => {
                Some(raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
            }
            None if tensor.external_data.is_empty() => Some(tensor.float_data.clone()),
            None => None,
        }
    }

    /// Follows what is known through `node` to its first output, if it is an operator of the default domain.
    pub fn learn(&mut self, node: &'m NodeProto, operator: bool) {
        for (index, output) in node.output.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            let inferred = if operator && index == 0 { self.infer(node) } else { Value::default() };
            let declared = self.values.get(output.as_str()).copied().unwrap_or_default();
            let value = Value {
                element_type: declared.element_type.or(inferred.element_type),
                rank: declared.rank.or(inferred.rank),
                ..inferred
            };
            self.values.insert(output, value);
        }
    }

    fn infer(&self, node: &'m NodeProto) -> Value<'m> {
        let input = |index: usize| node.input.get(index).map(|name| self.value(name)).unwrap_or_default();
        // What the caller of a function gives is not known here.
        if node.attribute.iter().any(|attribute| !attribute.ref_attr_name().is_empty()) {
            return Value::default();
        }
        if node.op_type() == "Constant" {
            let tensor = attribute(node, "value").and_then(|value| value.t.as_ref());
            return tensor.map(Value::of_tensor).unwrap_or_default();
        }
        let element_type = match node.op_type() {
            "Cast" => {
                let code = attribute(node, "to").and_then(|to| i32::try_from(to.i()).ok());
                code.and_then(|code| DataType::try_from(code).ok())
            }
            "Where" => input(1).element_type,
            name if table::find(name).is_some_and(|operator| operator.keeps_type) => input(0).element_type,
            _ => None,
        };
        let length = self.vector_length(node).filter(|length| *length <= MAX_RANK);
        let rank =
            if length.is_some() { Some(1) } else { self.infer_rank(node).filter(|rank| *rank <= MAX_RANK) };
        Value { element_type, rank, length, tensor: None }
    }

    fn infer_rank(&self, node: &NodeProto) -> Option<usize> {
        let input = |index: usize| node.input.get(index).map(|name| self.value(name)).unwrap_or_default();
        let widest = || {
            node.input.iter().map(|name| self.rank(name)).try_fold(0, |most, rank| rank.map(|r| most.max(r)))
        };
        match node.op_type() {
            name if BROADCAST.contains(&name) => widest(),
            "MatMul" => widest().filter(|_| (0..2).all(|index| input(index).rank >= Some(2))),
            "Gemm" | "Flatten" => Some(2),
            "Range" | "Shape" => Some(1),
            "GRU" | "LSTM" | "RNN" => Some(4),
            "Transpose" => attribute(node, "perm").map(|perm| perm.ints.len()).or(input(0).rank),
            "Reshape" => input(1).length,
            "ConstantOfShape" => input(0).length,
            "Expand" => Some(input(0).rank?.max(input(1).length?)),
            "Gather" => (input(0).rank? + input(1).rank?).checked_sub(1),
            "Unsqueeze" => Some(input(0).rank? + self.axes(node)?),
            "Squeeze" => input(0).rank?.checked_sub(self.axes(node)?),
            name if name.starts_with("Reduce") => {
                let keeps = attribute(node, "keepdims").is_none_or(|keepdims| keepdims.i() != 0);
                if keeps { input(0).rank } else { input(0).rank?.checked_sub(self.axes(node)?) }
            }
            name if SAME_RANK.contains(&name) => input(0).rank,
            _ => None,
        }
    }

    /// How many axes `node` lists, as attribute or as input 1.
    fn axes(&self, node: &NodeProto) -> Option<usize> {
        match attribute(node, "axes") {
            Some(axes) => Some(axes.ints.len()),
            None => self.value(node.input.get(1)?).length,
        }
    }

    /// The length of the first output if it is a vector, as those that hold shapes are.
    fn vector_length(&self, node: &NodeProto) -> Option<usize> {
        let first = self.value(node.input.first()?);
        match node.op_type() {
            // Attributes start and end take a part of it.
            "Shape" if node.attribute.is_empty() => first.rank,
            "Unsqueeze" if first.rank == Some(0) && self.axes(node) == Some(1) => Some(1),
            "Cast" | "Identity" => first.length,
            "Reshape" if self.value(node.input.get(1)?).length == Some(1) => first.length,
            "Concat" => node.input.iter().map(|name| self.value(name).length).sum(),
            name if BROADCAST.contains(&name) => {
                let mut length = None;
                for value in node.input.iter().map(|name| self.value(name)) {
                    if value.rank? > 1 {
                        return None;
                    }
                    // A vector of another length can only be one of length 1.
                    length = length.or(value.length.filter(|length| *length != 1));
                }
                length
            }
            _ => None,
        }
    }
}

/// Operators whose first output has the shape to which the inputs broadcast.
#[rustfmt::skip]
const BROADCAST: &[&str] = &[
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean",
    "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
];

/// Operators whose first output has the rank of the first input.
#[rustfmt::skip]
const SAME_RANK: &[&str] = &[
    "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip", "Concat", "Conv", "ConvTranspose",
    "CumSum", "Dropout", "Elu", "Erf", "Exp", "Floor", "GlobalAveragePool", "GlobalMaxPool",
    "HardSigmoid", "Hardmax", "Identity", "InstanceNormalization", "LRN", "LayerNormalization",
    "LeakyRelu", "Log", "LogSoftmax", "MaxPool", "Neg", "Not", "Pad", "Reciprocal", "Relu", "Resize",
    "ScatterElements", "ScatterND", "Selu", "Sigmoid", "Sign", "Slice", "Softmax", "Softplus", "Softsign",
    "Split", "Sqrt", "Tanh", "Tile", "TopK", "Upsample",
];

impl<'m> Value<'m> {
    fn of_tensor(tensor: &'m TensorProto) -> Self {
        let length = match tensor.dims[..] {
            [length] => usize::try_from(length).ok().filter(|length| *length <= MAX_RANK),
            _ => None,
        };
        Self {
            element_type: DataType::try_from(tensor.data_type()).ok(),
            rank: Some(tensor.dims.len()),
            length,
            tensor: Some(tensor),
        }
    }
}

fn attribute<'m>(node: &'m NodeProto, name: &str) -> Option<&'m AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name() == name)
}
