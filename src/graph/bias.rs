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

/// The constant vector that is added to the product of `site` and to nothing else, if there is one.
pub fn bias(index: &Index<'_>, site: &Site) -> Option<Bias> {
    let index = &index.of(site.at.node);
    let node = index.node(site.at.node)?;
    let vector = |operand: &Operand, rank: usize| {
        let width = operand.dims.last().copied().unwrap_or(1);
        operand.dims.iter().rev().skip(1).all(|dim| *dim == 1)
            && (width == 1 || width == site.n)
            && operand.dims.len() <= rank
    };
    if site.arrangement.as_ref().is_some_and(|arrangement| !arrangement.keeps_result()) {
        return None;
    }
    match site.form {
        Form::Gather => None,
        Form::Gemm { beta, .. } => {
            let found = operand(index, node.input.get(2).filter(|name| !name.is_empty())?)?;
            (beta != 0.0 && vector(&found, 2)).then_some(Bias {
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
            vector(&found, 1).then_some(Bias { node: at, input, operand: found })
        }
    }
}
