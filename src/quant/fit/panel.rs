//! One block of rows of a few columns, the unit on which scales are fitted.

use super::{
    super::{
        levels::Levels,
        rounding::{bound, round, round_to_f16},
        scheme::{Bits, ScaleStorage},
    },
    Choice,
};

/// Columns of a panel: one AVX-512 register, two of AVX2, four of SSE2.
pub(super) const LANES: usize = 16;

/// One number for each column of a panel.
pub(super) type Lanes = [f32; LANES];

/// A block of values, each column divided by a power of two (its unit) so that its largest magnitude
/// is in [1,2): squares then neither overflow nor vanish, and dividing loses nothing.
#[derive(Default)]
pub(super) struct Panel {
    pub rows: Vec<Lanes>,
    pub min: Lanes,
    pub max: Lanes,
    unit: Lanes,
    inverse_unit: Lanes,
    /// Weights of the rows, as many as there are; of no meaning where all count alike.
    weights: Vec<f32>,
    /// Weighted sum of squares of each column.
    square: Lanes,
}

/// Sums over the rows of a column, for residuals r = w - d·scale and code distances d = code - zero.
pub(super) struct Sums {
    pub rr: Lanes,
    pub rd: Lanes,
    pub dd: Lanes,
}

/// `count` values of `row` from `start`, then zeros.
#[inline(always)]
fn lanes(row: &[f32], start: usize, count: usize) -> Lanes {
    if let Some(full) = row[start..].first_chunk::<LANES>() {
        return *full;
    }
    let mut lanes = [0.0; LANES];
    lanes[..count].copy_from_slice(&row[start..start + count]);
    lanes
}

/// What a value is divided by a scale with, and how far from its zero point codes reach.
struct Steps {
    inverse: Lanes,
    low: Lanes,
    high: Lanes,
}

impl Steps {
    #[inline(always)]
    fn of(choice: &Choice, levels: &Levels) -> Self {
        let (mut inverse, mut low, mut high) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for l in 0..LANES {
            inverse[l] = 1.0 / choice.scale[l];
            low[l] = levels.lowest - choice.zero[l];
            high[l] = levels.highest - choice.zero[l];
        }
        Self { inverse, low, high }
    }
}

/// Leaves room for the rounding of what is computed from it.
const ALMOST_MAX: f32 = f32::MAX * 0.99999;

impl Panel {
    /// Takes the ranges of `count` columns (at most [`LANES`]) from `start` of a row-major tile `width` columns wide;
    /// lanes beyond them hold zeros. There are no rows until they are [loaded](Self::load).
    #[inline(always)]
    pub fn measure(&mut self, tile: &[f32], width: usize, start: usize, count: usize) {
        let Panel { rows, min, max, unit, inverse_unit, .. } = self;
        rows.clear();
        let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        for row in tile.chunks_exact(width) {
            let row = lanes(row, start, count);
            for l in 0..LANES {
                low[l] = if row[l] < low[l] { row[l] } else { low[l] };
                high[l] = if row[l] > high[l] { row[l] } else { high[l] };
            }
        }
        for l in 0..LANES {
            let magnitude = if high[l] > -low[l] { high[l] } else { -low[l] };
            let power = f32::from_bits(magnitude.to_bits() & 0x7f80_0000);
            // 2^±126: the powers of two whose inverse is a normal number too.
            unit[l] = bound(power, f32::MIN_POSITIVE, 1.0 / f32::MIN_POSITIVE);
            inverse_unit[l] = 1.0 / unit[l];
            min[l] = low[l] * inverse_unit[l];
            max[l] = high[l] * inverse_unit[l];
        }
    }

    /// Takes the values of the columns that were [measured](Self::measure).
    #[inline(always)]
    pub fn load(&mut self, tile: &[f32], width: usize, start: usize, count: usize) {
        let Panel { rows, inverse_unit, square, .. } = self;
        *square = [0.0; LANES];
        rows.resize(tile.len() / width, [0.0; LANES]);
        for (to, row) in rows.iter_mut().zip(tile.chunks_exact(width)) {
            let row = lanes(row, start, count);
            for l in 0..LANES {
                to[l] = row[l] * inverse_unit[l];
                square[l] += to[l] * to[l];
            }
        }
    }

    /// Gives the rows that were [loaded](Self::load) their weights: how much the square of an error in them counts.
    #[inline(always)]
    pub fn weigh(&mut self, weights: &[f32]) {
        let Panel { rows, square, .. } = self;
        self.weights.clear();
        self.weights.extend_from_slice(weights);
        *square = [0.0; LANES];
        for (row, weight) in rows.iter().zip(weights) {
            for l in 0..LANES {
                square[l] += row[l] * row[l] * weight;
            }
        }
    }

    /// Largest magnitude of each column.
    #[inline(always)]
    pub fn max_abs(&self, l: usize) -> f32 {
        if self.max[l] > -self.min[l] { self.max[l] } else { -self.min[l] }
    }

    /// Largest magnitude of each column, in the unit of the matrix.
    #[inline(always)]
    pub fn magnitude(&self, l: usize) -> f32 {
        self.max_abs(l) * self.unit[l]
    }

    /// The scales nearest to `scale` that may be stored with these zero points: within the bounds that
    /// [`fp16_scales_fit`](super::super::fp16_scales_fit) promises, without overflow of any decoded value, rounded to the
    /// storage.
    ///
    /// Loops without branches: what is decided for each lane is selected, or the lanes would be done one by one.
    #[inline(always)]
    pub fn storable(&self, scale: &Lanes, zero: &Lanes, levels: &Levels) -> Lanes {
        let least = levels.least_scale(1.0);
        let mut magnitude = [0.0; LANES];
        for l in 0..LANES {
            let max_abs = self.max_abs(l);
            let (below, above) = (zero[l] - levels.lowest, levels.highest - zero[l]);
            let reach = if below > above { below } else { above };
            let overflow = ALMOST_MAX * self.inverse_unit[l] / reach;
            let largest = if overflow < max_abs { overflow } else { max_abs };
            magnitude[l] = bound(scale[l].abs(), max_abs * least, largest) * self.unit[l];
        }
        let mut stored = [0.0; LANES];
        match levels.scales {
            // Whole units need the largest scale of the tensor: they are made of the finished grid.
            ScaleStorage::F32 | ScaleStorage::Byte => {
                for l in 0..LANES {
                    let normal = magnitude[l] > f32::MIN_POSITIVE;
                    stored[l] = if normal { magnitude[l] } else { f32::MIN_POSITIVE };
                }
            }
            ScaleStorage::F16 => {
                for l in 0..LANES {
                    stored[l] = round_to_f16(magnitude[l]);
                }
            }
        }
        for l in 0..LANES {
            stored[l] = (stored[l] * self.inverse_unit[l]).copysign(scale[l]);
        }
        stored
    }

    /// Rounds every value to its nearest code and sums up, by the weights of the rows where they are `WEIGHTED`.
    #[inline(always)]
    pub fn evaluate<const WEIGHTED: bool>(&self, choice: &Choice, levels: &Levels) -> Sums {
        let scale = &choice.scale;
        let Steps { inverse, low, high } = Steps::of(choice, levels);
        let (mut rr, mut rd, mut dd) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for (at, row) in self.rows.iter().enumerate() {
            let weight = if WEIGHTED { self.weights[at] } else { 1.0 };
            for l in 0..LANES {
                let d = round(bound(row[l] * inverse[l], low[l], high[l]));
                let r = row[l] - d * scale[l];
                let (weighted_r, weighted_d) = if WEIGHTED { (r * weight, d * weight) } else { (r, d) };
                rr[l] += r * weighted_r;
                rd[l] += d * weighted_r;
                dd[l] += d * weighted_d;
            }
        }
        Sums { rr, rd, dd }
    }

    /// What [`Self::evaluate`] gives, for a comparison of candidates: at 4 bits from the sums of products of values and
    /// distances, in two thirds of the time. There the error is a hundredth of the values, and what cancels leaves three
    /// digits of it.
    #[inline(always)]
    pub fn estimate<const WEIGHTED: bool>(&self, choice: &Choice, levels: &Levels) -> Sums {
        if levels.bits == Bits::Eight {
            return self.evaluate::<WEIGHTED>(choice, levels);
        }
        let scale = &choice.scale;
        let Steps { inverse, low, high } = Steps::of(choice, levels);
        // Rows in turns have sums of their own, so that additions do not wait for one another.
        let (mut wd, mut dd) = ([[0.0; LANES]; 2], [[0.0; LANES]; 2]);
        let mut add = |at: usize, row: &Lanes, turn: usize| {
            let weight = if WEIGHTED { self.weights[at] } else { 1.0 };
            let (wd, dd) = (&mut wd[turn], &mut dd[turn]);
            for l in 0..LANES {
                let d = round(bound(row[l] * inverse[l], low[l], high[l]));
                let weighted = if WEIGHTED { d * weight } else { d };
                wd[l] += row[l] * weighted;
                dd[l] += d * weighted;
            }
        };
        let (pairs, rest) = self.rows.as_chunks::<2>();
        for (at, [even, odd]) in pairs.iter().enumerate() {
            add(2 * at, even, 0);
            add(2 * at + 1, odd, 1);
        }
        for row in rest {
            add(2 * pairs.len(), row, 0);
        }
        let [mut wd, more_wd] = wd;
        let [mut dd, more_dd] = dd;
        let (mut fitted, mut rr, mut rd) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for l in 0..LANES {
            wd[l] += more_wd[l];
        }
        for l in 0..LANES {
            dd[l] += more_dd[l];
        }
        for l in 0..LANES {
            fitted[l] = scale[l] * dd[l];
        }
        for l in 0..LANES {
            rd[l] = wd[l] - fitted[l];
        }
        for l in 0..LANES {
            rr[l] = self.square[l] - scale[l] * (2.0 * wd[l] - fitted[l]);
        }
        Sums { rr, rd, dd }
    }

    /// The choice in the unit of the matrix. A column of zeros gets zero point 0 and a scale so small that what kernels
    /// which shift codes round away is small too, or the least scale where the largest one counts for all.
    #[inline(always)]
    pub fn finish(&self, mut choice: Choice, levels: &Levels) -> Choice {
        // The least normal number of fp16.
        const SMALL: f32 = 1.0 / 16_384.0;
        let any = if levels.scales == ScaleStorage::Byte { f32::MIN_POSITIVE } else { SMALL };
        for l in 0..LANES {
            let zero_column = self.max_abs(l) == 0.0;
            choice.scale[l] = if zero_column { any } else { choice.scale[l] * self.unit[l] };
            choice.zero[l] = if zero_column { 0.0 } else { choice.zero[l] };
        }
        choice
    }
}
