//! Products of a weight whose activation or result has its axes in another order than `rows · W`.

use crate::onnx::node;
use crate::onnx::proto::{NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::tensor;

/// How the axes of an activation become rows of K values, and rows of N values the result.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arrangement {
    /// Order that puts the axes of the activation that are summed over last; empty: they are.
    pub before: Vec<usize>,
    /// The axes before those; `None` where their number is not known.
    pub lead: Option<usize>,
    /// Sizes of the axes that are summed over: they make K.
    pub summed: Vec<usize>,
    /// Sizes of the axes of the result that N is made of.
    pub made: Vec<usize>,
    /// Order of the product's axes, of which those are the last, in the result; empty: as they are.
    pub after: Vec<usize>,
}

/// The nodes around a plain product.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Frame {
    /// What makes `rows`.
    pub before: Vec<NodeProto>,
    /// The activation of the product.
    pub rows: String,
    /// The result of the product.
    pub product: String,
    /// What makes the old result of that; empty where it is that.
    pub after: Vec<NodeProto>,
    /// Shapes that these take.
    pub shapes: Vec<TensorProto>,
}

impl Arrangement {
    /// That of rows and columns changed over, before or after the product, for an activation of `rank`.
    pub(super) fn turned(rank: usize, (k, n): (usize, usize), before: bool, after: bool) -> Self {
        let mut order: Vec<usize> = (0..rank).collect();
        if let [.., a, b] = order.as_mut_slice() {
            std::mem::swap(a, b);
        }
        let wanted = |turned: bool| if turned && rank > 1 { order.clone() } else { Vec::new() };
        Self {
            before: wanted(before),
            lead: rank.checked_sub(1),
            summed: vec![k],
            made: vec![n],
            after: wanted(after),
        }
    }

    /// Whether it changes nothing.
    pub(super) fn is_plain(&self) -> bool {
        self.before.is_empty() && self.summed.len() < 2 && self.keeps_result()
    }

    /// Whether the product is the result.
    pub fn keeps_result(&self) -> bool {
        self.after.is_empty() && self.made.len() < 2
    }

    /// The nodes that make rows of `activation`, and `result` of the product; `name` gives names that are free.
    pub(super) fn frame(
        &self,
        activation: &str,
        result: &str,
        name: &mut dyn FnMut(&str) -> String,
    ) -> Frame {
        let mut frame = Frame { rows: activation.to_owned(), product: result.to_owned(), ..Frame::default() };
        let mut steps = Vec::new();
        if !self.before.is_empty() {
            steps.push(Step::Transpose(&self.before));
        }
        if self.summed.len() > 1 {
            steps.push(Step::Reshape(vec![self.summed.iter().product()]));
        }
        for step in steps {
            let made = name(&format!("{result}_rows"));
            let node = self.step(&step, &frame.rows, &made, name, &mut frame.shapes);
            frame.before.push(node);
            frame.rows = made;
        }
        let mut steps = Vec::new();
        if self.made.len() > 1 {
            steps.push(Step::Reshape(self.made.clone()));
        }
        if !self.after.is_empty() {
            steps.push(Step::Transpose(&self.after));
        }
        let last = steps.len().saturating_sub(1);
        for (at, step) in steps.iter().enumerate() {
            if at == 0 {
                frame.product = name(&format!("{result}_product"));
            }
            let made = if at == last { result.to_owned() } else { name(&format!("{result}_apart")) };
            let from = frame.after.last().and_then(|node| node.output.first()).unwrap_or(&frame.product);
            let node = self.step(step, &from.clone(), &made, name, &mut frame.shapes);
            frame.after.push(node);
        }
        frame
    }

    fn step(
        &self,
        step: &Step<'_>,
        input: &str,
        output: &str,
        name: &mut dyn FnMut(&str) -> String,
        shapes: &mut Vec<TensorProto>,
    ) -> NodeProto {
        let number = |value: &usize| i64::try_from(*value).unwrap_or(i64::MAX);
        match step {
            Step::Transpose(order) => {
                let order: Vec<i64> = order.iter().map(number).collect();
                let perm = vec![node::ints_attribute("perm", &order)];
                node::build("Transpose", &name(&format!("{output}_Transpose")), &[input], &[output], perm)
            }
            Step::Reshape(sizes) => {
                // 0 stands for the size that is there.
                let kept = std::iter::repeat_n(0, self.lead.unwrap_or(0));
                let sizes: Vec<i64> = kept.chain(sizes.iter().map(number)).collect();
                let shape = name(&format!("{output}_shape"));
                let raw: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
                shapes.push(tensor::from_raw(&shape, DataType::Int64, &[sizes.len()], raw));
                node::build(
                    "Reshape",
                    &name(&format!("{output}_Reshape")),
                    &[input, &shape],
                    &[output],
                    vec![],
                )
            }
        }
    }
}

enum Step<'a> {
    Transpose(&'a [usize]),
    /// The axes behind the leading ones, in these sizes.
    Reshape(Vec<usize>),
}
