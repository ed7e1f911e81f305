//! Group 9: files beside the model.

use efq::onnx::proto::{TensorProto, tensor_proto::DataType};
use efq::onnx::tensor;
use prost::Message as _;

#[cfg(unix)]
use crate::corpus::pipe;
use crate::corpus::{Corpus, DATA};
use crate::support::{Net, noise, npy, npy_f32, npy_header, npy_i64, npz, value};

#[test]
fn samples() {
    let good = || npy_f32(&[4, 64], &noise(256, 3));
    let x = |array: Vec<u8>| npz(&[("x", array)]);
    let mut corpus = Corpus::default();
    corpus
        .case("missing", DATA, |folder| Net::linear(64, 64).save(&folder.join("m.onnx")))
        .data("empty", vec![])
        .data("no zip", b"x,y\n1,2\n".to_vec())
        .data("cut short", npz(&[("x", good())]).split_off(40))
        .data("empty archive", npz(&[]))
        .data("another name", npz(&[("X", good())]))
        .data("one name too many", npz(&[("x", good()), ("mask", npy_i64(&[4], &[1; 4]))]))
        .data("another width", x(npy_f32(&[4, 63], &noise(252, 3))))
        .data("another rank", x(npy_f32(&[2, 2, 1, 64], &noise(256, 3))))
        .data("a number", x(npy_f32(&[], &[1.0])))
        .data("no sample", x(npy_f32(&[0, 64], &[])))
        .data("fewer labels", npz(&[("x", good()), ("labels", npy_i64(&[3], &[0; 3]))]))
        .data("labels of floats", npz(&[("x", good()), ("labels", npy_f32(&[4], &[f32::NAN; 4]))]))
        .data("labels of three dimensions", npz(&[("x", good()), ("labels", npy_i64(&[4, 1, 1], &[0; 4]))]))
        .data("text", x(npy("<U8", "(4,)", &[0; 128])))
        .data("objects", x(npy("|O", "(4,)", b"\x80\x04.")))
        .data(
            "structure",
            x(npy_header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4,), }", &[0; 16])),
        )
        .data("big-endian", x(npy(">f4", "(4, 64)", &[0; 1024])))
        .data(
            "column-major",
            x(npy_header("{'descr': '<f4', 'fortran_order': True, 'shape': (4, 64), }", &[0; 1024])),
        )
        .data("shape that lies", x(npy("<f4", "(4, 65)", &[0; 1024])))
        .data("negative size", x(npy("<f4", "(-1, 64)", &[0; 1024])))
        .data("size of 2^64", x(npy("<f4", "(18446744073709551616, 64)", &[0; 1024])))
        .data("sizes that wrap", x(npy("<f4", "(4294967296, 4294967296)", &[])))
        .data("32 GiB in 80 bytes", x(npy("<f4", "(134217728, 64)", &[])))
        .data("expression", x(npy_header("{'descr': __import__('os').abort(), 'shape': (4, 64), }", &[])))
        .data("header of 9,000 brackets", x(npy_header(&"[".repeat(9_000), &[])))
        .data("header of 60,000 brackets", x(npy_header(&"[".repeat(60_000), &[])))
        .data(
            "header of 20 MB of brackets",
            x({
                let count = 20_000_000;
                let mut bytes = b"\x93NUMPY\x02\x00".to_vec();
                bytes.extend((count as u32).to_le_bytes());
                bytes.resize(12 + count, b'[');
                bytes
            }),
        )
        .data("header of 4 GiB", x(b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec()))
        .data("no header", x(b"\x93NUMPY\x01\x00".to_vec()))
        .data("no npy", x(b"hello".to_vec()))
        .data("2 GiB of zeros", {
            let mut member = npy("<f4", "(8388608, 64)", &[]);
            member.resize(member.len() + (256 << 20), 0);
            x(member)
        })
        .data("member above", npz(&[("../x", good())]));
    let free =
        Net::linear(64, 64).with(|graph| graph.input[0] = value("x", DataType::Float, &["batch", "length"]));
    corpus
        .case("2^60 samples of nothing", DATA, |folder| {
            free.save(&folder.join("m.onnx"));
            folder.write("d.npz", npz(&[("x", npy("<f4", "(1152921504606846976, 0)", &[]))]));
        })
        .case("fixed batch", DATA, |folder| {
            let net =
                Net::linear(64, 64).with(|graph| graph.input[0] = value("x", DataType::Float, &["8", "64"]));
            net.save(&folder.join("m.onnx"));
            folder.write("d.npz", npz(&[("x", good())]));
        })
        .case("output of no such name", &format!("{DATA} --output-name logit"), |folder| {
            Net::linear(64, 64).save(&folder.join("m.onnx"));
            folder.write("d.npz", npz(&[("x", good())]));
        });
    for (name, file, bytes) in [
        ("folder without samples", "d.npz/readme.txt", b"hello".to_vec()),
        ("sample file that is no tensor", "d.npz/test_data_set_0/input_0.pb", b"hello".to_vec()),
        (
            "sample tensor that lies",
            "d.npz/test_data_set_0/input_0.pb",
            TensorProto { dims: vec![1, 64], ..tensor::from_raw("x", DataType::Float, &[], vec![0; 4]) }
                .encode_to_vec(),
        ),
    ] {
        corpus.case(name, DATA, |folder| {
            Net::linear(64, 64).save(&folder.join("m.onnx"));
            folder.write(file, bytes);
        });
    }
    #[cfg(unix)]
    corpus.case("pipe", DATA, |folder| {
        Net::linear(64, 64).save(&folder.join("m.onnx"));
        pipe(folder, "d.npz");
    });
    insta::assert_snapshot!(corpus.report());
}

/// An archive whose bytes were changed after it was made.
fn patched(members: &[(&str, Vec<u8>)], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = npz(members);
    change(&mut bytes);
    bytes
}

/// Where `mark` stands for the `nth` time.
fn find(bytes: &[u8], mark: &[u8], nth: usize) -> usize {
    let mut places = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(mark));
    places.nth(nth).expect("the mark is there")
}

const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";

#[test]
fn archives_that_lie() {
    let x = || ("x", npy_f32(&[4, 64], &noise(256, 3)));
    let two = || [x(), ("y", npy_f32(&[4, 64], &noise(256, 4)))];
    let mut corpus = Corpus::default();
    corpus
        .data("damaged data", patched(&[x()], |bytes| bytes[200] ^= 0xff))
        .data(
            "wrong checksum",
            patched(&[x()], |bytes| {
                let at = find(bytes, CENTRAL, 0);
                bytes[at + 16] ^= 0xff;
            }),
        )
        .data(
            "encrypted",
            patched(&[x()], |bytes| {
                for (mark, flags) in [(LOCAL, 6), (CENTRAL, 8)] {
                    let at = find(bytes, mark, 0);
                    bytes[at + flags] |= 1;
                }
            }),
        )
        .data(
            "unknown compression",
            patched(&[x()], |bytes| {
                for (mark, method) in [(LOCAL, 8), (CENTRAL, 10)] {
                    let at = find(bytes, mark, 0);
                    bytes[at + method] = 99;
                }
            }),
        )
        .data(
            "4 GiB announced",
            patched(&[x()], |bytes| {
                let at = find(bytes, CENTRAL, 0);
                bytes[at + 24..at + 28].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f]);
            }),
        )
        .data(
            "zip64 without its field",
            patched(&[x()], |bytes| {
                let at = find(bytes, CENTRAL, 0);
                bytes[at + 20..at + 28].fill(0xff);
            }),
        )
        .data(
            "less announced than is there",
            patched(&[x()], |bytes| {
                let at = find(bytes, CENTRAL, 0);
                bytes[at + 24..at + 28].copy_from_slice(&100u32.to_le_bytes());
            }),
        )
        .data(
            "two members in one place",
            patched(&two(), |bytes| {
                let at = find(bytes, CENTRAL, 1);
                bytes[at + 42..at + 46].fill(0);
            }),
        )
        .data(
            "a member past the end",
            patched(&[x()], |bytes| {
                let at = find(bytes, CENTRAL, 0);
                bytes[at + 42..at + 46].fill(0x7f);
            }),
        )
        .data(
            "65,535 members announced",
            patched(&[x()], |bytes| {
                let at = find(bytes, END, 0);
                bytes[at + 8..at + 12].fill(0xff);
            }),
        )
        .data(
            "directory past the end",
            patched(&[x()], |bytes| {
                let at = find(bytes, END, 0);
                bytes[at + 16..at + 20].fill(0xfe);
            }),
        );
    let tensors = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let entry = |shape: &str, from: u64, to: u64| {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let good = entry("[4,64]", 0, 1024);
    let many: Vec<String> = (0..100_000).map(|at| format!("\"t{at}\":{}", entry("[0]", 0, 0))).collect();
    for (name, bytes) in [
        ("empty safetensors", vec![]),
        ("header of 2^63", [&(1u64 << 63).to_le_bytes()[..], b"{}"].concat()),
        ("header of 2^64-1", vec![0xff; 64]),
        ("header that is no JSON", tensors("hello", 8)),
        ("header of brackets", tensors(&"[".repeat(100_000), 8)),
        ("key twice", tensors(&format!("{{\"x\":{good},\"x\":{good}}}"), 1024)),
        ("hole", tensors(&format!("{{\"x\":{}}}", entry("[4,64]", 8, 1032)), 1032)),
        ("overlap", tensors(&format!("{{\"x\":{good},\"y\":{good}}}"), 1024)),
        ("sizes that wrap", tensors(&format!("{{\"x\":{}}}", entry("[4294967296,4294967296]", 0, 0)), 0)),
        ("size of 2^64", tensors(&format!("{{\"x\":{}}}", entry("[18446744073709551616]", 0, 0)), 0)),
        (
            "negative offset",
            tensors(r#"{"x":{"dtype":"F32","shape":[4,64],"data_offsets":[-1,1023]}}"#, 1024),
        ),
        ("backwards", tensors(&format!("{{\"x\":{}}}", entry("[4,64]", 1024, 0)), 1024)),
        ("past the end", tensors(&format!("{{\"x\":{good}}}"), 1023)),
        ("100,000 tensors of nothing", tensors(&format!("{{{}}}", many.join(",")), 0)),
    ] {
        let args = "rewrite m.onnx -p balanced_production -o out.onnx --data d.safetensors";
        corpus.case(name, args, |folder| {
            Net::linear(64, 64).save(&folder.join("m.onnx"));
            folder.write("d.safetensors", bytes);
        });
    }
    insta::assert_snapshot!(corpus.report());
}

/// Texts, and what says how to read them.
#[test]
fn texts_that_lie() {
    let ids = Net::new()
        .input("input_ids", DataType::Int64, &["batch", "length"])
        .output("logits", DataType::Float, &["batch", "length", "64"])
        .floats("table", &[64, 64], &noise(4096, 1))
        .floats("w", &[64, 64], &noise(4096, 2))
        .node("Gather", "rows", &["table", "input_ids"], &["h"], vec![])
        .node("MatMul", "product", &["h", "w"], &["logits"], vec![]);
    let words = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"[UNK]":0,"a":1},"unk_token":"[UNK]"}}"#;
    let mut corpus = Corpus::default();
    let mut add = |name: &str, file: &str, text: &[u8], tokenizer: &[u8]| {
        corpus.case(
            name,
            &format!("rewrite m.onnx -p balanced_production -o out.onnx --data {file}"),
            |folder| {
                ids.save(&folder.join("m.onnx"));
                folder.write(file, text);
                folder.write("tokenizer.json", tokenizer);
            },
        );
    };
    let good = b"a a a\na a a a\n";
    add("text that is not UTF-8", "d.txt", b"a\xff\xfeb\n", words.as_bytes());
    add("text in UTF-16", "d.txt", b"\xff\xfea\0 \0a\0\n\0", words.as_bytes());
    add("line of 20 MB", "d.txt", &b"a ".repeat(10_000_000), words.as_bytes());
    add("nothing but line ends", "d.txt", &b"\n".repeat(1000), words.as_bytes());
    add("objects that are none", "d.jsonl", b"[1]\n2\n", words.as_bytes());
    add("objects cut short", "d.jsonl", b"{\"text\": \"a\n", words.as_bytes());
    add("object of brackets", "d.jsonl", "[".repeat(1_000_000).as_bytes(), words.as_bytes());
    add("another field", "d.jsonl", b"{\"txt\": \"a a\"}\n", words.as_bytes());
    add("field of another type", "d.jsonl", b"{\"text\": 5}\n", words.as_bytes());
    add("empty tokenizer", "d.txt", good, b"");
    add("tokenizer of brackets", "d.txt", good, "[".repeat(1_000_000).as_bytes());
    add("tokenizer of nothing", "d.txt", good, b"{}");
    add("tokenizer of an unknown kind", "d.txt", good, words.replace("WordLevel", "Quantum").as_bytes());
    add("tokens past the table", "d.txt", good, words.replace("\"a\":1", "\"a\":4000000000").as_bytes());
    add("unknown token that is missing", "d.txt", b"b b\n", words.replace("\"[UNK]\":0,", "").as_bytes());
    insta::assert_snapshot!(corpus.outcomes());
}
