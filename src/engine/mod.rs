//! Running a graph on samples, as the deployed model would.
//!
//! tract knows no INT4 and no blocks: weights are decoded before the hand-over, under the names that the
//! dequantized values have in the graph, so that original and rewritten model have one topology and get the
//! same optimizations. Functions are inlined, sparse tensors made dense, half precision made float32; what is
//! left that tract does not know, or computes wrongly, is refused by name. The deployed variant adds what ONNX Runtime's fused kernels do to activations.

mod activation;
mod cumsum;
mod fusion;
mod glue;
mod lower;
mod modulo;
mod nbits;
mod parked;
mod refuse;
mod release;
mod runtime;
mod stages;
mod switch;
mod value;
mod widen;

pub use activation::round_rows;
pub use fusion::{Fused, Fusion, fusion};
pub use lower::floats;
pub use parked::Parked;
pub use release::Release;
pub use runtime::{Output, Runner};
pub use stages::{Cut, Run, Stage, Stages, enters, rows_name};
pub use switch::switch_off;
pub use value::Value;

/// Which arithmetic a [`Runner`] computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Weights as decoded, activations in float32: what the weights alone cost.
    WeightsOnly,
    /// As a default ONNX Runtime session: fused nodes round their activations to int8 by row and block.
    Deployed,
}
