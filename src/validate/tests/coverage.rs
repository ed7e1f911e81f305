//! How often the intervals hold the truth, by simulation with a fixed seed. 2000 runs know a share of 0.025
//! to ± 0.007.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::evidence::Evidence;
use super::*;

const RUNS: u32 = 2000;

/// Holds the intervals of `RUNS` draws of `n` scores against the truth.
#[track_caller]
fn check(name: &str, measure: Measure, n: usize, truth: f64, mut draw: impl FnMut(&mut ChaCha8Rng) -> Score) {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let (mut above, mut below) = (0, 0);
    for _ in 0..RUNS {
        let scores: Vec<Score> = (0..n).map(|_| draw(&mut rng)).collect();
        let interval = Evidence::of(measure, &scores).unwrap().interval().unwrap();
        above += u32::from(interval.low > truth);
        below += u32::from(interval.high < truth);
    }
    let share = |count: u32| f64::from(count) / f64::from(RUNS);
    let covered = 1.0 - share(above) - share(below);
    let below = share(below);
    assert!(covered >= 0.93, "{name}, n = {n}: covered {covered}, below the truth {below}");
    // An interval below the truth is what passes a model that is worse than the target.
    let most = if matches!(measure, Measure::Accuracy | Measure::Changed) { 0.035 } else { 0.07 };
    assert!(below <= most, "{name}, n = {n}: below the truth {below}");
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

#[test]
fn accuracy() {
    for (lost, gained, n) in [
        (0.005, 0.0, 500),
        (0.005, 0.0, 2000),
        (0.01, 0.005, 300),
        (0.02, 0.015, 2000),
        (0.05, 0.05, 100),
        (0.2, 0.1, 30),
    ] {
        let name = format!("accuracy -{lost} +{gained}");
        check(&name, Measure::Accuracy, n, 100.0 * (lost - gained), |rng| {
            let draw: f64 = rng.random();
            let (only_reference, only_candidate) = (draw < lost, draw >= 1.0 - gained);
            Score {
                labels: 1,
                correct_reference: u64::from(!only_candidate),
                correct_candidate: u64::from(!only_reference),
                ..Score::default()
            }
        });
    }
}

#[test]
fn changed() {
    for (share, n) in [(0.002, 300), (0.01, 500), (0.05, 60), (0.3, 30)] {
        check(&format!("changed {share}"), Measure::Changed, n, 100.0 * share, |rng| Score {
            predictions: 1,
            changed: u64::from(rng.random::<f64>() < share),
            ..Score::default()
        });
    }
    // Positions of a sample change together: no sample, a few positions of it, or all.
    for (all, few) in [(0.01, 0.0), (0.01, 0.5), (0.0, 0.02)] {
        let truth = 100.0 * (all + few * 0.1);
        check(&format!("changed all {all} few {few}"), Measure::Changed, 200, truth, |rng| {
            let draw: f64 = rng.random();
            let changed = if draw < all {
                50
            } else if draw < all + few {
                5
            } else {
                0
            };
            Score { predictions: 50, changed, ..Score::default() }
        });
    }
}

#[test]
fn perplexity() {
    for (spread, n) in [(0.0, 30), (0.5, 30), (1.0, 30), (1.0, 256)] {
        // A sample of t tokens loses t · exp(spread · normal) / 100 nats, more a token where it is longer.
        let mean = (spread * spread / 2.0_f64).exp() / 100.0;
        let truth = 100.0 * (mean * (20.0 * 20.0 + 100.0 * 100.0) / (20.0 + 100.0) / 60.0).exp_m1();
        check(&format!("perplexity, spread {spread}"), Measure::Perplexity, n, truth, |rng| {
            let tokens = if rng.random::<bool>() { 20 } else { 100 };
            let t = tokens as f64;
            let noise = 0.02 * normal(rng);
            let loss = t * (t / 60.0 * (spread * normal(rng)).exp() / 100.0 + noise);
            Score { tokens, nll_reference: 2.0 * t, nll_candidate: 2.0 * t + loss, ..Score::default() }
        });
    }
}

#[test]
fn cosine() {
    for (spread, n) in [(0.2, 30), (0.5, 30), (1.0, 30), (1.0, 100), (1.0, 500)] {
        let truth = 100.0 * 0.001 * (spread * spread / 2.0_f64).exp();
        check(&format!("cosine, spread {spread}"), Measure::Likeness, n, truth, |rng| Score {
            positions: 1,
            likeness: 1.0 - 0.001 * (spread * normal(rng)).exp(),
            ..Score::default()
        });
    }
}

#[test]
fn concordance() {
    for (noise, n) in [(0.05, 30), (0.1, 30), (0.1, 300)] {
        // Of r ~ N(3, 1) and r + e with e ~ N(0, noise²).
        let truth = 100.0 * noise * noise / (2.0 + noise * noise);
        check(&format!("concordance, noise {noise}"), Measure::Concordance, n, truth, |rng| {
            let r = 3.0 + normal(rng);
            let c = r + noise * normal(rng);
            Score {
                positions: 1,
                squared_error: (c - r) * (c - r),
                squared_reference: r * r,
                squared_candidate: c * c,
                sums: (r, c),
                ..Score::default()
            }
        });
    }
}
