//! The file format: loading through a mapping, views of tensors, the check of what is well-formed, and
//! saving that streams.
//!
//! A [`Model`] is the decoded graph; its weights are slices of the mapped file. [`Checked`] marks one that
//! [`check()`] has found well-formed: every later room asks for it.

mod check;
mod constants;
mod digest;
mod encode;
mod external;
mod gate;
mod inline;
mod load;
mod mapping;
mod model;
mod names;
pub mod node;
pub mod proto;
pub mod save;
pub mod sparse;
pub mod staged;
pub mod tensor;
pub mod walk;
mod wire;

pub use check::{check, node_subject};
pub use digest::Digest;
pub use encode::{Lazy, LazyPart};
pub use inline::{function_stays, inline_all};
pub use load::{files, find, load, load_bytes};
pub(crate) use mapping::map_file;
pub use model::{Checked, EMPTY_GRAPH, Model, opset_version};
pub use save::{Draft, Layout, Produce, SaveOptions};
pub use staged::{Saved, Staged, check_file, check_target};
pub use wire::UnknownField;
