//! A model larger than protobuf and than the memory that efq may take.
//!
//!     cargo test --release --test large -- --ignored
//!
//! Needs 8 GB of disk where temporary files lie (`TMPDIR`) for each test, and takes minutes.
#![cfg(target_os = "linux")]

mod support;

use std::io::Write as _;
use std::time::Duration;

use efq::onnx::proto::TensorProto;
use efq::onnx::proto::tensor_proto::{DataLocation, DataType};
use support::{Folder, Net, external, int, noise};

const SIDE: usize = 4096;
const WEIGHTS: usize = 128;
const BYTES: usize = SIDE * SIDE * 2;
/// Memory beyond the mapped files.
const LIMIT: usize = 300_000_000;

#[test]
#[ignore = "writes 8 GB"]
fn four_gigabytes_are_rewritten_within_300_megabytes() {
    let folder = Folder::new();
    let values = noise(SIDE * SIDE, 1);
    let mut raw: Vec<u8> =
        values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect();
    let mut side = std::fs::File::create(folder.join("m.bin")).unwrap();
    let mut net = Net::new().opset(21).ir(10).input("h0", DataType::Float16, &["batch", "4096"]).output(
        &format!("h{WEIGHTS}"),
        DataType::Float16,
        &["batch", "4096"],
    );
    for at in 0..WEIGHTS {
        // No two are the same: one would stand for both.
        raw[..2].copy_from_slice(&half::f16::from_f32(at as f32 / 1024.0).to_le_bytes());
        side.write_all(&raw).unwrap();
        net = net.tensor(beside(&format!("w{at:03}"), &[SIDE, SIDE], at * BYTES));
        let (weight, from, to) = (format!("w{at:03}"), format!("h{at}"), format!("h{}", at + 1));
        net = net.node("MatMul", &format!("m{at}"), &[&from, &weight], &[&to], vec![]);
    }
    drop(side);
    net.save(&folder.join("m.onnx"));

    // Weights 0 to 59 stay: 2 GB, more than goes into the model file itself.
    let mut args =
        vec!["rewrite", "m.onnx", "-p", "high_accuracy", "-o", "out.onnx", "--algorithm", "rtn", "-q"];
    args.extend(["--tensor", "w0[0-5]?=float"]);
    holds_the_limit(&folder, &args);

    let side = folder.join("out.onnx_data").metadata().unwrap().len();
    assert!(side > 1_800_000_000, "{side}");
    let proto: efq::onnx::proto::ModelProto =
        prost::Message::decode(folder.read("out.onnx").as_slice()).unwrap();
    let stored = proto.graph.unwrap().initializer;
    let outside = stored.iter().filter(|tensor| tensor.data_location() == DataLocation::External);
    for tensor in outside {
        let of = |key: &str| {
            let entry = tensor.external_data.iter().find(|entry| entry.key() == key).unwrap();
            entry.value().parse::<usize>().unwrap()
        };
        assert!(of("length") < 1 << 20 || of("offset").is_multiple_of(4096), "{}", tensor.name());
    }
    efq::onnx::load(&folder.join("out.onnx")).unwrap();
}

/// A head and tables of a vocabulary whose codes alone take more than the limit.
#[test]
#[ignore = "writes 8 GB"]
fn single_weights_of_a_gigabyte_are_rewritten_within_300_megabytes() {
    const WIDTH: usize = 1024;
    const VOCABULARY: usize = 640_000;
    let folder = Folder::new();
    let values = noise(WIDTH * 1000, 1);
    let mut raw: Vec<u8> =
        values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect();
    let mut side = std::fs::File::create(folder.join("m.bin")).unwrap();
    let mut offsets = Vec::new();
    for at in 0..3 {
        offsets.push(at * 2 * WIDTH * VOCABULARY);
        raw[..2].copy_from_slice(&half::f16::from_f32(at as f32).to_le_bytes());
        (0..VOCABULARY / 1000).for_each(|_| side.write_all(&raw).unwrap());
    }
    drop(side);
    let logits = ["batch", "640000"];
    let net = Net::new()
        .opset(21)
        .ir(10)
        .input("ids", DataType::Int64, &["batch"])
        .output("logits", DataType::Float16, &logits)
        .output("left", DataType::Float16, &logits)
        .output("row", DataType::Float16, &["batch", "1024"])
        .tensor(beside("table", &[VOCABULARY, WIDTH], offsets[0]))
        .tensor(beside("right", &[WIDTH, VOCABULARY], offsets[1]))
        .tensor(beside("turned", &[VOCABULARY, WIDTH], offsets[2]))
        .node("Gather", "gather", &["table", "ids"], &["row"], vec![])
        .node("MatMul", "head", &["row", "right"], &["logits"], vec![])
        .node("Gemm", "tied", &["row", "turned"], &["left"], vec![int("transB", 1)]);
    net.save(&folder.join("m.onnx"));
    for (at, more) in [
        &["--head", "int4", "--block-size", "32", "--asymmetric"][..],
        &["--head", "int4", "--emit", "matmulnbits", "--block-size", "32", "--embeddings", "int8"],
        &["--head", "int8", "--external-data"],
    ]
    .into_iter()
    .enumerate()
    {
        let out = format!("out{at}.onnx");
        let mut args = vec!["rewrite", "m.onnx", "-p", "high_compression", "-q", "--algorithm", "rtn"];
        args.extend(["--validate", "never", "-o", &out]);
        args.extend(more);
        holds_the_limit(&folder, &args);
        efq::onnx::load(&folder.join(&out)).unwrap();
        std::fs::remove_file(folder.join(&out)).unwrap();
    }
}

/// A float16 tensor whose values lie in `m.bin`.
fn beside(name: &str, dims: &[usize], offset: usize) -> TensorProto {
    let mut tensor = TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(DataType::Float16 as i32),
        dims: dims.iter().map(|size| *size as i64).collect(),
        ..Default::default()
    };
    let (offset, length) = (offset.to_string(), (2 * dims.iter().product::<usize>()).to_string());
    external(&mut tensor, &[("location", "m.bin"), ("offset", &offset), ("length", &length)]);
    tensor
}

fn holds_the_limit(folder: &Folder, args: &[&str]) {
    let mut child = folder.command(args).spawn().unwrap();
    let mut peak = 0;
    let status = loop {
        peak = peak.max(memory(child.id()));
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    // Without real samples and too large to be run: `--validate auto` leaves it out.
    assert_eq!(status.code(), Some(0), "{args:?}");
    assert!(peak > 0 && peak <= LIMIT, "{peak} bytes: {args:?}");
}

/// Bytes that the process holds beside mapped files; 0 when it has ended.
fn memory(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok()).unwrap_or(0) * 1024
}
