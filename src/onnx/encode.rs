//! Model → pieces of its protobuf encoding, in file order: small ones as bytes, payloads as references to
//! where they come from. No weight is copied, and the total length is known before any is produced.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

/// Payloads at least this long stay references; shorter ones are copied into the surrounding piece.
const REFERENCE_BYTES: usize = 4 << 10;

/// The payloads that are to be produced, by the name of their initializer: parts that lie one behind the other.
pub type Lazy = HashMap<String, Vec<LazyPart>>;

/// A piece of a payload that is produced when the writer reaches it: part `part` of group `group`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LazyPart {
    /// Index of the group, whose parts are produced together.
    pub group: usize,
    /// Index of the part within its group.
    pub part: usize,
    /// Bytes it will have.
    pub len: usize,
}

/// One piece of an encoded file.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Bytes as they stand in the file.
    Bytes(Bytes),
    /// Bytes yet to be produced.
    Lazy(LazyPart),
}

impl Piece {
    /// Bytes that the piece takes.
    pub fn len(&self) -> usize {
        match self {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Lazy(lazy) => lazy.len,
        }
    }
}

/// The encoding of `model`, in which each initializer named in `lazy`, of the main graph or of a body, carries that
/// payload as its `raw_data` (its own must be empty).
pub fn encode(model: &ModelProto, lazy: &Lazy) -> Vec<Piece> {
    let mut pieces = Pieces::default();
    let Some(graph) = &model.graph else {
        pieces.inline(&model.encode_to_vec());
        return pieces.done();
    };
    // The parts of a model may stand in any order: what is small comes first.
    let shell = ModelProto { graph: None, ..model.clone_without_graph() };
    pieces.inline(&shell.encode_to_vec());
    pieces.nested(7, graph_pieces(graph, lazy));
    pieces.done()
}

impl ModelProto {
    fn clone_without_graph(&self) -> Self {
        Self {
            ir_version: self.ir_version,
            opset_import: self.opset_import.clone(),
            producer_name: self.producer_name.clone(),
            producer_version: self.producer_version.clone(),
            domain: self.domain.clone(),
            model_version: self.model_version,
            doc_string: self.doc_string.clone(),
            graph: None,
            metadata_props: self.metadata_props.clone(),
            training_info: self.training_info.clone(),
            functions: self.functions.clone(),
            configuration: self.configuration.clone(),
        }
    }
}

fn graph_pieces(graph: &GraphProto, lazy: &Lazy) -> Vec<Piece> {
    let mut pieces = Pieces::default();
    for node in &graph.node {
        pieces.nested(1, node_pieces(node, lazy));
    }
    let rest = GraphProto {
        node: Vec::new(),
        initializer: Vec::new(),
        name: graph.name.clone(),
        sparse_initializer: graph.sparse_initializer.clone(),
        doc_string: graph.doc_string.clone(),
        input: graph.input.clone(),
        output: graph.output.clone(),
        value_info: graph.value_info.clone(),
        quantization_annotation: graph.quantization_annotation.clone(),
        metadata_props: graph.metadata_props.clone(),
    };
    pieces.inline(&rest.encode_to_vec());
    for tensor in &graph.initializer {
        pieces.nested(5, tensor_pieces(tensor, lazy.get(tensor.name()).map(Vec::as_slice)));
    }
    pieces.done()
}

fn node_pieces(node: &NodeProto, lazy: &Lazy) -> Vec<Piece> {
    let mut pieces = Pieces::default();
    if node.attribute.iter().all(|attribute| !holds_payloads(attribute)) {
        pieces.inline(&node.encode_to_vec());
        return pieces.done();
    }
    let shell = NodeProto { attribute: Vec::new(), ..node.clone() };
    pieces.inline(&shell.encode_to_vec());
    for attribute in &node.attribute {
        pieces.nested(5, attribute_pieces(attribute, lazy));
    }
    pieces.done()
}

fn holds_payloads(attribute: &AttributeProto) -> bool {
    attribute.g.is_some() || !attribute.graphs.is_empty() || attribute.t.as_ref().is_some_and(is_long)
}

fn is_long(tensor: &TensorProto) -> bool {
    tensor.raw_data.as_ref().is_some_and(|raw| raw.len() >= REFERENCE_BYTES)
}

fn attribute_pieces(attribute: &AttributeProto, lazy: &Lazy) -> Vec<Piece> {
    let mut pieces = Pieces::default();
    let shell = AttributeProto { t: None, g: None, graphs: Vec::new(), ..attribute.clone() };
    pieces.inline(&shell.encode_to_vec());
    if let Some(tensor) = &attribute.t {
        pieces.nested(5, tensor_pieces(tensor, None));
    }
    if let Some(graph) = &attribute.g {
        pieces.nested(6, graph_pieces(graph, lazy));
    }
    for graph in &attribute.graphs {
        pieces.nested(11, graph_pieces(graph, lazy));
    }
    pieces.done()
}

fn tensor_pieces(tensor: &TensorProto, lazy: Option<&[LazyPart]>) -> Vec<Piece> {
    let mut pieces = Pieces::default();
    let payload = match (lazy, &tensor.raw_data) {
        (Some(parts), _) => Some(parts.iter().copied().map(Piece::Lazy).collect()),
        (None, Some(raw)) if raw.len() >= REFERENCE_BYTES => Some(vec![Piece::Bytes(raw.clone())]),
        _ => None,
    };
    match payload {
        None => pieces.inline(&tensor.encode_to_vec()),
        Some(payload) => {
            let shell = TensorProto { raw_data: None, ..tensor.clone() };
            pieces.inline(&shell.encode_to_vec());
            pieces.nested(9, payload);
        }
    }
    pieces.done()
}

#[derive(Default)]
struct Pieces {
    list: Vec<Piece>,
    open: Vec<u8>,
}

impl Pieces {
    fn inline(&mut self, bytes: &[u8]) {
        self.open.extend_from_slice(bytes);
    }

    /// A length-delimited field holding `content`.
    fn nested(&mut self, field: u32, content: Vec<Piece>) {
        let len: usize = content.iter().map(Piece::len).sum();
        encode_key(field, WireType::LengthDelimited, &mut self.open);
        encode_varint(len as u64, &mut self.open);
        for piece in content {
            match piece {
                Piece::Bytes(bytes) if bytes.len() < REFERENCE_BYTES => self.inline(&bytes),
                piece => {
                    self.close();
                    self.list.push(piece);
                }
            }
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.list.push(Piece::Bytes(std::mem::take(&mut self.open).into()));
        }
    }

    fn done(mut self) -> Vec<Piece> {
        self.close();
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::{StringStringEntryProto, tensor_proto::DataType};
    use super::super::tensor::from_raw;
    use super::*;

    #[test]
    fn pieces_decode_to_the_same_model_with_lazy_payloads_in_place() {
        let long = vec![7u8; 5000];
        let body = GraphProto {
            initializer: vec![from_raw("in_body", DataType::Uint8, &[5000], long.clone())],
            ..Default::default()
        };
        let branch = NodeProto {
            op_type: Some("If".to_owned()),
            attribute: vec![AttributeProto {
                name: Some("then_branch".to_owned()),
                g: Some(body),
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut model = ModelProto {
            ir_version: Some(10),
            graph: Some(GraphProto {
                name: Some("g".to_owned()),
                node: vec![branch, NodeProto { op_type: Some("Relu".to_owned()), ..Default::default() }],
                initializer: vec![
                    from_raw("kept", DataType::Uint8, &[5000], long),
                    TensorProto { raw_data: None, ..from_raw("made", DataType::Uint8, &[3], vec![]) },
                ],
                ..Default::default()
            }),
            metadata_props: vec![StringStringEntryProto {
                key: Some("k".to_owned()),
                value: Some("v".to_owned()),
            }],
            ..Default::default()
        };
        let parts = [1, 2].map(|len| LazyPart { group: 0, part: len - 1, len });
        let pieces = encode(&model, &Lazy::from([("made".to_owned(), parts.to_vec())]));
        let mut file = Vec::new();
        for piece in &pieces {
            match piece {
                Piece::Bytes(bytes) => file.extend_from_slice(bytes),
                Piece::Lazy(part) => file.extend_from_slice([[1].as_slice(), &[2, 3]][part.part]),
            }
        }
        let read = ModelProto::decode(file.as_slice()).expect("valid protobuf");
        if let Some(graph) = &mut model.graph {
            graph.initializer[1].raw_data = Some(vec![1, 2, 3].into());
        }
        assert_eq!(read, model);
        assert_eq!(pieces.iter().map(Piece::len).sum::<usize>(), file.len());
    }
}
