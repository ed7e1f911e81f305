//! What the runtime would compute wrongly without a word, or cannot run at all: refused by name beforehand.

use crate::error::{Error, Result};
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto};
use crate::onnx::{node, node_subject, opset_version, tensor, walk};

/// A condition under which an operator comes out wrong.
type Wrong = (&'static str, fn(&Around<'_>, &NodeProto) -> bool, &'static str);

/// Measured against ONNX's own node tests and ONNX Runtime 1.32 with tract 0.23.9.
const WRONG: &[Wrong] = &[
    ("Attention", |_, node| !is_plain_attention(node), "Attention with a mask, a window or a causal cache"),
    ("LSTM", |_, node| is_reverse(node), "LSTM with direction=reverse"),
    ("GRU", |_, node| is_reverse(node), "GRU with direction=reverse"),
    ("RNN", |_, node| is_reverse(node), "RNN with direction=reverse"),
    ("LSTM", |_, node| node::attribute(node, "clip").is_some(), "LSTM with clip"),
    ("GRU", |_, node| node::attribute(node, "clip").is_some(), "GRU with clip"),
    ("RNN", |_, node| node::attribute(node, "clip").is_some(), "RNN with clip"),
    ("LSTM", |_, node| node::int(node, "input_forget", 0) != 0, "LSTM with input_forget"),
    ("LSTM", |_, node| has_others(node, &["sigmoid", "tanh", "tanh"]), "LSTM with other activations"),
    ("GRU", |_, node| has_others(node, &["sigmoid", "tanh"]), "GRU with other activations"),
    ("RNN", |_, node| has_others(node, &["tanh"]), "RNN with other activations"),
    ("Resize", |around, node| is_inexact_resize(around, node), "Resize with align_corners and these scales"),
    ("Resize", |around, node| is_old_resize(around, node), "Resize of opset 10 with these scales"),
    ("GridSample", |_, node| is_cubic_border(node), "GridSample of cubic mode with border padding"),
    ("GlobalLpPool", |_, _| true, "GlobalLpPool"),
    ("Celu", |_, node| node::float(node, "alpha", 1.0) != 1.0, "Celu with alpha other than 1"),
    ("SpaceToDepth", |_, node| text(node, "mode").is_some(), "SpaceToDepth with a mode"),
    ("Swish", |_, node| node::float(node, "alpha", 1.0) != 1.0, "Swish with alpha other than 1"),
    ("BitShift", |_, _| true, "BitShift by the width of the type"),
    ("Loop", |_, _| true, "Loop"),
    ("Einsum", |_, node| !is_written_out(node), "Einsum with an ellipsis or without its result"),
];

/// What stands around a node.
struct Around<'a> {
    opset: i64,
    graph: &'a GraphProto,
}

impl Around<'_> {
    /// The floats of input `at` of `node`, where they are stored.
    fn floats(&self, node: &NodeProto, at: usize) -> Option<Vec<f32>> {
        let name = node.input.get(at).filter(|name| !name.is_empty())?;
        let stored = self.graph.initializer.iter().find(|tensor| tensor.name() == name);
        let constants = self.graph.node.iter().filter(|node| node::is(node, "Constant"));
        let made = constants
            .filter(|made| made.output.contains(name))
            .find_map(|made| node::attribute(made, "value")?.t.as_ref());
        tensor::floats(stored.or(made)?)
    }
}

fn is_reverse(node: &NodeProto) -> bool {
    text(node, "direction") == Some(b"reverse")
}

/// Whether the activations are given and are not `own`, the ones that a direction has by default.
fn has_others(node: &NodeProto, own: &[&str]) -> bool {
    let given = node::attribute(node, "activations").map_or(&[][..], |given| given.strings.as_slice());
    given.iter().zip(own.iter().cycle()).any(|(name, own)| !name.eq_ignore_ascii_case(own.as_bytes()))
}

/// With corners aligned, sizes that are no whole number come out wrong: those by scales that are none.
fn is_inexact_resize(around: &Around<'_>, node: &NodeProto) -> bool {
    let by_scales = node.input.get(2).is_some_and(|name| !name.is_empty());
    let scales = || around.floats(node, 2);
    text(node, "coordinate_transformation_mode") == Some(b"align_corners")
        && by_scales
        && scales().is_none_or(|scales| scales.iter().any(|scale| scale.fract() != 0.0))
}

/// The nearest value below opset 11 is the one before; the runtime takes that for few scales only.
fn is_old_resize(around: &Around<'_>, node: &NodeProto) -> bool {
    let simple = |scale: &f32| [0.5, 1.0, 2.0].contains(scale);
    around.opset < 11
        && text(node, "mode").is_none_or(|mode| mode == b"nearest")
        && around.floats(node, 1).is_none_or(|scales| !scales.iter().all(simple))
}

fn is_cubic_border(node: &NodeProto) -> bool {
    matches!(text(node, "mode"), Some(b"cubic" | b"bicubic")) && text(node, "padding_mode") == Some(b"border")
}

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
    let opset = opset_version(&model.opset_import, "");
    let mut visit = |graph: &GraphProto| {
        let around = Around { opset, graph };
        for node in &graph.node {
            let operator = if node.domain().is_empty() {
                node.op_type().to_owned()
            } else {
                format!("{}.{}", node.domain(), node.op_type())
            };
            if !node::is_default_domain(node) {
                found.get_or_insert((node_subject(node), format!("the runtime does not know {operator}")));
            }
            let wrong = WRONG.iter().find(|(op, when, _)| *op == node.op_type() && when(&around, node));
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
