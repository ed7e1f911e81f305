//! Round to nearest: the range of a block, extended to include 0, divided evenly.

use super::{
    super::{
        levels::Levels,
        rounding::{bound, round},
    },
    Choice,
    panel::{LANES, Panel},
};

#[inline(always)]
pub(super) fn fit(panel: &Panel, levels: &Levels) -> Choice {
    let mut choice = Choice { scale: [0.0; LANES], zero: [0.0; LANES] };
    for l in 0..LANES {
        (choice.scale[l], choice.zero[l]) = divide(panel, l, panel.min[l], panel.max[l], levels);
    }
    choice
}

/// Scale and zero point of column `l` for values from `min` to `max`.
#[inline(always)]
pub(super) fn divide(panel: &Panel, l: usize, min: f32, max: f32, levels: &Levels) -> (f32, f32) {
    if levels.symmetric {
        return (panel.storable(l, widest(min, max, levels), 0.0, levels), 0.0);
    }
    let (low, high) = (if min < 0.0 { min } else { 0.0 }, if max > 0.0 { max } else { 0.0 });
    let wanted = (high - low) / levels.highest;
    // The zero point goes with the scale as stored. Only near overflow does that depend in turn on the
    // zero point; a central one allows the largest scale.
    let scale = panel.storable(l, wanted, levels.highest * 0.5, levels);
    let zero = round(bound(-low / scale, 0.0, levels.highest));
    (panel.storable(l, wanted, zero, levels), zero)
}

/// The scale of a symmetric scheme that just spans `min` to `max`. Where one side of the codes reaches
/// further, its sign is such that the value of larger magnitude gets the outermost code.
#[inline(always)]
pub(super) fn widest(min: f32, max: f32, levels: &Levels) -> f32 {
    let extreme = if max > -min { max } else { min };
    let scale = extreme / levels.lowest;
    if levels.highest == -levels.lowest { scale.abs() } else { scale }
}
