//! The forms that a weight may be stored in under a budget.

use crate::error::Result;
use crate::graph::{Form, Site};
use crate::onnx::Model;
use crate::plan::Encoding;
use crate::quant::{Algorithm, BLOCKS, Bits, Emit, PackedRows, ScaleStorage, Scheme};
use crate::sensitivity::{Candidate, Reach, reach};

/// The block at which the influence of a weight is measured.
const BASE_BLOCK: usize = 64;

/// Ways to store the weight of `site`, float aside.
pub(super) fn wishes(site: &Site, scales: ScaleStorage, emit: Emit, algorithm: Algorithm) -> Vec<Encoding> {
    if site.form == Form::Gather {
        let (algorithm, scales) = (Algorithm::Search, scales.of_rows());
        let packed = [32, 64, 128].map(|block| PackedRows { block, scales });
        let packed = packed.into_iter().map(|format| Encoding::PackedRows { format, algorithm });
        return packed.chain([Encoding::Rows { scales, algorithm }]).collect();
    }
    let blocks = |bits, block, symmetric, scales| Encoding::Blocks {
        scheme: Scheme { bits, block, symmetric, scales, emit }.no_wider_than(site.k),
        algorithm,
    };
    let mut found = vec![blocks(Bits::Eight, 128, true, scales), blocks(Bits::Eight, 32, true, scales)];
    let widest = BLOCKS.iter().position(|block| *block >= site.k).unwrap_or(BLOCKS.len() - 1);
    for block in &BLOCKS[..=widest] {
        for scales in [scales, ScaleStorage::Byte] {
            found.push(blocks(Bits::Four, *block, false, scales));
            found.push(blocks(Bits::Four, *block, true, scales));
        }
    }
    found
}

/// `wish` as the values allow it; `None` where they do not.
pub(super) fn reached(model: &Model, site: &Site, wish: Encoding) -> Result<Option<(Encoding, Candidate)>> {
    let Some((candidate, algorithm)) = wish.candidate() else { return Ok(None) };
    Ok(match reach(model, site, candidate)? {
        Reach::Fits(candidate) => Some((Encoding::of(candidate, algorithm), candidate)),
        _ => None,
    })
}

/// The form in which the influence of a weight is measured for a budget.
pub(super) fn base(
    model: &Model,
    site: &Site,
    algorithm: Algorithm,
) -> Result<Option<(Encoding, Candidate)>> {
    let wish = match site.form {
        Form::Gather => Encoding::PackedRows {
            format: PackedRows { block: BASE_BLOCK, scales: ScaleStorage::F16 },
            algorithm: Algorithm::Search,
        },
        _ => Encoding::Blocks {
            scheme: Scheme {
                bits: Bits::Four,
                block: BASE_BLOCK,
                symmetric: false,
                scales: ScaleStorage::F16,
                emit: Emit::Qdq,
            },
            algorithm,
        },
    };
    reached(model, site, wish)
}
