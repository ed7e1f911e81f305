//! Round to nearest: the range of a block, extended to include 0, divided evenly.

use super::{
    super::{
        levels::Levels,
        rounding::{bound, round},
    },
    Choice,
    panel::{LANES, Lanes, Panel},
};

#[inline(always)]
pub(super) fn fit(panel: &Panel, levels: &Levels) -> Choice {
    divide(panel, &panel.min, &panel.max, levels)
}

/// Scales and zero points for values from `min` to `max`.
#[inline(always)]
pub(super) fn divide(panel: &Panel, min: &Lanes, max: &Lanes, levels: &Levels) -> Choice {
    let mut zero = [0.0; LANES];
    if levels.symmetric {
        return Choice { scale: panel.storable(&widest(min, max, levels), &zero, levels), zero };
    }
    let mut wanted = [0.0; LANES];
    for l in 0..LANES {
        let low = if min[l] < 0.0 { min[l] } else { 0.0 };
        let high = if max[l] > 0.0 { max[l] } else { 0.0 };
        wanted[l] = (high - low) / levels.highest;
    }
    // The zero point goes with the scale as stored. Only near overflow does that depend in turn on the
    // zero point; a central one allows the largest scale.
    let scale = panel.storable(&wanted, &[levels.highest * 0.5; LANES], levels);
    for l in 0..LANES {
        let low = if min[l] < 0.0 { min[l] } else { 0.0 };
        zero[l] = round(bound(-low / scale[l], 0.0, levels.highest));
    }
    Choice { scale: panel.storable(&wanted, &zero, levels), zero }
}

/// The scales of a symmetric scheme that just span `min` to `max`. Where one side of the codes reaches
/// further, the sign is such that the value of larger magnitude gets the outermost code.
#[inline(always)]
pub(super) fn widest(min: &Lanes, max: &Lanes, levels: &Levels) -> Lanes {
    let even = levels.highest == -levels.lowest;
    let mut scale = [0.0; LANES];
    for l in 0..LANES {
        let extreme = if max[l] > -min[l] { max[l] } else { min[l] };
        scale[l] = extreme / levels.lowest;
        scale[l] = if even { scale[l].abs() } else { scale[l] };
    }
    scale
}
