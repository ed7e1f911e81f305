//! A tensor that is stored small and runs as float: nodes at the head of the graph compute it under its own name.

use super::edit::Edit;
use crate::error::Result;
use crate::graph::Values;
use crate::onnx::node;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::tensor;
use crate::plan::{Decision, Stored, stored_matrix};
use crate::quant::{Algorithm, ScaleStorage, quantize_rows};

/// Puts the initializer of `decision` behind the nodes that make it of what is stored.
pub(super) fn encode(
    edit: &mut Edit<'_>,
    decision: &Decision,
    how: Stored,
    initializer: usize,
    at: usize,
) -> Result<()> {
    let name = decision.tensor.as_str();
    let (rows, columns) = stored_matrix(&decision.shape, decision.role);
    let values = Values::rows(edit.model, initializer, (rows, columns))?;
    edit.remove(name);
    match how {
        Stored::Float16 => {
            let half: Vec<u8> = values
                .matrix()?
                .values()
                .iter()
                .flat_map(|value| half::f16::from_f32(*value).to_le_bytes())
                .collect();
            halved(edit, name, &decision.shape, half);
        }
        Stored::Int8 => {
            let codes = edit.name(&format!("{name}_quantized"));
            let scale = edit.name(&format!("{name}_scale"));
            let wide = edit.name(&format!("{name}_wide"));
            let mut grid = vec![1; decision.shape.len()];
            let mut left = rows;
            for (to, size) in grid.iter_mut().zip(&decision.shape) {
                if left > 1 {
                    *to = *size;
                    left = left.checked_div(*size).unwrap_or(1);
                }
            }
            let errors = edit.errors.clone();
            let parts = vec![
                (codes.clone(), DataType::Int8, decision.shape.clone()),
                (scale.clone(), DataType::Float, grid),
            ];
            edit.promise(
                0,
                parts,
                Box::new(move || {
                    let made = quantize_rows(&values.matrix()?, ScaleStorage::F32, Algorithm::Search);
                    errors.push(at, 0, made.error);
                    Ok(vec![made.codes, made.scales])
                }),
            );
            let to = vec![node::int_attribute("to", DataType::Float as i64)];
            edit.put_first(node::build("Cast", "", &[&codes], &[&wide], to));
            edit.put_first(node::build("Mul", "", &[&wide, &scale], &[name], vec![]));
        }
    }
    Ok(())
}

/// Adds `name` as the float32 of the float16 payload `half`.
pub(super) fn halved(edit: &mut Edit<'_>, name: &str, dims: &[usize], half: Vec<u8>) {
    let small = edit.name(&format!("{name}_half"));
    edit.add_to_main(tensor::from_raw(&small, DataType::Float16, dims, half));
    let to = vec![node::int_attribute("to", DataType::Float as i64)];
    edit.put_first(node::build("Cast", "", &[&small], &[name], to));
}
