//! Model → file: payloads are produced while the file is written, the result replaces nothing unless asked
//! to, and appears under its name only when it is complete and found good.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, mpsc};

use bytes::Bytes;
use prost::Message as _;
use tempfile::{TempDir, TempPath};

use super::encode::{LazyPart, Piece, encode};
use super::proto::{ModelProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use super::{Model, load, walk};
use crate::error::{Error, Result};
use crate::limits;
use crate::progress::Progress;

/// Above this, weights go to a file beside the model: protobuf ends at 2 GiB.
pub const INLINE_BYTES: u64 = 1_800_000_000;
/// Shorter payloads stay in the model when there is a side file.
const SIDE_BYTES: usize = 1 << 10;
/// Alignment in the side file, and from which size on a tensor starts on a page of its own.
const ALIGN: usize = 64;
const PAGE: usize = 4096;

/// Bytes of one write: for more at a time Linux looks for large pages, which takes longer than it saves (measured on 6.18).
const WRITE: usize = 1 << 17;

/// Produces the payloads of one group, in the order of their part numbers.
pub type Produce<'a> = Box<dyn Fn() -> Result<Vec<Vec<u8>>> + Send + Sync + 'a>;

/// A model whose `lazy` initializers get their payload from `groups` while it is written.
pub struct Draft<'a> {
    /// Everything but the lazy payloads.
    pub proto: ModelProto,
    /// By initializer, of the main graph or of a body.
    pub lazy: HashMap<String, LazyPart>,
    /// What [`LazyPart::group`] indexes.
    pub groups: Vec<Produce<'a>>,
    /// Encoded fields of the message that are produced after all others.
    pub closing: Option<LazyPart>,
}

impl Draft<'_> {
    /// The whole encoded model in memory.
    ///
    /// # Errors
    /// Errors of a payload's production.
    pub fn to_bytes(&self) -> Result<Bytes> {
        let mut bytes = Vec::new();
        let mut current: Option<(usize, Vec<Vec<u8>>)> = None;
        for piece in encode(&self.proto, &self.lazy).into_iter().chain(self.closing.map(Piece::Lazy)) {
            match piece {
                Piece::Bytes(part) => bytes.extend_from_slice(&part),
                Piece::Lazy(lazy) => {
                    if current.as_ref().is_none_or(|(group, _)| *group != lazy.group) {
                        let produce = self.groups.get(lazy.group);
                        let made = produce.map(|produce| produce()).transpose()?.unwrap_or_default();
                        current = Some((lazy.group, made));
                    }
                    let part = current.as_ref().and_then(|(_, parts)| parts.get(lazy.part));
                    bytes.extend_from_slice(part.map_or(&[], Vec::as_slice));
                }
            }
        }
        Ok(bytes.into())
    }
}

/// How to write.
#[derive(Debug, Clone, Copy, Default)]
pub struct SaveOptions {
    /// Put weights into `NAME_data` beside the model. Default: only above [`INLINE_BYTES`].
    pub external: bool,
}

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

/// The pieces of the files that a draft becomes.
pub struct Layout {
    model: Vec<Piece>,
    side: Vec<Piece>,
}

impl Layout {
    /// Lays `draft` out for `target`; nothing is produced or written.
    ///
    /// # Errors
    /// [`crate::error::Kind::Limit`] when what must stay inline passes 2 GiB.
    pub fn new(draft: &Draft<'_>, target: &Path, options: SaveOptions) -> Result<Self> {
        let closing = draft.closing.map(Piece::Lazy);
        let mut inline = encode(&draft.proto, &draft.lazy);
        inline.extend(closing.clone());
        if !options.external && total(&inline) <= INLINE_BYTES {
            return Ok(Self { model: inline, side: Vec::new() });
        }
        let (proto, side) = move_out(draft, &side_name(target));
        let mut model = encode(&proto, &HashMap::new());
        model.extend(closing);
        if total(&model) > limits::MODEL_BYTES {
            return Err(Error::limit(
                target.display().to_string(),
                format!("{} bytes would stay in the model file, protobuf ends at 2 GiB", total(&model)),
            ));
        }
        Ok(Self { model, side })
    }

    /// Bytes of the model file and of the side file.
    pub fn sizes(&self) -> (u64, u64) {
        (total(&self.model), total(&self.side))
    }
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
        return Err(Error::caller(shown, format!("the folder '{}' does not exist", folder.display()))
            .help("create it first"));
    }
    if inputs.iter().any(|input| holds(input, target)) {
        return Err(Error::caller(shown, "is an input, which efq never changes").help("choose another name"));
    }
    match target.symlink_metadata() {
        Ok(known) if !(known.is_file() || known.is_symlink()) => {
            return Err(Error::caller(shown, "is no regular file, and efq replaces no other")
                .help(format!("{option} names a file")));
        }
        Ok(_) if !overwrite => return Err(taken(option, target)),
        _ => {}
    }
    Ok(())
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
    folder: TempDir,
    target: PathBuf,
    /// Name of the side file.
    side: Option<String>,
    saved: Saved,
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

/// Writes `draft` completely, but not yet under the name `target`.
///
/// At most three groups of payloads are in memory at a time. On an error nothing is left behind.
///
/// # Errors
/// I/O errors, errors of a payload's production, [`crate::error::Kind::Interrupted`].
pub fn stage(
    draft: &Draft<'_>,
    target: &Path,
    options: SaveOptions,
    progress: &dyn Progress,
) -> Result<Staged> {
    let layout = Layout::new(draft, target, options)?;
    let (bytes, side_bytes) = layout.sizes();
    progress.stage("writing", bytes + side_bytes);
    let folder = staging(target)?;
    let writer = Writer { draft, progress };
    let side = (!layout.side.is_empty()).then(|| side_name(target));
    if let Some(name) = &side {
        writer.write(&folder.path().join(name), &layout.side, false)?;
    }
    let model = folder.path().join(target.file_name().unwrap_or_default());
    let blake3 = writer.write(&model, &layout.model, true)?;
    let saved = Saved { bytes, side_bytes, blake3 };
    Ok(Staged { folder, target: target.to_owned(), side, saved })
}

/// Stages `model` as it was read: byte for byte, unless it has side files or is to get one. Weights that lie beside
/// it go to a side file of the caller's name, for the names that a model gives are no places to write to.
///
/// # Errors
/// I/O errors, [`crate::error::Kind::Interrupted`].
pub fn stage_copy(
    model: &Model,
    target: &Path,
    options: SaveOptions,
    progress: &dyn Progress,
) -> Result<Staged> {
    if options.external || !model.side_paths().is_empty() {
        let proto = load::as_stored(model)?;
        let draft = Draft { proto, lazy: HashMap::new(), groups: Vec::new(), closing: None };
        return stage(&draft, target, SaveOptions { external: true }, progress);
    }
    let folder = staging(target)?;
    let file = folder.path().join(target.file_name().unwrap_or_default());
    std::fs::write(&file, model.file_bytes()).map_err(|error| unwritable(&file, &error))?;
    let bytes = model.file_bytes().len() as u64;
    let blake3 = model.digest().to_owned();
    let saved = Saved { bytes, side_bytes: 0, blake3 };
    Ok(Staged { folder, target: target.to_owned(), side: None, saved })
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

struct Writer<'d, 'a> {
    draft: &'d Draft<'a>,
    progress: &'d dyn Progress,
}

impl Writer<'_, '_> {
    /// Writes `pieces` to a new file; gives its BLAKE3 if `digest` is set.
    fn write(&self, path: &Path, pieces: &[Piece], digest: bool) -> Result<String> {
        let file = File::create_new(path).map_err(|error| unwritable(path, &error))?;
        let mut hasher = blake3::Hasher::new();
        let mut out = BufWriter::with_capacity(WRITE, file);
        let mut put = |bytes: &[u8]| -> Result<()> {
            for part in bytes.chunks(WRITE) {
                if digest {
                    hasher.update(part);
                }
                out.write_all(part).map_err(|error| unwritable(path, &error))?;
            }
            self.progress.advance(bytes.len() as u64);
            if self.progress.cancelled() { Err(Error::interrupted()) } else { Ok(()) }
        };
        let order = production_order(pieces);
        std::thread::scope(|scope| {
            // While one is finished and handed on, the other keeps the cores busy.
            let producers = std::array::from_fn::<_, PRODUCERS, _>(|first| {
                let (sender, receiver) = mpsc::sync_channel::<Result<Vec<Vec<u8>>>>(0);
                let (order, groups) = (order.clone(), &self.draft.groups);
                scope.spawn(move || {
                    for group in order.into_iter().skip(first).step_by(PRODUCERS) {
                        let made = match groups.get(group) {
                            Some(produce) => produce(),
                            None => Err(Error::format("payload", "a part names a group that is not there")),
                        };
                        if sender.send(made).is_err() {
                            return;
                        }
                    }
                });
                receiver
            });
            let mut next = producers.iter().cycle();
            let mut current: Option<(usize, Vec<Vec<u8>>)> = None;
            for piece in pieces {
                match piece {
                    Piece::Bytes(bytes) => put(bytes)?,
                    Piece::Lazy(lazy) => {
                        if current.as_ref().is_none_or(|(group, _)| *group != lazy.group) {
                            let made = next
                                .next()
                                .and_then(|producer| producer.recv().ok())
                                .ok_or_else(|| Error::format("payload", "its production ended early"))??;
                            current = Some((lazy.group, made));
                        }
                        let part = current.as_ref().and_then(|(_, parts)| parts.get(lazy.part));
                        match part {
                            Some(bytes) if bytes.len() == lazy.len => put(bytes)?,
                            _ => return Err(Error::format("payload", "it has another length than planned")),
                        }
                    }
                }
            }
            Ok(())
        })?;
        out.flush().map_err(|error| unwritable(path, &error))?;
        Ok(if digest { hasher.finalize().to_hex().to_string() } else { String::new() })
    }
}

/// Threads that have payloads produced, in turn.
const PRODUCERS: usize = 2;

/// Groups in the order in which the pieces ask for them; one that is asked for again later is made again.
fn production_order(pieces: &[Piece]) -> Vec<usize> {
    let mut order = Vec::new();
    for piece in pieces {
        if let Piece::Lazy(lazy) = piece
            && order.last() != Some(&lazy.group)
        {
            order.push(lazy.group);
        }
    }
    order
}

/// Moves the long payloads of the main graph's initializers into the pieces of a side file.
fn move_out(draft: &Draft<'_>, location: &str) -> (ModelProto, Vec<Piece>) {
    let mut proto = draft.proto.clone();
    let mut side: Vec<Piece> = Vec::new();
    let mut at = 0usize;
    walk::initializers_mut(proto.graph.get_or_insert_default(), &mut |tensor| {
        let piece = match (draft.lazy.get(tensor.name()), tensor.raw_data.as_ref()) {
            (Some(lazy), _) => Piece::Lazy(*lazy),
            (None, Some(raw)) if raw.len() >= SIDE_BYTES => Piece::Bytes(raw.clone()),
            _ => return,
        };
        let align = if piece.len() >= 1 << 20 { PAGE } else { ALIGN };
        let start = at.next_multiple_of(align);
        if start > at {
            side.push(Piece::Bytes(Bytes::from(vec![0; start - at])));
        }
        at = start + piece.len();
        point(tensor, location, start, piece.len());
        side.push(piece);
    });
    (proto, side)
}

fn point(tensor: &mut TensorProto, location: &str, offset: usize, length: usize) {
    let entry =
        |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    tensor.raw_data = None;
    tensor.data_location = Some(DataLocation::External as i32);
    tensor.external_data = vec![
        entry("location", location.to_owned()),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ];
}

fn total(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn side_name(target: &Path) -> String {
    let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // What no model may ask for, see `external.rs`.
    format!("{}_data", name.replace(['\n', '\\', ':'], "_"))
}

/// A folder beside `target` that only efq uses, on the same file system.
fn staging(target: &Path) -> Result<TempDir> {
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

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
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
    use super::*;
    use crate::onnx::load;
    use crate::onnx::proto::{GraphProto, OperatorSetIdProto, ValueInfoProto, tensor_proto::DataType};
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
