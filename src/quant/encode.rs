//! Rounding values to the codes of a grid, with the error that this makes.

use super::{
    error::WeightError,
    levels::Levels,
    rounding::{bound, low_byte, round},
    simd::Kernel,
};

const LANES: usize = 16;

/// Sums of many values, kept in lanes so that the order of addition is the same on every machine.
#[derive(Default)]
pub(super) struct Tally {
    error: [f64; LANES],
    signal: [f64; LANES],
    max: [f32; LANES],
}

impl Tally {
    /// Adds sums in units of `scale`.
    #[expect(clippy::needless_range_loop, reason = "loops over lanes are written alike")]
    #[inline(always)]
    fn add(&mut self, sums: &Sums, scale: &[f32; LANES]) {
        for l in 0..LANES {
            let square = f64::from(scale[l]) * f64::from(scale[l]);
            self.error[l] += f64::from(sums.error[l]) * square;
            self.signal[l] += f64::from(sums.signal[l]) * square;
            self.max[l] = if sums.max[l] > self.max[l] { sums.max[l] } else { self.max[l] };
        }
    }

    pub fn total(&self) -> WeightError {
        WeightError {
            squared_error: self.error.iter().sum(),
            squared_signal: self.signal.iter().sum(),
            max_abs_error: self.max.iter().copied().fold(0.0, f32::max),
        }
    }
}

/// Writes the codes of a row-major tile whose rows share one scale and zero point for each column.
pub(super) struct EncodeTile<'a> {
    pub values: &'a [f32],
    pub scales: &'a [f32],
    pub zeros: &'a [f32],
    pub levels: &'a Levels,
    /// One byte a code, two's complement where codes are signed; row `i` starts at `i * stride`.
    pub codes: &'a mut [u8],
    pub stride: usize,
    pub tally: &'a mut Tally,
}

impl Kernel for EncodeTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let EncodeTile { values, scales, zeros, levels, codes, stride, tally } = self;
        let width = scales.len();
        for start in (0..width).step_by(LANES) {
            let end = width.min(start + LANES);
            let column = Columns::new(&scales[start..end], &zeros[start..end], levels);
            let mut sums = Sums::default();
            for (values, codes) in values.chunks_exact(width).zip(codes.chunks_mut(stride)) {
                let (values, codes) = (&values[start..end], &mut codes[start..end]);
                if let (Some(values), Some(codes)) = (values.first_chunk(), codes.first_chunk_mut()) {
                    column.encode(values, codes, &mut sums);
                } else {
                    // Missing values are zeros: they add nothing to the sums.
                    let mut lanes = [0; LANES];
                    column.encode(&padded(values, 0.0), &mut lanes, &mut sums);
                    codes.copy_from_slice(&lanes[..end - start]);
                }
            }
            tally.add(&sums, &column.scale);
        }
    }
}

/// Sums over the rows of a tile, of squares in scales of the columns, which neither overflow nor vanish in f32.
#[derive(Default)]
struct Sums {
    error: [f32; LANES],
    signal: [f32; LANES],
    max: [f32; LANES],
}

#[inline(always)]
fn padded(part: &[f32], filler: f32) -> [f32; LANES] {
    let mut lanes = [filler; LANES];
    lanes[..part.len()].copy_from_slice(part);
    lanes
}

/// What the values of some columns are rounded with.
struct Columns {
    scale: [f32; LANES],
    inverse: [f32; LANES],
    zero: [f32; LANES],
    low: [f32; LANES],
    high: [f32; LANES],
}

impl Columns {
    #[inline(always)]
    fn new(scales: &[f32], zeros: &[f32], levels: &Levels) -> Self {
        let (scale, zero) = (padded(scales, 1.0), padded(zeros, 0.0));
        Columns {
            scale,
            inverse: scale.map(|scale| 1.0 / scale),
            zero,
            low: zero.map(|zero| levels.lowest - zero),
            high: zero.map(|zero| levels.highest - zero),
        }
    }

    #[inline(always)]
    fn encode(&self, values: &[f32; LANES], codes: &mut [u8; LANES], sums: &mut Sums) {
        for l in 0..LANES {
            let exact = values[l] * self.inverse[l];
            let distance = round(bound(exact, self.low[l], self.high[l]));
            let residual = values[l] - distance * self.scale[l];
            let in_scales = residual * self.inverse[l];
            sums.error[l] += in_scales * in_scales;
            sums.signal[l] += exact * exact;
            let magnitude = residual.abs();
            sums.max[l] = if magnitude > sums.max[l] { magnitude } else { sums.max[l] };
            codes[l] = low_byte(distance + self.zero[l]);
        }
    }
}
