//! Whether a weight's values can be stored in a form at all, and with which type of scales.

use super::Candidate;
use crate::error::Result;
use crate::graph::{Site, Values};
use crate::onnx::Model;
use crate::onnx::proto::tensor_proto::DataType;
use crate::quant::{
    Emit, PackedRows, ScaleStorage, Scheme, Survey, byte_scales_fit, fp16_scales_fit, row_scheme, survey,
};

/// What a look at the values of a weight says of a candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reach {
    /// It can be stored so: the candidate with scales of a type that holds every one of them.
    Fits(Candidate),
    /// The value at this row and column is not finite.
    NotFinite(usize, usize),
    /// The model computes in float16, and its scales do not fit that type.
    ScalesTooFine,
    /// Sums of products with its values leave float32 in a fused kernel.
    TooLarge,
}

/// Magnitudes above are not multiplied in codes. The kernel of ONNX Runtime sums shifted codes and subtracts the shift
/// (`MatMulNBits`, accuracy level 4): with a weight of 1e38 both are infinite, and the result is no number where that of
/// floats is one (measured on 1.32; 1e37 comes out right for activations of 1).
const LARGEST: f32 = 1e30;

/// Looks at the weight of `site`, once, for `candidate`: float16 scales become float32 where they must.
///
/// # Errors
/// [`crate::error::Kind::Format`] when the weight cannot be read.
pub fn reach(model: &Model, site: &Site, candidate: Candidate) -> Result<Reach> {
    let values = Values::of(model, site)?;
    let (matrix, scheme) = match candidate {
        Candidate::Blocks(scheme) => (values.matrix()?, scheme),
        // A row is a column of blocks of the transpose, or one block of it.
        Candidate::PackedRows(format) => (values.matrix()?.transposed(), format.scheme()),
        Candidate::Rows(scales) => (values.matrix()?.transposed(), row_scheme(site.n, scales)),
    };
    Ok(reach_of(&survey(&matrix, scheme.block), site, candidate))
}

/// What [`reach`] most likely says, without a look: the blocks of a linear have ordinary values. `None` where a look is
/// needed in any case. Whoever quantizes on the word of it holds it against [`reach_of`] what was found.
pub fn expected(site: &Site, candidate: Candidate) -> Option<Reach> {
    const ORDINARY: Survey = Survey { first_non_finite: None, max_abs: 1.0, least_block_max: 1.0 };
    match candidate {
        Candidate::Blocks(scheme) if scheme.scales != ScaleStorage::Byte => {
            Some(reach_of(&ORDINARY, site, candidate))
        }
        _ => None,
    }
}

/// What `seen`, a survey of the weight of `site`, says of `candidate`.
pub fn reach_of(seen: &Survey, site: &Site, candidate: Candidate) -> Reach {
    let half = site.operand.delivered == DataType::Float16;
    if let Some((row, column)) = seen.first_non_finite {
        return match candidate {
            Candidate::Blocks(_) => Reach::NotFinite(row, column),
            Candidate::PackedRows(_) | Candidate::Rows(_) => Reach::NotFinite(column, row),
        };
    }
    if seen.max_abs > LARGEST && matches!(candidate, Candidate::Blocks(_)) {
        return Reach::TooLarge;
    }
    let (wanted, fit) = match candidate {
        Candidate::Blocks(scheme) => (scheme.scales, fp16_scales_fit(seen, scheme)),
        Candidate::PackedRows(format) => (format.scales, format.fp16_scales_fit(seen)),
        Candidate::Rows(scales) => (scales, fp16_scales_fit(seen, row_scheme(site.n, scales))),
    };
    let wanted = match candidate {
        _ if half => ScaleStorage::F16,
        // MatMulNBits takes scales of the type of the activation only.
        Candidate::Blocks(Scheme { emit: Emit::MatMulNBits, .. }) => ScaleStorage::F32,
        _ => wanted,
    };
    let storage = match wanted {
        ScaleStorage::F16 if fit => ScaleStorage::F16,
        ScaleStorage::F16 if half => return Reach::ScalesTooFine,
        ScaleStorage::Byte if byte_scales_fit(seen) => ScaleStorage::Byte,
        ScaleStorage::Byte if fit => ScaleStorage::F16,
        _ => ScaleStorage::F32,
    };
    Reach::Fits(match candidate {
        Candidate::Blocks(scheme) => Candidate::Blocks(Scheme { scales: storage, ..scheme }),
        Candidate::PackedRows(format) => Candidate::PackedRows(PackedRows { scales: storage, ..format }),
        Candidate::Rows(_) => Candidate::Rows(storage),
    })
}
