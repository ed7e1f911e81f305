//! A tensor that is stored small and runs as float: nodes at the head of the graph compute it under its own name.

use super::bands::{Bands, Part};
use super::edit::Edit;
use super::{misfit, scale_type};
use crate::error::Result;
use crate::graph::{Origin, Path, Values};
use crate::onnx::node;
use crate::onnx::proto::tensor_proto::DataType;
use crate::onnx::tensor;
use crate::plan::{Decision, Stored, stored_matrix};
use crate::quant::{Algorithm, ScaleStorage, quantize, quantize_rows};

/// Puts the tensor `origin` of `decision` behind the nodes that make it of what is stored.
pub(super) fn encode(
    edit: &mut Edit<'_>,
    decision: &Decision,
    how: Stored,
    origin: Origin,
    at: usize,
) -> Result<()> {
    let name = decision.tensor.as_str();
    let (rows, columns) = stored_matrix(&decision.shape, decision.role);
    let tensor = edit.stored(origin).ok_or_else(|| misfit(&format!("'{name}' is not there")))?;
    let half = tensor::data_type(tensor) == Some(DataType::Float16);
    let values = Values::rows(tensor, (rows, columns))?;
    let path = edit.remove(name, origin);
    let whole = name;
    // No CPU kernel multiplies float16: the product is float32 and cast.
    let name = if half { edit.name(&format!("{name}_float")) } else { name.to_owned() };
    let name = name.as_str();
    match how {
        Stored::Float16 => {
            let small = widened(edit, &path, name);
            let parts = vec![Part::of_row(&small, DataType::Float16, decision.shape.clone())];
            edit.promise_to(&path, parts, &Bands::of(rows, 2 * rows * columns, 1), move |band| {
                let values = values.matrix()?.band(band).values();
                Ok(vec![values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect()])
            });
        }
        Stored::Int4 { block, half_scales } => {
            let scheme = how.scheme().filter(|_| block > 0 && columns.is_multiple_of(block));
            let scheme = scheme.ok_or_else(|| misfit(&format!("block {block} of '{name}'")))?;
            let codes = edit.name(&format!("{name}_quantized"));
            let scale = edit.name(&format!("{name}_scale"));
            let blocks = columns / block;
            let scale_type = scale_type(scheme.scales, true);
            let parts = vec![
                Part::of_row(&codes, DataType::Int4, vec![blocks, block, rows]),
                Part::of_rows(&scale, scale_type, vec![blocks, 1, rows], block),
            ];
            let bands = Bands::of_blocks(columns, rows, scheme);
            let errors = edit.errors.clone();
            edit.promise_to(&path, parts, &bands, move |band| {
                let own = values.matrix()?.transposed().band(band.clone());
                let made = quantize(&own, scheme, Algorithm::Search);
                errors.push((at, 0), &band, made.error);
                Ok(vec![made.codes, made.scales])
            });
            let to = || vec![node::int_attribute("to", DataType::Float as i64)];
            let wide = edit.name(&format!("{name}_wide"));
            edit.put_first(&path, node::build("Cast", "", &[&codes], &[&wide], to()));
            let mut factor = scale;
            if half_scales {
                let cast = edit.name(&format!("{name}_scale_float"));
                edit.put_first(&path, node::build("Cast", "", &[&factor], &[&cast], to()));
                factor = cast;
            }
            let scaled = edit.name(&format!("{name}_scaled"));
            edit.put_first(&path, node::build("Mul", "", &[&wide, &factor], &[&scaled], vec![]));
            let flat = edit.name(&format!("{name}_columns"));
            reshape(edit, &path, &scaled, &flat, &[columns, rows]);
            let turned = edit.name(&format!("{name}_rows"));
            let order = vec![node::ints_attribute("perm", &[1, 0])];
            edit.put_first(&path, node::build("Transpose", "", &[&flat], &[&turned], order));
            reshape(edit, &path, &turned, name, &decision.shape);
        }
        Stored::Twin { .. } => return Err(misfit(&format!("'{name}' is stored once"))),
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
                Part::of_row(&codes, DataType::Int8, decision.shape.clone()),
                Part::of_row(&scale, DataType::Float, grid),
            ];
            edit.promise_to(&path, parts, &Bands::of(rows, rows * columns, 1), move |band| {
                let own = values.matrix()?.band(band.clone());
                let made = quantize_rows(&own, ScaleStorage::F32, Algorithm::Search);
                errors.push((at, 0), &band, made.error);
                Ok(vec![made.codes, made.scales])
            });
            let to = vec![node::int_attribute("to", DataType::Float as i64)];
            edit.put_first(&path, node::build("Cast", "", &[&codes], &[&wide], to));
            edit.put_first(&path, node::build("Mul", "", &[&wide, &scale], &[name], vec![]));
        }
    }
    if half {
        let to = vec![node::int_attribute("to", DataType::Float16 as i64)];
        edit.put_first(&path, node::build("Cast", "", &[name], &[whole], to));
    }
    Ok(())
}

/// Gives `value` the sizes `dims` under the name `result`.
fn reshape(edit: &mut Edit<'_>, path: &Path, value: &str, result: &str, dims: &[usize]) {
    let sizes: Vec<u8> =
        dims.iter().flat_map(|size| i64::try_from(*size).unwrap_or(i64::MAX).to_le_bytes()).collect();
    let shape = edit.name(&format!("{result}_shape"));
    edit.add_to(path, tensor::from_raw(&shape, DataType::Int64, &[dims.len()], sizes));
    edit.put_first(path, node::build("Reshape", "", &[value, &shape], &[result], vec![]));
}

/// Makes the initializer of `decision` of the one that `original` keeps, which has the same values.
pub(super) fn twin(
    edit: &mut Edit<'_>,
    decision: &Decision,
    origin: Origin,
    original: &str,
    transposed: bool,
) {
    let name = decision.tensor.as_str();
    let path = edit.remove(name, origin);
    let node = if transposed {
        let order = vec![node::ints_attribute("perm", &[1, 0])];
        node::build("Transpose", "", &[original], &[name], order)
    } else {
        node::build("Identity", "", &[original], &[name], vec![])
    };
    edit.put_first(&path, node);
}

/// Adds `name` to the graph at `path` as the float32 of the float16 payload `half`.
pub(super) fn halved(edit: &mut Edit<'_>, path: &Path, name: &str, dims: &[usize], half: Vec<u8>) {
    let small = widened(edit, path, name);
    edit.add_to(path, tensor::from_raw(&small, DataType::Float16, dims, half));
}

/// Makes `name` the float32 of a float16 initializer of the graph at `path`; gives the name that it is to have.
fn widened(edit: &mut Edit<'_>, path: &Path, name: &str) -> String {
    let small = edit.name(&format!("{name}_half"));
    let to = vec![node::int_attribute("to", DataType::Float as i64)];
    edit.put_first(path, node::build("Cast", "", &[&small], &[name], to));
    small
}
