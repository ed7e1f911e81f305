//! A linear layer: `X · DequantizeLinear(codes, scales)` with a bias where the Gemm had one.
//!
//! ONNX DequantizeLinear-21: `y = (x - zero_point) * scale`, blocks of `block_size` along `axis`.
//! ONNX Runtime 1.25 and newer fuse MatMul and plain Gemm (alpha, beta 1; transA, transB 0; bias `[N]`).

use super::edit::Edit;
use crate::error::{Error, Result};
use crate::graph::{Form, Index, Origin, Site, Values, operand, stored};
use crate::onnx::proto::{NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::{node, tensor};
use crate::quant::{Algorithm, Bits, ScaleStorage, Scheme, quantize};

pub(super) fn encode(
    edit: &mut Edit<'_>,
    site: &Site,
    weight: &str,
    scheme: Scheme,
    algorithm: Algorithm,
    key: (usize, usize),
) -> Result<()> {
    let dequantized = dequantize(edit, site, weight, scheme, algorithm, key)?;
    let original = edit.node(site.at.node).cloned().unwrap_or_default();
    match site.form {
        Form::Gemm { beta, .. } => gemm(edit, site, &original, dequantized, beta),
        _ => {
            if let Some(slot) = edit.node(site.at.node).and_then(|node| node.input.get_mut(site.at.input)) {
                *slot = dequantized;
            }
            Ok(())
        }
    }
}

/// Adds the weight's initializers and the nodes that dequantize it; gives the name of the result.
fn dequantize(
    edit: &mut Edit<'_>,
    site: &Site,
    weight: &str,
    scheme: Scheme,
    algorithm: Algorithm,
    key: (usize, usize),
) -> Result<String> {
    let (k, n) = (site.k, site.n);
    let half = site.operand.delivered == DataType::Float16;
    let code_type = match (scheme.bits, scheme.symmetric) {
        (Bits::Four, true) => DataType::Int4,
        (Bits::Four, false) => DataType::Uint4,
        (Bits::Eight, true) => DataType::Int8,
        (Bits::Eight, false) => DataType::Uint8,
    };
    let grid = vec![scheme.blocks(k), n];
    let codes = edit.name(&format!("{weight}_quantized"));
    let scales = edit.name(&format!("{weight}_scale"));
    let result = edit.name(&format!("{weight}_dequantized"));
    let scale_type = match scheme.scales {
        ScaleStorage::F16 => DataType::Float16,
        ScaleStorage::F32 => DataType::Float,
    };
    let mut parts =
        vec![(codes.clone(), code_type, vec![k, n]), (scales.clone(), scale_type, grid.clone())];
    let mut inputs = vec![codes, scales];
    if !scheme.symmetric {
        let zero_points = edit.name(&format!("{weight}_zero_point"));
        parts.push((zero_points.clone(), code_type, grid));
        inputs.push(zero_points);
    }
    let values = Values::of(edit.model, site)?;
    let errors = edit.errors.clone();
    edit.promise(
        parts,
        Box::new(move || {
            let made = quantize(&values.matrix()?, scheme, algorithm);
            errors.push(key.0, key.1, made.error);
            Ok([Some(made.codes), Some(made.scales), made.zero_points].into_iter().flatten().collect())
        }),
    );
    if scheme.scales == ScaleStorage::F16 && !half {
        let wide = edit.name(&format!("{weight}_scale_float"));
        let cast = edit.name(&format!("{weight}_scale_Cast"));
        let to = node::int_attribute("to", DataType::Float as i64);
        let inner = inputs[1].clone();
        edit.insert_before(site.at.node, node::build("Cast", &cast, &[&inner], &[&wide], vec![to]));
        inputs[1] = wide;
    }
    let name = edit.name(&format!("{weight}_DequantizeLinear"));
    let attributes = vec![
        node::int_attribute("axis", 0),
        node::int_attribute("block_size", i64::try_from(scheme.block).unwrap_or(i64::MAX)),
    ];
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    edit.insert_before(
        site.at.node,
        node::build("DequantizeLinear", &name, &inputs, &[&result], attributes),
    );
    Ok(result)
}

/// Brings a Gemm to the form that is fused: factors in the weight and the bias, nothing transposed.
fn gemm(edit: &mut Edit<'_>, site: &Site, original: &NodeProto, weight: String, beta: f32) -> Result<()> {
    let at = site.at.node;
    let activation = original.input.first().cloned().unwrap_or_default();
    let bias = original.input.get(2).filter(|name| !name.is_empty() && beta != 0.0);
    let plain = |inputs: Vec<String>| {
        let attribute = original.attribute.iter().filter(|a| !is_factor(a.name())).cloned().collect();
        NodeProto { input: inputs, attribute, ..original.clone() }
    };
    let Some(bias) = bias else {
        edit.replace(at, vec![plain(vec![activation, weight])]);
        return Ok(());
    };
    if let Some(vector) = vector_bias(edit, site, bias, beta)? {
        edit.replace(at, vec![plain(vec![activation, weight, vector])]);
        return Ok(());
    }
    // A computed or two-dimensional C: the product is fused, the addition stays beside it.
    let stem = original.output.first().cloned().unwrap_or_default();
    let product = edit.name(&format!("{stem}_product"));
    let name = edit.name(&format!("{stem}_MatMul"));
    let mut nodes = vec![node::build("MatMul", &name, &[&activation, &weight], &[&product], vec![])];
    let mut addend = bias.clone();
    if beta != 1.0 {
        let factor = edit.name(&format!("{stem}_beta"));
        let scaled = edit.name(&format!("{stem}_scaled_bias"));
        let name = edit.name(&format!("{stem}_Mul"));
        edit.add(float_tensor(&factor, &[], &[beta], site.operand.delivered));
        nodes.push(node::build("Mul", &name, &[&addend, &factor], &[&scaled], vec![]));
        addend = scaled;
    }
    let output = original.output.first().map_or("", String::as_str);
    nodes.push(node::build("Add", original.name(), &[&product, &addend], &[output], vec![]));
    edit.replace(at, nodes);
    Ok(())
}

fn is_factor(name: &str) -> bool {
    matches!(name, "alpha" | "beta" | "transA" | "transB")
}

/// The name of a constant bias `[N]` that holds `beta · C`; `None` if C is no such vector.
fn vector_bias(edit: &mut Edit<'_>, site: &Site, bias: &str, beta: f32) -> Result<Option<String>> {
    let index = Index::new(edit.model.graph(), edit.model.proto.ir_version());
    let Some(found) = operand(&index, bias) else { return Ok(None) };
    let Some(tensor) = stored(edit.model, found.origin) else { return Ok(None) };
    let direct = matches!(found.origin, Origin::Initializer(_)) && tensor.name() == bias;
    if direct && beta == 1.0 && found.dims == [site.n] {
        return Ok(Some(bias.to_owned()));
    }
    let (rows, width) = match found.dims.as_slice() {
        [] => (1, 1),
        [width] => (1, *width),
        [rows, width] => (*rows, *width),
        _ => return Ok(None),
    };
    if rows != 1 || !(width == 1 || width == site.n) {
        return Ok(None);
    }
    let values = tensor::floats(tensor)
        .ok_or_else(|| Error::format(tensor::subject(tensor), "the bias of a Gemm is not floating-point"))?;
    let step = if width == 1 { 0 } else { found.strides.last().copied().unwrap_or(1) };
    let vector: Option<Vec<f32>> =
        (0..site.n).map(|column| values.get(column * step).map(|value| value * beta)).collect();
    let Some(vector) = vector else { return Ok(None) };
    let name = edit.name(&format!("{bias}_vector"));
    edit.add(float_tensor(&name, &[site.n], &vector, site.operand.delivered));
    Ok(Some(name))
}

fn float_tensor(name: &str, dims: &[usize], values: &[f32], kind: DataType) -> TensorProto {
    let raw: Vec<u8> = match kind {
        DataType::Float16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    let stored = if kind == DataType::Float16 { kind } else { DataType::Float };
    tensor::from_raw(name, stored, dims, raw)
}
