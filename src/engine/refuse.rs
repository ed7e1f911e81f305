//! What the runtime would compute wrongly without a word, or cannot run at all: refused by name beforehand.

use crate::error::{Error, Result};
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto};
use crate::onnx::{node, node_subject, walk};

/// A condition under which an operator comes out wrong.
type Wrong = (&'static str, fn(&NodeProto) -> bool, &'static str);

/// Measured against ONNX's own node tests with tract 0.23.9.
const WRONG: &[Wrong] = &[
    ("Attention", |node| !is_plain_attention(node), "Attention with a mask, a window or a causal cache"),
    ("LSTM", |node| text(node, "direction") == Some(b"reverse"), "LSTM with direction=reverse"),
    ("GRU", |node| text(node, "direction") == Some(b"reverse"), "GRU with direction=reverse"),
    ("RNN", |node| text(node, "direction") == Some(b"reverse"), "RNN with direction=reverse"),
    ("SpaceToDepth", |node| text(node, "mode").is_some(), "SpaceToDepth with a mode"),
    ("Swish", |node| node::float(node, "alpha", 1.0) != 1.0, "Swish with alpha other than 1"),
    ("BitShift", |_| true, "BitShift by the width of the type"),
    ("Loop", |_| true, "Loop"),
    ("Einsum", |node| !is_written_out(node), "Einsum with an ellipsis or without its result"),
];

/// Whether an equation names every axis and its result.
fn is_written_out(node: &NodeProto) -> bool {
    let equation = String::from_utf8_lossy(text(node, "equation").unwrap_or_default());
    equation.contains("->") && !equation.contains('.')
}

/// What of Attention comes out right.
const PLAIN_ATTENTION: &[&str] = &["is_causal", "kv_num_heads", "q_num_heads", "scale", "softmax_precision"];

/// No mask, for a row that is masked wholly comes out wrong, and no past keys under a causal mask.
fn is_plain_attention(node: &NodeProto) -> bool {
    let has = |at: usize| node.input.get(at).is_some_and(|name| !name.is_empty());
    let causal = node::int(node, "is_causal", 0) != 0;
    !has(3)
        && !(causal && (has(4) || has(5)))
        && !has(6)
        && node.attribute.iter().all(|attribute| PLAIN_ATTENTION.contains(&attribute.name()))
}

/// Refuses what must not be run, in a model that is lowered otherwise.
///
/// # Errors
/// [`crate::error::Kind::Unsupported`] naming the node and what stands against it.
pub(super) fn refuse(model: &ModelProto) -> Result<()> {
    let Some(main) = &model.graph else { return Ok(()) };
    let mut found = None;
    let mut visit = |graph: &GraphProto| {
        for node in &graph.node {
            let operator = if node.domain().is_empty() {
                node.op_type().to_owned()
            } else {
                format!("{}.{}", node.domain(), node.op_type())
            };
            if !node::is_default_domain(node) {
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
    visit(main);
    walk::bodies(&main.node, &mut visit);
    match found {
        None => Ok(()),
        Some((subject, what)) => Err(Error::unsupported(subject, what)),
    }
}

fn text<'a>(node: &'a NodeProto, name: &str) -> Option<&'a [u8]> {
    node::attribute(node, name).and_then(|attribute| attribute.s.as_deref())
}
