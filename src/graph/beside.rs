//! What stands beside a product once ONNX Runtime has tidied the graph up: it removes nodes that change nothing, and
//! moves QuantizeLinear and DequantizeLinear across nodes that only arrange values, before it looks for products to
//! fuse (measured on 1.32).

use super::index::Index;
use super::operand::{Operand, operand, stored, stored_integers};
use crate::onnx::proto::{NodeProto, tensor_proto::DataType};
use crate::onnx::{node, tensor};

/// Nodes that are looked across at most.
const STEPS: usize = 32;

/// The only node that takes `value`, if nothing else does.
pub fn sole_consumer<'g>(index: &Index<'g>, value: &str) -> Option<(usize, &'g NodeProto)> {
    match index.consumers(value) {
        [slot] if !index.is_output(value) && index.captured_by(value).is_empty() => {
            Some((slot.node, index.node(slot.node)?))
        }
        _ => None,
    }
}

/// What is added to `value`, of `kind`, and to nothing else: the Add behind nodes that are removed or transpose.
pub struct Addition {
    /// The constant that is added as it is seen there, if it is one.
    pub constant: Option<Operand>,
    /// Whether the value is transposed before: ONNX Runtime may turn that around, and the addition with it.
    pub transposed: bool,
}

impl Addition {
    /// That to `value`, if there is one.
    pub fn to(index: &Index<'_>, value: &str, kind: DataType) -> Option<Self> {
        let (mut value, mut transposed) = (value, false);
        for _ in 0..STEPS {
            let (_, next) = sole_consumer(index, value)?;
            let transposes = node::is(next, "Transpose");
            if !transposes && !is_removed(index, next, kind, value) {
                let other = next.input.iter().find(|other| *other != value);
                let constant = other.and_then(|other| operand(index, other));
                return node::is(next, "Add").then_some(Self { constant, transposed });
            }
            transposed |= transposes;
            value = next.output.first()?;
        }
        None
    }

    /// Whether it adds a constant vector of `n` values, or one number, to the rows as they are.
    pub fn is_bias(&self, n: usize) -> bool {
        !self.transposed && self.constant.as_ref().is_some_and(|found| found.is_bias(n, 1))
    }
}

/// Whether `value`, of `kind`, comes from a DequantizeLinear that ends up right before its user.
pub fn is_dequantized(index: &Index<'_>, value: &str, kind: DataType) -> bool {
    let (mut index, mut value) = (index.clone(), value);
    for _ in 0..STEPS {
        let Some((at, made)) = index.producer(value) else { return false };
        if is_step(made, "DequantizeLinear") {
            return true;
        }
        index = index.of(at);
        let slot = given_back(&index, made, kind).or_else(|| is_crossed(made).then_some(0));
        match slot.and_then(|slot| made.input.get(slot)).filter(|name| operand(&index, name).is_none()) {
            Some(input) => value = input,
            None => return false,
        }
    }
    false
}

/// Whether `value`, of `kind`, goes to a QuantizeLinear that ends up right behind its maker. `through` says what else
/// is joined with the maker, and so is looked across.
pub fn is_quantized_next(
    index: &Index<'_>,
    value: &str,
    kind: DataType,
    through: &dyn Fn(&NodeProto) -> bool,
) -> bool {
    quantized_within(index, value, kind, through, STEPS)
}

fn quantized_within(
    index: &Index<'_>,
    value: &str,
    kind: DataType,
    through: &dyn Fn(&NodeProto) -> bool,
    left: usize,
) -> bool {
    let alone = sole_consumer(index, value).is_some();
    left > 0
        && index.consumers(value).iter().any(|slot| {
            let Some(next) = index.node(slot.node) else { return false };
            // Followed by one slot, every value is reached once.
            let across = given_back(index, next, kind) == Some(slot.input)
                || alone && (is_crossed(next) && slot.input == 0 || through(next));
            let output = next.output.first().filter(|_| across);
            is_step(next, "QuantizeLinear")
                || output.is_some_and(|output| quantized_within(index, output, kind, through, left - 1))
        })
}

/// Whether the node is `step`, of ONNX or of ONNX Runtime.
fn is_step(node: &NodeProto, step: &str) -> bool {
    node.op_type() == step && matches!(node.domain(), "" | "ai.onnx" | "com.microsoft")
}

/// Whether ONNX Runtime moves QuantizeLinear and DequantizeLinear to the other side of the node.
fn is_crossed(made: &NodeProto) -> bool {
    node::is_default_domain(made)
        && matches!(made.op_type(), "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze" | "Slice" | "MaxPool")
}

/// Whether ONNX Runtime may remove the node, as one that gives back `value`, of `kind`, as it is.
fn is_removed(index: &Index<'_>, made: &NodeProto, kind: DataType, value: &str) -> bool {
    given_back(index, made, kind).and_then(|slot| made.input.get(slot)).is_some_and(|name| name == value)
}

/// The input, of `kind`, that the node gives back as it is, if it does, so that ONNX Runtime may remove the node.
fn given_back(index: &Index<'_>, made: &NodeProto, kind: DataType) -> Option<usize> {
    if !node::is_default_domain(made) {
        return None;
    }
    let given = |at: usize| made.input.get(at).filter(|name| !name.is_empty());
    let is = |at: usize, wanted: f32| given(at).is_some_and(|name| number(index, name) == Some(wanted));
    let first = match made.op_type() {
        "Identity" => true,
        "Dropout" => {
            let mask = made.output.get(1).filter(|name| !name.is_empty());
            given(2).is_none()
                && mask.is_none_or(|mask| index.consumers(mask).is_empty() && !index.is_output(mask))
        }
        "Cast" => node::int(made, "to", 0) == i64::from(kind as i32),
        "Mul" if is(0, 1.0) => return Some(1),
        "Add" if is(0, 0.0) => return Some(1),
        "Mul" | "Div" => is(1, 1.0),
        "Add" | "Sub" => is(1, 0.0),
        // One that repeats nothing; whether it does is not known here.
        "Expand" => given(1).is_some_and(|shape| operand(index, shape).is_some()),
        "Slice" => {
            let integers = |at: usize, name: &str| match node::ints(made, name) {
                Some(values) => Some(values.to_vec()),
                None => stored_integers(index, given(at)?),
            };
            let all = |values: Option<Vec<i64>>, wanted: i64| {
                values.is_some_and(|values| values.iter().all(|value| *value == wanted))
            };
            all(integers(1, "starts"), 0)
                && all(integers(2, "ends"), i64::MAX)
                && (given(4).is_none() || all(integers(4, "steps"), 1))
        }
        _ => false,
    };
    first.then_some(0)
}

/// The constant `name`, if it is one number.
fn number(index: &Index<'_>, name: &str) -> Option<f32> {
    let found = operand(index, name).filter(|found| found.dims.iter().product::<usize>() == 1)?;
    tensor::floats(stored(index, found.origin)?)?.first().copied()
}
