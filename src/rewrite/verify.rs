//! What was written, read again before it gets its name: that it is whole, hangs on no other file, and that scales
//! and zero points have the shapes that their weights ask for. ONNX Runtime takes those shapes on trust, and the
//! checker of ONNX does not look at them.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Kind, Result};
use crate::onnx::proto::{GraphProto, NodeProto, TensorProto, ValueInfoProto, type_proto};
use crate::onnx::tensor::{self, DataType};
use crate::onnx::{Model, Staged, node, node_subject, walk};

/// Holds `written`, read back from `staged`, against what it must be; what was wrong in `source` already is not
/// efq's doing.
///
/// # Errors
/// [`Kind::Format`] about `output`: another size than was written, a file that is not efq's own, scales or zero
/// points of another shape than their weight asks for, scales of another type than the activation, a scale that is not
/// finite.
pub fn verify(written: &Model, source: &Model, staged: &Staged) -> Result<()> {
    let fault = |what: String| {
        Error::new(Kind::Format, "output", what).help("this is a fault of efq: please report it")
    };
    let saved = staged.saved();
    if written.size() != saved.bytes + saved.side_bytes {
        return Err(fault(format!(
            "{} bytes are on the disk, {} were written",
            written.size(),
            saved.bytes + saved.side_bytes
        )));
    }
    if let Some(other) = written.side_paths().iter().find(|path| !staged.owns(path)) {
        return Err(fault(format!("it hangs on '{}'", other.display())));
    }
    let found = faults(written);
    if found.is_empty() {
        return Ok(());
    }
    let known: HashSet<String> = faults(source).into_iter().collect();
    found.into_iter().find(|what| !known.contains(what)).map_or(Ok(()), |what| Err(fault(what)))
}

/// What is wrong with the quantized weights of `model`, in all its graphs.
fn faults(model: &Model) -> Vec<String> {
    let mut found = Vec::new();
    in_graph(model.graph(), None, &mut found);
    found
}

/// The stored tensors that a graph sees, and the types of values as far as they are declared.
struct Scope<'a> {
    tensors: HashMap<&'a str, &'a TensorProto>,
    types: HashMap<&'a str, i32>,
    outer: Option<&'a Scope<'a>>,
}

impl<'a> Scope<'a> {
    fn get(&self, name: &str) -> Option<&'a TensorProto> {
        self.tensors.get(name).copied().or_else(|| self.outer.and_then(|outer| outer.get(name)))
    }

    /// The tensor at input `at`, which a Cast and a Mul by one number may stand before.
    fn input(&self, node: &NodeProto, at: usize) -> Option<&'a TensorProto> {
        node.input.get(at).and_then(|name| self.get(name))
    }

    /// The type of input `at`, if it is known.
    fn kind(&self, node: &NodeProto, at: usize) -> Option<i32> {
        let name = node.input.get(at)?.as_str();
        let own = self.types.get(name).copied();
        own.or_else(|| self.outer.and_then(|outer| outer.kind(node, at)))
    }
}

fn declared(value: &ValueInfoProto) -> Option<(&str, i32)> {
    match value.r#type.as_ref()?.value.as_ref()? {
        type_proto::Value::TensorType(kind) => Some((value.name(), kind.elem_type())),
        _ => None,
    }
}

fn in_graph(graph: &GraphProto, outer: Option<&Scope<'_>>, found: &mut Vec<String>) {
    let tensors: HashMap<_, _> = graph.initializer.iter().map(|tensor| (tensor.name(), tensor)).collect();
    let mut types: HashMap<_, _> =
        graph.input.iter().chain(&graph.value_info).chain(&graph.output).filter_map(declared).collect();
    types.extend(tensors.iter().map(|(name, tensor)| (*name, tensor.data_type())));
    let mut scope = Scope { tensors, types, outer };
    for step in &graph.node {
        let kind = match step.op_type() {
            "Cast" => i32::try_from(node::int(step, "to", 0)).ok(),
            "Mul" => scope.kind(step, 0),
            "DequantizeLinear" if node::attribute(step, "output_dtype").is_none() => scope.kind(step, 1),
            _ => None,
        };
        scope.types.extend(step.output.first().map(String::as_str).zip(kind));
        let unit = match step.op_type() {
            "Cast" => None,
            "Mul" => scope.input(step, 1).filter(|unit| unit.dims.is_empty()),
            _ => continue,
        };
        if (step.op_type() == "Cast" || unit.is_some())
            && let (Some(inner), Some(output)) = (scope.input(step, 0), step.output.first())
        {
            found.extend(unit.and_then(finite).map(|what| format!("{}: {what}", node_subject(step))));
            scope.tensors.insert(output, inner);
        }
    }
    for node in &graph.node {
        let wrong = match node.op_type() {
            "DequantizeLinear" => blocks(node, &scope),
            "MatMulNBits" => nbits(node, &scope).or_else(|| two_types(node, 2, &scope)),
            "MatMul" | "Gemm" => two_types(node, 1, &scope),
            _ => None,
        };
        found.extend(wrong.map(|what| format!("{}: {what}", node_subject(node))));
        for body in walk::graphs_of(node) {
            in_graph(body, Some(&scope), found);
        }
    }
}

/// ONNX DequantizeLinear-21: scales for the whole, for each index of `axis`, or for each block along it.
fn blocks(node: &NodeProto, scope: &Scope<'_>) -> Option<String> {
    let codes = scope.input(node, 0)?;
    let scales = scope.input(node, 1)?;
    let rank = i64::try_from(codes.dims.len()).ok()?;
    let axis = node::int(node, "axis", 1);
    let along = if axis < 0 { axis.checked_add(rank)? } else { axis };
    let block = node::int(node, "block_size", 0);
    let single = scales.dims.iter().all(|size| *size == 1) && block == 0;
    if !single {
        let Some(size) = usize::try_from(along).ok().and_then(|along| codes.dims.get(along)) else {
            return Some(format!("axis {axis} of a weight of {rank} dimensions"));
        };
        let mut wanted = vec![*size];
        if block != 0 {
            if block < 0 {
                return Some(format!("blocks of {block}"));
            }
            wanted.clone_from(&codes.dims);
            let blocks = size / block + i64::from(size % block != 0);
            wanted.iter_mut().skip(usize::try_from(along).ok()?).take(1).for_each(|size| *size = blocks);
        }
        if scales.dims != wanted {
            return Some(format!("scales of shape {:?}, {wanted:?} is asked for", scales.dims));
        }
    }
    let zeros = scope.input(node, 2);
    if let Some(zeros) = zeros.filter(|zeros| zeros.data_type() != codes.data_type()) {
        let (found, wanted) = (zeros.data_type(), codes.data_type());
        return Some(format!("zero points of type {found:?}, the codes have {wanted:?}"));
    }
    if let Some(zeros) = zeros.filter(|zeros| zeros.dims != scales.dims) {
        return Some(format!("zero points of shape {:?}, the scales have {:?}", zeros.dims, scales.dims));
    }
    finite(scales)
}

/// A product of an activation and a weight, or its scales, at input `weight`: both have one type.
fn two_types(node: &NodeProto, weight: usize, scope: &Scope<'_>) -> Option<String> {
    let (activation, weight) = scope.kind(node, 0).zip(scope.kind(node, weight))?;
    let name = |kind: i32| DataType::try_from(kind).map_or("an unknown type", tensor::type_name);
    (activation != weight)
        .then(|| format!("a weight of {} for an activation of {}", name(weight), name(activation)))
}

/// MatMulNBits (com.microsoft, version 1): codes `[N, blocks, bytes of a block]`, a scale for each block.
fn nbits(node: &NodeProto, scope: &Scope<'_>) -> Option<String> {
    let codes = scope.input(node, 1)?;
    let scales = scope.input(node, 2)?;
    let number = |name| node::int(node, name, 0);
    let (k, n, bits, block) = (number("K"), number("N"), number("bits"), number("block_size"));
    if k < 1 || n < 1 || block < 1 || !(1..=8).contains(&bits) {
        return Some(format!("K {k}, N {n}, {bits} bits in blocks of {block}"));
    }
    let count = k / block + i64::from(k % block != 0);
    let bytes = block.checked_mul(bits)? / 8;
    if codes.dims != [n, count, bytes] {
        return Some(format!("codes of shape {:?}, {:?} is asked for", codes.dims, [n, count, bytes]));
    }
    let product = |dims: &[i64]| dims.iter().try_fold(1i64, |product, size| product.checked_mul(*size));
    if product(&scales.dims) != n.checked_mul(count) {
        return Some(format!("scales of shape {:?}, {:?} is asked for", scales.dims, [n, count]));
    }
    let packed = (count.checked_mul(bits)? + 7) / 8;
    if let Some(zeros) = scope.input(node, 3)
        && product(&zeros.dims) != n.checked_mul(packed)
        && product(&zeros.dims) != n.checked_mul(count)
    {
        return Some(format!("zero points of shape {:?}, {:?} is asked for", zeros.dims, [n, packed]));
    }
    finite(scales)
}

fn finite(scales: &TensorProto) -> Option<String> {
    let is_half = scales.data_type() == DataType::Float16 as i32;
    if let Some(raw) = scales.raw_data.as_ref().filter(|_| is_half) {
        // Of a large model they are many: all bits of an exponent are looked for where they lie, in pieces that vectorize.
        let halves = raw.as_chunks::<2>().0.chunks(4096);
        let is_bad = |half: &[u8; 2]| u16::from_le_bytes(*half) & 0x7c00 == 0x7c00;
        if halves.into_iter().all(|part| !part.iter().fold(false, |bad, half| bad | is_bad(half))) {
            return None;
        }
    }
    let values = tensor::floats(scales)?;
    let bad = values.iter().find(|value| !value.is_finite())?;
    Some(format!("a scale of {bad} in '{}'", scales.name()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::onnx::proto::{ModelProto, OperatorSetIdProto, TypeProto};
    use crate::onnx::save::stage;
    use crate::onnx::{Draft, SaveOptions, load};
    use crate::progress::Silent;

    fn typed(name: &str, kind: DataType) -> ValueInfoProto {
        let kind = type_proto::Tensor { elem_type: Some(kind as i32), shape: None };
        let kind = TypeProto { denotation: None, value: Some(type_proto::Value::TensorType(kind)) };
        ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind), ..Default::default() }
    }

    /// `x · dequantized [64, 2]` in blocks of 32, and the same as MatMulNBits.
    fn model() -> ModelProto {
        let float = |name: &str, dims: &[usize]| {
            let count = dims.iter().product::<usize>();
            tensor::from_raw(name, DataType::Float, dims, 1f32.to_le_bytes().repeat(count))
        };
        let int = node::int_attribute;
        let mut fused = node::build(
            "MatMulNBits",
            "fused",
            &["x", "packed", "each"],
            &["z"],
            vec![int("K", 64), int("N", 2), int("bits", 4), int("block_size", 32)],
        );
        fused.domain = Some("com.microsoft".to_owned());
        let graph = GraphProto {
            node: vec![
                node::build("Cast", "", &["s"], &["wide"], vec![int("to", 1)]),
                node::build(
                    "DequantizeLinear",
                    "dq",
                    &["q", "wide", "zero"],
                    &["w"],
                    vec![int("axis", 0), int("block_size", 32)],
                ),
                node::build("MatMul", "", &["x", "w"], &["y"], vec![]),
                fused,
            ],
            initializer: vec![
                tensor::from_raw("q", DataType::Uint8, &[64, 2], vec![7; 128]),
                float("s", &[2, 2]),
                tensor::from_raw("zero", DataType::Uint8, &[2, 2], vec![8; 4]),
                tensor::from_raw("packed", DataType::Uint8, &[2, 2, 16], vec![7; 64]),
                float("each", &[2, 2]),
                float("large", &[1024]),
            ],
            input: vec![typed("x", DataType::Float)],
            output: vec![ValueInfoProto { name: Some("y".to_owned()), ..Default::default() }],
            ..Default::default()
        };
        ModelProto {
            ir_version: Some(10),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(21) }],
            graph: Some(graph),
            ..Default::default()
        }
    }

    fn wrong(change: impl FnOnce(&mut GraphProto)) -> String {
        let mut proto = model();
        change(proto.graph.as_mut().unwrap());
        faults(&Model::from_proto(proto)).join("; ")
    }

    #[test]
    fn shapes_that_do_not_go_together_are_named() {
        assert_eq!(wrong(|_| ()), "");
        let found = [
            wrong(|g| g.initializer[1].dims = vec![4, 1]),
            wrong(|g| g.initializer[1].dims = vec![4]),
            wrong(|g| g.initializer[2].dims = vec![4]),
            wrong(|g| g.initializer[2].data_type = Some(DataType::Int8 as i32)),
            wrong(|g| g.node[1].attribute[1] = node::int_attribute("block_size", 16)),
            wrong(|g| g.node[1].attribute[1] = node::int_attribute("block_size", -1)),
            wrong(|g| g.node[1].attribute[0] = node::int_attribute("axis", 2)),
            wrong(|g| {
                g.initializer[1].raw_data =
                    Some([1.0, 1.0, f32::NAN, 1.0].map(f32::to_le_bytes).concat().into());
            }),
            wrong(|g| g.node[3].attribute[0] = node::int_attribute("K", 65)),
            wrong(|g| g.node[3].attribute[2] = node::int_attribute("bits", 0)),
            wrong(|g| g.initializer[4].dims = vec![3]),
            wrong(|g| g.input[0] = typed("x", DataType::Float16)),
            wrong(|g| g.node[0].attribute[0] = node::int_attribute("to", DataType::Float16 as i64)),
        ];
        insta::assert_snapshot!(found.join("\n"));
    }

    /// Stages the model with a side file, lets `change` at it, reads it back and verifies it.
    fn verdict(change: impl FnOnce(&Path)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let draft = Draft { proto: model(), lazy: HashMap::new(), groups: Vec::new(), closing: None };
        let target = folder.path().join("out.onnx");
        let staged = stage(&draft, &target, SaveOptions { external: true }, &Silent).unwrap();
        change(staged.path().parent().unwrap());
        let result =
            load(&staged.path()).and_then(|written| verify(&written, &Model::from_proto(model()), &staged));
        match result {
            Ok(()) => "good".to_owned(),
            Err(error) => {
                let text = error.to_string();
                text.split_once("out.onnx: ").map_or(text.clone(), |(_, what)| what.to_owned())
            }
        }
    }

    #[test]
    fn files_that_changed_are_named() {
        use std::fs::{OpenOptions, copy, read, remove_file, write};
        let grow = |path: &Path, by: i64| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            let size = file.metadata().unwrap().len();
            file.set_len(size.checked_add_signed(by).unwrap()).unwrap();
        };
        assert_eq!(verdict(|_| ()), "good");
        let found = [
            verdict(|folder| grow(&folder.join("out.onnx_data"), -1)),
            verdict(|folder| grow(&folder.join("out.onnx_data"), 1)),
            verdict(|folder| grow(&folder.join("out.onnx"), -1)),
            verdict(|folder| remove_file(folder.join("out.onnx_data")).unwrap()),
            verdict(|folder| {
                // As long as the name that it takes the place of.
                copy(folder.join("out.onnx_data"), folder.join("src.onnx_data")).unwrap();
                let mut bytes = read(folder.join("out.onnx")).unwrap();
                while let Some(at) = bytes.windows(9).position(|part| part == b"out.onnx_") {
                    bytes[at..at + 3].copy_from_slice(b"src");
                }
                write(folder.join("out.onnx"), bytes).unwrap();
            }),
        ];
        let text = found.join("\n");
        let other = text.rfind("'/").map_or(text.len(), |at| at + 1);
        assert!(text.ends_with("src.onnx_data' (this is a fault of efq: please report it)"), "{text}");
        insta::assert_snapshot!(&text[..other]);
    }
}
