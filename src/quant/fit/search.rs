//! The least squared error over a table of scales and zero points (k-quants, llama.cpp
//! `make_qkx2_quants`), each candidate refitted by least squares.
//!
//! For the codes that a scale s gives, with distances d from the zero point and residuals r = w - d·s,
//! another scale s + δ has the error Σr² - 2δΣrd + δ²Σd². So one pass over the values tells the best
//! scale for these codes, and its error as stored; rounding again can only lower that.

use super::{
    super::{
        levels::Levels,
        rounding::{bound, round},
        scheme::Bits,
    },
    Choice,
    panel::{LANES, Panel},
    rtn,
};

/// Evenly spaced multiples of the scale that round to nearest would take; beside the best of them the multiples
/// halfway to its neighbours.
///
/// Above 1 the codes reach beyond the range, but fit the values better in small blocks; below, the
/// range is clipped. At 8 bits neither gains much.
struct Sweep {
    first: f32,
    step: f32,
    count: usize,
}

const RANGES_4: Sweep = Sweep { first: 1.275, step: 0.05, count: 13 };
const SYMMETRIC_4: Sweep = Sweep { first: 1.25, step: 0.08, count: 8 };
const ALL_8: Sweep = Sweep { first: 1.005, step: 0.0125, count: 4 };

/// Rounds of rounding again and refitting the best candidate, and its neighbours in zero point.
const ROUNDS: usize = 2;

impl Sweep {
    /// How many multiples are tried.
    #[inline(always)]
    fn tries(&self) -> usize {
        self.count + HALVES.len()
    }

    /// The multiples of try number `index`; `centre` are the best of the evenly spaced ones.
    #[inline(always)]
    fn factor(&self, index: usize, centre: &[f32; LANES]) -> [f32; LANES] {
        let mut factor = [self.first - self.step * index as f32; LANES];
        if index >= self.count {
            for l in 0..LANES {
                factor[l] = centre[l] + self.step * HALVES[index - self.count];
            }
        }
        factor
    }
}

/// Steps from the best multiple to those beside it.
const HALVES: [f32; 2] = [0.5, -0.5];

/// The best choice so far, with its error, and the multiple of the sweep that it came from.
struct Best {
    choice: Choice,
    error: [f32; LANES],
    factor: [f32; LANES],
}

#[inline(always)]
pub(super) fn fit(panel: &Panel, levels: &Levels) -> Choice {
    let start = rtn::fit(panel, levels);
    let start_error = panel.evaluate(&start, levels).rr;
    let mut best = Best { choice: start, error: start_error, factor: [1.0; LANES] };
    match (levels.symmetric, levels.bits) {
        (true, Bits::Four) => {
            try_scales(panel, levels, &mut best, &SYMMETRIC_4, 1.0);
            try_scales(panel, levels, &mut best, &SYMMETRIC_4, -1.0);
        }
        (true, Bits::Eight) => try_scales(panel, levels, &mut best, &ALL_8, 1.0),
        (false, Bits::Four) => try_ranges(panel, levels, &mut best, &RANGES_4),
        (false, Bits::Eight) => try_ranges(panel, levels, &mut best, &ALL_8),
    }
    let shifts: &[f32] = if levels.symmetric { &[0.0] } else { &[0.0, -1.0, 1.0] };
    for _ in 0..ROUNDS {
        let centre = best.choice;
        for shift in shifts {
            let zero = centre.zero.map(|zero| bound(zero + shift, levels.lowest, levels.highest));
            consider(panel, levels, &mut best, Choice { zero, ..centre }, [1.0; LANES]);
        }
    }
    // The errors above come from sums that differ by rounding from those of the stored scale.
    let error = panel.evaluate(&best.choice, levels).rr;
    let mut choice = best.choice;
    for l in 0..LANES {
        let better = error[l] <= start_error[l];
        choice.scale[l] = if better { choice.scale[l] } else { start.scale[l] };
        choice.zero[l] = if better { choice.zero[l] } else { start.zero[l] };
    }
    choice
}

/// Symmetric codes, with scales of the given sign relative to that of round to nearest.
#[inline(always)]
fn try_scales(panel: &Panel, levels: &Levels, best: &mut Best, sweep: &Sweep, sign: f32) {
    let mut centre = best.factor;
    for index in 0..sweep.tries() {
        if index == sweep.count {
            centre = best.factor;
        }
        let factor = sweep.factor(index, &centre);
        let mut choice = Choice { scale: [0.0; LANES], zero: [0.0; LANES] };
        for (l, factor) in factor.iter().enumerate() {
            let widest = rtn::widest(panel.min[l], panel.max[l], levels);
            choice.scale[l] = usable(widest * (factor * sign));
        }
        consider(panel, levels, best, choice, factor);
    }
}

/// Asymmetric codes, with the zero point that centres them on the range.
#[inline(always)]
fn try_ranges(panel: &Panel, levels: &Levels, best: &mut Best, sweep: &Sweep) {
    let mut centre = best.factor;
    for index in 0..sweep.tries() {
        if index == sweep.count {
            centre = best.factor;
        }
        let factor = sweep.factor(index, &centre);
        let mut choice = Choice { scale: [0.0; LANES], zero: [0.0; LANES] };
        for (l, factor) in factor.iter().enumerate() {
            let (min, max) = (panel.min[l], panel.max[l]);
            let scale = usable((max - min) * (factor / levels.highest));
            let centre = (levels.highest - (max + min) / scale) * 0.5;
            choice.scale[l] = scale;
            choice.zero[l] = round(bound(centre, 0.0, levels.highest));
        }
        consider(panel, levels, best, choice, factor);
    }
}

/// Keeps numbers away from 0, so that dividing by them stays finite.
#[inline(always)]
fn usable(scale: f32) -> f32 {
    const LEAST: f32 = 1e-6;
    if scale.abs() > LEAST { scale } else { LEAST }
}

/// Replaces the best choice, lane by lane, where the refitted candidate has a smaller error.
#[inline(always)]
fn consider(panel: &Panel, levels: &Levels, best: &mut Best, candidate: Choice, factor: [f32; LANES]) {
    let sums = panel.evaluate(&candidate, levels);
    for (l, factor) in factor.iter().enumerate() {
        let (scale, zero) = (candidate.scale[l], candidate.zero[l]);
        let refit = if sums.dd[l] > 0.0 { scale + sums.rd[l] / sums.dd[l] } else { scale };
        let stored = panel.storable(l, refit, zero, levels);
        let shift = stored - scale;
        let error = sums.rr[l] + shift * (shift * sums.dd[l] - 2.0 * sums.rd[l]);
        let better = error < best.error[l];
        best.choice.scale[l] = if better { stored } else { best.choice.scale[l] };
        best.choice.zero[l] = if better { zero } else { best.choice.zero[l] };
        best.error[l] = if better { error } else { best.error[l] };
        best.factor[l] = if better { *factor } else { best.factor[l] };
    }
}
