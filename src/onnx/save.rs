//! Model → file: payloads are produced while the file is written, which is [staged](super::staged) until it is found good.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::mpsc;

use bytes::Bytes;

use super::encode::{Lazy, LazyPart, Piece, encode};
use super::gate::{Closing, Gate};
use super::proto::{ModelProto, StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use super::staged::{Saved, Staged, side_name, staging, unwritable};
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
    pub lazy: Lazy,
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
        let mut made = Made::default();
        for piece in encode(&self.proto, &self.lazy).into_iter().chain(self.closing.map(Piece::Lazy)) {
            match piece {
                Piece::Bytes(part) => bytes.extend_from_slice(&part),
                Piece::Lazy(part) => bytes.extend_from_slice(&made.take(part, || self.produce(part.group))?),
            }
        }
        Ok(bytes.into())
    }

    fn produce(&self, group: usize) -> Result<Vec<Vec<u8>>> {
        match self.groups.get(group) {
            Some(produce) => produce(),
            None => Err(Error::format("payload", "a part names a group that is not there")),
        }
    }
}

/// Groups that were produced and are not written in full: the scales of a weight wait for all its codes.
#[derive(Default)]
struct Made(HashMap<usize, Vec<Option<Vec<u8>>>>);

impl Made {
    /// A part, which is asked for once; its group comes from `next` where it is not here.
    fn take(&mut self, part: LazyPart, next: impl FnOnce() -> Result<Vec<Vec<u8>>>) -> Result<Vec<u8>> {
        let mut parts = match self.0.remove(&part.group) {
            Some(parts) => parts,
            None => next()?.into_iter().map(Some).collect(),
        };
        let taken = parts.get_mut(part.part).and_then(Option::take);
        if parts.iter().any(Option::is_some) {
            self.0.insert(part.group, parts);
        }
        let taken = taken.filter(|bytes| bytes.len() == part.len);
        taken.ok_or_else(|| Error::format("payload", "it has another length than planned"))
    }
}

/// How to write.
#[derive(Debug, Clone, Copy, Default)]
pub struct SaveOptions {
    /// Put weights into `NAME_data` beside the model. Default: only above [`INLINE_BYTES`].
    pub external: bool,
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
        let mut model = encode(&proto, &Lazy::new());
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

/// Writes `draft` completely, but not yet under the name `target`.
///
/// Of payloads that are produced ahead at most 128 MiB are in memory, or one group that is larger, and of those
/// before what the file has further on. On an error nothing is left behind.
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
        let gate = Gate::new(AHEAD);
        std::thread::scope(|scope| {
            // While one is finished and handed on, the other keeps the cores busy.
            let producers = std::array::from_fn::<_, PRODUCERS, _>(|first| {
                let (sender, receiver) = mpsc::sync_channel::<Result<Vec<Vec<u8>>>>(WAITING);
                let (order, gate, draft) = (&order, &gate, self.draft);
                scope.spawn(move || {
                    for (number, (group, bytes)) in order.iter().enumerate().skip(first).step_by(PRODUCERS) {
                        if !gate.enter(number, *bytes) || sender.send(draft.produce(*group)).is_err() {
                            return;
                        }
                    }
                });
                receiver
            });
            let _closing = Closing(&gate);
            let (mut next, mut sizes) = (producers.iter().cycle(), order.iter().map(|(_, bytes)| *bytes));
            let (mut made, mut written) = (Made::default(), 0);
            let mut receive = || {
                gate.leave(std::mem::replace(&mut written, sizes.next().unwrap_or(0)));
                let producer = next.next().and_then(|producer| producer.recv().ok());
                producer.ok_or_else(|| Error::format("payload", "its production ended early"))?
            };
            for piece in pieces {
                match piece {
                    Piece::Bytes(bytes) => put(bytes)?,
                    Piece::Lazy(part) => put(&made.take(*part, &mut receive)?)?,
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
/// Groups of each of them that wait to be written, so that it goes on while something long is.
const WAITING: usize = 1;
/// Bytes of groups that are in the making, wait, or are written.
const AHEAD: usize = 1 << 27;

/// Groups in the order in which the pieces ask for them first, with the bytes of all their parts.
fn production_order(pieces: &[Piece]) -> Vec<(usize, usize)> {
    let mut places: HashMap<usize, usize> = HashMap::new();
    let mut order: Vec<(usize, usize)> = Vec::new();
    for piece in pieces {
        if let Piece::Lazy(part) = piece {
            let place = *places.entry(part.group).or_insert(order.len());
            match order.get_mut(place) {
                Some((_, bytes)) => *bytes += part.len,
                None => order.push((part.group, part.len)),
            }
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
        let payload: Vec<Piece> = match (draft.lazy.get(tensor.name()), tensor.raw_data.as_ref()) {
            (Some(parts), _) => parts.iter().copied().map(Piece::Lazy).collect(),
            (None, Some(raw)) if raw.len() >= SIDE_BYTES => vec![Piece::Bytes(raw.clone())],
            _ => return,
        };
        let length = payload.iter().map(Piece::len).sum();
        let align = if length >= 1 << 20 { PAGE } else { ALIGN };
        let start = at.next_multiple_of(align);
        if start > at {
            side.push(Piece::Bytes(Bytes::from(vec![0; start - at])));
        }
        at = start + length;
        point(tensor, location, start, length);
        side.extend(payload);
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
