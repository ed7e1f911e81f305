//! BLAKE3 of files that are read in any order: each piece is hashed while it is in the cache for another reason.
//!
//! A piece of a power of two bytes is a whole subtree of BLAKE3's tree (its paper, section 2.1), so the pieces may be
//! hashed apart and are put together at the end.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use blake3::hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;
use rayon::prelude::*;

/// Bytes of a piece: they stay in the second-level cache beside the work that reads them.
const PIECE: u64 = 1 << 17;

/// The digest of some files, one behind the other.
#[derive(Debug, Default)]
pub struct Digest {
    /// Each file and where it begins.
    files: Vec<(u64, Bytes)>,
    len: u64,
    pieces: Vec<Piece>,
    whole: OnceLock<String>,
}

#[derive(Debug, Default)]
struct Piece {
    /// Bytes of it that were said to be read.
    read: AtomicU64,
    value: OnceLock<ChainingValue>,
}

impl Digest {
    pub(super) fn of(contents: impl IntoIterator<Item = Bytes>) -> Self {
        let mut len = 0;
        let mut files = Vec::new();
        for content in contents {
            let start = len;
            len += content.len() as u64;
            files.push((start, content));
        }
        let pieces = (0..len.div_ceil(PIECE)).map(|_| Piece::default()).collect();
        Self { files, len, pieces, whole: OnceLock::new() }
    }

    /// Says that `bytes` were just read. What pieces they complete is hashed now; bytes of other memory are passed over.
    pub fn note(&self, bytes: &[u8]) {
        let Some(Range { start, end }) = self.place(bytes) else { return };
        for number in start / PIECE..end.div_ceil(PIECE) {
            let Some(piece) = usize::try_from(number).ok().and_then(|number| self.pieces.get(number)) else {
                return;
            };
            let own = self.range(number);
            let more = end.min(own.end) - start.max(own.start);
            if piece.read.fetch_add(more, Ordering::Relaxed) + more >= own.end - own.start {
                piece.value.get_or_init(|| self.subtree(number));
            }
        }
    }

    /// The digest as lower-case hex. Pieces that nobody read are hashed now, on all cores. Not to be called from a task of
    /// the pool: it might wait for itself.
    pub fn hex(&self) -> &str {
        self.whole.get_or_init(|| {
            if self.pieces.len() < 2 {
                let mut hasher = blake3::Hasher::new();
                self.files.iter().for_each(|(_, bytes)| {
                    hasher.update(bytes);
                });
                return hasher.finalize().to_hex().to_string();
            }
            let value =
                |(number, piece): (usize, &Piece)| *piece.value.get_or_init(|| self.subtree(number as u64));
            let values: Vec<ChainingValue> = self.pieces.par_iter().enumerate().map(value).collect();
            let (left, right) = halves(&values);
            merge_subtrees_root(&merged(left), &merged(right), Mode::Hash).to_hex().to_string()
        })
    }

    /// Where `bytes` lie in the files.
    fn place(&self, bytes: &[u8]) -> Option<Range<u64>> {
        let wanted = bytes.as_ptr_range();
        self.files.iter().find_map(|(start, file)| {
            let held = file.as_ptr_range();
            let is_within = !bytes.is_empty() && held.start <= wanted.start && wanted.end <= held.end;
            let start = start + (wanted.start.addr().saturating_sub(held.start.addr())) as u64;
            is_within.then(|| start..start + bytes.len() as u64)
        })
    }

    fn range(&self, number: u64) -> Range<u64> {
        number * PIECE..self.len.min((number + 1) * PIECE)
    }

    fn subtree(&self, number: u64) -> ChainingValue {
        let own = self.range(number);
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(own.start);
        for (start, file) in &self.files {
            let within = |at: u64| at.saturating_sub(*start).min(file.len() as u64) as usize;
            hasher.update(&file[within(own.start)..within(own.end)]);
        }
        hasher.finalize_non_root()
    }
}

/// The children of a node: the left one has the most leaves that a power of two gives.
fn halves(values: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    values.split_at(values.len().next_power_of_two() / 2)
}

fn merged(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [] => ChainingValue::default(),
        [only] => *only,
        _ => {
            let (left, right) = halves(values);
            merge_subtrees_non_root(&merged(left), &merged(right), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever was read before, in whatever order, the digest is BLAKE3 of the files one behind the other.
        #[test]
        fn the_order_of_reading_does_not_matter(
            sizes in prop::collection::vec(
                prop_oneof![3 => 0_usize..700_000, 1 => (0_usize..5).prop_map(|count| count * PIECE as usize)],
                0..4,
            ),
            reads in prop::collection::vec((0_usize..4, 0.0_f64..1.0, 0.0_f64..1.0), 0..12),
        ) {
            let byte = |at: usize| (at.wrapping_mul(2_654_435_761) >> 7) as u8;
            let files: Vec<Bytes> = sizes.iter().map(|&size| (0..size).map(byte).collect()).collect();
            let digest = Digest::of(files.clone());
            for (file, from, to) in reads {
                let Some(bytes) = files.get(file) else { continue };
                let at = |share: f64| (share * bytes.len() as f64) as usize;
                digest.note(&bytes[at(from.min(to))..at(from.max(to))]);
            }
            digest.note(&[1, 2, 3]);
            let wanted = blake3::hash(&files.concat()).to_hex();
            prop_assert_eq!(digest.hex(), wanted.as_str());
        }
    }

    #[test]
    fn pieces_are_hashed_as_they_are_completed() {
        let file = Bytes::from(vec![7; 3 * PIECE as usize + 5]);
        let digest = Digest::of([file.clone()]);
        let known = || digest.pieces.iter().map(|piece| piece.value.get().is_some()).collect::<Vec<_>>();
        let half = PIECE as usize / 2;
        digest.note(&file[half..3 * half]);
        assert_eq!(known(), [false; 4]);
        digest.note(&file[..half]);
        assert_eq!(known(), [true, false, false, false]);
        digest.note(&file[3 * half..]);
        assert_eq!(known(), [true; 4]);
    }
}
