//! Throughput of the number kernels on one large weight, in bytes of float32 a second. The first line, a plain
//! sum over the same values, says what the memory of the machine gives.
//!
//!     cargo bench --bench kernels

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use efq::quant::{
    Algorithm, Bits, CodeKind, Element, Emit, Layout, Matrix, ScaleStorage, Scheme, decode, pack_nibbles,
    quantize, survey,
};

const K: usize = 4096;
const N: usize = 4096;
const BLOCK: usize = 32;

/// Values around zero with a bell-like spread, always the same.
fn noise() -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..K * N).map(|_| (0..4).map(|_| uniform()).sum::<f32>() * 0.1).collect()
}

fn kernels(criterion: &mut Criterion) {
    let values = noise();
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let matrix = Matrix::new(&bytes, Element::F32, Layout::row_major(K, N)).expect("the layout fits");

    let mut group = criterion.benchmark_group(format!("[{K},{N}] block {BLOCK}"));
    group.throughput(Throughput::BytesDecimal(bytes.len() as u64));
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));

    // Sixteen sums side by side, so that the additions do not wait for one another.
    group.bench_function("read", |bencher| {
        bencher.iter(|| {
            let mut sums = [0f32; 16];
            for chunk in black_box(&values).chunks_exact(16) {
                sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += value);
            }
            sums
        });
    });
    group.bench_function("survey", |bencher| bencher.iter(|| survey(black_box(&matrix), BLOCK)));

    let algorithms = [
        ("rtn", Algorithm::Rtn),
        ("percentile", Algorithm::Percentile { percent: 99.9 }),
        ("search", Algorithm::Search),
    ];
    for (form, symmetric) in [("int4", true), ("uint4", false)] {
        let scheme =
            Scheme { bits: Bits::Four, block: BLOCK, symmetric, scales: ScaleStorage::F32, emit: Emit::Qdq };
        for (name, algorithm) in algorithms {
            group.bench_function(format!("quantize {form} {name}"), |bencher| {
                bencher.iter(|| quantize(black_box(&matrix), scheme, algorithm));
            });
        }
        let made = quantize(&matrix, scheme, Algorithm::Rtn);
        let scales: Vec<f32> =
            made.scales.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let kind = if symmetric { CodeKind::Int4 } else { CodeKind::Uint4 };
        group.bench_function(format!("decode {form}"), |bencher| {
            bencher.iter(|| {
                decode(black_box(&made.codes), &scales, made.zero_points.as_deref(), kind, K, N, BLOCK)
            });
        });
    }
    let codes: Vec<u8> = (0..K * N).map(|at| (at % 16) as u8).collect();
    group.bench_function("pack", |bencher| bencher.iter(|| pack_nibbles(black_box(&codes))));
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
