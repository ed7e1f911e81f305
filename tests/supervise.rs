//! Models run in a child process: what hangs, dies or is killed there leaves the tool alive and nothing behind.
#![cfg(unix)]

mod support;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use efq::onnx::proto::tensor_proto::DataType;
use support::{Folder, Net, done, int, noise};

/// A linear layer beside a chain of products that takes minutes and 100 MB for each of its tensors.
fn slow() -> Net {
    let mut net = Net::new()
        .input("x", DataType::Float, &["batch", "64"])
        .output("y", DataType::Float, &["batch", "64"])
        .floats("w", &[64, 64], &noise(4096, 1))
        .integers("shape", &[2], &[5000, 5000])
        .node("MatMul", "linear", &["x", "w"], &["p"], vec![])
        .node("ReduceMean", "", &["p"], &["mean"], vec![int("keepdims", 1)])
        .node("Expand", "", &["mean", "shape"], &["e0"], vec![]);
    for at in 0..40 {
        let (from, product, to) = (format!("e{at}"), format!("p{at}"), format!("e{}", at + 1));
        net = net.node("MatMul", "", &[&from, &from], &[&product], vec![]);
        net = net.node("Tanh", "", &[&product], &[&to], vec![]);
    }
    net.node("ReduceMean", "", &["e40"], &["last"], vec![int("keepdims", 1)]).node(
        "Add",
        "",
        &["p", "last"],
        &["y"],
        vec![],
    )
}

const REWRITE: [&str; 6] = ["rewrite", "m.onnx", "-p", "balanced_production", "-o", "out.onnx"];

fn folder() -> Folder {
    let folder = Folder::new();
    slow().save(&folder.join("m.onnx"));
    folder
}

fn names(folder: &Folder) -> Vec<String> {
    folder.listing().into_keys().collect()
}

/// A run that was started and has come to running the model.
fn running(folder: &Folder) -> Child {
    let mut command = folder.command(&REWRITE);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(800));
    assert!(child.try_wait().unwrap().is_none(), "it ended at once");
    child
}

fn signal(name: &str, process: u32) {
    assert!(Command::new("kill").args([name, &process.to_string()]).status().unwrap().success());
}

#[test]
fn a_runtime_that_hangs_is_ended_and_the_model_is_written() {
    let folder = folder();
    let run = folder.efq(&[&REWRITE[..], &["--max-seconds", "1"]].concat());
    let why = "could not be validated: runtime: made no progress for 1 s (--max-seconds) while calibrating\n";
    assert!(done(&run).contains(why), "{run:?}");
    assert_eq!(names(&folder), ["m.onnx", "out.onnx"]);

    let run =
        folder.efq(&["validate", "m.onnx", "out.onnx", "-p", "balanced_production", "--max-seconds", "1"]);
    assert!(run.out.contains("made no progress for 1 s (--max-seconds) while running"), "{run:?}");
    assert_eq!(run.err, "warning: could not be validated\n");
}

/// Only Linux counts what is allocated against the limit.
#[cfg(target_os = "linux")]
#[test]
fn a_runtime_that_takes_all_memory_is_ended() {
    let folder = folder();
    done(&folder.efq(&[&REWRITE[..], &["--validate", "never", "--algorithm", "search"]].concat()));
    let run =
        folder.efq(&["validate", "m.onnx", "out.onnx", "-p", "balanced_production", "--max-memory", "100MB"]);
    assert!(run.out.contains("could not be validated: runtime: "), "{run:?}");
    assert!(!run.out.contains("no progress"), "{run:?}");
    assert_eq!(run.err, "warning: could not be validated\n");
}

#[test]
fn a_signal_to_the_command_ends_its_child_too() {
    let folder = folder();
    let child = running(&folder);
    let start = Instant::now();
    signal("-TERM", child.id());
    let run = folder.run_of(&child.wait_with_output().unwrap());
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!((run.code, run.out.as_str()), (Some(130), ""), "{run:?}");
    assert_eq!(run.err, "error: interrupted: stopped at your request\n");
    assert_eq!(names(&folder), ["m.onnx"]);
}

/// The pipes of the child are open until it ends.
#[test]
fn a_child_whose_parent_was_killed_ends_and_leaves_nothing() {
    let folder = folder();
    let mut child = running(&folder);
    let start = Instant::now();
    child.kill().unwrap();
    child.wait_with_output().unwrap();
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    assert_eq!(names(&folder), ["m.onnx"]);
}
