//! Properties of the whole room: what is written, read back, is what was measured.

use std::sync::Mutex;

use half::f16;
use proptest::prelude::*;

use super::{fit::fit_on, levels::Levels, quantize::quantize_on, rows::quantize_rows_on, simd::Simd, *};

const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::Rtn, Algorithm::Percentile { percent: 99.0 }, Algorithm::Search];

fn scheme() -> impl Strategy<Value = Scheme> {
    scheme_with(&[ScaleStorage::F32, ScaleStorage::F16])
}

/// Also with scales that hang on others.
fn any_scheme() -> impl Strategy<Value = Scheme> {
    scheme_with(&[ScaleStorage::F32, ScaleStorage::F16, ScaleStorage::Byte])
}

fn scheme_with(scales: &'static [ScaleStorage]) -> impl Strategy<Value = Scheme> {
    let bits = prop_oneof![Just(Bits::Four), Just(Bits::Eight)];
    let scales = prop::sample::select(scales);
    let block = prop_oneof![Just(16_usize), Just(32), Just(64), Just(5)];
    (bits, block, any::<bool>(), scales).prop_map(|(bits, block, symmetric, scales)| Scheme {
        bits,
        block,
        symmetric,
        scales,
        emit: Emit::Qdq,
    })
}

/// A matrix with blocks of various kinds: normal, one-sided, constant, zero, with an outlier.
fn values(k: usize, n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    let value = |index: usize| {
        let noise = uniform() + uniform() + uniform();
        match (index % n + seed as usize) % 6 {
            0 => noise.abs() + 0.5,
            1 => 0.37,
            2 if (index / n).is_multiple_of(9) => 20.0 * noise,
            3 => 0.0,
            4 => -noise.abs(),
            _ => noise,
        }
    };
    (0..k * n).map(value).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn stored_scales(bytes: &[u8], storage: ScaleStorage) -> Vec<f32> {
    match storage {
        ScaleStorage::Byte => panic!("scales without their unit"),
        ScaleStorage::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        ScaleStorage::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
    }
}

fn read(quantized: &Quantized, scheme: Scheme, k: usize, n: usize) -> Vec<f32> {
    let scales = match (quantized.unit, scheme.symmetric) {
        (Some(unit), true) => quantized.scales.iter().map(|&code| f32::from(code as i8) * unit).collect(),
        (Some(unit), false) => quantized.scales.iter().map(|&code| f32::from(code) * unit).collect(),
        (None, _) => stored_scales(&quantized.scales, scheme.scales),
    };
    assert!(scales.iter().all(|scale| scale.is_finite() && *scale != 0.0));
    decode(
        &quantized.codes,
        &scales,
        quantized.zero_points.as_deref(),
        scheme.code_kind(),
        k,
        n,
        scheme.block,
    )
    .unwrap()
}

fn square_sum(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value).powi(2)).sum()
}

/// The kernels add a block in f32, and blocks in f64.
fn same_sum(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-5 * a.max(b)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_error_measured_is_that_of_the_stored_bytes(
        scheme in any_scheme(), k in 1_usize..80, n in 1_usize..40, seed: u32,
    ) {
        let original = values(k, n, seed);
        let raw = bytes(&original);
        let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(k, n)).unwrap();
        for algorithm in ALGORITHMS {
            let quantized = quantize(&matrix, scheme, algorithm);
            prop_assert_eq!(quantized.codes.len(), scheme.codes_len(k, n));
            prop_assert_eq!(quantized.scales.len() + quantized.unit.map_or(0, |_| 4), scheme.scales_len(k, n));
            prop_assert_eq!(quantized.zero_points.as_ref().map_or(0, Vec::len), scheme.zero_points_len(k, n));
            let decoded = read(&quantized, scheme, k, n);
            let residuals = || original.iter().zip(&decoded).map(|(w, y)| w - y);
            let error = quantized.error;
            prop_assert!(same_sum(error.squared_error, square_sum(residuals())));
            prop_assert!(same_sum(error.squared_signal, square_sum(original.iter().copied())));
            prop_assert_eq!(error.max_abs_error, residuals().fold(0.0_f32, |max, r| max.max(r.abs())));
            prop_assert_eq!(measure(&matrix, scheme, algorithm), error);
        }
    }

    #[test]
    fn matmulnbits_holds_the_same_values(
        scheme in scheme(), k in 1_usize..80, n in 1_usize..140, seed: u32,
    ) {
        let scheme = Scheme { block: scheme.block.next_multiple_of(2), emit: Emit::MatMulNBits, ..scheme };
        let raw = bytes(&values(k, n, seed));
        let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(k, n)).unwrap();
        let quantized = quantize(&matrix, scheme, Algorithm::Search);
        let nbits = NBits::of(&quantized, scheme, k, n);
        let zeros = nbits.zero_points.as_deref();
        let stored = nbits.codes.len() + nbits.scales.len() + zeros.map_or(0, <[u8]>::len);
        prop_assert_eq!(stored, scheme.stored_len(k, n));
        let scales = stored_scales(&nbits.scales, scheme.scales);
        let bits = usize::from(u8::from(scheme.bits));
        let decoded = decode_nbits(&nbits.codes, &scales, zeros, bits, (k, n), scheme.block).unwrap();
        prop_assert_eq!(decoded, read(&quantized, scheme, k, n));
    }

    #[test]
    fn search_is_never_worse_than_rtn_in_any_block(
        scheme in scheme(), k in 1_usize..80, n in 1_usize..40, seed: u32,
    ) {
        let original = values(k, n, seed);
        let raw = bytes(&original);
        let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(k, n)).unwrap();
        let [rtn, search] = [Algorithm::Rtn, Algorithm::Search]
            .map(|algorithm| read(&quantize(&matrix, scheme, algorithm), scheme, k, n));
        for column in 0..n {
            for top in (0..k).step_by(scheme.block) {
                let error = |decoded: &[f32]| {
                    let indices = (top..k.min(top + scheme.block)).map(|row| row * n + column);
                    square_sum(indices.map(|index| original[index] - decoded[index]))
                };
                prop_assert!(error(&search) <= error(&rtn) * (1.0 + 1e-5));
            }
        }
    }

    #[test]
    fn layout_level_and_thread_count_leave_the_bytes_alone(
        scheme in any_scheme(), k in 1_usize..80, n in 1_usize..600, seed: u32,
    ) {
        let original = values(k, n, seed);
        let raw = bytes(&original);
        let turned: Vec<f32> = (0..k * n).map(|index| original[index % k * n + index / k]).collect();
        let turned = bytes(&turned);
        let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(k, n)).unwrap();
        let strided = Matrix::new(&turned, Element::F32, Layout::column_major(k, n)).unwrap();
        for algorithm in ALGORITHMS {
            let expected = quantize(&matrix, scheme, algorithm);
            prop_assert_eq!(&quantize(&strided, scheme, algorithm), &expected);
            let rows = quantize_rows(&matrix, scheme.scales.of_rows(), algorithm);
            for simd in Simd::available() {
                prop_assert_eq!(&quantize_on(simd, &matrix, scheme, algorithm, |_| {}).0, &expected);
                prop_assert_eq!(&quantize_rows_on(simd, &matrix, scheme.scales.of_rows(), algorithm), &rows);
            }
        }
    }

    #[test]
    fn one_reading_quantizes_and_surveys(
        scheme in any_scheme(), k in 1_usize..80, n in 1_usize..300, seed: u32, exponent in -130_i32..110,
        odd in prop::option::of((any::<usize>(), prop::sample::select(&[f32::NAN, f32::INFINITY, -1e38, 1e-40]))),
    ) {
        let mut original: Vec<f32> = values(k, n, seed).iter().map(|v| v * 2_f32.powi(exponent)).collect();
        if let Some((at, value)) = odd {
            original[at % (k * n)] = value;
        }
        let raw = bytes(&original);
        let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(k, n)).unwrap();
        for algorithm in ALGORITHMS {
            let told = Mutex::new(vec![0; raw.len()]);
            let (_, seen) = quantize_surveyed(&matrix, scheme, algorithm, |read| {
                let start = read.as_ptr().addr() - raw.as_ptr().addr();
                told.lock().unwrap()[start..start + read.len()].iter_mut().for_each(|times| *times += 1);
            });
            let wanted = (scheme.scales != ScaleStorage::Byte).then(|| survey(&matrix, scheme.block));
            prop_assert_eq!(seen, wanted);
            prop_assert!(told.into_inner().unwrap().iter().all(|times| *times == 1));
        }
        prop_assert_eq!(matrix.transposed().stored_rows(0..n).is_some(), k == 1 && n == 1);
    }

    #[test]
    fn fp16_scales_that_fit_are_accurate(
        scheme in scheme(), k in 1_usize..80, n in 1_usize..40, seed: u32, exponent in -14_i32..12,
    ) {
        let scheme = Scheme { scales: ScaleStorage::F16, ..scheme };
        let raw = bytes(&values(k, n, seed));
        let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(k, n)).unwrap();
        let matrix = matrix.scaled(2_f32.powi(exponent));
        if fp16_scales_fit(&survey(&matrix, scheme.block), scheme) {
            for algorithm in ALGORITHMS {
                let scales = stored_scales(&quantize(&matrix, scheme, algorithm).scales, scheme.scales);
                let least = 2_f32.powi(-17);
                prop_assert!(scales.iter().all(|scale| scale.is_finite() && scale.abs() >= least));
            }
        }
    }

    #[test]
    fn rows_decode_to_the_error_they_report(k in 1_usize..40, n in 1_usize..300, seed: u32, half: bool) {
        let storage = if half { ScaleStorage::F16 } else { ScaleStorage::F32 };
        let original = values(k, n, seed);
        let raw = bytes(&original);
        let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(k, n)).unwrap();
        let [rtn, search] = [Algorithm::Rtn, Algorithm::Search].map(|algorithm| {
            let rows = quantize_rows(&matrix, storage, algorithm);
            let scales = stored_scales(&rows.scales, storage);
            let decoded = |index: usize| f32::from(rows.codes[index] as i8) * scales[index / n];
            let sum = square_sum((0..k * n).map(|index| original[index] - decoded(index)));
            assert!(same_sum(sum, rows.error.squared_error));
            sum
        });
        prop_assert!(search <= rtn * (1.0 + 1e-5));
    }

    #[test]
    fn packed_rows_decode_to_the_error_they_report(
        k in 1_usize..40, n in 1_usize..300, block in 1_usize..70, seed: u32, half: bool,
    ) {
        let scales = if half { ScaleStorage::F16 } else { ScaleStorage::F32 };
        let original = values(k, n, seed);
        let raw = bytes(&original);
        let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(k, n)).unwrap();
        let turned: Vec<f32> = (0..k * n).map(|index| original[index % k * n + index / k]).collect();
        let turned = bytes(&turned);
        let strided = Matrix::new(&turned, Element::F32, Layout::column_major(k, n)).unwrap();
        for format in [PackedRows { block, scales }, PackedRows::at_most(block, n, scales)] {
            prop_assert!(format.block <= block && format.padded(n) >= n);
            let [rtn, search] = [Algorithm::Rtn, Algorithm::Search].map(|algorithm| {
                let (codes, stored, error) = format.quantize(&matrix, algorithm);
                assert_eq!((codes.len(), stored.len()), (format.codes_len(k, n), format.scales_len(k, n)));
                let decoded = stored_scales(&stored, scales);
                let decoded = decode_packed_rows(&codes, &decoded, k, n, format.block).unwrap();
                let sum = square_sum((0..k * n).map(|index| original[index] - decoded[index]));
                assert!(same_sum(sum, error.squared_error));
                let same = (codes, stored, error);
                assert_eq!(format.quantize(&strided, algorithm), same);
                for simd in Simd::available() {
                    assert_eq!(format.quantize_on(simd, &matrix, algorithm), same);
                }
                sum
            });
            prop_assert!(search <= rtn * (1.0 + 1e-5));
        }
    }

    #[test]
    fn packed_rows_are_the_blocks_of_the_transpose(
        k in 1_usize..20, pairs in 1_usize..4, block in 1_usize..40, seed: u32,
    ) {
        let n = 2 * pairs * block;
        let raw = bytes(&values(k, n, seed));
        let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(k, n)).unwrap();
        let format = PackedRows { block, scales: ScaleStorage::F32 };
        let (codes, scales, _) = format.quantize(&matrix, Algorithm::Search);
        let scales = stored_scales(&scales, ScaleStorage::F32);
        let rows = decode_packed_rows(&codes, &scales, k, n, block).unwrap();
        let blocks = quantize(&matrix.transposed(), format.scheme(), Algorithm::Search);
        let columns = read(&blocks, format.scheme(), n, k);
        prop_assert!((0..k * n).all(|at| rows[at] == columns[at % n * k + at / n]));
    }

    /// What is made band by band is what is made as a whole: of rows as ONNX stores it, of columns as MatMulNBits does.
    #[test]
    fn bands_one_behind_the_other_are_the_whole(
        scheme in scheme(),
        algorithm in prop::sample::select(&ALGORITHMS[..]),
        (k, n) in (1_usize..200, 1_usize..40),
        cut in 0_usize..200,
        seed in any::<u32>(),
    ) {
        let raw = bytes(&values(k, n, seed));
        let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(k, n)).unwrap();
        let whole = quantize(&matrix, scheme, algorithm);
        let row = k.min((cut % k).next_multiple_of(2 * scheme.block));
        let rows = [0..row, row..k].map(|band| quantize(&matrix.band(band), scheme, algorithm));
        let joined = |part: fn(&Quantized) -> &[u8]| rows.iter().flat_map(part).copied().collect::<Vec<u8>>();
        prop_assert_eq!(joined(|made| &made.codes), &*whole.codes);
        prop_assert_eq!(joined(|made| &made.scales), &*whole.scales);
        let zeros = |made: &Quantized| made.zero_points.clone().unwrap_or_default();
        prop_assert_eq!(rows.iter().flat_map(zeros).collect::<Vec<u8>>(), zeros(&whole));
        let column = cut % (n + 1);
        let columns = [0..column, column..n].map(|band| {
            let width = band.len();
            let own = matrix.transposed().band(band).transposed();
            NBits::of(&quantize(&own, scheme, algorithm), scheme, k, width)
        });
        let whole = NBits::of(&whole, scheme, k, n);
        let joined = |part: fn(&NBits) -> &[u8]| columns.iter().flat_map(part).copied().collect::<Vec<u8>>();
        prop_assert_eq!(joined(|made| &made.codes), &*whole.codes);
        prop_assert_eq!(joined(|made| &made.scales), &*whole.scales);
        let zeros = |made: &NBits| made.zero_points.clone().unwrap_or_default();
        prop_assert_eq!(columns.iter().flat_map(zeros).collect::<Vec<u8>>(), zeros(&whole));
    }
}

#[test]
fn thread_count_leaves_the_result_alone() {
    let (k, n) = (200, 530);
    let raw = bytes(&values(k, n, 7));
    let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(k, n)).unwrap();
    let scheme =
        Scheme { bits: Bits::Four, block: 32, symmetric: false, scales: ScaleStorage::F16, emit: Emit::Qdq };
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let rows = quantize_rows(&matrix, ScaleStorage::F32, Algorithm::Search);
            (quantize(&matrix, scheme, Algorithm::Search), rows, survey(&matrix, 32))
        })
    };
    let expected = on(1);
    assert_eq!(on(2), expected);
    assert_eq!(on(5), expected);
}

fn every_scheme() -> impl Iterator<Item = Scheme> {
    let bits = [Bits::Four, Bits::Eight];
    let scales = [ScaleStorage::F32, ScaleStorage::F16];
    bits.into_iter().flat_map(move |bits| {
        scales.into_iter().flat_map(move |scales| {
            [true, false].map(|symmetric| Scheme { bits, block: 16, symmetric, scales, emit: Emit::Qdq })
        })
    })
}

#[test]
fn extreme_blocks_stay_finite_and_are_represented() {
    let max = f32::MAX;
    let columns: [[f32; 4]; 11] = [
        [0.0; 4],
        [1e38, -1e38, 5e37, 0.0],
        [max, -max, max, -max],
        [max, -max / 20.0, 0.0, max],
        [-max; 4],
        [1e-40, -3e-41, 0.0, 1e-45],
        [f32::MIN_POSITIVE, -f32::MIN_POSITIVE, 0.0, 0.0],
        [3.0; 4],
        [-3.0; 4],
        [1.0, 1.0 + 1e-6, 1.0, 1.0],
        [1e38, 1e-38, -1e-38, 0.0],
    ];
    for scheme in every_scheme() {
        for algorithm in ALGORITHMS {
            for column in columns {
                let raw = bytes(&column);
                let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(4, 1)).unwrap();
                let quantized = quantize(&matrix, scheme, algorithm);
                let decoded = read(&quantized, scheme, 4, 1);
                assert!(decoded.iter().all(|value| value.is_finite()), "{scheme:?} {column:?} {decoded:?}");
                let largest = column.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
                // Below 1e-36 the least normal f32 is a coarse scale.
                let fits = match scheme.scales {
                    ScaleStorage::F32 => {
                        !(f32::MIN_POSITIVE..=max / 2.0).contains(&-largest) && largest > 1e-36
                    }
                    ScaleStorage::F16 | ScaleStorage::Byte => fp16_scales_fit(&survey(&matrix, 16), scheme),
                };
                if largest == 0.0 {
                    assert!(decoded.iter().all(|&value| value == 0.0));
                    assert_eq!(stored_scales(&quantized.scales, scheme.scales), [1.0 / 16_384.0]);
                } else if fits {
                    for (value, decoded) in column.iter().zip(&decoded) {
                        assert!(
                            (value - decoded).abs() <= largest * 0.15,
                            "{scheme:?} {algorithm:?} {column:?} {decoded:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_constant_block_is_exact_within_the_precision_of_its_scale() {
    for scheme in every_scheme() {
        for algorithm in ALGORITHMS {
            let raw = bytes(&[-0.73; 32]);
            let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(32, 1)).unwrap();
            assert!(quantize(&matrix, scheme, algorithm).error.relative() < 6e-4, "{scheme:?} {algorithm:?}");
        }
    }
}

#[test]
fn symmetric_codes_use_the_full_range_with_either_sign() {
    let scheme =
        Scheme { bits: Bits::Four, block: 16, symmetric: true, scales: ScaleStorage::F32, emit: Emit::Qdq };
    let up: Vec<f32> = (-8..=7).map(|code| code as f32 * 0.5).collect();
    let down: Vec<f32> = up.iter().map(|value| -value).collect();
    for values in [up, down] {
        for algorithm in [Algorithm::Rtn, Algorithm::Search] {
            let raw = bytes(&values);
            let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(16, 1)).unwrap();
            let quantized = quantize(&matrix, scheme, algorithm);
            assert_eq!(quantized.error.squared_error, 0.0);
            assert_eq!(read(&quantized, scheme, 16, 1), values);
        }
    }
}

#[test]
fn the_survey_finds_the_facts() {
    let mut original = values(40, 300, 5);
    for row in 0..16 {
        original[row * 300 + 9] = 1e-6;
    }
    original[39 * 300] = -77.0;
    let raw = bytes(&original);
    let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(40, 300)).unwrap();
    let facts = survey(&matrix, 16);
    assert_eq!(facts.first_non_finite, None);
    assert_eq!((facts.max_abs, facts.least_block_max), (77.0, 1e-6));
    for scheme in every_scheme() {
        assert!(!fp16_scales_fit(&facts, scheme));
        assert!(fp16_scales_fit(&Survey { least_block_max: 0.01, ..facts }, scheme));
        assert!(!fp16_scales_fit(&Survey { least_block_max: 0.01, max_abs: 7e4, ..facts }, scheme));
    }
    for (row, column) in [(33, 280), (33, 7), (2, 290)] {
        original[row * 300 + column] = if column == 7 { f32::NAN } else { f32::INFINITY };
        let raw = bytes(&original);
        let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(40, 300)).unwrap();
        assert_eq!(survey(&matrix, 16).first_non_finite, Some((row, column)));
        // Not meaningful, but not a panic either.
        let scheme = Scheme {
            bits: Bits::Four,
            block: 16,
            symmetric: false,
            scales: ScaleStorage::F16,
            emit: Emit::Qdq,
        };
        for algorithm in ALGORITHMS {
            quantize(&matrix, scheme, algorithm);
        }
    }
}

#[test]
fn a_wide_f64_is_reported_as_not_finite() {
    let raw = [1.0, 1e300].map(f64::to_le_bytes).concat();
    let matrix = Matrix::new(&raw, Element::F64, Layout::row_major(2, 1)).unwrap();
    assert_eq!(survey(&matrix, 16).first_non_finite, Some((1, 0)));
}

#[test]
fn every_element_type_gives_the_codes_of_its_values() {
    let exact: Vec<f32> = (0..64).map(|index| ((index * 37) % 64 - 31) as f32 / 32.0).collect();
    let expected = |raw: &[u8], element| {
        let scheme = Scheme {
            bits: Bits::Four,
            block: 32,
            symmetric: false,
            scales: ScaleStorage::F32,
            emit: Emit::Qdq,
        };
        let matrix = Matrix::new(raw, element, Layout::row_major(32, 2)).unwrap();
        quantize(&matrix, scheme, Algorithm::Search)
    };
    let reference = expected(&bytes(&exact), Element::F32);
    let of = |encode: &dyn Fn(f32) -> Vec<u8>| exact.iter().flat_map(|&v| encode(v)).collect::<Vec<u8>>();
    let f16 = of(&|v| f16::from_f32(v).to_le_bytes().to_vec());
    let bf16 = of(&|v| half::bf16::from_f32(v).to_le_bytes().to_vec());
    let f64 = of(&|v| f64::from(v).to_le_bytes().to_vec());
    assert_eq!(expected(&f16, Element::F16), reference);
    assert_eq!(expected(&bf16, Element::BF16), reference);
    assert_eq!(expected(&f64, Element::F64), reference);
}

#[test]
fn a_row_may_be_longer_than_a_tile() {
    let raw = bytes(&values(3, 20_000, 1));
    let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(3, 20_000)).unwrap();
    assert!(quantize_rows(&matrix, ScaleStorage::F32, Algorithm::Search).error.relative() < 0.1);
}

#[test]
fn empty_matrices_give_empty_tensors() {
    for (k, n) in [(0, 0), (0, 5), (5, 0)] {
        let matrix = Matrix::new(&[], Element::F32, Layout::row_major(k, n)).unwrap();
        for scheme in every_scheme() {
            for algorithm in ALGORITHMS {
                let quantized = quantize(&matrix, scheme, algorithm);
                assert!(quantized.codes.is_empty() && quantized.scales.is_empty());
                assert_eq!(measure(&matrix, scheme, algorithm), WeightError::default());
            }
        }
        assert!(quantize_rows(&matrix, ScaleStorage::F32, Algorithm::Search).codes.is_empty());
        let packed = PackedRows { block: 16, scales: ScaleStorage::F32 };
        assert!(packed.quantize(&matrix, Algorithm::Search).0.is_empty());
        assert_eq!(survey(&matrix, 32).first_non_finite, None);
    }
}

#[test]
fn scales_in_bytes_are_near_those_in_float() {
    for symmetric in [true, false] {
        let scheme = |scales| Scheme { bits: Bits::Four, block: 16, symmetric, scales, emit: Emit::Qdq };
        let raw = bytes(&values(64, 40, 5));
        let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(64, 40)).unwrap();
        let error = |scales| quantize(&matrix, scheme(scales), Algorithm::Search).error.relative();
        let (float, byte) = (error(ScaleStorage::F32), error(ScaleStorage::Byte));
        assert!(byte < 1.2 * float, "{byte} for {float}");
    }
}

#[test]
fn blocks_that_bytes_do_not_tell_apart_are_told() {
    let fits =
        |least_block_max| byte_scales_fit(&Survey { first_non_finite: None, max_abs: 1.0, least_block_max });
    assert!(fits(0.01) && fits(f32::INFINITY) && !fits(1e-4));
}

#[test]
fn blocks_of_zeros_leave_the_units_of_others_alone() {
    let mut column = vec![0.0; 32];
    column[3] = 0.01;
    let raw = bytes(&column);
    let matrix = Matrix::new(&raw, Element::F32, Layout::row_major(32, 1)).unwrap();
    for symmetric in [true, false] {
        let scheme =
            Scheme { bits: Bits::Four, block: 16, symmetric, scales: ScaleStorage::Byte, emit: Emit::Qdq };
        let decoded = read(&quantize(&matrix, scheme, Algorithm::Search), scheme, 32, 1);
        assert!((decoded[3] - 0.01).abs() < 1e-4, "{decoded:?}");
        assert!(decoded[16..].iter().all(|value| *value == 0.0));
    }
}

/// The squared error of a weight on its grid, the rows counted by `weights`.
fn weighted_error(values: &[f32], grid: &Grid, scheme: Scheme, n: usize, weights: &[f32]) -> f64 {
    let levels = Levels::of(scheme);
    let rows = values.chunks_exact(n).zip(weights).enumerate();
    rows.flat_map(|(row, (values, weight))| {
        let at = row / scheme.block * n;
        let cells = grid.scales[at..at + n].iter().zip(&grid.zeros[at..at + n]).zip(values);
        cells.map(move |((scale, zero), value)| {
            let code = (value / scale + zero).round_ties_even().clamp(levels.lowest, levels.highest);
            f64::from(*weight) * f64::from(value - (code - zero) * scale).powi(2)
        })
    })
    .sum()
}

#[test]
fn weights_of_rows_lower_the_weighted_error() {
    let (k, n) = (130, 19);
    let (values, weights) = (values(k, n, 5), values(k, 1, 6));
    let weights: Vec<f32> = weights.iter().map(|weight| 0.01 + weight * weight).collect();
    let bytes = bytes(&values);
    let matrix = Matrix::new(&bytes, Element::F32, Layout::row_major(k, n)).unwrap();
    for scheme in every_scheme() {
        let plain = fit(&matrix, scheme, Algorithm::Search);
        assert_eq!(fit_weighted(&matrix, scheme, &vec![1.0; k]), plain, "{scheme:?}");
        let weighted = fit_weighted(&matrix, scheme, &weights);
        let error = |grid| weighted_error(&values, grid, scheme, n, &weights);
        assert!(error(&weighted) < error(&plain), "{scheme:?}");
        for simd in Simd::available() {
            assert_eq!(fit_on(simd, &matrix, scheme, Algorithm::Search, Some(&weights)), weighted);
        }
    }
}
