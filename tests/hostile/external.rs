//! Group 5: weights in other files.

use efq::onnx::proto::tensor_proto::DataType;

use crate::corpus::Corpus;
#[cfg(unix)]
use crate::corpus::pipe;
use crate::support::{Folder, Net, external};

#[test]
fn external_data() {
    let mut corpus = Corpus::default();
    let mut add = |name: &str, entries: &[(&str, &str)], make: &dyn Fn(&Folder)| {
        let mut net = Net::linear(64, 64);
        external(&mut net.graph().initializer[0], entries);
        corpus.case(name, "rewrite m/m.onnx -p balanced_production -o out.onnx", |folder| {
            folder.write("m/w.bin", vec![0; 64 * 64 * 4]);
            folder.write("secret", vec![0; 64 * 64 * 4]);
            folder.write("m/m.onnx", net.bytes());
            make(folder);
        });
    };
    let nothing = |_: &Folder| ();
    for location in [
        "../secret",
        "a/../../secret",
        "/etc/passwd",
        "C:\\x",
        "\\\\host\\x",
        "file://x",
        "~",
        "%2e%2e/secret",
        "w.bin\0",
        "w.bin\n",
        "w.bin:stream",
        "w.bin/",
        "./w.bin/../w.bin",
        "//host/w.bin",
        "w.bin.",
        "CON",
        "m.onnx",
        "./m.onnx",
        "",
        ".",
    ] {
        add(&format!("location {location:?}"), &[("location", location)], &nothing);
    }
    fn at<'a>(key: &'a str, value: &'a str) -> [(&'a str, &'a str); 2] {
        [("location", "w.bin"), (key, value)]
    }
    for marker in ["*/_ORT_MEM_ADDR_/*", "*/_ORT_LITTLE_ENDIAN_MEM_ADDR_/*"] {
        add(&format!("marker {marker:?}"), &[("location", marker)], &|folder| {
            folder.write(&format!("m/{marker}"), vec![0; 64 * 64 * 4]);
        });
    }
    add("checksum of another file", &at("checksum", &"0".repeat(40)), &nothing);
    add("checksum that is none", &at("checksum", "xyz"), &nothing);
    add("empty checksum", &at("checksum", ""), &nothing);
    add("missing file", &[("location", "gone.bin")], &nothing);
    add("no location", &[("offset", "0")], &nothing);
    add("offset past the end", &at("offset", "16385"), &nothing);
    add("range past the end", &at("offset", "1"), &nothing);
    add("sum that wraps", &at("offset", "18446744073709551615"), &nothing);
    add("negative offset", &at("offset", "-1"), &nothing);
    add("offset in hexadecimal", &at("offset", "0x0"), &nothing);
    add("offset as a float", &at("offset", "1e3"), &nothing);
    add("length of another shape", &at("length", "16380"), &nothing);
    add("key twice", &[("location", "w.bin"), ("location", "w.bin")], &nothing);
    add("unknown key", &at("__class__", "x"), &nothing);
    add("file too short", &at("offset", "0"), &|folder| drop(folder.write("m/w.bin", vec![0; 16383])));
    add("empty file", &at("offset", "0"), &|folder| drop(folder.write("m/w.bin", "")));
    add("folder", &[("location", "sub")], &|folder| std::fs::create_dir(folder.join("m/sub")).unwrap());
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        let link = |to: &'static str, name: &'static str| {
            move |folder: &Folder| symlink(folder.join(to), folder.join(name)).unwrap()
        };
        add("link out of the folder", &[("location", "link")], &link("secret", "m/link"));
        add("folder that is a link", &[("location", "up/secret")], &link("", "m/up"));
        add("link to a device", &[("location", "zero")], &|folder| {
            symlink("/dev/zero", folder.join("m/zero")).unwrap()
        });
        add("pipe", &[("location", "pipe")], &|folder| pipe(folder, "m/pipe"));
        add("hard link", &[("location", "hard")], &|folder| {
            std::fs::hard_link(folder.join("secret"), folder.join("m/hard")).unwrap();
        });
    }
    insta::assert_snapshot!(corpus.report());
}

/// Spellings that lead to the file, and files that hold more than the weight.
#[test]
fn external_data_that_is_read() {
    let mut corpus = Corpus::default();
    let mut add = |name: &str, entries: &[(&str, &str)], side: &str, len: usize| {
        let mut net = Net::linear(64, 64);
        external(&mut net.graph().initializer[0], entries);
        corpus.case(name, "rewrite m/m.onnx -p balanced_production --validate never -o out.onnx", |folder| {
            // Finite from any offset.
            folder.write(side, vec![0x3c; len]);
            folder.write("m/m.onnx", net.bytes());
        });
    };
    let size = 64 * 64 * 4;
    add("plain", &[("location", "w.bin")], "m/w.bin", size);
    add("with a dot", &[("location", "./w.bin")], "m/w.bin", size);
    add("in a folder", &[("location", "a/b/w.bin")], "m/a/b/w.bin", size);
    add("spaces and accents", &[("location", "caf\u{e9} au lait.bin")], "m/caf\u{e9} au lait.bin", size);
    add("unaligned offset", &[("location", "w.bin"), ("offset", "1")], "m/w.bin", size + 4);
    add("length 0", &[("location", "w.bin"), ("length", "0")], "m/w.bin", size);
    let sum = "7ab7039484b4e9e01a7ab9086b007d4bdfe3cebd";
    add("checksum", &[("location", "w.bin"), ("checksum", sum)], "m/w.bin", size);
    add("checksum in capitals", &[("location", "w.bin"), ("checksum", &sum.to_uppercase())], "m/w.bin", size);
    add("a gap behind", &[("location", "w.bin")], "m/w.bin", size + (1 << 20));
    add("name of the target", &[("location", "out.onnx")], "m/out.onnx", size);
    insta::assert_snapshot!(corpus.outcomes());
}

/// Many tensors in one file cost no more than their bytes.
#[test]
fn a_hundred_thousand_external_tensors() {
    let mut net = Net::linear(64, 64);
    for at in 0..100_000 {
        let mut tensor = efq::onnx::tensor::from_raw(format!("t{at}"), DataType::Float, &[1], vec![]);
        external(&mut tensor, &[("location", "w.bin"), ("offset", &(at * 4).to_string()), ("length", "4")]);
        net.graph().initializer.push(tensor);
    }
    let mut corpus = Corpus::default();
    corpus.case("100,000 tensors in a side file", "inspect m.onnx --quiet", |folder| {
        folder.write("m.onnx", net.bytes());
        folder.write("w.bin", vec![0; 400_000]);
    });
    insta::assert_snapshot!(corpus.outcomes());
}
