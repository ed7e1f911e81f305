//! Noise with the spectrum of photographs, in the range of values that a model takes.

use std::f64::consts::TAU;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::graph::{Index, operand, stored};
use crate::onnx::{Model, tensor};

/// Power falls with this exponent of the frequency, as in photographs.
const EXPONENT: f64 = 2.0;
/// Share of the variance that the channels of an image have in common.
const COMMON: f32 = 0.85;

/// Nodes at the start of a graph that are looked at.
const CHAIN: usize = 8;

/// Values that black and white have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span(pub f32, pub f32);

/// What images are usually brought to: 0..1, -1..1, or mean and deviation of ImageNet.
const USUAL: [Span; 3] = [Span(0.0, 1.0), Span(-1.0, 1.0), Span(-2.1, 2.6)];
/// Pixels as they are stored.
pub(super) const BYTES: Span = Span(0.0, 255.0);

/// The spans that images for `input` are drawn in.
///
/// A graph that begins with a division by more than 10 takes bytes; one that subtracts or divides by less, 0..1.
/// Otherwise grey images are 0..1, and coloured ones take turns in what is usual.
pub(super) fn spans(model: &Model, index: &Index<'_>, input: &str, channels: usize) -> Vec<Span> {
    let mut value = input;
    let mut seen = false;
    for _ in 0..CHAIN {
        let [using] = index.consumers(value) else { break };
        let Some(node) = index.node(using.node) else { break };
        match node.op_type() {
            "Cast" | "Identity" | "Transpose" | "Resize" | "Unsqueeze" => {}
            "Sub" | "Add" | "Mul" | "Div" => {
                let other = node.input.get(1 - using.input.min(1)).map_or("", String::as_str);
                let Some(factor) = constant(model, index, other) else { break };
                seen = true;
                let large = match node.op_type() {
                    "Mul" => factor.abs() < 0.1,
                    _ => factor.abs() > 10.0,
                };
                if large {
                    return vec![BYTES];
                }
            }
            _ => break,
        }
        let Some(next) = node.output.first() else { break };
        value = next;
    }
    if seen || channels == 1 { vec![USUAL[0]] } else { USUAL.to_vec() }
}

/// The first value of a stored constant.
fn constant(model: &Model, index: &Index<'_>, name: &str) -> Option<f32> {
    let found = operand(index, name)?;
    tensor::floats(stored(model, &found)?)?.first().copied()
}

/// An image of `channels` planes one after another, in `span`, with some contrast and brightness.
pub(super) fn image(
    (channels, height, width): (usize, usize, usize),
    span: Span,
    rng: &mut ChaCha8Rng,
) -> Vec<f32> {
    let contrast = rng.random_range(0.1f32..0.5);
    let brightness = rng.random_range(0.0f32..1.0);
    let size = height.max(width).max(1).next_power_of_two();
    let common = noise(size, rng);
    let mut values = Vec::with_capacity(channels * height * width);
    for _ in 0..channels {
        let own = if channels > 1 { noise(size, rng) } else { Vec::new() };
        for row in 0..height {
            for column in 0..width {
                let at = row * size + column;
                let value = match own.get(at) {
                    Some(own) => COMMON.sqrt() * common[at] + (1.0 - COMMON).sqrt() * own,
                    None => common[at],
                };
                let level = (brightness + contrast * value).clamp(0.0, 1.0);
                values.push(span.0 + (span.1 - span.0) * level);
            }
        }
    }
    values
}

/// `[size,size]` of mean 0 and variance 1, `size` a power of two.
fn noise(size: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut real: Vec<f64> = super::normal(size * size, rng).into_iter().map(f64::from).collect();
    let mut imaginary: Vec<f64> = super::normal(size * size, rng).into_iter().map(f64::from).collect();
    let frequency = |at: usize| at.min(size - at) as f64;
    for row in 0..size {
        for column in 0..size {
            let squared = frequency(row).powi(2) + frequency(column).powi(2);
            let amplitude = if squared > 0.0 { squared.powf(-EXPONENT / 4.0) } else { 0.0 };
            real[row * size + column] *= amplitude;
            imaginary[row * size + column] *= amplitude;
        }
    }
    for _ in 0..2 {
        for (real, imaginary) in real.chunks_exact_mut(size).zip(imaginary.chunks_exact_mut(size)) {
            transform(real, imaginary);
        }
        real = transposed(&real, size);
        imaginary = transposed(&imaginary, size);
    }
    let count = (size * size) as f64;
    let deviation = (real.iter().map(|value| value * value).sum::<f64>() / count).sqrt().max(1e-30);
    real.into_iter().map(|value| (value / deviation) as f32).collect()
}

fn transposed(values: &[f64], size: usize) -> Vec<f64> {
    (0..size * size).map(|at| values[at % size * size + at / size]).collect()
}

/// The Fourier transform in place (Cooley and Tukey), of a power of two.
fn transform(real: &mut [f64], imaginary: &mut [f64]) {
    let size = real.len();
    if size < 2 {
        return;
    }
    let bits = size.trailing_zeros();
    for at in 0..size {
        let other = at.reverse_bits() >> (usize::BITS - bits);
        if at < other {
            real.swap(at, other);
            imaginary.swap(at, other);
        }
    }
    let mut half = 1;
    while half < size {
        for offset in 0..half {
            let (sine, cosine) = (-TAU * offset as f64 / (2 * half) as f64).sin_cos();
            for low in (offset..size).step_by(2 * half) {
                let high = low + half;
                let a = real[high] * cosine - imaginary[high] * sine;
                let b = real[high] * sine + imaginary[high] * cosine;
                (real[high], imaginary[high]) = (real[low] - a, imaginary[low] - b);
                (real[low], imaginary[low]) = (real[low] + a, imaginary[low] + b);
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn the_transform_agrees_with_its_definition() {
        let values: Vec<f64> = (0..8).map(|at| (at * at % 5) as f64).collect();
        let (mut real, mut imaginary) = (values.clone(), vec![0.0; 8]);
        transform(&mut real, &mut imaginary);
        for at in 0..8 {
            let angle = |i: usize| -TAU * (at * i) as f64 / 8.0;
            let wanted = (0..8).fold((0.0, 0.0), |sum, i| {
                (sum.0 + values[i] * angle(i).cos(), sum.1 + values[i] * angle(i).sin())
            });
            assert!((real[at] - wanted.0).abs() < 1e-9 && (imaginary[at] - wanted.1).abs() < 1e-9);
        }
    }

    #[test]
    fn neighbouring_pixels_go_together() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut products = (0.0, 0.0);
        for _ in 0..20 {
            let plane = noise(32, &mut rng);
            for row in plane.chunks_exact(32) {
                for pair in row.windows(2) {
                    products.0 += f64::from(pair[0] * pair[1]);
                    products.1 += f64::from(pair[0] * pair[0]);
                }
            }
        }
        assert!(products.0 / products.1 > 0.6, "{products:?}");
    }

    #[test]
    fn images_stay_in_their_span_and_have_their_size() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for _ in 0..10 {
            let values = image((3, 28, 20), Span(-1.0, 1.0), &mut rng);
            assert_eq!(values.len(), 3 * 28 * 20);
            assert!(values.iter().all(|value| (-1.0..=1.0).contains(value)));
        }
    }
}
