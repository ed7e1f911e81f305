//! Files that appear under their names only when they are complete: targets that must not be written are refused
//! beforehand, nothing is replaced unless asked to, and a kill at any moment leaves the old state or the new one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytes::Bytes;
use prost::Message as _;
use tempfile::{TempDir, TempPath};

use super::proto::ModelProto;
use super::{load, walk};
use crate::error::{Error, Result};

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Bytes of the model file.
    pub bytes: u64,
    /// Bytes of the side file, 0 without one.
    pub side_bytes: u64,
    /// BLAKE3 of the model file, lower-case hex.
    pub blake3: String,
}

/// The option that names a model.
const MODEL: &str = "-o";

/// Refuses a target for a model, whose side file counts too, before any work is spent on it.
///
/// # Errors
/// As [`check_file`].
pub fn check_target(target: &Path, inputs: &[&Path], overwrite: bool) -> Result<()> {
    check_file(MODEL, target, inputs, overwrite)?;
    check_file(MODEL, &side_path(target), inputs, overwrite)
}

/// Refuses a target that cannot or must not be written; `option` names it.
///
/// # Errors
/// The target is one of `inputs` under any name, or in a folder that is one; it exists (without `overwrite`), is a
/// folder or a device, or lies in a missing one.
pub fn check_file(option: &str, target: &Path, inputs: &[&Path], overwrite: bool) -> Result<()> {
    let shown = target.display().to_string();
    let folder = folder_of(target);
    if target.file_name().is_none() || target.is_dir() {
        return Err(Error::caller(shown, "is a folder, the output must be a file")
            .help(format!("{option} NAME.onnx")));
    }
    if !folder.is_dir() {
        let (what, help) = match folder.exists() {
            true => ("is a file", "name another folder"),
            false => ("does not exist", "create it first"),
        };
        return Err(Error::caller(shown, format!("the folder '{}' {what}", folder.display())).help(help));
    }
    if inputs.iter().any(|input| holds(input, target)) {
        return Err(Error::caller(shown, "is an input, which efq never changes").help("choose another name"));
    }
    match target.symlink_metadata() {
        Ok(known) if !(known.is_file() || known.is_symlink() && leads_to_file(target)) => {
            return Err(Error::caller(shown, "is no regular file, and efq replaces no other")
                .help(format!("{option} names a file")));
        }
        Ok(_) if !overwrite => return Err(taken(option, target)),
        _ => {}
    }
    Ok(())
}

/// Whether a link that is replaced is one to a file, or to nothing: those of devices and open files belong to the system.
fn leads_to_file(link: &Path) -> bool {
    let is_of_system = folder_of(link)
        .canonicalize()
        .is_ok_and(|folder| ["/dev", "/proc"].iter().any(|system| folder.starts_with(system)));
    !is_of_system && link.metadata().map_or(true, |meta| meta.is_file())
}

/// Whether `path` is there and is `input` under this or another name, or lies in it.
fn holds(input: &Path, path: &Path) -> bool {
    let (Ok(real), Ok(wanted)) = (input.canonicalize(), path.canonicalize()) else { return false };
    wanted.starts_with(real) || is_linked(input, path)
}

#[cfg(unix)]
fn is_linked(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |path: &Path| path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
    identity(a).is_some_and(|known| identity(b) == Some(known))
}

#[cfg(not(unix))]
fn is_linked(_: &Path, _: &Path) -> bool {
    false
}

/// Where the side file of the model at `target` lies, if it gets one.
pub fn side_path(target: &Path) -> PathBuf {
    folder_of(target).join(side_name(target))
}

/// A complete model in a temporary folder beside its target; gone when dropped, unless published.
pub struct Staged {
    pub(super) folder: TempDir,
    pub(super) target: PathBuf,
    /// Name of the side file.
    pub(super) side: Option<String>,
    pub(super) saved: Saved,
}

impl Staged {
    /// Where the model lies until it is published.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join(self.target.file_name().unwrap_or_default())
    }

    /// Where it goes.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// What was written.
    pub fn saved(&self) -> &Saved {
        &self.saved
    }

    /// Whether the file at `path` is the one that goes with the model.
    pub fn owns(&self, path: &Path) -> bool {
        let folder = self.folder.path().canonicalize().unwrap_or_default();
        self.side.as_ref().is_some_and(|side| folder.join(side) == path)
    }

    /// Moves the files under their names. At any moment the target is the old model with its weights or the new
    /// one with its own.
    ///
    /// # Errors
    /// The target exists (without `overwrite`), or cannot be written.
    pub fn publish(self, overwrite: bool) -> Result<Saved> {
        let folder = folder_of(&self.target);
        let model = self.path();
        let side = self.side.as_ref().map(|name| (self.folder.path().join(name), folder.join(name)));
        let wanted = side.iter().map(|(_, to)| to.as_path()).chain([self.target.as_path()]);
        for path in wanted.filter(|_| !overwrite) {
            if path.symlink_metadata().is_ok() {
                return Err(taken(MODEL, path));
            }
        }
        let Some((from, to)) = side else {
            let left = self.side_of_replaced().filter(|_| overwrite);
            place(&model, &self.target, overwrite)?;
            // What cannot be removed is in nobody's way.
            left.into_iter().for_each(|left| drop(std::fs::remove_file(left)));
            return Ok(self.saved);
        };
        let is_new = to.symlink_metadata().is_err();
        if !is_new && self.target.symlink_metadata().is_ok() {
            self.exchange(&from, &to)?;
            return Ok(self.saved);
        }
        place(&from, &to, overwrite)?;
        place(&model, &self.target, overwrite).inspect_err(|_| {
            if is_new {
                let _ = std::fs::remove_file(&to);
            }
        })?;
        Ok(self.saved)
    }

    /// The side file that the model at the target names, if it is the one that efq would write.
    fn side_of_replaced(&self) -> Option<PathBuf> {
        let side = folder_of(&self.target).canonicalize().ok()?.join(side_name(&self.target));
        load(&self.target).ok()?.side_paths().contains(&side).then_some(side)
    }

    /// Replaces a model and its side file `to`, where two renames would leave the old model with the new weights
    /// between them: first comes the new model with a copy of its weights under a name of their own, then both with
    /// the names that they keep.
    fn exchange(&self, from: &Path, to: &Path) -> Result<()> {
        let random = self.folder.path().file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{}{}", self.side.as_deref().unwrap_or_default(), random.replace(".efq", ""));
        let [copy, bridge] = [&name, "bridge"].map(|name| self.folder.path().join(name));
        std::fs::copy(from, &copy).map_err(|error| unwritable(to, &error))?;
        let relocated = relocated(&self.path(), &name)?;
        std::fs::write(&bridge, relocated).map_err(|error| unwritable(&self.target, &error))?;
        let copied = folder_of(&self.target).join(&name);
        place(&copy, &copied, false)?;
        place(&bridge, &self.target, true).inspect_err(|_| {
            let _ = std::fs::remove_file(&copied);
        })?;
        place(from, to, true).and_then(|()| place(&self.path(), &self.target, true)).map_err(|error| {
            error.help(format!("the result is there, with its weights in '{}'", copied.display()))
        })?;
        // What cannot be removed is in nobody's way.
        let _ = std::fs::remove_file(&copied);
        Ok(())
    }
}

/// The model at `path` with its weights in the side file `location`.
fn relocated(path: &Path, location: &str) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).map_err(|error| unwritable(path, &error))?;
    let mut proto = ModelProto::decode(Bytes::from(bytes))
        .map_err(|error| Error::format(path.display().to_string(), error.to_string()))?;
    walk::tensors_mut(&mut proto, &mut |tensor| {
        for entry in tensor.external_data.iter_mut().filter(|entry| entry.key() == "location") {
            entry.value = Some(location.to_owned());
        }
        Ok::<_, Error>(())
    })?;
    Ok(proto.encode_to_vec())
}

/// Writes a small text file (a report, a plan) through a temporary one.
///
/// # Errors
/// I/O errors; the file exists and `overwrite` is not set.
pub fn write_text(target: &Path, text: &str, overwrite: bool) -> Result<()> {
    StagedFile::new(target, text.as_bytes())?.publish(overwrite)
}

/// A complete file in a temporary folder beside its target; gone when dropped, unless published.
pub struct StagedFile {
    folder: TempDir,
    target: PathBuf,
}

impl StagedFile {
    /// Writes `bytes`, but not yet under the name `target`.
    ///
    /// # Errors
    /// I/O errors.
    pub fn new(target: &Path, bytes: &[u8]) -> Result<Self> {
        let staged = Self { folder: staging(target)?, target: target.to_owned() };
        std::fs::write(staged.path(), bytes).map_err(|error| unwritable(target, &error))?;
        Ok(staged)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(self.target.file_name().unwrap_or_default())
    }

    /// Moves the file under its name.
    ///
    /// # Errors
    /// The target exists (without `overwrite`), or cannot be written.
    pub fn publish(self, overwrite: bool) -> Result<()> {
        place(&self.path(), &self.target, overwrite)
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(super) fn side_name(target: &Path) -> String {
    let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // What no model may ask for, see `external.rs`.
    format!("{}_data", name.replace(['\n', '\\', ':'], "_"))
}

/// A folder beside `target` that only efq uses, on the same file system.
pub(super) fn staging(target: &Path) -> Result<TempDir> {
    let folder = folder_of(target);
    let prefix = staging_prefix(MARK.get().copied());
    tempfile::Builder::new().prefix(&prefix).tempdir_in(folder).map_err(|error| unwritable(folder, &error))
}

/// In the name of every folder that this process stages in.
static MARK: OnceLock<u64> = OnceLock::new();

/// Has whatever this process stages carry `mark`, by which another process finds it. Numbers of processes would not do:
/// containers that share a folder have the same ones.
pub fn mark_staged(mark: u64) {
    // A process has one mark.
    let _ = MARK.set(mark);
}

fn staging_prefix(mark: Option<u64>) -> String {
    mark.map_or(".efq-".to_owned(), |mark| format!(".efq-{mark:016x}-"))
}

/// Removes what a process with this mark staged beside `targets`, once it is gone and could not do so itself.
pub fn clean_up(mark: u64, targets: &[PathBuf]) {
    let prefix = staging_prefix(Some(mark));
    let folders: BTreeSet<&Path> = targets.iter().map(|target| folder_of(target)).collect();
    for entry in folders.into_iter().flat_map(std::fs::read_dir).flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

pub(super) fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::io(path, error).help("nothing was written")
}

fn place(file: &Path, target: &Path, overwrite: bool) -> Result<()> {
    let file = TempPath::try_from_path(file).map_err(|error| unwritable(target, &error))?;
    let placed = if overwrite { file.persist(target) } else { file.persist_noclobber(target) };
    placed.map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => taken(MODEL, target),
        _ => unwritable(target, &error.error),
    })
}

fn taken(option: &str, path: &Path) -> Error {
    Error::caller(path.display().to_string(), "exists already")
        .help(format!("--force replaces it, {option} names another file"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::onnx::load;
    use crate::onnx::proto::{GraphProto, OperatorSetIdProto, ValueInfoProto, tensor_proto::DataType};
    use crate::onnx::save::{Draft, SaveOptions, stage};
    use crate::onnx::tensor;
    use crate::progress::Silent;

    const EXTERNAL: SaveOptions = SaveOptions { external: true };

    fn staged(value: u8, target: &Path) -> Staged {
        staged_as(value, target, EXTERNAL)
    }

    fn staged_as(value: u8, target: &Path, options: SaveOptions) -> Staged {
        let graph = GraphProto {
            initializer: vec![tensor::from_raw("w", DataType::Uint8, &[4096], vec![value; 4096])],
            output: vec![ValueInfoProto { name: Some("w".to_owned()), ..Default::default() }],
            ..Default::default()
        };
        let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(21) }];
        let proto =
            ModelProto { ir_version: Some(10), opset_import, graph: Some(graph), ..Default::default() };
        let draft = Draft { proto, lazy: HashMap::new(), groups: Vec::new(), closing: None };
        stage(&draft, target, options, &Silent).unwrap()
    }

    fn value(target: &Path) -> u8 {
        load(target).unwrap().graph().initializer[0].raw_data()[0]
    }

    fn names(folder: &Path) -> Vec<String> {
        let all = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut all: Vec<String> = all.collect();
        all.sort();
        all
    }

    #[test]
    fn a_replaced_model_has_the_same_bytes_and_names_as_a_first_one() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("m.onnx");
        staged(2, &target).publish(false).unwrap();
        let first = std::fs::read(&target).unwrap();
        staged(1, &target).publish(true).unwrap();
        assert_eq!(value(&target), 1);
        staged(2, &target).publish(true).unwrap();
        assert_eq!((value(&target), std::fs::read(&target).unwrap() == first), (2, true));
        assert_eq!(names(folder.path()), ["m.onnx", "m.onnx_data"]);
    }

    #[test]
    fn weights_of_a_replaced_model_go_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("m.onnx");
        staged(1, &target).publish(false).unwrap();
        staged_as(2, &target, SaveOptions::default()).publish(true).unwrap();
        assert_eq!((value(&target), names(folder.path())), (2, vec!["m.onnx".into()]));
        // A file of that name which the replaced model did not use is someone else's.
        std::fs::write(folder.path().join("m.onnx_data"), "x").unwrap();
        staged_as(3, &target, SaveOptions::default()).publish(true).unwrap();
        assert_eq!((value(&target), names(folder.path())), (3, vec!["m.onnx".into(), "m.onnx_data".into()]));
    }

    #[test]
    fn what_another_run_staged_stays() {
        let folder = tempfile::tempdir().unwrap();
        let targets = ["m.onnx", "a/s.safetensors", "b/r.json"].map(|name| folder.path().join(name));
        for parent in targets.iter().map(|target| target.parent().unwrap()) {
            std::fs::create_dir_all(parent).unwrap();
            for mark in [Some(1), Some(2), None] {
                std::fs::create_dir(parent.join(format!("{}x", staging_prefix(mark)))).unwrap();
            }
        }
        clean_up(1, &targets);
        for parent in targets.iter().map(|target| target.parent().unwrap()) {
            let staged: Vec<String> =
                names(parent).into_iter().filter(|name| name.starts_with(".efq-")).collect();
            assert_eq!(staged, [".efq-0000000000000002-x", ".efq-x"]);
        }
    }

    /// What stands after a step that fails is what a kill there leaves.
    #[test]
    fn between_its_renames_a_model_has_its_own_weights() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("m.onnx");
        staged(1, &target).publish(false).unwrap();
        // The new model cannot be moved: the old one stays with its weights, and nothing else.
        let broken = staged(2, &target);
        std::fs::remove_file(broken.path()).unwrap();
        assert!(broken.publish(true).is_err());
        assert_eq!((value(&target), names(folder.path())), (1, vec!["m.onnx".into(), "m.onnx_data".into()]));
        // The side file cannot be replaced: the new model has its weights under another name.
        std::fs::remove_file(folder.path().join("m.onnx_data")).unwrap();
        std::fs::create_dir(folder.path().join("m.onnx_data")).unwrap();
        let error = staged(3, &target).publish(true).unwrap_err().to_string();
        assert!(error.contains("(the result is there, with its weights in '"), "{error}");
        assert_eq!(value(&target), 3);
    }
}
