//! Who produces and consumes what, which stored tensors are weights, what each is for, and where each could
//! be replaced by a quantized one.
//!
//! A [`Site`] is one use of a weight that efq can encode, with the weight as a normalized `[K,N]` view;
//! everything that later rooms need to know about ONNX is said there. An [`Inventory`] lists every weight
//! with all its uses: sites, and the others with the reason why they stay.

mod arrangement;
mod beside;
mod bias;
mod einsum;
mod functions;
mod index;
mod operand;
mod output;
mod quantized;
mod rank;
mod roles;
mod scales;
mod site;
mod sweep;
mod twins;
mod values;

pub use arrangement::{Arrangement, Frame};
pub use beside::{Addition, is_dequantized, is_quantized_next, sole_consumer};
pub use bias::{Bias, bias};
pub use index::{Index, Path, Use};
pub use operand::{Operand, Origin, operand, stored as stored_at};
pub use output::{Measured, measured_output};
pub use quantized::{Quantized, QuantizedForm, quantized};
pub use rank::{rank, ranks};
pub use scales::Scales;
pub use site::{Form, Inventory, Site, Weight, WeightUse, inventory};
pub use sweep::sweep;
pub use values::{Values, stored};
