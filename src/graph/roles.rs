//! What each weight is for, from the structure of the graph: what is gathered by which input, what feeds a
//! Softmax of a product, what stands last before an output. Names only break ties.

use std::collections::{HashMap, HashSet, VecDeque};

use super::index::{Index, Use};
use super::operand::operand;
use super::site::{Form, Site};
use crate::onnx::proto::{NodeProto, tensor_proto::DataType};
use crate::onnx::{node, tensor};
use crate::role::Role;

/// Nodes that one trace may visit: enough for any layer, and a bound for a graph made to be slow.
const TRACE: usize = 400;
/// Tables of at most this many rows are no positions.
const FEW_ROWS: usize = 4;

/// The role of every site, by its index.
pub(super) struct Roles {
    pub(super) sites: Vec<Role>,
}

/// Derives the roles of `sites`.
pub(super) fn assign(index: &Index<'_>, sites: &[Site]) -> Roles {
    let linear: HashMap<usize, usize> = sites
        .iter()
        .enumerate()
        .filter(|(_, site)| !matches!(site.form, Form::Gather))
        .map(|(i, site)| (site.at.node, i))
        .collect();
    let mut trace = Trace { index: index.clone(), linear, roles: HashMap::new() };
    for here in index.all() {
        trace.index = here.clone();
        here.nodes().for_each(|(_, node)| trace.attention(node));
    }
    trace.heads();
    trace.feed_forward();
    let mut roles: Vec<Role> =
        (0..sites.len()).map(|site| trace.roles.get(&site).copied().unwrap_or(Role::Other)).collect();
    for (site, role) in embeddings(index, sites) {
        if let Some(slot) = roles.get_mut(site) {
            *slot = role;
        }
    }
    Roles { sites: roles }
}

/// The role of a constant of `dims` at a slot that is no site.
pub(super) fn of_slot(index: &Index<'_>, slot: Use, dims: &[usize]) -> Role {
    let Some(node) = index.node(slot.node) else { return Role::Other };
    match (node.op_type(), slot.input) {
        ("Conv" | "ConvTranspose" | "ConvInteger" | "QLinearConv" | "FusedConv", 1) => Role::Convolution,
        ("Conv" | "ConvTranspose" | "FusedConv" | "Gemm", 2) => Role::Bias,
        ("LSTM" | "GRU" | "RNN", 1 | 2) => Role::Recurrent,
        ("LSTM" | "GRU" | "RNN", 3) => Role::Bias,
        ("Attention", 1) => Role::AttentionQkv,
        ("Attention" | "BiasGelu" | "FastGelu", _) => Role::Bias,
        (
            "LayerNormalization"
            | "SimplifiedLayerNormalization"
            | "SkipLayerNormalization"
            | "SkipSimplifiedLayerNormalization"
            | "EmbedLayerNormalization"
            | "RMSNormalization"
            | "BatchNormalization"
            | "InstanceNormalization"
            | "GroupNormalization",
            _,
        ) => Role::Normalization,
        ("Gather", _) if dims.len() > 2 && is_part_of_table(index, node, slot, dims) => Role::Other,
        ("MatMul" | "Gather" | "GatherND" | "Einsum", _) if dims.len() > 2 => Role::Expert,
        ("Mul", _) if dims.len() == 1 => Role::Normalization,
        ("Add", other) if dims.iter().rev().skip(1).all(|dim| *dim == 1) => {
            let partner = node.input.get(1 - other.min(1)).and_then(|name| index.producer(name));
            match partner {
                Some((_, scale)) if is_scaling(index, scale) => Role::Normalization,
                _ => Role::Bias,
            }
        }
        ("Add", _) => position_table(dims),
        ("Slice", 0) => {
            let next = node.output.first().map_or(&[][..], |name| index.consumers(name));
            let added = |slot: &Use| index.node(slot.node).is_some_and(|node| node::is(node, "Add"));
            if next.iter().any(added) { position_table(dims) } else { Role::Other }
        }
        _ => Role::Other,
    }
}

/// Whether a tensor that is gathered from holds the codes or the scales of a quantized table: bytes, or one number for a
/// block.
fn is_part_of_table(index: &Index<'_>, node: &NodeProto, slot: Use, dims: &[usize]) -> bool {
    let stored = node.input.get(slot.input).and_then(|name| index.initializer(name));
    let kind = stored.and_then(|(_, stored)| tensor::data_type(stored));
    dims.last() == Some(&1) || matches!(kind, Some(DataType::Int8 | DataType::Uint8))
}

/// A matrix that is added whole: one row a position.
fn position_table(dims: &[usize]) -> Role {
    match dims {
        [.., rows, width] if *rows > 1 && *width > 1 && dims.len() <= 3 => Role::PositionEmbeddings,
        _ => Role::Other,
    }
}

/// The multiplication by a vector in a normalization that the exporter wrote out.
fn is_scaling(index: &Index<'_>, node: &NodeProto) -> bool {
    node::is(node, "Mul")
        && node.input.iter().any(|name| operand(index, name).is_some_and(|found| found.dims.len() == 1))
}

struct Trace<'g> {
    /// Looked at from the graph that is traced.
    index: Index<'g>,
    linear: HashMap<usize, usize>,
    roles: HashMap<usize, Role>,
}

impl<'g> Trace<'g> {
    fn attention(&mut self, node: &'g NodeProto) {
        match node.op_type() {
            "Softmax" if node::is_default_domain(node) => {
                let Some(scores) = node.input.first() else { return };
                let products = self.products_behind(scores);
                if products.is_empty() {
                    return;
                }
                for product in products {
                    self.projection(product.input.first(), Role::AttentionQuery);
                    self.projection(product.input.get(1), Role::AttentionKey);
                }
                let Some(weights) = node.output.first() else { return };
                for (mixed, side) in self.products_after(weights) {
                    self.projection(mixed.input.get(1 - side), Role::AttentionValue);
                    self.output_projection(mixed.output.first());
                }
            }
            "Attention" | "MultiHeadAttention" | "GroupQueryAttention" => {
                if node.op_type() != "Attention" || node::is_default_domain(node) {
                    self.projection(node.input.first(), Role::AttentionQuery);
                    self.projection(node.input.get(1), Role::AttentionKey);
                    self.projection(node.input.get(2), Role::AttentionValue);
                }
                self.output_projection(node.output.first());
            }
            _ => {}
        }
    }

    /// Products of two computed values from which `value` follows by scaling, masking and reshaping.
    fn products_behind(&self, value: &'g str) -> Vec<&'g NodeProto> {
        let mut found = Vec::new();
        self.backward(value, &mut |at, node| {
            if node::is(node, "MatMul") || node::is(node, "Einsum") {
                if !self.linear.contains_key(&at) {
                    found.push(node);
                }
                return Step::Stop;
            }
            match node.op_type() {
                "Add" | "Sub" | "Mul" | "Div" | "Where" | "Cast" | "Reshape" | "Transpose" | "Identity"
                | "Clip" | "Max" | "Min" | "Squeeze" | "Unsqueeze" | "Tanh" | "GatherElements" => Step::On,
                _ => Step::Stop,
            }
        });
        found
    }

    /// Products that take `value`, dropped out or reshaped, as an operand, and the operand's position.
    fn products_after(&self, value: &'g str) -> Vec<(&'g NodeProto, usize)> {
        let mut found = Vec::new();
        self.forward(value, &mut |_, node, input| match node.op_type() {
            "MatMul" | "Einsum" if input < 2 => {
                found.push((node, input));
                Step::Stop
            }
            "Cast" | "Dropout" | "Identity" | "Reshape" | "Where" | "Mul" | "Transpose" => Step::On,
            _ => Step::Stop,
        });
        found
    }

    fn projection(&mut self, value: Option<&'g String>, role: Role) {
        let Some(value) = value else { return };
        let mut found = Vec::new();
        self.backward(value, &mut |at, node| {
            if let Some(site) = self.linear.get(&at) {
                found.push(*site);
                return Step::Stop;
            }
            match node.op_type() {
                "MatMul" | "Gemm" | "Conv" | "Softmax" | "Attention" => Step::Stop,
                "Add" if self.is_residual(node) => Step::Stop,
                _ => Step::On,
            }
        });
        for site in found {
            self.roles
                .entry(site)
                .and_modify(|known| {
                    let mixed = *known != role && known.is_attention() && *known != Role::AttentionOutput;
                    if mixed {
                        *known = Role::AttentionQkv;
                    }
                })
                .or_insert(role);
        }
    }

    fn output_projection(&mut self, value: Option<&'g String>) {
        let Some(value) = value else { return };
        let mut found = Vec::new();
        self.forward(value, &mut |at, node, _| {
            if let Some(site) = self.linear.get(&at) {
                found.push(*site);
                return Step::Stop;
            }
            match node.op_type() {
                "Transpose" | "Reshape" | "Cast" | "Identity" | "Squeeze" | "Unsqueeze" | "Dropout"
                | "Mul" | "Concat" => Step::On,
                _ => Step::Stop,
            }
        });
        for site in found {
            self.roles.entry(site).or_insert(Role::AttentionOutput);
        }
    }

    /// An addition of two computed values that are not both products of a factor (as in rotary positions).
    fn is_residual(&self, node: &NodeProto) -> bool {
        let computed: Vec<_> = node.input.iter().filter_map(|name| self.index.producer(name)).collect();
        let constant = node.input.iter().any(|name| operand(&self.index, name).is_some());
        let of_products = computed.len() == 2 && computed.iter().all(|(_, node)| node.op_type() == "Mul");
        !(constant || of_products)
    }

    fn heads(&mut self) {
        let mut sites: Vec<(usize, usize)> = self.linear.iter().map(|(node, site)| (*node, *site)).collect();
        sites.sort_unstable();
        for (at, site) in sites {
            if self.roles.contains_key(&site) {
                continue;
            }
            self.index = self.index.of(at);
            let output = self.index.node(at).and_then(|node| node.output.first());
            let mut left = TRACE;
            if output.is_some_and(|value| self.ends_at_outputs(value, &mut left)) {
                self.roles.insert(site, Role::LmHead);
            }
        }
    }

    /// Whether every path from `value` ends at a graph output with nothing but bias, reshaping, masking or
    /// a final function on it.
    fn ends_at_outputs(&self, value: &str, left: &mut usize) -> bool {
        let consumers = self.index.consumers(value);
        if !self.index.captured_by(value).is_empty() {
            return false;
        }
        if consumers.is_empty() {
            return self.index.is_output(value) && (!self.index.is_body() || self.ends_beyond(value, left));
        }
        consumers.iter().all(|slot| {
            *left = left.saturating_sub(1);
            let Some(node) = self.index.node(slot.node).filter(|_| *left > 0) else { return false };
            let passes = match node.op_type() {
                "Reshape" | "Gather" | "Slice" | "Split" | "TopK" => slot.input == 0,
                "Transpose"
                | "Softmax"
                | "LogSoftmax"
                | "Sigmoid"
                | "Squeeze"
                | "Unsqueeze"
                | "Identity"
                | "Cast"
                | "Flatten"
                | "Tanh"
                | "ArgMax"
                | "Concat"
                | "Clip"
                | "Exp"
                | "Where"
                | "ZipMap"
                | "Normalizer"
                | "ArrayFeatureExtractor"
                | "Dropout" => true,
                "Add" | "Sub" | "Mul" | "Div" => self.with_constant_or_head(node, slot.input),
                _ => false,
            };
            passes && node.output.iter().filter(|o| !o.is_empty()).all(|o| self.is_dead_or_ends(o, left))
        })
    }

    /// The same for the output of a body: that of an If's branch goes on outside.
    fn ends_beyond(&self, value: &str, left: &mut usize) -> bool {
        *left = left.saturating_sub(1);
        let Some((outside, values)) = self.index.beyond(value).filter(|_| *left > 0) else { return false };
        let trace = Trace { index: outside, linear: HashMap::new(), roles: HashMap::new() };
        values.iter().all(|value| trace.ends_at_outputs(value, left))
    }

    fn is_dead_or_ends(&self, value: &str, left: &mut usize) -> bool {
        self.index.consumers(value).is_empty() && !self.index.is_output(value)
            || self.ends_at_outputs(value, left)
    }

    /// Whether the other operand is a constant, or the result of another linear (heads that are averaged).
    fn with_constant_or_head(&self, node: &NodeProto, input: usize) -> bool {
        let Some(other) = node.input.get(1 - input.min(1)) else { return false };
        if operand(&self.index, other).is_some() {
            return true;
        }
        let mut value = other.as_str();
        for _ in 0..8 {
            let Some((at, producer)) = self.index.producer(value) else { return false };
            if self.linear.contains_key(&at) {
                return true;
            }
            let computed = producer.input.iter().find(|name| operand(&self.index, name).is_none());
            match (producer.op_type(), computed) {
                ("Add" | "Reshape" | "Transpose" | "Squeeze" | "Mul" | "Div", Some(next))
                    if !self.is_residual(producer) =>
                {
                    value = next;
                }
                // The constant -1 or exp(scale) that an exporter computes from a parameter.
                ("Exp" | "Constant", _) => return true,
                _ => return false,
            }
        }
        false
    }

    fn feed_forward(&mut self) {
        let mut sites: Vec<(usize, usize)> = self.linear.iter().map(|(node, site)| (*node, *site)).collect();
        sites.sort_unstable();
        for (at, site) in sites {
            if self.roles.get(&site).is_some_and(|role| role.is_attention()) {
                continue;
            }
            self.index = self.index.of(at);
            let Some(input) = self.index.node(at).and_then(|node| node.input.first()) else { continue };
            let mut sources = Vec::new();
            let mut activated = false;
            self.backward(input, &mut |at, node| {
                if let Some(source) = self.linear.get(&at) {
                    sources.push(*source);
                    return Step::Stop;
                }
                match node.op_type() {
                    "Relu" | "Gelu" | "FastGelu" | "BiasGelu" | "QuickGelu" | "LeakyRelu" | "PRelu"
                    | "Elu" | "Selu" | "Celu" | "Silu" | "Swish" | "HardSwish" | "HardSigmoid" | "Mish"
                    | "Softplus" | "Softsign" | "Erf" | "Tanh" | "Sigmoid" | "Clip" => {
                        activated = true;
                        Step::On
                    }
                    "Mul" | "Add" | "Sub" | "Div" | "Pow" | "Cast" | "Reshape" | "Identity" | "Dropout"
                    | "Split" | "Slice" | "Transpose" | "Squeeze" | "Unsqueeze" => Step::On,
                    _ => Step::Stop,
                }
            });
            if activated && !sources.is_empty() {
                self.roles.entry(site).or_insert(Role::FeedForwardOut);
                for source in sources {
                    self.roles.entry(source).or_insert(Role::FeedForwardIn);
                }
            }
        }
    }

    /// Visits the nodes that `value` is computed from, nearest first, as far as `visit` lets it.
    fn backward(&self, value: &'g str, visit: &mut dyn FnMut(usize, &'g NodeProto) -> Step) {
        let mut queue = VecDeque::from([value]);
        let mut seen = HashSet::new();
        while let Some(value) = queue.pop_front() {
            let Some((at, node)) = self.index.producer(value) else { continue };
            if seen.len() > TRACE {
                return;
            }
            if !seen.insert(at) {
                continue;
            }
            // A shape carries no values.
            if !node::is(node, "Shape") && matches!(visit(at, node), Step::On) {
                queue.extend(node.input.iter().map(String::as_str));
            }
        }
    }

    /// Visits the nodes that are computed from `value`, with the slot by which they take it.
    fn forward(&self, value: &'g str, visit: &mut dyn FnMut(usize, &'g NodeProto, usize) -> Step) {
        let mut queue = VecDeque::from([value]);
        let mut seen = HashSet::new();
        while let Some(value) = queue.pop_front() {
            for slot in self.index.consumers(value) {
                let Some(node) = self.index.node(slot.node) else { continue };
                if seen.len() > TRACE {
                    return;
                }
                if !seen.insert(slot.node) {
                    continue;
                }
                if matches!(visit(slot.node, node, slot.input), Step::On) {
                    queue.extend(node.output.iter().map(String::as_str));
                }
            }
        }
    }
}

enum Step {
    On,
    Stop,
}

/// The roles of tables, from what their indices are computed from.
fn embeddings(index: &Index<'_>, sites: &[Site]) -> Vec<(usize, Role)> {
    let mut found = Vec::new();
    let mut by_input: Vec<(usize, usize, String)> = Vec::new();
    for (at, site) in sites.iter().enumerate().filter(|(_, site)| matches!(site.form, Form::Gather)) {
        let index = index.of(site.at.node);
        let Some(indices) = index.node(site.at.node).and_then(|node| node.input.get(1)) else { continue };
        let ids = source_of_ids(&index, indices);
        match ids.input {
            _ if ids.counted && site.k > FEW_ROWS => found.push((at, Role::PositionEmbeddings)),
            None if site.k <= FEW_ROWS => found.push((at, Role::TokenTypeEmbeddings)),
            None => found.push((at, Role::PositionEmbeddings)),
            Some(name) if name.contains("position") => found.push((at, Role::PositionEmbeddings)),
            Some(name) => by_input.push((at, site.k, name)),
        }
    }
    let most = by_input.iter().map(|(_, rows, _)| *rows).max().unwrap_or(0);
    for (at, rows, name) in by_input {
        let few = rows < most && rows <= 64 && rows * 8 <= most;
        let typed = name.contains("token_type") || name.contains("segment");
        let kind =
            if (few || typed) && rows < most { Role::TokenTypeEmbeddings } else { Role::TokenEmbeddings };
        found.push((at, kind));
    }
    found
}

struct Ids {
    /// The graph input whose values the indices follow; `None` if only its shape matters.
    input: Option<String>,
    /// Whether they are counted up from a mask.
    counted: bool,
}

fn source_of_ids(index: &Index<'_>, indices: &str) -> Ids {
    let mut queue = VecDeque::from([indices]);
    let mut seen = HashSet::new();
    let mut ids = Ids { input: None, counted: false };
    while let Some(value) = queue.pop_front() {
        if seen.len() > TRACE {
            break;
        }
        if !seen.insert(value) {
            continue;
        }
        if index.is_input(value) && index.initializer(value).is_none() {
            ids.input.get_or_insert_with(|| value.to_owned());
            continue;
        }
        let Some((_, node)) = index.producer(value) else { continue };
        match node.op_type() {
            "Shape" | "Size" => {}
            "CumSum" => ids.counted = true,
            _ => queue.extend(node.input.iter().map(String::as_str)),
        }
    }
    ids
}
