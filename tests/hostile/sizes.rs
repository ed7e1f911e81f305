//! Group 3: shapes and payloads that do not go together.

use efq::onnx::proto::{TensorProto, tensor_proto::DataType};
use efq::onnx::tensor;

use crate::corpus::Corpus;
use crate::support::{Net, constant};

#[test]
fn sizes_and_payloads() {
    let stored = |change: fn(&mut TensorProto)| {
        let mut net = Net::linear(64, 64);
        change(&mut net.graph().initializer[0]);
        net
    };
    let mut corpus = Corpus::default();
    corpus
        .net("product that wraps to 0", stored(|w| w.dims = vec![1 << 32, 1 << 32]))
        .net("product that wraps to 4", stored(|w| w.dims = vec![4_194_305, 4_194_305, 211_106_198_978_564]))
        .net(
            "bits that wrap to 0",
            stored(|w| {
                *w = TensorProto {
                    dims: vec![1 << 58],
                    ..tensor::from_raw("w", DataType::Double, &[], vec![])
                };
            }),
        )
        .net(
            "bits of complex numbers that wrap",
            stored(|w| {
                *w = TensorProto {
                    dims: vec![1 << 57],
                    ..tensor::from_raw("w", DataType::Complex128, &[], vec![])
                };
            }),
        )
        .net("negative", stored(|w| w.dims = vec![-64, 64]))
        .net("least integer", stored(|w| w.dims = vec![i64::MIN, 0]))
        .net("rank 65", stored(|w| w.dims = vec![1; 65]))
        .net("a byte short", stored(|w| w.raw_data = w.raw_data.as_ref().map(|raw| raw.slice(1..))))
        .net(
            "a byte long",
            stored(|w| {
                let long = [w.raw_data.as_ref().unwrap(), &[0u8][..]].concat();
                w.raw_data = Some(long.into());
            }),
        )
        .net(
            "odd count of nibbles",
            Net::linear(64, 64).tensor(tensor::from_raw("q", DataType::Int4, &[3], vec![0])),
        )
        .net("no payload", stored(|w| w.raw_data = None))
        .net(
            "field of another type",
            stored(|w| {
                w.raw_data = None;
                w.int64_data = vec![0; 64 * 64];
            }),
        )
        .net("two payloads", stored(|w| w.float_data = vec![0.0; 64 * 64]))
        .net("data type 0", stored(|w| w.data_type = Some(0)))
        .net("data type 99", stored(|w| w.data_type = Some(99)))
        .net("data type of 2^31-1", stored(|w| w.data_type = Some(i32::MAX)))
        .net(
            "strings of another count",
            Net::linear(64, 64).tensor(TensorProto {
                string_data: vec![bytes::Bytes::from("a")],
                raw_data: None,
                ..tensor::from_raw("s", DataType::String, &[2], vec![])
            }),
        )
        .net(
            "constant node that lies",
            Net::linear(64, 64).with(|graph| {
                graph.node.push(constant("c", tensor::from_raw("c", DataType::Float, &[2], vec![0; 4])));
            }),
        );
    insta::assert_snapshot!(corpus.report());
}

/// Shapes that are allowed and seldom.
#[test]
fn odd_shapes() {
    let mut corpus = Corpus::default();
    for (k, n) in [(1, 1), (1, 64), (64, 1), (0, 64), (64, 0), (3, 5), (33, 2), (257, 1)] {
        corpus.net(&format!("{k} by {n}"), Net::linear(k, n));
    }
    corpus
        .net("weight of rank 0", shaped(&[]))
        .net("weight of rank 1", shaped(&[64]))
        .net("weight of rank 5", shaped(&[1, 1, 1, 64, 64]))
        .net("weight of rank 64", shaped(&[1; 64]))
        .net(
            "strings",
            Net::linear(64, 64).tensor(TensorProto {
                data_type: Some(DataType::String as i32),
                name: Some("s".into()),
                dims: vec![1],
                string_data: vec![bytes::Bytes::from(&b"\xff\0"[..])],
                ..Default::default()
            }),
        )
        .net(
            "pad nibble that is not zero",
            Net::linear(64, 64).tensor(tensor::from_raw("q", DataType::Int4, &[3], vec![0x21, 0xf3])),
        );
    insta::assert_snapshot!(corpus.outcomes());
}

/// A MatMul by a weight of this shape.
fn shaped(dims: &[usize]) -> Net {
    let count: usize = dims.iter().product();
    Net::linear(64, 64).with(|graph| {
        graph.initializer[0] = tensor::from_raw("w", DataType::Float, dims, vec![0; 4 * count]);
    })
}
