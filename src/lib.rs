//! INT4 weights for ONNX models, with a statement of what they cost.
//!
//! A model goes through the rooms of this crate in one direction. [`onnx`] maps the file and decodes its
//! graph; weights stay slices of the mapping. [`graph`] finds every use of a weight that could be quantized,
//! a [`graph::Site`], with its role. [`plan`] decides for every tensor and gives the reason; a [`plan::Plan`]
//! is a value that can be shown, stored and repeated. [`rewrite`] carries it out as a draft whose payloads are
//! produced by [`quant`] while the file is written. [`engine`] then runs original and result on samples, with
//! the arithmetic of the deployed kernels, and [`validate`] says what the difference means. [`pipeline`] is
//! the only place that knows this order.
//!
//! The library never prints or exits; figures come back in a [`report::Report`].
//!
//! ```
//! use efq::pipeline::{RewriteOptions, rewrite};
//! use efq::preset::Preset;
//! use efq::progress::Silent;
//! use efq::settings::{Overrides, Settings};
//!
//! # fn main() -> efq::Result<()> {
//! # let folder = tempfile::tempdir().expect("a temporary folder");
//! # let target = folder.path().join("digits.int4.onnx");
//! let preset = Preset::builtin("high_compression").expect("built in");
//! let settings = Settings::new(&preset, &Overrides::default())?;
//! let done = rewrite(
//!     &RewriteOptions {
//!         output: Some(target),
//!         ..RewriteOptions::new("fixtures/digits_vit.onnx", settings)
//!     },
//!     &Silent,
//! )?;
//! let written = done.report.result.expect("nothing failed");
//! assert!(done.report.original.bytes > 6 * written.bytes);
//! assert_eq!(done.report.fusion.fused, 17);
//! # Ok(())
//! # }
//! ```

pub mod calibrate;
#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod engine;
pub mod error;
pub mod graph;
pub mod limits;
pub mod linalg;
pub mod onnx;
pub mod opset;
pub mod panics;
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
pub mod statistics;
pub mod validate;

pub use error::{Error, Kind, Result};
