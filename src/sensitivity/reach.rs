//! Whether a weight's values can be stored in a form at all, and with which type of scales.

use super::Candidate;
use crate::error::Result;
use crate::graph::{Site, Values};
use crate::onnx::Model;
use crate::onnx::proto::tensor_proto::DataType;
use crate::quant::{
    Emit, PackedRows, ScaleStorage, Scheme, byte_scales_fit, fp16_scales_fit, row_scheme, survey,
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
}

/// Looks at the weight of `site`, once, for `candidate`: float16 scales become float32 where they must.
///
/// # Errors
/// [`crate::error::Kind::Format`] when the weight cannot be read.
pub fn reach(model: &Model, site: &Site, candidate: Candidate) -> Result<Reach> {
    let half = site.operand.delivered == DataType::Float16;
    let values = Values::of(model, site)?;
    let (matrix, scheme) = match candidate {
        Candidate::Blocks(scheme) => (values.matrix()?, scheme),
        // A row is a column of blocks of the transpose, or one block of it.
        Candidate::PackedRows(format) => (values.matrix()?.transposed(), format.scheme()),
        Candidate::Rows(scales) => (values.matrix()?.transposed(), row_scheme(site.n, scales)),
    };
    let seen = survey(&matrix, scheme.block);
    if let Some((row, column)) = seen.first_non_finite {
        return Ok(match candidate {
            Candidate::Blocks(_) => Reach::NotFinite(row, column),
            Candidate::PackedRows(_) | Candidate::Rows(_) => Reach::NotFinite(column, row),
        });
    }
    let wanted = match scheme.emit {
        _ if half => ScaleStorage::F16,
        // MatMulNBits takes scales of the type of the activation only.
        Emit::MatMulNBits => ScaleStorage::F32,
        Emit::Qdq => scheme.scales,
    };
    let fit = match candidate {
        Candidate::PackedRows(format) => format.fp16_scales_fit(&seen),
        _ => fp16_scales_fit(&seen, scheme),
    };
    let storage = match wanted {
        ScaleStorage::F16 if fit => ScaleStorage::F16,
        ScaleStorage::F16 if half => return Ok(Reach::ScalesTooFine),
        ScaleStorage::Byte if byte_scales_fit(&seen) => ScaleStorage::Byte,
        ScaleStorage::Byte if fit => ScaleStorage::F16,
        _ => ScaleStorage::F32,
    };
    Ok(Reach::Fits(match candidate {
        Candidate::Blocks(scheme) => Candidate::Blocks(Scheme { scales: storage, ..scheme }),
        Candidate::PackedRows(format) => Candidate::PackedRows(PackedRows { scales: storage, ..format }),
        Candidate::Rows(_) => Candidate::Rows(storage),
    }))
}
