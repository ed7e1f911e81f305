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
    panel::{LANES, Lanes, Panel},
    rtn,
};

/// Evenly spaced multiples of the scale that round to nearest would take; beside the best of them multiples
/// between it and its neighbours.
///
/// Above 1 the codes reach beyond the range, but fit the values better in small blocks; below, the
/// range is clipped. At 8 bits neither gains much.
struct Sweep {
    first: f32,
    step: f32,
    count: usize,
}

const RANGES_4: Sweep = Sweep { first: 1.25, step: 0.1, count: 6 };
const SYMMETRIC_4: Sweep = Sweep { first: 1.2, step: 0.12, count: 5 };
const ALL_8: Sweep = Sweep { first: 1.005, step: 0.0125, count: 4 };

impl Sweep {
    /// How many multiples are tried.
    #[inline(always)]
    fn tries(&self) -> usize {
        self.count + NEARER.len()
    }

    /// The multiples of try number `index`; `centre` are the best of the evenly spaced ones.
    #[inline(always)]
    fn factor(&self, index: usize, centre: &Lanes) -> Lanes {
        let mut factor = [self.first - self.step * index as f32; LANES];
        if index >= self.count {
            for l in 0..LANES {
                factor[l] = centre[l] + self.step * NEARER[index - self.count];
            }
        }
        factor
    }
}

/// Steps from the best multiple to those beside it.
const NEARER: [f32; 4] = [0.5, -0.5, 0.25, -0.25];

/// The best choice so far, with its error, and the multiple of the sweep that it came from.
struct Best {
    choice: Choice,
    error: Lanes,
    factor: Lanes,
}

#[inline(always)]
pub(super) fn fit<const WEIGHTED: bool>(panel: &Panel, levels: &Levels) -> Choice {
    let start = rtn::fit(panel, levels);
    let start_error = panel.evaluate::<WEIGHTED>(&start, levels).rr;
    let mut best = Best { choice: start, error: start_error, factor: [1.0; LANES] };
    match (levels.symmetric, levels.bits) {
        (true, Bits::Four) => {
            try_scales::<WEIGHTED>(panel, levels, &mut best, &SYMMETRIC_4, 1.0);
            try_scales::<WEIGHTED>(panel, levels, &mut best, &SYMMETRIC_4, -1.0);
        }
        (true, Bits::Eight) => try_scales::<WEIGHTED>(panel, levels, &mut best, &ALL_8, 1.0),
        (false, Bits::Four) => try_ranges::<WEIGHTED>(panel, levels, &mut best, &RANGES_4),
        (false, Bits::Eight) => try_ranges::<WEIGHTED>(panel, levels, &mut best, &ALL_8),
    }
    let shifts: &[f32] = if levels.symmetric { &[0.0] } else { &[0.0, -1.0, 1.0] };
    // The best is rounded again and refitted, and so are its neighbours in zero point.
    let centre = best.choice;
    for shift in shifts {
        let zero = centre.zero.map(|zero| bound(zero + shift, levels.lowest, levels.highest));
        consider::<WEIGHTED>(panel, levels, &mut best, Choice { zero, ..centre }, [1.0; LANES]);
    }
    // The errors above come from sums that differ by rounding from those of the stored scale.
    let error = panel.evaluate::<WEIGHTED>(&best.choice, levels).rr;
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
fn try_scales<const WEIGHTED: bool>(
    panel: &Panel,
    levels: &Levels,
    best: &mut Best,
    sweep: &Sweep,
    sign: f32,
) {
    let widest = rtn::widest(&panel.min, &panel.max, levels);
    let mut centre = best.factor;
    for index in 0..sweep.tries() {
        if index == sweep.count {
            centre = best.factor;
        }
        let factor = sweep.factor(index, &centre);
        let mut choice = Choice { scale: [0.0; LANES], zero: [0.0; LANES] };
        for l in 0..LANES {
            choice.scale[l] = usable(widest[l] * (factor[l] * sign));
        }
        consider::<WEIGHTED>(panel, levels, best, choice, factor);
    }
}

/// Asymmetric codes, with the zero point that centres them on the range.
#[expect(clippy::needless_range_loop, reason = "loops over lanes are written alike")]
#[inline(always)]
fn try_ranges<const WEIGHTED: bool>(panel: &Panel, levels: &Levels, best: &mut Best, sweep: &Sweep) {
    let mut centre = best.factor;
    for index in 0..sweep.tries() {
        if index == sweep.count {
            centre = best.factor;
        }
        let factor = sweep.factor(index, &centre);
        let mut choice = Choice { scale: [0.0; LANES], zero: [0.0; LANES] };
        for l in 0..LANES {
            let (min, max) = (panel.min[l], panel.max[l]);
            let scale = usable((max - min) * (factor[l] / levels.highest));
            let centre = (levels.highest - (max + min) / scale) * 0.5;
            choice.scale[l] = scale;
            choice.zero[l] = round(bound(centre, 0.0, levels.highest));
        }
        consider::<WEIGHTED>(panel, levels, best, choice, factor);
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
fn consider<const WEIGHTED: bool>(
    panel: &Panel,
    levels: &Levels,
    best: &mut Best,
    candidate: Choice,
    factor: Lanes,
) {
    let Choice { scale, zero } = candidate;
    let sums = panel.estimate::<WEIGHTED>(&candidate, levels);
    let mut refit = scale;
    for l in 0..LANES {
        let shift = sums.rd[l] / sums.dd[l];
        refit[l] = if sums.dd[l] > 0.0 { scale[l] + shift } else { scale[l] };
    }
    let stored = panel.storable(&refit, &zero, levels);
    let (mut error, mut better) = ([0.0; LANES], [0; LANES]);
    for l in 0..LANES {
        let shift = stored[l] - scale[l];
        error[l] = sums.rr[l] + shift * (shift * sums.dd[l] - 2.0 * sums.rd[l]);
        better[l] = if error[l] < best.error[l] { u32::MAX } else { 0 };
    }
    best.choice.scale = pick(&better, &stored, &best.choice.scale);
    best.choice.zero = pick(&better, &zero, &best.choice.zero);
    best.error = pick(&better, &error, &best.error);
    best.factor = pick(&better, &factor, &best.factor);
}

/// The lanes of `new` where the bits of the mask are set, else those of `old`: a choice that stays free of branches.
#[inline(always)]
fn pick(mask: &[u32; LANES], new: &Lanes, old: &Lanes) -> Lanes {
    let mut out = [0.0; LANES];
    for l in 0..LANES {
        out[l] = f32::from_bits(new[l].to_bits() & mask[l] | old[l].to_bits() & !mask[l]);
    }
    out
}
