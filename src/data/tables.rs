//! What the tables of a graph allow: ids that are rows of one, sequences no longer than the positions.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use crate::graph::{Form, Index, Inventory, Operand, operand};
use crate::onnx::{Model, node};
use crate::role::Role;

/// A table of fewer rows holds buckets of distances or types of tokens, not places in a sequence.
const FEW_POSITIONS: usize = 16;

/// The limits that a graph's tables set to its inputs.
pub(super) struct Tables {
    /// Rows of the smallest table that each input indexes.
    pub rows: BTreeMap<String, usize>,
    /// Rows of the smallest table of positions.
    pub positions: Option<usize>,
}

impl Tables {
    /// Reads them off the main graph.
    pub fn of(model: &Model, inventory: &Inventory) -> Self {
        let index = Index::new(model.graph(), model.proto.ir_version());
        let mut rows: BTreeMap<String, usize> = BTreeMap::new();
        let mut widths = BTreeSet::new();
        for (table, ids, size) in gathered(model, &index) {
            if let Some(input) = input_behind(&index, ids) {
                let entry = rows.entry(input).or_insert(usize::MAX);
                *entry = (*entry).min(size);
                widths.extend(table.dims.last().copied());
            }
        }
        let gathered = inventory
            .sites
            .iter()
            .zip(&inventory.roles)
            .filter(|(site, role)| matches!(site.form, Form::Gather) && **role == Role::PositionEmbeddings)
            .map(|(site, _)| (site.k, site.n));
        // Cut to the length of the sequence and added, without a Gather.
        let added = inventory.weights.iter().filter(|weight| weight.role == Role::PositionEmbeddings);
        let added = added.filter_map(|weight| match weight.dims.as_slice() {
            [.., rows, width] => Some((*rows, *width)),
            _ => None,
        });
        let positions = gathered
            .chain(added)
            .filter(|(rows, width)| *rows > FEW_POSITIONS && (widths.is_empty() || widths.contains(width)))
            .map(|(rows, _)| rows)
            .min();
        Self { rows, positions }
    }
}

/// The constant tables that the main graph gathers from, each with the name of its ids and its rows.
pub(super) fn gathered<'m>(
    model: &'m Model,
    index: &Index<'m>,
) -> impl Iterator<Item = (Operand, &'m str, usize)> {
    let gathers = model.graph().node.iter().filter(|node| node::is(node, "Gather"));
    gathers.filter_map(move |node| {
        let [table, ids, ..] = node.input.as_slice() else { return None };
        let table = operand(index, table)?;
        let axis = node::int(node, "axis", 0);
        let axis = usize::try_from(if axis < 0 { axis + table.dims.len() as i64 } else { axis }).ok()?;
        let rows = *table.dims.get(axis)?;
        Some((table, ids.as_str(), rows))
    })
}

/// The graph input whose values `ids` are, reshaped or converted at most.
pub(super) fn input_behind(index: &Index<'_>, ids: &str) -> Option<String> {
    let mut queue = VecDeque::from([ids]);
    let mut seen = HashSet::new();
    while let Some(value) = queue.pop_front() {
        if index.is_input(value) && index.initializer(value).is_none() {
            return Some(value.to_owned());
        }
        if !seen.insert(value) || seen.len() > 64 {
            continue;
        }
        let Some((_, node)) = index.producer(value) else { continue };
        match node.op_type() {
            "Cast" | "Reshape" | "Unsqueeze" | "Squeeze" | "Identity" | "Flatten" | "Slice" | "Gather" => {
                queue.extend(node.input.first().map(String::as_str));
            }
            "Where" | "Mul" | "Add" | "Clip" => queue.extend(node.input.iter().map(String::as_str)),
            _ => {}
        }
    }
    None
}
