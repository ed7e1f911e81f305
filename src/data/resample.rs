//! Resizing as Pillow 11 does it, to the bit: weights are rounded to 22 binary digits, and values to bytes between the
//! pass along rows and the one along columns. The filters of `image` compute in floats and are off by one here and there.

use std::f64::consts::PI;

/// Binary digits of a weight.
const DIGITS: u32 = 22;

/// How pixels are weighted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    Nearest,
    Bilinear,
    Bicubic,
    Lanczos,
}

/// Resizes an image of `from` rows and columns, with `channels` bytes a pixel, to rows and columns `to`.
pub(super) fn resize(
    pixels: &[u8],
    from: (usize, usize),
    to: (usize, usize),
    channels: usize,
    filter: Filter,
) -> Vec<u8> {
    let rows = Axis { outer: from.0, length: from.1, inner: channels };
    let columns = Axis { outer: 1, length: from.0, inner: to.1 * channels };
    columns.resized(rows.resized(pixels.to_vec(), to.1, filter), to.0, filter)
}

/// Bytes `[outer,length,inner]`, of which `length` is to change.
struct Axis {
    outer: usize,
    length: usize,
    inner: usize,
}

impl Axis {
    fn resized(&self, values: Vec<u8>, to: usize, filter: Filter) -> Vec<u8> {
        if to == self.length {
            return values;
        }
        let taps = match filter {
            Filter::Nearest => nearest(self.length, to),
            _ => taps(self.length, to, filter),
        };
        let mut out = Vec::with_capacity(self.outer * to * self.inner);
        let mut sums = vec![0i32; self.inner];
        for line in values.chunks_exact(self.length * self.inner) {
            for (first, weights) in &taps {
                sums.fill(1 << (DIGITS - 1));
                let taken = line.chunks_exact(self.inner).skip(*first);
                for (weight, given) in weights.iter().zip(taken) {
                    for (sum, value) in sums.iter_mut().zip(given) {
                        *sum = sum.wrapping_add(weight.wrapping_mul(i32::from(*value)));
                    }
                }
                out.extend(sums.iter().map(|sum| (sum >> DIGITS).clamp(0, 255) as u8));
            }
        }
        out
    }
}

/// For each of `to` places the first of the `from` that it is made of, and the weights of those.
fn taps(from: usize, to: usize, filter: Filter) -> Vec<(usize, Vec<i32>)> {
    let scale = from as f64 / to as f64;
    let wide = scale.max(1.0);
    let reach = filter.support() * wide;
    let tap = |at: usize| {
        let centre = (at as f64 + 0.5) * scale;
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let last = ((centre + reach + 0.5) as usize).min(from);
        let weight = |place: usize| filter.weight((place as f64 - centre + 0.5) * (1.0 / wide));
        let weights: Vec<f64> = (first..last).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let whole = |weight: &f64| {
            let weight = if sum == 0.0 { *weight } else { weight / sum };
            (weight * f64::from(1 << DIGITS) + 0.5f64.copysign(weight)) as i32
        };
        (first, weights.iter().map(whole).collect())
    };
    (0..to).map(tap).collect()
}

/// The same of the nearest place alone. Steps are added up, as there.
fn nearest(from: usize, to: usize) -> Vec<(usize, Vec<i32>)> {
    let step = from as f64 / to as f64;
    let mut place = step * 0.5;
    let next = (0..to).map(|_| {
        let at = (place as usize).min(from.saturating_sub(1));
        place += step;
        (at, vec![1 << DIGITS])
    });
    next.collect()
}

impl Filter {
    /// How far it reaches.
    fn support(self) -> f64 {
        match self {
            Filter::Nearest => 0.0,
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    /// The weight at distance `x`.
    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) };
        let far = x.abs();
        match self {
            Filter::Bilinear if far < 1.0 => 1.0 - far,
            Filter::Bicubic if far < 1.0 => (1.5 * far - 2.5) * far * far + 1.0,
            Filter::Bicubic if far < 2.0 => (((far - 5.0) * far + 8.0) * far - 4.0) * -0.5,
            Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes as the script drew them that asked Pillow.
    fn noise(count: usize, seed: u32) -> Vec<u8> {
        let next = |state: &mut u32| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some((*state >> 24) as u8)
        };
        std::iter::repeat_n((), count).scan(seed, |state, ()| next(state)).collect()
    }

    #[test]
    fn every_byte_is_that_of_pillow() {
        // Rows and columns before, channels, rows and columns after, and a sum of what Pillow 11.3 made of it.
        type Case = ((usize, usize), usize, (usize, usize), Filter, u32);
        let cases: [Case; 28] = [
            ((7, 9), 3, (5, 4), Filter::Nearest, 4181257567),
            ((7, 9), 3, (5, 4), Filter::Lanczos, 1131569128),
            ((7, 9), 3, (5, 4), Filter::Bilinear, 2573541661),
            ((7, 9), 3, (5, 4), Filter::Bicubic, 836279231),
            ((5, 4), 3, (13, 17), Filter::Nearest, 691398784),
            ((5, 4), 3, (13, 17), Filter::Lanczos, 3285528019),
            ((5, 4), 3, (13, 17), Filter::Bilinear, 2854027810),
            ((5, 4), 3, (13, 17), Filter::Bicubic, 442461884),
            ((64, 48), 1, (24, 24), Filter::Nearest, 1505013080),
            ((64, 48), 1, (24, 24), Filter::Lanczos, 2675216627),
            ((64, 48), 1, (24, 24), Filter::Bilinear, 3756243857),
            ((64, 48), 1, (24, 24), Filter::Bicubic, 4153213346),
            ((30, 41), 3, (30, 16), Filter::Nearest, 2475301308),
            ((30, 41), 3, (30, 16), Filter::Lanczos, 2688250560),
            ((30, 41), 3, (30, 16), Filter::Bilinear, 2415093615),
            ((30, 41), 3, (30, 16), Filter::Bicubic, 4186584077),
            ((33, 20), 1, (99, 20), Filter::Nearest, 554079060),
            ((33, 20), 1, (99, 20), Filter::Lanczos, 618584473),
            ((33, 20), 1, (99, 20), Filter::Bilinear, 2458662612),
            ((33, 20), 1, (99, 20), Filter::Bicubic, 784582453),
            ((1, 8), 3, (4, 1), Filter::Nearest, 33550528),
            ((1, 8), 3, (4, 1), Filter::Lanczos, 2867631552),
            ((1, 8), 3, (4, 1), Filter::Bilinear, 1287562496),
            ((1, 8), 3, (4, 1), Filter::Bicubic, 2920849024),
            ((100, 3), 1, (7, 50), Filter::Nearest, 33065859),
            ((100, 3), 1, (7, 50), Filter::Lanczos, 3158913772),
            ((100, 3), 1, (7, 50), Filter::Bilinear, 4203035512),
            ((100, 3), 1, (7, 50), Filter::Bicubic, 2696559919),
        ];
        for (from, channels, to, filter, expected) in cases {
            let pixels = noise(from.0 * from.1 * channels, (from.0 * 1000 + from.1) as u32);
            let made = resize(&pixels, from, to, channels, filter);
            let sum = made.iter().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
            assert_eq!((made.len(), sum), (to.0 * to.1 * channels, expected), "{from:?} {to:?} {filter:?}");
        }
    }

    #[test]
    fn sums_of_weights_beyond_a_byte_are_cut() {
        let step: Vec<u8> = (0..32).map(|at| if at < 16 { 0 } else { 255 }).collect();
        for filter in [Filter::Bicubic, Filter::Lanczos] {
            let made = resize(&step, (1, 32), (1, 64), 1, filter);
            assert_eq!((made.first(), made.last()), (Some(&0), Some(&255)), "{filter:?}");
            assert!(made.iter().filter(|value| !matches!(value, 0 | 255)).count() < 12, "{made:?}");
        }
    }
}
