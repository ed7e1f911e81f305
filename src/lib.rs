//! efq
#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod engine;
pub mod error;
pub mod graph;
pub mod limits;
pub mod onnx;
pub mod opset;
pub mod pipeline;
pub mod plan;
pub mod preset;
pub mod progress;
pub mod quant;
pub mod report;
pub mod rewrite;
pub mod role;
pub mod sensitivity;
pub mod settings;
pub mod validate;

pub use error::{Error, Kind, Result};
