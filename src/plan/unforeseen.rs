//! What the values of weights forbid and a plan did not foresee.

use super::Plan;
use crate::error::{Error, Kind, Result};
use crate::graph::{Inventory, Site, WeightUse};
use crate::onnx::Model;
use crate::quant::{ScaleStorage, Scheme, Survey};
use crate::sensitivity::{Candidate, Reach, expected, reach, reach_of};

/// What of the values of a weight, as `seen`, its plan did not foresee, if it gives the blocks of `site` this scheme.
pub fn unforeseen(seen: &Survey, site: &Site, scheme: Scheme) -> Option<String> {
    let planned = Candidate::Blocks(scheme);
    objection(site, &reach_of(seen, site, planned), planned)
}

/// Refuses a plan that the values of a weight do not allow.
///
/// # Errors
/// [`crate::error::Kind::Unforeseen`], or a weight that cannot be read.
pub fn check_values(model: &Model, inventory: &Inventory, plan: &Plan) -> Result<()> {
    for (decision, weight) in plan.decisions.iter().zip(&inventory.weights) {
        for (planned, usage) in decision.uses.iter().zip(&weight.uses) {
            let WeightUse::Site(at) = usage else { continue };
            let (Some(site), Some((candidate, _))) = (inventory.sites.get(*at), planned.encoding.candidate())
            else {
                continue;
            };
            if let Some(what) = objection(site, &reach(model, site, candidate)?, candidate) {
                return Err(unforeseen_error(&decision.tensor, what));
            }
        }
    }
    Ok(())
}

/// That the values of `tensor` are not what its plan took them to be, as [`unforeseen`] says.
pub fn unforeseen_error(tensor: &str, what: String) -> Error {
    Error::new(Kind::Unforeseen, format!("'{tensor}'"), what)
        .help("make the plan again with `efq rewrite --dry-run --plan FILE`")
}

fn objection(site: &Site, found: &Reach, planned: Candidate) -> Option<String> {
    let scales = match planned {
        Candidate::Blocks(scheme) => scheme.scales,
        Candidate::PackedRows(format) => format.scales,
        Candidate::Rows(scales) => scales,
    };
    let what = match (found, scales) {
        (found, _) if *found == Reach::Fits(planned) => return None,
        (Reach::NotFinite(row, column), _) => format!("holds a value that is not finite at [{row},{column}]"),
        (Reach::TooLarge, _) => "holds values so large that sums of codes leave float32".to_owned(),
        // Scales of another type than the activation are no matter of values.
        (found, _) if expected(site, planned).as_ref() == Some(found) => return None,
        (_, ScaleStorage::Byte) => "needs scales that units of one size do not hold".to_owned(),
        (Reach::ScalesTooFine | Reach::Fits(_), _) => "needs scales that float16 does not hold".to_owned(),
    };
    Some(format!("{what}, which its plan did not foresee"))
}
