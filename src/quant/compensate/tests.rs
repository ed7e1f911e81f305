use proptest::prelude::*;

use super::*;
use crate::progress::Silent;
use crate::quant::matrix::{Element, Layout, Matrix};
use crate::quant::{Algorithm, Emit, ScaleStorage, decode, fit, quantize};

const DAMPING: Damping = Damping { factor: 0.05, descent: 0.02, target: 0.2 };

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 1.5
        })
        .collect()
}

/// Second moments of activations whose channels go together.
fn moments(k: usize, seed: u64) -> Vec<f32> {
    let (rows, rank) = (4 * k, k.div_ceil(3));
    let (a, b) = (numbers(rows * rank, seed), numbers(rank * k, seed + 1));
    let mut x = numbers(rows * k, seed + 2);
    x.iter_mut().for_each(|value| *value *= 0.3);
    crate::linalg::product(&mut x, &a, &b, (rows, rank, k), true);
    let mut h = vec![0.0; k * k];
    crate::linalg::add_gram(&mut h, &x, &x, (rows, k, k), false);
    h.iter_mut().for_each(|value| *value /= rows as f32);
    h
}

fn charge(h: &[f32], weight: &[f32], values: &[f32], k: usize, n: usize) -> f64 {
    let e: Vec<f32> = values.iter().zip(weight).map(|(a, b)| a - b).collect();
    let mut he = vec![0.0; k * n];
    crate::linalg::product(&mut he, h, &e, (k, k, n), false);
    e.iter().zip(&he).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn outputs_lose_less_than_half_of_what_search_loses() {
    let (k, n) = (96, 70);
    let (weight, h) = (numbers(k * n, 3), moments(k, 5));
    let bytes = bytes_of(&weight);
    let matrix = Matrix::new(&bytes, Element::F32, Layout::row_major(k, n)).unwrap();
    let prepared = Prepared::new(&h, k, DAMPING).unwrap();
    for symmetric in [false, true] {
        let scheme =
            Scheme { bits: Bits::Four, block: 32, symmetric, scales: ScaleStorage::F16, emit: Emit::Qdq };
        let start = fit(&matrix, scheme, Algorithm::Search);
        let coded =
            compensate(&weight, &weight, n, 0..n, &start, scheme, &prepared, Steps::default(), &Silent);
        let searched = quantize(&matrix, scheme, Algorithm::Search);
        let packed = coded.pack(&weight, n, scheme);
        let read = |made: &Quantized| {
            let scales: Vec<f32> = made
                .scales
                .as_chunks::<2>()
                .0
                .iter()
                .map(|c| half::f16::from_le_bytes(*c).to_f32())
                .collect();
            let zeros = made.zero_points.as_deref();
            decode(&made.codes, &scales, zeros, scheme.code_kind(), k, n, scheme.block).unwrap()
        };
        assert_eq!(read(&packed), coded.values(n, scheme.block), "the packed form reads back the same");
        let (before, after) =
            (charge(&h, &weight, &read(&searched), k, n), charge(&h, &weight, &read(&packed), k, n));
        assert!(after < 0.5 * before, "symmetric {symmetric}: {after} against {before}");
    }
}

#[test]
fn tabu_search_lowers_the_charge_and_gives_the_same_codes_on_every_machine() {
    // The last lanes are beyond the end of a column.
    let (k, n) = (90, 64);
    let (weight, h) = (numbers(k * n, 11), moments(k, 12));
    let bytes = bytes_of(&weight);
    let matrix = Matrix::new(&bytes, Element::F32, Layout::row_major(k, n)).unwrap();
    let prepared = Prepared::new(&h, k, DAMPING).unwrap();
    for symmetric in [false, true] {
        let scheme =
            Scheme { bits: Bits::Four, block: 32, symmetric, scales: ScaleStorage::F16, emit: Emit::Qdq };
        let (start, levels) = (fit(&matrix, scheme, Algorithm::Search), Levels::of(scheme));
        let solved = |simd, tabu| {
            let mut strip = Strip::new(&weight, &weight, n, 0..n, &start, scheme, &levels, k);
            let codes = strip.solve(simd, &prepared, Steps { tabu, ..Steps::default() });
            let grid = Grid { scales: strip.scales, zeros: strip.zeros, unit: start.unit };
            Coded { codes, grid }
        };
        let charged = |coded: &Coded| charge(&prepared.natural, &weight, &coded.values(n, 32), k, n);
        let (without, with) = (solved(Simd::detect(), false), solved(Simd::detect(), true));
        let (before, after) = (charged(&without), charged(&with));
        assert!(after < 0.95 * before, "symmetric {symmetric}: {after} against {before}");
        for simd in Simd::available() {
            assert_eq!(solved(simd, true), with, "{simd:?}");
        }
    }
}

#[test]
fn some_columns_alone_come_out_as_among_all() {
    let (k, n) = (48, 150);
    let (weight, h) = (numbers(k * n, 8), moments(k, 9));
    let bytes = bytes_of(&weight);
    let matrix = Matrix::new(&bytes, Element::F32, Layout::row_major(k, n)).unwrap();
    let prepared = Prepared::new(&h, k, DAMPING).unwrap();
    let scheme =
        Scheme { bits: Bits::Four, block: 16, symmetric: false, scales: ScaleStorage::F32, emit: Emit::Qdq };
    let start = fit(&matrix, scheme, Algorithm::Search);
    let all = compensate(&weight, &weight, n, 0..n, &start, scheme, &prepared, Steps::default(), &Silent);
    let some = compensate(&weight, &weight, n, 0..64, &start, scheme, &prepared, Steps::default(), &Silent);
    let cut: Vec<f32> = all.codes.chunks_exact(n).flat_map(|row| row[..64].to_vec()).collect();
    assert_eq!(some.codes, cut);
}

#[test]
fn the_target_answers_for_a_scaled_input() {
    // X̂ = X / 2 in every row: the best weight on X̂ is 2 W, and a small ridge reaches it nearly.
    let (k, n) = (24, 5);
    let (weight, h) = (numbers(k * n, 1), moments(k, 2));
    let seen: Vec<f32> = h.iter().map(|value| value / 4.0).collect();
    let drift: Vec<f32> = seen.clone();
    let damping = Damping { target: 1e-6, ..DAMPING };
    let moved = target(&weight, &seen, &drift, (k, n), damping).unwrap();
    for (new, old) in moved.iter().zip(&weight) {
        assert!((new - 2.0 * old).abs() < 0.02, "{new} for {old}");
    }
}

#[test]
fn useless_moments_are_told() {
    assert!(Prepared::new(&[0.0; 16], 4, DAMPING).is_none());
    let mut broken = moments(4, 1);
    broken[5] = f32::NAN;
    assert!(Prepared::new(&broken, 4, DAMPING).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn codes_and_scales_are_those_of_the_scheme(
        k in 1usize..40, n in 1usize..20, block in prop::sample::select(vec![16usize, 32]),
        symmetric in any::<bool>(), eight in any::<bool>(), seed in 0u64..1000, dead in any::<bool>(),
        scales in prop::sample::select(vec![ScaleStorage::F16, ScaleStorage::Byte]),
    ) {
        let weight = numbers(k * n, seed);
        let mut h = moments(k, seed + 7);
        if dead {
            // A channel that is always 0.
            for at in 0..k {
                h[at] = 0.0;
                h[at * k] = 0.0;
            }
        }
        let bits = if eight { Bits::Eight } else { Bits::Four };
        let scheme = Scheme { bits, block, symmetric, scales, emit: Emit::Qdq };
        let bytes = bytes_of(&weight);
        let matrix = Matrix::new(&bytes, Element::F32, Layout::row_major(k, n)).unwrap();
        let start = fit(&matrix, scheme, Algorithm::Search);
        let Some(prepared) = Prepared::new(&h, k, DAMPING) else { return Ok(()) };
        let coded = compensate(&weight, &weight, n, 0..n, &start, scheme, &prepared, Steps::default(), &Silent);
        let levels = Levels::of(scheme);
        for code in &coded.codes {
            prop_assert!(code.fract() == 0.0 && (levels.lowest..=levels.highest).contains(code), "{code}");
        }
        for scale in &coded.grid.scales {
            prop_assert!(scale.is_finite() && *scale != 0.0);
            match coded.grid.unit {
                Some(unit) => {
                    let code = (scale / unit).round();
                    let most = if symmetric { 127.0 } else { 255.0 };
                    prop_assert!(code * unit == *scale && code.abs() <= most, "{} of {}", scale, unit);
                }
                None => prop_assert_eq!(half::f16::from_f32(*scale).to_f32(), *scale),
            }
        }
    }
}
