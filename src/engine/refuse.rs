//! What the runtime would compute wrongly without a word, or cannot run at all: refused by name beforehand.

use super::nbits;
use crate::error::{Error, Result};
use crate::onnx::proto::{GraphProto, NodeProto};
use crate::onnx::{Checked, Model, node, node_subject, walk};

/// A condition under which an operator comes out wrong.
type Wrong = (&'static str, fn(&NodeProto) -> bool, &'static str);

/// Measured against ONNX's own node tests with tract 0.23.9.
const WRONG: &[Wrong] = &[
    ("Attention", |_| true, "masks and windows of Attention"),
    ("LSTM", |node| text(node, "direction") == Some(b"reverse"), "LSTM with direction=reverse"),
    ("GRU", |node| text(node, "direction") == Some(b"reverse"), "GRU with direction=reverse"),
    ("RNN", |node| text(node, "direction") == Some(b"reverse"), "RNN with direction=reverse"),
    ("SpaceToDepth", |node| text(node, "mode").is_some(), "SpaceToDepth with a mode"),
    ("Swish", |node| node::float(node, "alpha", 1.0) != 1.0, "Swish with alpha other than 1"),
    ("BitShift", |_| true, "BitShift by the width of the type"),
    ("Loop", |_| true, "Loop"),
];

/// Refuses what must not be run.
///
/// # Errors
/// [`crate::error::Kind::Unsupported`] naming the node and what stands against it.
pub(super) fn refuse(model: &Checked<Model>) -> Result<()> {
    if let Some(function) = model.proto.functions.first() {
        let name = format!("function '{}.{}'", function.domain(), function.name());
        return Err(Error::unsupported(name, "the runtime does not know model-local functions"));
    }
    let mut found = None;
    let mut visit = |graph: &GraphProto, depth: usize| {
        if let Some(sparse) = graph.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or("", |values| values.name());
            found.get_or_insert((
                format!("tensor '{name}'"),
                "the runtime does not know sparse tensors".to_owned(),
            ));
        }
        for node in &graph.node {
            let operator = if node.domain().is_empty() {
                node.op_type().to_owned()
            } else {
                format!("{}.{}", node.domain(), node.op_type())
            };
            // Lowering makes a product of it, in the main graph.
            let known = depth == 0 && nbits::is_nbits(node);
            if !node::is_default_domain(node) && !known {
                found.get_or_insert((node_subject(node), format!("the runtime does not know {operator}")));
            }
            let wrong = WRONG.iter().find(|(op, when, _)| *op == node.op_type() && when(node));
            if let Some((_, _, what)) = wrong {
                found.get_or_insert((
                    node_subject(node),
                    format!("the runtime does not compute {what} right"),
                ));
            }
        }
    };
    visit(model.graph(), 0);
    walk::bodies(&model.graph().node, &mut |body| visit(body, 1));
    match found {
        None => Ok(()),
        Some((subject, what)) => Err(Error::unsupported(subject, what)),
    }
}

fn text<'a>(node: &'a NodeProto, name: &str) -> Option<&'a [u8]> {
    node::attribute(node, name).and_then(|attribute| attribute.s.as_deref())
}
