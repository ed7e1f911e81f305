//! efq
pub mod data;
pub mod engine;
pub mod error;
pub mod graph;
pub mod limits;
pub mod onnx;
pub mod opset;
pub mod plan;
pub mod preset;
pub mod progress;
pub mod quant;
pub mod rewrite;
pub mod role;
pub mod settings;

pub use error::{Error, Kind, Result};
