//! Group 10: the machine: disks that are full or read-only, folders and streams that are missing, and an end that
//! comes without warning.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::corpus::is_sane;
use crate::support::{Folder, Net, Run, done, noise};

const ARGS: [&str; 8] =
    ["rewrite", "m.onnx", "-p", "balanced_production", "--validate", "never", "-o", "out.onnx"];

fn folder() -> Folder {
    let folder = Folder::new();
    Net::linear(256, 256).save(&folder.join("m.onnx"));
    folder
}

/// Runs efq with `args` behind the words of a shell.
fn shell(folder: &Folder, before: &str, args: &[&str]) -> Run {
    let plain = folder.command(args);
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{before}\nexec \"$0\" \"$@\"")])
        .arg(plain.get_program())
        .args(plain.get_args());
    command.current_dir(folder.path()).env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    folder.run_of(&command.output().unwrap())
}

/// One line on standard error, the code for a file system that says no, and nothing left.
fn is_refused(folder: &Folder, run: &Run) {
    assert_eq!((run.code, run.err.lines().count()), (Some(3), 1), "{run:?}");
    assert!(run.err.starts_with("error: "), "{run:?}");
    let left: Vec<String> = folder.listing().into_keys().filter(|name| name != "m.onnx").collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn a_disk_that_is_full_leaves_nothing() {
    // A limit on the size of files fails as a full disk does, in the middle of a write.
    for blocks in [0, 1, 16, 40] {
        let folder = folder();
        let before = format!("trap '' XFSZ; ulimit -f {blocks}");
        is_refused(&folder, &shell(&folder, &before, &ARGS));
        is_refused(&folder, &shell(&folder, &before, &[&ARGS[..], &["--external-data"]].concat()));
        // What was there stays.
        let kept = folder.write("out.onnx", "mine");
        let run = shell(&folder, &before, &[&ARGS[..], &["--force"]].concat());
        assert_eq!(run.code, Some(3), "{run:?}");
        assert_eq!(std::fs::read(kept).unwrap(), b"mine");
        assert_eq!(folder.listing().len(), 2);
    }
}

#[test]
fn a_report_that_cannot_be_written_is_named() {
    let folder = folder();
    let args = [&ARGS[..6], &["--dry-run", "--report", "r.json"]].concat();
    is_refused(&folder, &shell(&folder, "trap '' XFSZ; ulimit -f 0", &args));
}

#[test]
fn a_folder_that_is_read_only_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder();
    let mode = |mode| std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o555);
    // Who may do everything (root) writes there all the same.
    let bites = std::fs::write(folder.join("probe"), "").is_err();
    let run = bites.then(|| folder.efq(&ARGS));
    mode(0o755);
    match run {
        Some(run) => is_refused(&folder, &run),
        None => eprintln!("skipped: permissions do not hold for this user"),
    }
}

#[test]
fn no_temporary_folder_is_needed() {
    let folder = folder();
    done(&shell(&folder, "export TMPDIR=/does/not/exist", &ARGS));
    is_sane(&folder.join("out.onnx")).unwrap();
}

#[test]
fn paths_may_have_any_characters() {
    use std::os::unix::ffi::OsStrExt as _;
    let model = Net::linear(64, 64).bytes();
    for name in ["with space", "caf\u{e9} \u{1f600}", "-dash", "new\nline", "quote'\"$(x)", "%0A", "a:b\\c"] {
        let folder = Folder::new();
        folder.write(&format!("{name}/m.onnx"), &model);
        let (from, to) = (format!("./{name}/m.onnx"), format!("./{name}/out {name}.onnx"));
        let args =
            ["rewrite", &from, "-p", "high_compression", "--validate", "never", "--external-data", "-o", &to];
        let run = folder.efq(&args);
        done(&run);
        assert!(!run.out.contains(|c: char| c.is_control() && c != '\n'), "{run:?}");
        is_sane(&folder.join(&to)).unwrap();
    }
    // No UTF-8 at all.
    let folder = Folder::new();
    let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe.onnx"));
    std::fs::write(&odd, &model).unwrap();
    let out = folder.path().join(std::ffi::OsStr::from_bytes(b"out\xff.onnx"));
    let mut command = folder.command(&["rewrite", "-p", "high_compression", "--external-data"]);
    let run = folder.run_of(&command.arg(&odd).arg("-o").arg(&out).output().unwrap());
    assert!(matches!(run.code, Some(0 | 2 | 3)), "{run:?}");
    if run.code == Some(0) {
        is_sane(&out).unwrap();
    }
}

#[test]
fn the_surroundings_change_nothing() {
    let folder = folder();
    done(&folder.efq(&ARGS));
    let expected = folder.read("out.onnx");
    for before in [
        "export LANG=C LC_ALL=C",
        "export LANG=tr_TR.UTF-8 LC_ALL=tr_TR.UTF-8",
        "export RAYON_NUM_THREADS=1",
        "export RAYON_NUM_THREADS=0",
        "export RAYON_NUM_THREADS=many",
        "export COLUMNS=0 TERM=dumb",
        "unset HOME PATH",
        "exec <&-",
    ] {
        std::fs::remove_file(folder.join("out.onnx")).unwrap();
        let run = shell(&folder, before, &ARGS);
        assert_eq!(run.code, Some(0), "{before}: {run:?}");
        assert_eq!(folder.read("out.onnx"), expected, "{before}");
    }
    for before in ["exec >&-", "exec 2>&-", "exec >&- 2>&- <&-"] {
        std::fs::remove_file(folder.join("out.onnx")).unwrap();
        let run = shell(&folder, before, &ARGS);
        assert!(matches!(run.code, Some(0 | 3)), "{before}: {run:?}");
        assert_eq!(folder.read("out.onnx"), expected, "{before}");
        assert_eq!(folder.listing().len(), 2);
    }
    let run = folder.efq(&[&ARGS[..], &["--threads", "0"]].concat());
    assert_eq!((run.code, run.err.lines().count()), (Some(2), 1), "{run:?}");
}

/// Killed in the middle of a write, efq leaves the old state; what it leaves beside it is in no later run's way.
#[test]
fn a_kill_in_the_middle_leaves_the_old_state() {
    let folder = Folder::new();
    let mut net = Net::linear(512, 512);
    for at in 0..24 {
        let name = format!("w{at}");
        let out = format!("y{at}");
        net = net
            .floats(&name, &[512, 512], &noise(512 * 512, at))
            .node("MatMul", "", &["x", &name], &[&out], vec![])
            .output(&out, efq::onnx::proto::tensor_proto::DataType::Float, &["batch", "512"]);
    }
    net.save(&folder.join("m.onnx"));
    // Nothing is run, so there is no other process that could clean up.
    let args = [&ARGS[..], &["--algorithm", "search", "--force", "--external-data"]].concat();
    folder.write("out.onnx", "old");
    folder.write("out.onnx_data", "old");
    let mut caught = 0;
    for pause in [0, 1, 5, 20] {
        let mut child = folder.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while staging(folder.path()).len() == caught && start.elapsed() < Duration::from_secs(60) {
            if child.try_wait().unwrap().is_some() {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(pause));
        child.kill().unwrap();
        child.wait().unwrap();
        caught = staging(folder.path()).len();
        let (model, side) = (folder.read("out.onnx"), folder.read("out.onnx_data"));
        if model == b"old" {
            assert!(side == b"old" || caught > 0, "a side file without its model");
        } else {
            // It was done before the signal came.
            is_sane(&folder.join("out.onnx")).unwrap();
            folder.write("out.onnx", "old");
            folder.write("out.onnx_data", "old");
        }
    }
    assert!(caught > 0, "no run was caught while it wrote");
    done(&folder.efq(&args));
    is_sane(&folder.join("out.onnx")).unwrap();
    // What the killed runs left is theirs alone, and named so that it can be found.
    assert_eq!(staging(folder.path()).len(), caught);
}

/// The staging folders in `path`.
fn staging(path: &Path) -> Vec<String> {
    let names =
        path.read_dir().unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(".efq-")).collect()
}
