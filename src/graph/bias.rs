//! The bias that follows a linear.

use super::beside::sole_consumer;
use super::index::Index;
use super::operand::{Operand, operand};
use super::site::{Form, Site};
use crate::onnx::node;

/// Where the constant bias of a linear is added.
#[derive(Debug, Clone, PartialEq)]
pub struct Bias {
    /// The Add behind a MatMul, or the Gemm itself.
    pub node: usize,
    /// The slot of the bias in that node.
    pub input: usize,
    /// The bias as that node sees it: N values, or one.
    pub operand: Operand,
}

impl Operand {
    /// Whether it adds the same to every row of `n` values: N values or one, in at most `rank` dimensions. One of a higher
    /// rank than the product would raise that of the sum.
    pub fn is_bias(&self, n: usize, rank: usize) -> bool {
        self.dims.iter().rev().skip(1).all(|dim| *dim == 1)
            && [1, n].contains(&self.width())
            && self.dims.len() <= rank
    }

    /// What it adds to each of `n` columns; `values` are those that are stored.
    pub fn by_column(&self, values: &[f32], n: usize) -> Option<Vec<f32>> {
        let step = if self.width() == 1 { 0 } else { self.strides.last().copied().unwrap_or(1) };
        (0..n).map(|column| values.get(column * step).copied()).collect()
    }

    fn width(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }
}

/// The constant vector that is added to the product of `site` and to nothing else, if there is one.
pub fn bias(index: &Index<'_>, site: &Site) -> Option<Bias> {
    let index = &index.of(site.at.node);
    let node = index.node(site.at.node)?;
    if site.arrangement.as_ref().is_some_and(|arrangement| !arrangement.keeps_result()) {
        return None;
    }
    match site.form {
        Form::Gather => None,
        Form::Gemm { beta, .. } => {
            let found = operand(index, node.input.get(2).filter(|name| !name.is_empty())?)?;
            (beta != 0.0 && found.is_bias(site.n, 2)).then_some(Bias {
                node: site.at.node,
                input: 2,
                operand: found,
            })
        }
        Form::MatMul => {
            let product = node.output.first()?;
            let (at, add) = sole_consumer(index, product).filter(|(_, next)| node::is(next, "Add"))?;
            let input = add.input.iter().position(|name| name != product)?;
            let found = operand(index, add.input.get(input)?)?;
            found.is_bias(site.n, 1).then_some(Bias { node: at, input, operand: found })
        }
    }
}
