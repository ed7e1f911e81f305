//! Group 10: what is there already where results go.

use crate::corpus::Corpus;
use crate::support::{Folder, Net, Run, noise, npy_f32, npz};

#[test]
fn targets() {
    let mut corpus = Corpus::default();
    let mut add = |name: &str, more: &str, make: &dyn Fn(&Folder)| {
        corpus.case(
            name,
            &format!("rewrite m.onnx -p balanced_production --validate never {more}"),
            |folder| {
                Net::linear(64, 64).save(&folder.join("m.onnx"));
                make(folder);
            },
        );
    };
    let nothing = |_: &Folder| ();
    let taken = |name: &'static str| move |folder: &Folder| drop(folder.write(name, "mine"));
    add("output is the input", "-o m.onnx", &nothing);
    add("output is the input, forced", "-o ./m.onnx --force", &nothing);
    add("output exists", "-o out.onnx", &taken("out.onnx"));
    add("side file exists", "-o out.onnx --external-data", &taken("out.onnx_data"));
    add("output in a missing folder", "-o no/out.onnx", &nothing);
    add("output is a folder", "-o sub", &|folder| std::fs::create_dir(folder.join("sub")).unwrap());
    add("output is a folder, forced", "-o sub --force", &|folder| {
        std::fs::create_dir(folder.join("sub")).unwrap()
    });
    add("folder of the output is a file", "-o file/out.onnx", &taken("file"));
    add("report exists", "-o out.onnx --report r.json", &taken("r.json"));
    add("report of another ending", "-o out.onnx --report r.txt", &nothing);
    add("report without an ending", "-o out.onnx --report r", &nothing);
    add("report in a missing folder", "-o out.onnx --report no/r.md", &nothing);
    add("plan exists", "-o out.onnx --plan p.json", &taken("p.json"));
    add("plan in a missing folder", "--dry-run --plan no/p.json", &nothing);
    add("plan is the input, forced", "-o out.onnx --plan m.onnx --force", &nothing);
    add("plan is the output", "-o out.onnx --plan out.onnx", &nothing);
    add("plan is the output, forced", "-o out.onnx --plan ./out.onnx --force", &nothing);
    add("report is the plan", "-o out.onnx --plan p.json --report p.json", &nothing);
    add("report twice", "-o out.onnx --report r.json --report r.json", &nothing);
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        add("output is a link to the input, forced", "-o link.onnx --force", &|folder| {
            symlink("m.onnx", folder.join("link.onnx")).unwrap();
        });
        add("output is a link to a device, forced", "-o link.onnx --force", &|folder| {
            symlink("/dev/null", folder.join("link.onnx")).unwrap();
        });
        add("output is an open file, forced", "-o /proc/self/fd/1 --force", &nothing);
        add("output lies in a file", "-o m.onnx/out.onnx", &nothing);
        add("output is a dangling link", "-o link.onnx", &|folder| {
            symlink("gone", folder.join("link.onnx")).unwrap()
        });
    }
    let external =
        |folder: &Folder| Net::linear(64, 64).save_external(&folder.join("m.onnx"), "out.onnx_data", 1);
    add("side file is the input's", "-o out.onnx --external-data --force", &external);
    add("report is the data, forced", "-o out.onnx --data d.json --report d.json --force", &|folder| {
        folder.write("d.json", npz(&[("x", npy_f32(&[4, 64], &noise(256, 3)))]));
    });
    insta::assert_snapshot!(corpus.report());
}

/// Standard output that cannot be written is an error with its own line; a reader that left is none.
#[cfg(target_os = "linux")]
#[test]
fn standard_output_that_is_full_or_closed() {
    let folder = Folder::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = folder.command(&["presets"]).stdout(full).output().unwrap();
    let run = folder.run_of(&output);
    assert_eq!((run.code, run.err.lines().count()), (Some(3), 1), "{run:?}");
    assert!(run.err.starts_with("error: standard output: "), "{run:?}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = folder.command(&["presets"]).stdout(writer).output().unwrap();
    assert_eq!(folder.run_of(&output), Run { code: Some(0), out: String::new(), err: String::new() });
}
