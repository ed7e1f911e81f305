//! The forms that a weight may be stored in under a budget.

use crate::error::Result;
use crate::graph::{Form, Site};
use crate::onnx::Model;
use crate::plan::Encoding;
use crate::quant::{Algorithm, BLOCKS, Bits, Emit, PackedRows, ScaleStorage, Scheme};
use crate::role::Role;
use crate::sensitivity::{Candidate, Reach, reach};
use crate::settings::Settings;

/// The block at which the influence of a weight is measured.
const BASE_BLOCK: usize = 64;

/// Ways to store the weight of `site`, which plays `role`, float aside.
pub(super) fn wishes(site: &Site, role: Role, settings: &Settings) -> Vec<Encoding> {
    let &Settings { scales, emit, algorithm, held, .. } = settings;
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
    let block = held.block.map(|block| block.for_role(role));
    let may = |encoding: &Encoding| match encoding {
        Encoding::Blocks { scheme, .. } => {
            held.symmetric.is_none_or(|symmetric| scheme.symmetric == symmetric)
        }
        _ => true,
    };
    let widest = BLOCKS.iter().position(|block| *block >= site.k).unwrap_or(BLOCKS.len() - 1);
    let four = block.as_ref().map_or(&BLOCKS[..=widest], std::slice::from_ref);
    for block in four {
        for scales in [scales, ScaleStorage::Byte] {
            let both = [false, true].map(|symmetric| blocks(Bits::Four, *block, symmetric, scales));
            found.extend(both.into_iter().filter(may));
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
