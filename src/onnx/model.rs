//! A model in memory: the decoded graph, with payloads that are slices of the mapped files.

use std::collections::HashSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::digest::Digest;
use super::proto::{GraphProto, ModelProto};
use super::wire::UnknownField;

/// A decoded model and where it came from.
///
/// After loading, every tensor has its bytes in the message itself, as a slice of a mapping: whether they
/// came from the model file or from one beside it no longer matters to any reader.
#[derive(Debug, Clone)]
pub struct Model {
    /// The protobuf message. `graph` is always present in a [`Checked`] model.
    pub proto: ModelProto,
    pub(super) source: Source,
}

/// The files a model was read from.
#[derive(Debug, Clone, Default)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) bytes: Bytes,
    pub(super) side_paths: Vec<PathBuf>,
    pub(super) sides: Vec<Bytes>,
    pub(super) unknown: Vec<UnknownField>,
    pub(super) digest: Arc<Digest>,
}

impl Model {
    /// A model built in memory, without files.
    pub fn from_proto(proto: ModelProto) -> Self {
        Self { proto, source: Source::default() }
    }

    /// The main graph; an empty one stands in where the file has none (a [`Checked`] model always has one).
    pub fn graph(&self) -> &GraphProto {
        static EMPTY: GraphProto = EMPTY_GRAPH;
        self.proto.graph.as_ref().unwrap_or(&EMPTY)
    }

    /// Path of the `.onnx` file; empty for a model built in memory.
    pub fn path(&self) -> &Path {
        &self.source.path
    }

    /// Paths of the files beside the model that hold its tensors.
    pub fn side_paths(&self) -> &[PathBuf] {
        &self.source.side_paths
    }

    /// Bytes on disk: the `.onnx` file and its side files.
    pub fn size(&self) -> u64 {
        self.source.bytes.len() as u64 + self.source.sides.iter().map(|side| side.len() as u64).sum::<u64>()
    }

    /// The `.onnx` file as it lies on disk.
    pub fn file_bytes(&self) -> &Bytes {
        &self.source.bytes
    }

    /// Fields of the file that ONNX's schema does not have; writing drops them.
    pub fn unknown_fields(&self) -> &[UnknownField] {
        &self.source.unknown
    }

    /// BLAKE3 of the `.onnx` file, followed by its side files in the order of their paths, as lower-case hex.
    pub fn digest(&self) -> &str {
        self.source.digest.hex()
    }

    /// Where [`Self::digest`] comes from: told which weights were read, it does not read them again.
    pub fn shared_digest(&self) -> Arc<Digest> {
        Arc::clone(&self.source.digest)
    }

    /// Version of the default operator set, 0 if the model imports none.
    pub fn opset(&self) -> i64 {
        opset_version(&self.proto.opset_import, "")
    }
}

/// The version that `imports` give for `domain` ("" and "ai.onnx" are the same), 0 if none.
pub fn opset_version(imports: &[super::proto::OperatorSetIdProto], domain: &str) -> i64 {
    let canonical = |name: &str| if name == "ai.onnx" { String::new() } else { name.to_owned() };
    imports
        .iter()
        .find(|import| canonical(import.domain()) == canonical(domain))
        .map_or(0, |import| import.version())
}

/// A graph with nothing in it.
pub const EMPTY_GRAPH: GraphProto = GraphProto {
    node: Vec::new(),
    name: None,
    initializer: Vec::new(),
    sparse_initializer: Vec::new(),
    doc_string: None,
    input: Vec::new(),
    output: Vec::new(),
    value_info: Vec::new(),
    quantization_annotation: Vec::new(),
    metadata_props: Vec::new(),
};

/// A value that [`super::check`] has found well-formed; it can be read, not changed.
#[derive(Debug, Clone)]
pub struct Checked<T>(T);

impl<T> Checked<T> {
    pub(super) fn new(value: T) -> Self {
        Self(value)
    }
}

impl Checked<Model> {
    /// Takes the initializers out of the inputs of the main graph, which makes constants of them; gives how many
    /// there were. What is well-formed stays so.
    pub fn freeze_inputs(&mut self) -> usize {
        let Some(graph) = &mut self.0.proto.graph else { return 0 };
        let stored: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
        let before = graph.input.len();
        graph.input.retain(|input| !stored.contains(input.name()));
        before - graph.input.len()
    }
}

impl<T> Deref for Checked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
