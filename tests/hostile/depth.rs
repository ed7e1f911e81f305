//! Group 2: nesting and counts.

use efq::onnx::node;
use efq::onnx::proto::{
    FunctionProto, GraphProto, NodeProto, StringStringEntryProto, TypeProto, ValueInfoProto,
    tensor_proto::DataType, type_proto,
};

use prost::Message as _;

use crate::corpus::{Corpus, REWRITE};
use crate::support::{Folder, Net, body, ints, value};

/// A model with `If` in `If`, this deep, wrapped level by level: encoding messages that deep would overflow a stack.
fn nested(op: &str, attribute: &str, depth: usize) -> Vec<u8> {
    let mut graph = GraphProto {
        node: vec![node::build("Identity", "", &["x"], &["deep"], vec![])],
        output: vec![value("deep", DataType::Float, &[])],
        ..Default::default()
    }
    .encode_to_vec();
    for level in 0..depth {
        let out = format!("o{level}");
        let plain = node::build(op, "", &["c"], &[&out], vec![body(attribute, GraphProto::default())]);
        let mut attribute = plain.attribute[0].clone();
        attribute.g = None;
        let attribute = [attribute.encode_to_vec(), field(6, &graph)].concat();
        let node = NodeProto { attribute: vec![], ..plain }.encode_to_vec();
        let node = [node, field(5, &attribute)].concat();
        let output = value(&out, DataType::Float, &[]).encode_to_vec();
        graph = [field(1, &node), field(12, &output)].concat();
    }
    // Messages of one field are merged, so the body joins the graph that is there.
    let base = Net::linear(64, 64).input("c", DataType::Bool, &[]).bytes();
    let nodes = &graph[..graph.len()
        - field(12, &value(&format!("o{}", depth - 1), DataType::Float, &[]).encode_to_vec()).len()];
    [base, field(7, nodes)].concat()
}

/// A field of bytes as it is written.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut out);
    prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    out.extend_from_slice(bytes);
    out
}

#[test]
fn depth_and_width() {
    let deep_type = || {
        let mut kind = TypeProto::default();
        for _ in 0..60 {
            let sequence = type_proto::Sequence { elem_type: Some(Box::new(kind)) };
            kind = TypeProto {
                denotation: None,
                value: Some(type_proto::Value::SequenceType(Box::new(sequence))),
            };
        }
        let input = ValueInfoProto { name: Some("deep".into()), r#type: Some(kind), ..Default::default() };
        Net::linear(64, 64).with(|graph| graph.input.push(input)).bytes()
    };
    let function = |name: &str, calls: &str| FunctionProto {
        name: Some(name.into()),
        domain: Some("local".into()),
        node: vec![NodeProto { domain: Some("local".into()), ..node::build(calls, "", &[], &["y"], vec![]) }],
        ..Default::default()
    };
    let empty = |number: u32, count: usize| field(number, &[]).repeat(count);
    let graph_field = |number: u32, count: usize| {
        [vec![0x08, 0x08, 0x42, 0x02, 0x10, 0x11], field(7, &empty(number, count))].concat()
    };
    let node_field = |number: u32, count: usize| {
        [vec![0x08, 0x08, 0x42, 0x02, 0x10, 0x11], field(7, &field(1, &empty(number, count)))].concat()
    };
    let mut corpus = Corpus::default();
    corpus
        .bytes("bodies 32 deep", nested("If", "then_branch", 32))
        .bytes("bodies of Loop 32 deep", nested("Loop", "body", 32))
        .bytes("bodies of Scan 33 deep", nested("Scan", "body", 33))
        .bytes("bodies 100 deep", nested("If", "then_branch", 100))
        .bytes("bodies 10,000 deep", nested("If", "then_branch", 10_000))
        .bytes("type 60 deep", deep_type())
        .net(
            "function that calls itself",
            Net::linear(64, 64).with_model(|model| model.functions.push(function("f", "f"))),
        )
        .net(
            "ring of functions",
            Net::linear(64, 64)
                .with_model(|model| model.functions.extend([function("f", "g"), function("g", "f")])),
        )
        .bytes("1,000,001 nodes", graph_field(1, 1_000_001))
        .bytes("10,000,000 nodes", graph_field(1, 10_000_000))
        .bytes("10,000,000 initializers", graph_field(5, 10_000_000))
        .bytes("8,000,000 attributes", node_field(5, 8_000_000))
        .bytes("10,000,000 names of nothing", node_field(1, 10_000_000))
        .bytes("4,000,000 graph inputs", graph_field(11, 4_000_000))
        .bytes("2,000,000 entries of metadata", [vec![0x08, 0x08], empty(14, 2_000_000)].concat())
        .bytes("1,000,000 functions", [vec![0x08, 0x08], empty(25, 1_000_000)].concat())
        .net(
            "text of 200 MB",
            Net::linear(64, 64).with_model(|model| model.doc_string = Some("d".repeat(200_000_000))),
        )
        .net(
            "50,000,000 numbers of an attribute",
            Net::linear(64, 64).with(|graph| graph.node[0].attribute = vec![ints("a", &[1; 50_000_000])]),
        )
        .net(
            "name of 65,537 bytes",
            Net::linear(64, 64).with(|graph| graph.initializer[0].name = Some("n".repeat(65_537))),
        );
    insta::assert_snapshot!(corpus.report());
    // What ONNX Runtime loads, efq loads.
    for depth in [30, 31] {
        let folder = Folder::new();
        folder.write("m.onnx", nested("If", "then_branch", depth));
        assert_eq!(folder.efq(&["inspect", "m.onnx"]).code, Some(0));
    }
}

/// What is large and well-formed costs what it is large.
#[test]
fn large_and_accepted() {
    let woven = |op: &str, inputs: usize, length: usize| {
        Net::linear(64, 64).with(|graph| {
            graph.node[0].output[0] = "p0".into();
            for at in 0..length {
                let from = vec![format!("p{at}"); inputs];
                let from: Vec<&str> = from.iter().map(String::as_str).collect();
                let to = if at + 1 == length { "logits".to_owned() } else { format!("p{}", at + 1) };
                graph.node.push(node::build(op, "", &from, &[&to], vec![]));
            }
        })
    };
    let mut corpus = Corpus::default();
    corpus
        .net("30 Dropouts that take a product twice", woven("Dropout", 2, 30))
        .net("20 Identities that take a product four times", woven("Identity", 4, 20))
        .net(
            "50,000 entries of metadata",
            Net::linear(64, 64).with_model(|model| {
                model.metadata_props = (0..50_000)
                    .map(|at| StringStringEntryProto { key: Some(format!("k{at}")), value: None })
                    .collect();
            }),
        )
        .net(
            "text of 30 MB",
            Net::linear(64, 64).with_model(|model| model.doc_string = Some("d".repeat(30_000_000))),
        )
        .case(
            "5,000,000 numbers of an attribute",
            &format!("{REWRITE} --validate never --algorithm search"),
            |folder| {
                let attribute = ints("a", &[1; 5_000_000]);
                Net::linear(64, 64)
                    .with(|graph| graph.node[0].attribute = vec![attribute])
                    .save(&folder.join("m.onnx"));
            },
        )
        .net(
            // What efq makes of it has a longer one.
            "name of 65,500 bytes",
            Net::linear(64, 64).with(|graph| {
                graph.initializer[0].name = Some("n".repeat(65_500));
                graph.node[0].input[1] = "n".repeat(65_500);
            }),
        )
        .net(
            "chain of 20,000 nodes before a weight",
            Net::linear(64, 64).with(|graph| {
                let link = |at: usize| {
                    let from = if at == 0 { "w".to_owned() } else { format!("w{at}") };
                    node::build("Identity", "", &[&from], &[&format!("w{}", at + 1)], vec![])
                };
                let mut nodes: Vec<NodeProto> = (0..20_000).map(link).collect();
                graph.node[0].input[1] = "w20000".into();
                nodes.append(&mut graph.node);
                graph.node = nodes;
            }),
        )
        .net(
            "one weight with 1,000 uses",
            Net::linear(64, 64).with(|graph| {
                for at in 0..1000 {
                    let out = format!("use{at}");
                    graph.node.push(node::build("MatMul", "", &["x", "w"], &[&out], vec![]));
                    graph.output.push(value(&out, DataType::Float, &["batch", "64"]));
                }
            }),
        );
    insta::assert_snapshot!(corpus.outcomes());
}
