//! Ids without a row in the table that they index: no runtime can run them, so they are told before one tries.

use super::Sample;
use super::inputs::as_integers;
use super::tables::gathered;
use crate::error::{Error, Result};
use crate::graph::{Index, stored_at};
use crate::onnx::Model;
use crate::onnx::node;
use crate::onnx::proto::tensor_proto::DataType;

/// Nodes between an input and the Gather that are followed.
const CHAIN: usize = 16;

/// A table that an input indexes as it is.
struct Table {
    input: String,
    name: String,
    rows: usize,
}

/// Refuses samples with an id that a table of the main graph has no row for.
pub(super) fn check(samples: &[Sample], model: &Model) -> Result<()> {
    for table in tables(model) {
        for (at, sample) in samples.iter().enumerate() {
            let Some((_, array)) = sample.inputs.iter().find(|(name, _)| *name == table.input) else {
                continue;
            };
            let rows = table.rows as i64;
            // As ONNX counts them, -1 is the last row.
            let beyond = |id: &i64| !(-rows..rows).contains(id);
            if let Some(id) = as_integers(array).unwrap_or_default().into_iter().find(beyond) {
                let what = format!("sample {at} holds id {id}, the table '{}' has {rows} rows", table.name);
                return Err(Error::format(format!("array '{}'", table.input), what)
                    .help("the ids are of another tokenizer, or it is another model"));
            }
        }
    }
    Ok(())
}

/// The smallest table that each input indexes, its values unchanged.
fn tables(model: &Model) -> Vec<Table> {
    let index = Index::new(model.graph(), model.proto.ir_version());
    let mut found: Vec<Table> = Vec::new();
    for (table, ids, rows) in gathered(model, &index) {
        let Some(input) = fed_by(&index, ids) else { continue };
        let name = stored_at(&index, table.origin).map_or("", |stored| stored.name()).to_owned();
        match found.iter_mut().find(|known| known.input == input) {
            Some(known) if known.rows <= rows => {}
            Some(known) => (known.name, known.rows) = (name, rows),
            None => found.push(Table { input: input.to_owned(), name, rows }),
        }
    }
    found
}

/// The graph input whose values, all of them and no others, `value` holds.
fn fed_by<'g>(index: &Index<'g>, value: &'g str) -> Option<&'g str> {
    let mut value = value;
    for _ in 0..CHAIN {
        if index.is_input(value) && index.initializer(value).is_none() {
            return Some(value);
        }
        let (_, node) = index.producer(value)?;
        let keeps = match node.op_type() {
            "Identity" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Transpose" => true,
            "Cast" => {
                [DataType::Int64, DataType::Int32].iter().any(|kind| node::int(node, "to", 0) == *kind as i64)
            }
            _ => false,
        };
        if !keeps || !node::is_default_domain(node) {
            return None;
        }
        value = node.input.first()?;
    }
    None
}
