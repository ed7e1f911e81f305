//! efq's entries in the metadata of a result. Digests are told when everything else is written, so that nobody waits
//! for them.

use prost::Message as _;

use crate::onnx::proto::{ModelProto, StringStringEntryProto};
use crate::onnx::{Draft, LazyPart};

/// Characters of a BLAKE3 in hex.
const DIGEST_LEN: usize = 64;

/// Keys and their values.
pub struct Metadata<'m> {
    /// Values that are known.
    pub known: Vec<(&'static str, String)>,
    /// Keys of digests, ...
    pub digests: Vec<&'static str>,
    /// ... and what tells them, in the same order.
    pub tell: Box<dyn Fn() -> Vec<String> + Send + Sync + 'm>,
}

impl<'m> Metadata<'m> {
    /// No entries.
    pub fn none() -> Self {
        Self { known: Vec::new(), digests: Vec::new(), tell: Box::new(Vec::new) }
    }

    /// Adds the entries to `draft`, in the place of older ones of their keys.
    pub(super) fn add_to(self, draft: &mut Draft<'m>) {
        let Self { known, digests, tell } = self;
        let keys: Vec<&str> = known.iter().map(|(key, _)| *key).chain(digests.iter().copied()).collect();
        draft.proto.metadata_props.retain(|entry| !keys.contains(&entry.key()));
        draft.proto.metadata_props.extend(entries(&known));
        if digests.is_empty() {
            return;
        }
        let with = move |values: Vec<String>| {
            let pairs: Vec<_> = digests.iter().copied().zip(values).collect();
            ModelProto { metadata_props: entries(&pairs), ..ModelProto::default() }.encode_to_vec()
        };
        let len = with(vec!["0".repeat(DIGEST_LEN); keys.len() - known.len()]).len();
        draft.closing = Some(LazyPart { group: draft.groups.len(), part: 0, len });
        draft.groups.push(Box::new(move || Ok(vec![with(tell())])));
    }
}

fn entries(pairs: &[(&str, String)]) -> Vec<StringStringEntryProto> {
    let entry = |(key, value): &(&str, String)| StringStringEntryProto {
        key: Some((*key).to_owned()),
        value: Some(value.clone()),
    };
    pairs.iter().map(entry).collect()
}
