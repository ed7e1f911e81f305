//! Model → file: payloads are produced while the file is written, the result replaces nothing unless asked
//! to, and appears under its name only when it is complete and found good.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use bytes::Bytes;
use tempfile::{TempDir, TempPath};

use super::encode::{LazyPart, Piece, encode};
use super::proto::{ModelProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use super::walk;
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

/// Refuses a target that cannot or must not be written, before any work is spent on it.
///
/// # Errors
/// The target is one of `inputs`, exists (without `overwrite`), is a folder, or lies in a missing one.
pub fn check_target(target: &Path, inputs: &[&Path], overwrite: bool) -> Result<()> {
    let shown = target.display().to_string();
    let folder = folder_of(target);
    if target.file_name().is_none() || target.is_dir() {
        return Err(Error::caller(shown, "is a folder, the output must be a file").help("-o NAME.onnx"));
    }
    if !folder.is_dir() {
        return Err(Error::caller(shown, format!("the folder '{}' does not exist", folder.display()))
            .help("create it first"));
    }
    let real = |path: &Path| path.canonicalize().ok();
    let side = folder.join(side_name(target));
    for path in [target, &side] {
        if let Some(wanted) = real(path)
            && inputs.iter().any(|input| real(input).as_ref() == Some(&wanted))
        {
            return Err(Error::caller(path.display().to_string(), "is an input, which efq never changes")
                .help("choose another name"));
        }
        if !overwrite && path.symlink_metadata().is_ok() {
            return Err(taken(path));
        }
    }
    Ok(())
}

/// A complete model in a temporary folder beside its target; gone when dropped, unless published.
pub struct Staged {
    folder: TempDir,
    target: PathBuf,
    sides: Vec<PathBuf>,
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

    /// Whether the file at `path` is one of those that go with the model.
    pub fn owns(&self, path: &Path) -> bool {
        let folder = self.folder.path().canonicalize().unwrap_or_default();
        self.sides.iter().any(|side| folder.join(side) == path)
    }

    /// Moves the files under their names.
    ///
    /// # Errors
    /// The target exists (without `overwrite`), or cannot be written.
    pub fn publish(self, overwrite: bool) -> Result<Saved> {
        let folder = folder_of(&self.target);
        let sides: Vec<(PathBuf, PathBuf)> =
            self.sides.iter().map(|side| (self.folder.path().join(side), folder.join(side))).collect();
        let mut all: Vec<(&Path, &Path)> =
            sides.iter().map(|(from, to)| (from.as_path(), to.as_path())).collect();
        let model = self.path();
        all.push((&model, &self.target));
        if let Some((_, wanted)) = all.iter().find(|(_, to)| !overwrite && to.symlink_metadata().is_ok()) {
            return Err(taken(wanted));
        }
        for (at, (from, to)) in all.iter().enumerate() {
            let placed = match to.parent().map(std::fs::create_dir_all) {
                Some(Err(error)) => Err(unwritable(to, &error)),
                _ => place(from, to, overwrite),
            };
            if let Err(error) = placed {
                for (_, done) in all.iter().take(at).filter(|_| !overwrite) {
                    let _ = std::fs::remove_file(done);
                }
                return Err(error);
            }
        }
        Ok(self.saved)
    }
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
    let mut sides = Vec::new();
    if !layout.side.is_empty() {
        let name = PathBuf::from(side_name(target));
        writer.write(&folder.path().join(&name), &layout.side, false)?;
        sides.push(name);
    }
    let model = folder.path().join(target.file_name().unwrap_or_default());
    let blake3 = writer.write(&model, &layout.model, true)?;
    let saved = Saved { bytes, side_bytes, blake3 };
    Ok(Staged { folder, target: target.to_owned(), sides, saved })
}

/// Copies the files of an unchanged model byte for byte: its side files keep their names.
///
/// # Errors
/// I/O errors.
pub fn stage_copy(model: &super::Model, target: &Path) -> Result<Staged> {
    let folder = staging(target)?;
    let root = folder_of(model.path());
    let root = root.canonicalize().map_err(|error| Error::io(root, &error))?;
    let in_place = folder_of(target).canonicalize().is_ok_and(|real| real == root);
    let mut sides = Vec::new();
    for source in model.side_paths().iter().filter(|_| !in_place) {
        let name = source.strip_prefix(&root).unwrap_or(source).to_owned();
        let staged = folder.path().join(&name);
        if let Some(parent) = staged.parent() {
            std::fs::create_dir_all(parent).map_err(|error| unwritable(parent, &error))?;
        }
        std::fs::copy(source, &staged).map_err(|error| unwritable(&staged, &error))?;
        sides.push(name);
    }
    let file = folder.path().join(target.file_name().unwrap_or_default());
    std::fs::write(&file, model.file_bytes()).map_err(|error| unwritable(&file, &error))?;
    let bytes = model.file_bytes().len() as u64;
    let blake3 = blake3::hash(model.file_bytes()).to_hex().to_string();
    let saved = Saved { bytes, side_bytes: model.size() - bytes, blake3 };
    Ok(Staged { folder, target: target.to_owned(), sides, saved })
}

/// Writes a small text file (a report, a plan) through a temporary one.
///
/// # Errors
/// I/O errors; the file exists and `overwrite` is not set.
pub fn write_text(target: &Path, text: &str, overwrite: bool) -> Result<()> {
    write_file(target, text.as_bytes(), overwrite)
}

/// Writes a file through a temporary one.
///
/// # Errors
/// I/O errors; the file exists and `overwrite` is not set.
pub fn write_file(target: &Path, bytes: &[u8], overwrite: bool) -> Result<()> {
    let folder = staging(target)?;
    let file = folder.path().join(target.file_name().unwrap_or_default());
    std::fs::write(&file, bytes).map_err(|error| unwritable(&file, &error))?;
    place(&file, target, overwrite)
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
        let mut out = BufWriter::with_capacity(1 << 18, file);
        let mut put = |bytes: &[u8]| -> Result<()> {
            if digest {
                hasher.update(bytes);
            }
            out.write_all(bytes).map_err(|error| unwritable(path, &error))?;
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
    let prefix = staging_prefix(std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir_in(folder).map_err(|error| unwritable(folder, &error))
}

fn staging_prefix(process: u32) -> String {
    format!(".efq-{process}-")
}

/// Removes what the process with this number staged for `target`, once it is gone and could not do so itself.
pub fn clean_up_after(process: u32, target: &Path) {
    let prefix = staging_prefix(process);
    for entry in std::fs::read_dir(folder_of(target)).into_iter().flatten().flatten() {
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
        std::io::ErrorKind::AlreadyExists => taken(target),
        _ => unwritable(target, &error.error),
    })
}

fn taken(path: &Path) -> Error {
    Error::caller(path.display().to_string(), "exists already")
        .help("--force replaces it, -o names another file")
}
