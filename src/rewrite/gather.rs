//! An embedding table: INT8 rows and their scales are gathered, then multiplied.
//!
//! `Mul(Cast(Gather(codes, ids)), Gather(scales, ids))` costs the rows that are asked for; a
//! DequantizeLinear before the Gather would expand the whole table on every run.

use super::bands::{Bands, Part};
use super::edit::Edit;
use super::{row_type, scale_type};
use crate::error::Result;
use crate::graph::{Site, Values};
use crate::onnx::node;
use crate::onnx::proto::tensor_proto::DataType;
use crate::quant::{Algorithm, ScaleStorage, quantize_rows};

pub(super) fn encode(
    edit: &mut Edit<'_>,
    site: &Site,
    weight: &str,
    scales: ScaleStorage,
    algorithm: Algorithm,
    key: (usize, usize),
) -> Result<()> {
    let (rows, width) = (site.k, site.n);
    let delivered = site.operand.delivered;
    let arithmetic = row_type(delivered);
    let original = edit.node(site.at.node).cloned().unwrap_or_default();
    let ids = original.input.get(1).cloned().unwrap_or_default();
    let output = original.output.first().cloned().unwrap_or_default();

    let codes = edit.name(&format!("{weight}_quantized"));
    let table = edit.name(&format!("{weight}_scale"));
    let scale_type = scale_type(scales, true);
    let parts = vec![
        Part::of_row(&codes, DataType::Int8, vec![rows, width]),
        Part::of_row(&table, scale_type, vec![rows, 1]),
    ];
    let values = Values::of(edit.model, site)?;
    let errors = edit.errors.clone();
    edit.promise(site.at.node, parts, &Bands::of(rows, rows * width, 1), move |band| {
        let made = quantize_rows(&values.matrix()?.band(band.clone()), scales, algorithm);
        errors.push(key, &band, made.error);
        Ok(vec![made.codes, made.scales])
    });

    let stem = output.clone();
    let mut nodes = Vec::new();
    let mut step = |edit: &mut Edit<'_>, op: &str, what: &str, inputs: &[&str], attributes| {
        let result = edit.name(&format!("{stem}_{what}"));
        let name = edit.name(&format!("{stem}_{what}_{op}"));
        nodes.push(node::build(op, &name, inputs, &[&result], attributes));
        result
    };
    let to = || vec![node::int_attribute("to", arithmetic as i64)];
    let gathered = step(edit, "Gather", "codes", &[&codes, &ids], vec![]);
    let wide = step(edit, "Cast", "codes_float", &[&gathered], to());
    let mut scale = step(edit, "Gather", "scales", &[&table, &ids], vec![]);
    if scale_type != arithmetic {
        scale = step(edit, "Cast", "scales_float", &[&scale], to());
    }
    if arithmetic == delivered {
        nodes.push(node::build("Mul", original.name(), &[&wide, &scale], &[&output], vec![]));
    } else {
        let row = step(edit, "Mul", "row", &[&wide, &scale], vec![]);
        let to = vec![node::int_attribute("to", delivered as i64)];
        nodes.push(node::build("Cast", original.name(), &[&row], &[&output], to));
    }
    edit.replace(site.at.node, nodes);
    Ok(())
}
