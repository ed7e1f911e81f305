//! What the tests share: small models, sample files, the binary, and a look at a folder.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use efq::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
    attribute_proto::AttributeType,
    tensor_proto::DataType,
    tensor_shape_proto::{Dimension, dimension},
    type_proto,
};
use efq::onnx::tensor;
use prost::Message as _;
use tempfile::TempDir;

/// A model under construction.
#[derive(Clone)]
pub struct Net {
    pub model: ModelProto,
}

impl Net {
    /// An empty graph at opset 17 and IR 8.
    pub fn new() -> Self {
        let model = ModelProto {
            ir_version: Some(8),
            producer_name: Some("tests".into()),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
            graph: Some(GraphProto { name: Some("graph".into()), ..Default::default() }),
            ..Default::default()
        };
        Self { model }
    }

    /// One MatMul: `x [batch, k] · w [k, n] -> logits`.
    pub fn linear(k: usize, n: usize) -> Self {
        Self::new()
            .input("x", DataType::Float, &["batch", &k.to_string()])
            .output("logits", DataType::Float, &["batch", &n.to_string()])
            .floats("w", &[k, n], &noise(k * n, 1))
            .node("MatMul", "product", &["x", "w"], &["logits"], vec![])
    }

    pub fn graph(&mut self) -> &mut GraphProto {
        self.model.graph.as_mut().unwrap()
    }

    pub fn with(mut self, change: impl FnOnce(&mut GraphProto)) -> Self {
        change(self.graph());
        self
    }

    pub fn with_model(mut self, change: impl FnOnce(&mut ModelProto)) -> Self {
        change(&mut self.model);
        self
    }

    pub fn opset(self, version: i64) -> Self {
        self.with_model(|model| model.opset_import[0].version = Some(version))
    }

    pub fn ir(self, version: i64) -> Self {
        self.with_model(|model| model.ir_version = Some(version))
    }

    pub fn metadata(self, key: &str, value: &str) -> Self {
        let entry = StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
        self.with_model(|model| model.metadata_props.push(entry))
    }

    pub fn input(self, name: &str, kind: DataType, dims: &[&str]) -> Self {
        self.with(|graph| graph.input.push(value(name, kind, dims)))
    }

    pub fn output(self, name: &str, kind: DataType, dims: &[&str]) -> Self {
        self.with(|graph| graph.output.push(value(name, kind, dims)))
    }

    pub fn floats(self, name: &str, dims: &[usize], values: &[f32]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(tensor::from_raw(name, DataType::Float, dims, raw))
    }

    pub fn halves(self, name: &str, dims: &[usize], values: &[f32]) -> Self {
        let raw: Vec<u8> =
            values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect();
        self.tensor(tensor::from_raw(name, DataType::Float16, dims, raw))
    }

    pub fn integers(self, name: &str, dims: &[usize], values: &[i64]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(tensor::from_raw(name, DataType::Int64, dims, raw))
    }

    pub fn tensor(self, tensor: TensorProto) -> Self {
        self.with(|graph| graph.initializer.push(tensor))
    }

    pub fn node(
        self,
        op: &str,
        name: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> Self {
        self.with(|graph| graph.node.push(efq::onnx::node::build(op, name, inputs, outputs, attributes)))
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.model.encode_to_vec()
    }

    pub fn save(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }

    /// Saves with every initializer of at least `least` bytes in `location` beside the model.
    pub fn save_external(&self, path: &Path, location: &str, least: usize) {
        let mut side = Vec::new();
        let mut model = self.model.clone();
        for tensor in &mut model.graph.as_mut().unwrap().initializer {
            let raw = tensor.raw_data.clone().unwrap_or_default();
            if raw.len() >= least {
                external(
                    tensor,
                    &[
                        ("location", location),
                        ("offset", &side.len().to_string()),
                        ("length", &raw.len().to_string()),
                    ],
                );
                side.extend_from_slice(&raw);
            }
        }
        std::fs::write(path, model.encode_to_vec()).unwrap();
        std::fs::write(path.parent().unwrap().join(location), side).unwrap();
    }
}

/// Turns `tensor` into one that is stored elsewhere, with these entries.
pub fn external(tensor: &mut TensorProto, entries: &[(&str, &str)]) {
    tensor.raw_data = None;
    tensor.data_location = Some(1);
    let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
        key: Some((*key).to_owned()),
        value: Some((*value).to_owned()),
    };
    tensor.external_data = entries.iter().map(entry).collect();
}

pub fn value(name: &str, kind: DataType, dims: &[&str]) -> ValueInfoProto {
    let dim = |text: &&str| Dimension {
        denotation: None,
        value: Some(match text.parse::<i64>() {
            Ok(size) => dimension::Value::DimValue(size),
            Err(_) => dimension::Value::DimParam((*text).to_owned()),
        }),
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let kind = type_proto::Tensor { elem_type: Some(kind as i32), shape: Some(shape) };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { denotation: None, value: Some(type_proto::Value::TensorType(kind)) }),
        ..Default::default()
    }
}

pub fn int(name: &str, value: i64) -> AttributeProto {
    efq::onnx::node::int_attribute(name, value)
}

pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Float as i32),
        f: Some(value),
        ..Default::default()
    }
}

pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Ints as i32),
        ints: values.to_vec(),
        ..Default::default()
    }
}

pub fn body(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(graph),
        ..Default::default()
    }
}

pub fn constant(output: &str, tensor: TensorProto) -> NodeProto {
    let value = AttributeProto {
        name: Some("value".into()),
        r#type: Some(AttributeType::Tensor as i32),
        t: Some(tensor),
        ..Default::default()
    };
    efq::onnx::node::build("Constant", "", &[], &[output], vec![value])
}

/// Values around zero with a bell-like spread, always the same for a seed.
pub fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (0..4).map(|_| uniform()).sum::<f32>() * 0.1).collect()
}

/// An array in numpy's file format: `descr` such as `<f4`, the shape as Python writes it.
pub fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    npy_header(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"), data)
}

/// As [`npy`], with any text for a header.
pub fn npy_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut padded = header.to_owned();
    while !(10 + padded.len() + 1).is_multiple_of(64) {
        padded.push(' ');
    }
    padded.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((padded.len() as u16).to_le_bytes());
    bytes.extend(padded.as_bytes());
    bytes.extend(data);
    bytes
}

pub fn npy_f32(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    npy("<f4", &tuple(shape), &data)
}

pub fn npy_i64(shape: &[usize], values: &[i64]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    npy("<i8", &tuple(shape), &data)
}

fn tuple(shape: &[usize]) -> String {
    let parts: Vec<String> = shape.iter().map(|size| format!("{size},")).collect();
    format!("({})", parts.join(" "))
}

/// An archive of these members, deflated.
pub fn npz(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, data) in members {
        writer.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(data).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// What a run of the binary gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// A folder of its own for one case.
pub struct Folder {
    dir: TempDir,
}

impl Folder {
    pub fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Every file below, with its bytes; folders with none.
    pub fn listing(&self) -> BTreeMap<String, Option<Vec<u8>>> {
        let mut found = BTreeMap::new();
        let mut pending = vec![self.path().to_owned()];
        while let Some(folder) = pending.pop() {
            for entry in folder.read_dir().unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(self.path()).unwrap().display().to_string();
                let meta = path.symlink_metadata().unwrap();
                if meta.is_dir() {
                    pending.push(path.clone());
                }
                found.insert(name, meta.is_file().then(|| std::fs::read(&path).unwrap()));
            }
        }
        found
    }

    /// Runs `efq` in this folder, without a terminal and without colours from outside.
    pub fn efq<S: AsRef<str>>(&self, args: &[S]) -> Run {
        let output = self.command(args).output().unwrap();
        self.run_of(&output)
    }

    pub fn command<S: AsRef<str>>(&self, args: &[S]) -> std::process::Command {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("efq"));
        command
            .args(args.iter().map(AsRef::as_ref))
            .current_dir(self.path())
            .stdin(std::process::Stdio::null());
        for key in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "RUST_BACKTRACE", "COLUMNS"] {
            command.env_remove(key);
        }
        command
    }

    pub fn run_of(&self, output: &Output) -> Run {
        let here = self.path().canonicalize().unwrap().display().to_string();
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes)
                .replace(&here, "HERE")
                .replace(&self.path().display().to_string(), "HERE")
        };
        Run { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// Runs that must end well; gives the standard output.
pub fn done(run: &Run) -> &str {
    assert_eq!(run.code, Some(0), "{run:?}");
    &run.out
}

/// The samples at `path`.
pub fn samples_at(path: &Path, model: &efq::onnx::Model) -> efq::Result<efq::data::Samples> {
    efq::data::load(&path.into(), model)
}
