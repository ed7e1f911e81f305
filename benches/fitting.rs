//! Time of the parts of a fit to activations, on one linear of the widths of a BERT layer: 8192 rows `[rows,K]` that
//! hang together, block 32, asymmetric. Each line of "codes" has one step more than the one before.
//!
//!     cargo bench --bench fitting

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use efq::progress::Silent;
use efq::quant::compensate::{Damping, Prepared, Steps, compensate, target};
use efq::quant::{Algorithm, Bits, Element, Emit, Layout, Matrix, ScaleStorage, Scheme, fit};
use efq::statistics::Sums;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const ROWS: usize = 8192;
/// Directions that most of the activations lie in.
const RANK: usize = 64;
const DAMPING: Damping = Damping { factor: 0.01, descent: 0.001, target: 0.1 };

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| (0..4).map(|_| random.random::<f32>() - 0.5).sum()).collect()
}

/// Rows `[ROWS,k]` of a few directions and some noise.
fn activations(k: usize) -> Vec<f32> {
    let (places, directions) = (noise(ROWS * RANK, 1), noise(RANK * k, 2));
    let mut rows = noise(ROWS * k, 3);
    for (row, places) in rows.chunks_exact_mut(k).zip(places.chunks_exact(RANK)) {
        for (place, direction) in places.iter().zip(directions.chunks_exact(k)) {
            row.iter_mut().zip(direction).for_each(|(value, along)| *value += place * along);
        }
    }
    rows
}

fn parts(criterion: &mut Criterion) {
    for (k, n) in [(384, 1536), (1536, 384)] {
        let (original, weight) = (activations(k), noise(k * n, 4));
        let rewritten: Vec<f32> = original.iter().map(|value| value * 0.98).collect();
        let mut sums = Sums::new(k);
        sums.add(&rewritten, &original);
        let moments = sums.moments(true);
        let scheme = Scheme {
            bits: Bits::Four,
            block: 32,
            symmetric: false,
            scales: ScaleStorage::F16,
            emit: Emit::Qdq,
        };
        let bytes: Vec<u8> = weight.iter().flat_map(|value| value.to_le_bytes()).collect();
        let matrix = Matrix::new(&bytes, Element::F32, Layout::row_major(k, n)).expect("the layout fits");
        let start = fit(&matrix, scheme, Algorithm::Search);
        let prepared = Prepared::new(&moments.square, k, DAMPING).expect("the moments are positive");

        let mut group = criterion.benchmark_group(format!("[{k},{n}]"));
        group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));
        group.bench_function(format!("moments of {ROWS} rows"), |bencher| {
            bencher.iter(|| Sums::new(k).add(black_box(&rewritten), &original));
        });
        group.bench_function("factorization", |bencher| {
            bencher.iter(|| Prepared::new(black_box(&moments.square), k, DAMPING));
        });
        group.bench_function("target", |bencher| {
            bencher.iter(|| target(black_box(&weight), &moments.square, &moments.drift, (k, n), DAMPING));
        });
        let none = Steps { carry: true, refit: false, descent: false, tabu: false };
        let steps = [
            ("GPTQ", none),
            ("and refit", Steps { refit: true, ..none }),
            ("and descent", Steps { tabu: false, ..Steps::default() }),
            ("and tabu search", Steps::default()),
        ];
        for (name, steps) in steps {
            group.bench_function(format!("codes, {name}"), |bencher| {
                bencher.iter(|| {
                    compensate(
                        &weight,
                        &weight,
                        n,
                        0..n,
                        &start,
                        scheme,
                        black_box(&prepared),
                        steps,
                        &Silent,
                    )
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, parts);
criterion_main!(benches);
