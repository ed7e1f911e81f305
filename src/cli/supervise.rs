//! Commands that run a model do so in a child process: a runtime that crashes, hangs or takes all memory ends the
//! child, and the command is carried out once more without the runtime.
//!
//! The child's standard input is a socket. Over it the child tells its stages and steps; when it hears something, or
//! the parent is gone, it stops.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use std::{env, io};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use super::args::Limits;
use super::{Exit, complain, interrupt};
use crate::engine;
use crate::onnx::staged::{clean_up, mark_staged};

/// Set for the child: the mark of what it stages, as a hexadecimal number.
const CHILD: &str = "EFQ_CHILD";
/// Set for a child that is to do without the runtime: why.
const WITHOUT_RUNTIME: &str = "EFQ_WITHOUT_RUNTIME";
/// How long a child may take to stop when it is asked to.
const GRACE: Duration = Duration::from_secs(10);
/// Bytes of the child's standard error that are kept.
const TOLD: u64 = 1 << 20;

/// The child's end of the socket.
static PARENT: OnceLock<Mutex<UnixStream>> = OnceLock::new();

/// Carries the command out in a child process and gives its exit code; `None` where this process is to do it: it is
/// the child, or no child can be had. `writes` is what the command writes.
pub(super) fn attend(limits: &Limits, writes: &[&Path]) -> Option<ExitCode> {
    let writes: Vec<PathBuf> = writes.iter().map(|path| path.to_path_buf()).collect();
    if let Some(mark) = env::var_os(CHILD) {
        let mark = mark.to_str().and_then(|mark| u64::from_str_radix(mark, 16).ok());
        become_child(limits, mark, writes);
        return None;
    }
    interrupt::listen();
    match watch(limits, &writes, None).ok()? {
        End::Code(code) => Some(code),
        End::Died(why) => Some(match watch(limits, &writes, Some(&why)) {
            Ok(End::Code(code)) => code,
            Ok(End::Died(again)) => {
                complain(&format!("efq: {again}, also without running the model: please report this"));
                Exit::Input.into()
            }
            Err(error) => {
                complain(&format!("runtime: {why}, and efq could not be started again: {error}"));
                Exit::Input.into()
            }
        }),
    }
}

/// Tells the parent, if there is one, that the stage `name` began, or a step was done.
pub(super) fn tell(name: Option<&str>) {
    let Some(mut parent) = PARENT.get().and_then(|parent| parent.lock().ok()) else { return };
    // A parent that is gone is noticed elsewhere.
    let _ = parent.write_all(format!("{}\n", name.unwrap_or_default()).as_bytes());
}

/// How a child ended.
enum End {
    Code(ExitCode),
    /// By a signal, a panic or for want of progress, as a sentence about the runtime.
    Died(String),
}

/// What the child told last, and when.
struct Heard {
    stage: String,
    at: Instant,
}

fn watch(limits: &Limits, writes: &[PathBuf], without_runtime: Option<&str>) -> io::Result<End> {
    // Its keys are random.
    let mark = RandomState::new().hash_one(std::process::id());
    let (mut ours, theirs) = UnixStream::pair()?;
    let apart = !io::stderr().is_terminal();
    let mut child = {
        let mut command = Command::new(env::current_exe()?);
        command.args(env::args_os().skip(1)).env(CHILD, format!("{mark:x}")).stdin(OwnedFd::from(theirs));
        // For want of memory the trace of one panic waits for that of the next.
        command.env("RUST_BACKTRACE", "0");
        if limits.max_memory.is_some() {
            // The C library keeps large blocks that were freed, up to twice what is in use; these hand them back.
            command.env("MALLOC_MMAP_THRESHOLD_", "131072").env("MALLOC_ARENA_MAX", "1");
        }
        if let Some(why) = without_runtime {
            command.env(WITHOUT_RUNTIME, why);
        }
        if apart {
            command.stderr(Stdio::piped());
        }
        command.spawn()?
    };
    // What a dying runtime says is not for the user, so it is held back until the child has ended well.
    let told = child.stderr.take().map(|mut stderr| {
        thread::spawn(move || {
            let mut told = Vec::new();
            let _ = stderr.by_ref().take(TOLD).read_to_end(&mut told);
            let _ = io::copy(&mut stderr, &mut io::sink());
            told
        })
    });
    let heard = Arc::new(Mutex::new(Heard { stage: "starting".to_owned(), at: Instant::now() }));
    let (listener, known) = (ours.try_clone()?, heard.clone());
    thread::spawn(move || listen(listener, &known));
    let ended = wait(&mut child, &mut ours, &heard, Duration::from_secs(limits.max_seconds.into()))?;
    let told = told.and_then(|told| told.join().ok()).unwrap_or_default();
    let stage = heard.lock().map(|heard| heard.stage.clone()).unwrap_or_default();
    let why = match ended {
        Ended::Itself(status) => match status.code() {
            // What Rust gives to a panic.
            Some(101) => fate_of(&told).unwrap_or_else(|| "panicked".to_owned()),
            Some(code) => {
                let _ = io::stderr().write_all(&told);
                return Ok(End::Code(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))));
            }
            None => fate(status, &told),
        },
        Ended::Hanging => format!("made no progress for {} s (--max-seconds)", limits.max_seconds),
        Ended::Interrupted => String::new(),
    };
    clean_up(mark, writes);
    if why.is_empty() {
        complain(&crate::Error::interrupted().to_string());
        return Ok(End::Code(Exit::Interrupted.into()));
    }
    Ok(End::Died(format!("{why} while {stage}")))
}

/// What a child that died says of want of memory.
fn fate_of(told: &[u8]) -> Option<String> {
    let told = String::from_utf8_lossy(told).to_lowercase();
    let wants = [
        "memory allocation of",
        "out of memory",
        "cannot allocate",
        "alloc failed",
        "allocerror",
        "resource temporarily",
    ];
    wants
        .iter()
        .any(|words| told.contains(words))
        .then(|| "asked for more memory than there is (--max-memory)".to_owned())
}

/// What became of a child that a signal ended.
fn fate(status: ExitStatus, told: &[u8]) -> String {
    if let Some(fate) = fate_of(told) {
        return fate;
    }
    let told = String::from_utf8_lossy(told);
    if told.contains("has overflowed its stack") {
        return "overflowed its stack".to_owned();
    }
    let signal = status.signal().and_then(|number| Signal::try_from(number).ok());
    match signal {
        Some(Signal::SIGKILL) => "was killed, most likely for want of memory".to_owned(),
        Some(signal) => format!("was ended by {signal}"),
        None => "was ended by a signal".to_owned(),
    }
}

fn listen(socket: UnixStream, heard: &Mutex<Heard>) {
    for line in BufReader::new(socket).lines().map_while(Result::ok) {
        let Ok(mut heard) = heard.lock() else { return };
        heard.at = Instant::now();
        if !line.is_empty() {
            heard.stage = line;
        }
    }
}

enum Ended {
    Itself(ExitStatus),
    Hanging,
    /// It did not stop when it was asked to.
    Interrupted,
}

fn wait(
    child: &mut Child,
    ours: &mut UnixStream,
    heard: &Mutex<Heard>,
    patience: Duration,
) -> io::Result<Ended> {
    let mut pause = Duration::from_millis(1);
    let mut asked: Option<Instant> = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Ended::Itself(status));
        }
        if asked.is_none() && interrupt::stopped() {
            asked = Some(Instant::now());
            let _ = ours.write_all(b"\n");
        }
        let late = heard.lock().is_ok_and(|heard| heard.at.elapsed() > patience);
        let ended = match asked {
            Some(at) if at.elapsed() > GRACE => Some(Ended::Interrupted),
            None if late => Some(Ended::Hanging),
            _ => None,
        };
        if let Some(ended) = ended {
            let _ = child.kill();
            child.wait()?;
            return Ok(ended);
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn become_child(limits: &Limits, mark: Option<u64>, writes: Vec<PathBuf>) {
    mark.into_iter().for_each(mark_staged);
    if let Ok(socket) = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from)
        && let Ok(mut listener) = socket.try_clone()
    {
        let _ = PARENT.set(Mutex::new(socket));
        thread::spawn(move || {
            let alive = listener.read(&mut [0]).is_ok_and(|count| count > 0);
            interrupt::stop();
            if !alive {
                sleep(GRACE);
                mark.into_iter().for_each(|mark| clean_up(mark, &writes));
                std::process::exit(Exit::Interrupted as i32);
            }
        });
    }
    // Without the runtime the limit of running models has nothing to limit.
    let without = env::var(WITHOUT_RUNTIME);
    let limit = limits.max_memory.filter(|_| without.is_err());
    if let Some(bytes) = limit.or_else(memory_of_machine) {
        // One that was set from outside holds.
        let (soft, hard) = getrlimit(Resource::RLIMIT_DATA).unwrap_or((bytes, bytes));
        let _ = setrlimit(Resource::RLIMIT_DATA, bytes.min(soft), bytes.min(hard));
    }
    if let Ok(why) = without {
        engine::switch_off(why);
    }
}

/// Bytes of memory that the machine has, where it says so.
fn memory_of_machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}
