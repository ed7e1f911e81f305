//! Group 1: what is no protobuf, or not well-formed.

use efq::onnx::node;
use efq::onnx::proto::{GraphProto, tensor_proto::DataType};
use proptest::prelude::*;

#[cfg(unix)]
use crate::corpus::pipe;
use crate::corpus::{Corpus, REWRITE};
use crate::support::{self, Folder, Net, body, noise, npy_f32, npz, value};
use crate::survives;

#[test]
fn files_of_another_kind() {
    let model = Net::linear(64, 64).bytes();
    let random: Vec<u8> = noise(4096, 7).iter().map(|value| value.to_bits() as u8).collect();
    let mut corpus = Corpus::default();
    corpus
        .case("missing", REWRITE, |_| ())
        .bytes("empty", "")
        .bytes("one byte", [8])
        .bytes("git-LFS pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
        .bytes("HTML", "<!DOCTYPE html><html><body>404</body></html>")
        .bytes("JSON", "{\"error\": \"not found\"}")
        .bytes("zip", "PK\x03\x04and so on")
        .bytes("HDF5", b"\x89HDF\r\n\x1a\n")
        .bytes("GGUF", "GGUF\x03\x00\x00\x00")
        .bytes("random", random)
        .bytes("cut in the weights", &model[..model.len() / 2])
        .bytes("cut in the last field", &model[..model.len() - 1])
        .bytes("number of 11 bytes", [&[0x08][..], &[0xff; 10], &[0x01]].concat())
        .bytes("length past the end", [0x3a, 0xff, 0xff, 0xff, 0xff, 0x0f])
        .bytes("field 0", [0x00, 0x01])
        .bytes("group", [0x0b, 0x0c])
        .bytes("end of a group", [0x0c])
        .bytes("wire type 7", [0x0f, 0x00])
        .bytes("field of another wire type", [0x38, 0x01])
        .bytes("not UTF-8", [0x08, 0x08, 0x12, 0x02, 0xff, 0xfe])
        .bytes("nothing but a version", [0x08, 0x08])
        .case("folder without a model", "inspect m", |folder| std::fs::create_dir(folder.join("m")).unwrap())
        .case("folder with two models", "inspect m", |folder| {
            folder.write("m/b.onnx", &model);
            folder.write("m/a.onnx", &model);
        })
        .case("missing folder", "inspect no/where.onnx", |_| ());
    #[cfg(unix)]
    corpus
        .case("device", "inspect /dev/null", |_| ())
        .case("pipe", "inspect pipe", |folder| pipe(folder, "pipe"));
    insta::assert_snapshot!(corpus.report());
}

/// A small model with most kinds of fields, for the damage below.
fn sample_model() -> Vec<u8> {
    Net::linear(4, 3)
        .input("c", DataType::Bool, &[])
        .integers("shape", &[2], &[-1, 3])
        .node("Reshape", "flat", &["logits", "shape"], &["flat"], vec![])
        .node(
            "If",
            "choice",
            &["c"],
            &["chosen"],
            vec![body(
                "then_branch",
                GraphProto {
                    node: vec![node::build("Identity", "", &["flat"], &["then"], vec![])],
                    output: vec![value("then", DataType::Float, &["a", "3"])],
                    ..Default::default()
                },
            )],
        )
        .output("chosen", DataType::Float, &["a", "3"])
        .metadata("key", "value")
        .bytes()
}

#[test]
fn a_model_cut_anywhere_is_an_error_or_smaller() {
    let whole = sample_model();
    assert!(efq::onnx::load_bytes(whole.clone().into()).is_ok());
    for end in 0..whole.len() {
        survives::rewrite(&whole[..end]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_models_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = sample_model();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        survives::rewrite(&bytes);
    }

    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        survives::rewrite(&bytes);
    }

    #[test]
    fn damaged_samples_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), inner: bool) {
        let mut array = npy_f32(&[2, 64], &noise(128, 1));
        let model = efq::onnx::load_bytes(Net::linear(64, 64).bytes().into()).unwrap();
        let damage = |bytes: &mut Vec<u8>| {
            for (at, byte) in &changes {
                let at = at.index(bytes.len().min(256));
                bytes[at] = *byte;
            }
        };
        if inner {
            damage(&mut array);
        }
        let mut file = npz(&[("x", array)]);
        if !inner {
            damage(&mut file);
        }
        let folder = Folder::new();
        let path = folder.write("d.npz", file);
        if let Ok(samples) = support::samples_at(&path, &model) {
            prop_assert!(samples.list.iter().all(|sample| sample.inputs.len() == 1));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// The twin of the fuzz target `load`: single bits of a model.
    #[test]
    fn flipped_bits_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4)) {
        let mut bytes = sample_model();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        survives::load(&bytes);
    }

    /// The twin of the fuzz target `preset`.
    #[test]
    fn damaged_presets_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), "\\PC{0,3}"), 1..4)) {
        let mut text = String::from(include_str!("../../presets/medical_grade.yaml"));
        for (at, with) in changes {
            let at = at.index(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(at + 1) {
                text.replace_range(at..=at, &with);
            }
        }
        survives::preset(text.as_bytes());
    }

    /// The twin of the fuzz target `npz`.
    #[test]
    fn damaged_arrays_never_panic(at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
        let mut bytes = npz(&[("x", npy_f32(&[3, 2], &[1.0; 6]))]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(bytes.len() - cut.index(bytes.len()) % 3);
        survives::npz(&bytes);
    }
}
