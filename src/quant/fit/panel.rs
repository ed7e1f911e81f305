//! One block of rows of a few columns, the unit on which scales are fitted.

use super::{
    super::{
        levels::Levels,
        rounding::{bound, round, round_to_f16},
        scheme::ScaleStorage,
    },
    Choice,
};

/// Columns of a panel: one AVX-512 register, two of AVX2, four of SSE2.
pub(super) const LANES: usize = 16;

/// A block of values, each column divided by a power of two (its unit) so that its largest magnitude
/// is in [1,2): squares then neither overflow nor vanish, and dividing loses nothing.
#[derive(Default)]
pub(super) struct Panel {
    pub rows: Vec<[f32; LANES]>,
    pub min: [f32; LANES],
    pub max: [f32; LANES],
    unit: [f32; LANES],
    inverse_unit: [f32; LANES],
}

/// Sums over the rows of a column, for residuals r = w - d·scale and code distances d = code - zero.
pub(super) struct Sums {
    pub rr: [f32; LANES],
    pub rd: [f32; LANES],
    pub dd: [f32; LANES],
}

/// Leaves room for the rounding of what is computed from it.
const ALMOST_MAX: f32 = f32::MAX * 0.99999;

impl Panel {
    /// Takes `count` columns (at most [`LANES`]) from `start` of a row-major tile `width` columns wide;
    /// lanes beyond them hold zeros.
    #[inline(always)]
    pub fn load(&mut self, tile: &[f32], width: usize, start: usize, count: usize) {
        let Panel { rows, min, max, unit, inverse_unit } = self;
        rows.clear();
        for row in tile.chunks_exact(width) {
            let mut lanes = [0.0; LANES];
            if let Some(full) = row[start..].first_chunk::<LANES>() {
                lanes = *full;
            } else {
                lanes[..count].copy_from_slice(&row[start..start + count]);
            }
            rows.push(lanes);
        }
        let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        for row in rows.iter() {
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
        for row in rows.iter_mut() {
            for l in 0..LANES {
                row[l] *= inverse_unit[l];
            }
        }
    }

    /// Largest magnitude of each column.
    #[inline(always)]
    pub fn max_abs(&self, l: usize) -> f32 {
        if self.max[l] > -self.min[l] { self.max[l] } else { -self.min[l] }
    }

    /// The scale nearest to `scale` that may be stored for column `l` with this zero point: within the
    /// bounds that [`fp16_scales_fit`](super::super::fp16_scales_fit) promises, without overflow of any
    /// decoded value, rounded to the storage.
    #[inline(always)]
    pub fn storable(&self, l: usize, scale: f32, zero: f32, levels: &Levels) -> f32 {
        let max_abs = self.max_abs(l);
        let (below, above) = (zero - levels.lowest, levels.highest - zero);
        let reach = if below > above { below } else { above };
        let overflow = ALMOST_MAX * self.inverse_unit[l] / reach;
        let largest = if overflow < max_abs { overflow } else { max_abs };
        let magnitude = bound(scale.abs(), levels.least_scale(max_abs), largest) * self.unit[l];
        let stored = match levels.scales {
            // Whole units need the largest scale of the tensor: they are made of the finished grid.
            ScaleStorage::F32 | ScaleStorage::Byte if magnitude > f32::MIN_POSITIVE => magnitude,
            ScaleStorage::F32 | ScaleStorage::Byte => f32::MIN_POSITIVE,
            ScaleStorage::F16 => round_to_f16(magnitude),
        };
        (stored * self.inverse_unit[l]).copysign(scale)
    }

    /// Rounds every value to its nearest code and sums up.
    #[inline(always)]
    pub fn evaluate(&self, choice: &Choice, levels: &Levels) -> Sums {
        let Choice { scale, zero } = choice;
        let mut inverse = [0.0; LANES];
        let mut low = [0.0; LANES];
        let mut high = [0.0; LANES];
        for l in 0..LANES {
            inverse[l] = 1.0 / scale[l];
            low[l] = levels.lowest - zero[l];
            high[l] = levels.highest - zero[l];
        }
        let (mut rr, mut rd, mut dd) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for row in &self.rows {
            for l in 0..LANES {
                let d = round(bound(row[l] * inverse[l], low[l], high[l]));
                let r = row[l] - d * scale[l];
                rr[l] += r * r;
                rd[l] += r * d;
                dd[l] += d * d;
            }
        }
        Sums { rr, rd, dd }
    }

    /// The choice in the unit of the matrix. A column of zeros gets scale 1 and zero point 0, or the least scale where
    /// the largest one counts for all.
    #[inline(always)]
    pub fn finish(&self, mut choice: Choice, levels: &Levels) -> Choice {
        let any = if levels.scales == ScaleStorage::Byte { f32::MIN_POSITIVE } else { 1.0 };
        for l in 0..LANES {
            let zero_column = self.max_abs(l) == 0.0;
            choice.scale[l] = if zero_column { any } else { choice.scale[l] * self.unit[l] };
            choice.zero[l] = if zero_column { 0.0 } else { choice.zero[l] };
        }
        choice
    }
}
