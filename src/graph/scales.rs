//! The constant scales of a quantized weight, through the nodes that let them be stored in fewer bits: a Cast, and
//! behind it a Mul by one number.

use super::index::Index;
use crate::onnx::proto::TensorProto;
use crate::onnx::{node, tensor};

/// Scales as they are stored, and how they are read.
#[derive(Debug, Clone, Copy)]
pub struct Scales<'g> {
    /// The stored tensor.
    pub stored: &'g TensorProto,
    /// The number that multiplies every one of them, where there is a Mul.
    pub unit: Option<f32>,
    /// Whether each value between the tensor and its use is used once.
    pub private: bool,
}

impl<'g> Scales<'g> {
    /// Those that `name` carries; `None` where they are computed in another way.
    pub fn of(index: &Index<'g>, name: &str) -> Option<Self> {
        let once = |name: &str| index.consumers(name).len() == 1;
        let made_by = |name: &str, operator: &str| {
            index.producer(name).map(|(_, made)| made).filter(|made| node::is(made, operator))
        };
        let number = |name: &str| match tensor::floats(index.initializer(name)?.1)?.as_slice() {
            [number] => Some(*number),
            _ => None,
        };
        let (mut name, mut private, mut unit) = (name, true, None);
        if let Some([codes, factor]) = made_by(name, "Mul").map(|mul| mul.input.as_slice()) {
            private = once(name);
            unit = Some(number(factor)?);
            name = codes;
        }
        if let Some([stored]) = made_by(name, "Cast").map(|cast| cast.input.as_slice()) {
            private &= once(name);
            name = stored;
        }
        Some(Self { stored: index.initializer(name)?.1, unit, private })
    }

    /// Their values, bit for bit as ONNX Runtime computes them; `None` for a type that holds no numbers.
    pub fn values(&self) -> Option<Vec<f32>> {
        let mut values = tensor::floats(self.stored).or_else(|| tensor::byte_values(self.stored))?;
        if let Some(unit) = self.unit {
            values.iter_mut().for_each(|value| *value *= unit);
        }
        Some(values)
    }
}
