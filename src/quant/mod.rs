//! Block quantization of weight matrices: numbers only, no ONNX, no files.
//!
//! [`survey`] looks at a matrix before any byte is laid out, [`quantize`] fits scales and writes codes
//! in ONNX's packing, [`decode`] reads them back by ONNX's definition, independently of the writer.

pub mod compensate;
mod decode;
mod encode;
mod error;
mod fit;
mod grid;
mod levels;
mod matrix;
mod nbits;
mod pack;
mod packed;
mod quantize;
mod rounding;
mod rows;
mod scheme;
mod simd;
mod survey;
#[cfg(test)]
mod tests;

pub use decode::{CodeKind, decode, decode_nbits, decode_packed_rows};
pub use error::WeightError;
pub use fit::{Algorithm, fit, fit_weighted};
pub use grid::Grid;
pub use matrix::{Element, Layout, Matrix};
pub use nbits::NBits;
pub use pack::pack_nibbles;
pub use packed::PackedRows;
pub use quantize::{Quantized, measure, quantize, quantize_surveyed};
pub use rows::{QuantizedRows, quantize_rows, row_scheme};
pub use scheme::{BLOCKS, Bits, Emit, ScaleStorage, Scheme};
pub use survey::{Survey, byte_scales_fit, fp16_scales_fit, survey};
