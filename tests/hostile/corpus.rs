//! Cases, and what every one of them promises.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Folder, Net, Run};

/// Models with quantized operators are to reach what reads these.
pub const REWRITE: &str = "rewrite m.onnx -p balanced_production -o out.onnx --allow-requantize";
pub const DATA: &str = "rewrite m.onnx -p balanced_production -o out.onnx --data d.npz";

/// Beyond any case on a machine that is busy.
const SECONDS: u64 = 60;

/// Cases and what they said.
#[derive(Default)]
pub struct Corpus {
    cases: Vec<(String, Folder, Vec<String>)>,
}

impl Corpus {
    /// Runs `args` in a folder that `make` fills.
    pub fn case(&mut self, name: &str, args: &str, make: impl FnOnce(&Folder)) -> &mut Self {
        let folder = Folder::new();
        make(&folder);
        let args = args.split_whitespace().map(str::to_owned).collect();
        self.cases.push((name.to_owned(), folder, args));
        self
    }

    /// Rewrites a file of these bytes.
    pub fn bytes(&mut self, name: &str, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.case(name, REWRITE, |folder| drop(folder.write("m.onnx", bytes)))
    }

    pub fn net(&mut self, name: &str, net: Net) -> &mut Self {
        self.bytes(name, net.bytes())
    }

    /// Rewrites a MatMul of 64 by 64 with these samples.
    pub fn data(&mut self, name: &str, npz: Vec<u8>) -> &mut Self {
        self.case(name, DATA, |folder| {
            Net::linear(64, 64).save(&folder.join("m.onnx"));
            folder.write("d.npz", npz);
        })
    }

    /// Runs every case, which must be refused; gives what each said, in their order.
    pub fn report(&mut self) -> String {
        self.run(|name, folder, args| match said(name, folder, args)? {
            said if said.starts_with(&format!("{name} [0]")) => Err(format!("{name}: is accepted: {said}")),
            said => Ok(said),
        })
    }

    /// Runs every case, which may be refused, or give a model that is well-formed and finite.
    pub fn outcomes(&mut self) -> String {
        self.run(said)
    }

    /// Panics with all that broke a promise.
    fn run(&mut self, check: impl Fn(&str, &Folder, &[String]) -> Result<String, String> + Sync) -> String {
        use rayon::prelude::*;
        let results: Vec<_> =
            self.cases.par_iter().map(|(name, folder, args)| check(name, folder, args)).collect();
        let (said, broken): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        let broken: Vec<String> = broken.into_iter().filter_map(Result::err).collect();
        assert!(broken.is_empty(), "{}", broken.join("\n"));
        said.into_iter().flatten().collect::<Vec<_>>().join("\n")
    }
}

/// Runs one case and holds it against what every case promises.
fn said(name: &str, folder: &Folder, args: &[String]) -> Result<String, String> {
    let before = folder.listing();
    let run = bounded(folder, args);
    let wrong = |what: &str| Err(format!("{name}: {what}: {run:?}"));
    let Some(code @ 0..=4) = run.code else { return wrong("not a documented exit code") };
    let after = folder.listing();
    let changed: Vec<&String> =
        after.iter().filter(|(name, bytes)| before.get(*name) != Some(bytes)).map(|(name, _)| name).collect();
    if let Some(gone) = before.keys().find(|name| !after.contains_key(*name)) {
        return wrong(&format!("removed {gone}"));
    }
    let lines: Vec<&str> = run.err.lines().collect();
    if lines.iter().any(|line| line.contains(char::is_control)) {
        return wrong("control characters");
    }
    if code <= 1 {
        let allowed = ["out.onnx", "out.onnx_data"];
        if changed.iter().any(|name| !allowed.contains(&name.as_str())) {
            return wrong(&format!("wrote {changed:?}"));
        }
        if folder.join("out.onnx").exists()
            && let Err(what) = is_sane(&folder.join("out.onnx"))
        {
            return wrong(&what);
        }
        let says = if changed.is_empty() { "nothing written" } else { "written" };
        return Ok(format!("{name} [{code}]\n  {says}; {}", lines.join("; ")));
    }
    if !changed.is_empty() {
        return wrong(&format!("changed {changed:?}"));
    }
    if !run.out.is_empty() {
        return wrong("standard output");
    }
    let [line] = lines.as_slice() else { return wrong("more or less than one line") };
    match line.strip_prefix("error: ") {
        Some(what) => Ok(format!("{name} [{code}]\n  {what}")),
        _ => wrong("no plain error"),
    }
}

/// Whether efq reads the model at `path` again, and every scale in it is finite and none is zero.
pub fn is_sane(path: &Path) -> Result<(), String> {
    let model = efq::onnx::load(path).map_err(|error| error.to_string())?;
    let graph = model.graph();
    for node in &graph.node {
        let at = match node.op_type() {
            "DequantizeLinear" => 1,
            "MatMulNBits" => 2,
            _ => continue,
        };
        let Some(name) = node.input.get(at) else { continue };
        let scales = graph.initializer.iter().find(|tensor| tensor.name() == name);
        let Some(values) = scales.and_then(efq::onnx::tensor::floats) else { continue };
        if let Some(bad) = values.iter().find(|value| !value.is_finite() || **value == 0.0) {
            return Err(format!("a scale of {bad} in '{name}'"));
        }
    }
    Ok(())
}

/// Runs the binary with at most twice the bytes of the folder and 256 MiB of memory, and within a minute.
pub fn bounded(folder: &Folder, args: &[String]) -> Run {
    let plain = folder.command(args);
    let given: usize = folder.listing().values().flatten().map(Vec::len).sum();
    let mut command = limited(&plain, "-d", 2 * given / 1024 + (256 << 10));
    command.env_remove("RUST_BACKTRACE");
    let output =
        assert_cmd::Command::from_std(command).timeout(Duration::from_secs(SECONDS)).output().unwrap();
    folder.run_of(&output)
}

/// `plain` under a limit of the shell's `ulimit`.
pub fn limited(plain: &Command, limit: &str, value: usize) -> Command {
    if cfg!(not(unix)) {
        let mut command = Command::new(plain.get_program());
        command.args(plain.get_args());
        command.current_dir(plain.get_current_dir().unwrap()).stdin(Stdio::null());
        return command;
    }
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("ulimit {limit} {value} && exec \"$0\" \"$@\"")])
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(plain.get_current_dir().unwrap())
        .stdin(Stdio::null());
    shell
}

#[cfg(unix)]
pub fn pipe(folder: &Folder, name: &str) {
    assert!(Command::new("mkfifo").arg(folder.join(name)).status().unwrap().success());
}
