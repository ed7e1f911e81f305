use super::*;
use crate::error::Kind;

const NAN: f32 = f32::NAN;
const INF: f32 = f32::INFINITY;

/// A value in −4..4 that any language can make.
fn value(index: u32) -> f32 {
    (f64::from(index.wrapping_mul(2_654_435_761)) / 4_294_967_296.0 * 8.0 - 4.0) as f32
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{found} instead of {expected}");
}

#[test]
fn agrees_with_numpy() {
    // 5 samples of 7 positions and 11 classes; positions 0 of every third sample masked, every fourth
    // label ignored. Expected: numpy in float64 on the same float32 values.
    let scores: Vec<Score> = (0..5_u32)
        .map(|sample| {
            let reference: Vec<f32> = (0..77).map(|index| value(77 * sample + index + 1)).collect();
            let candidate: Vec<f32> = (0..77)
                .map(|index| reference[index as usize] + value(1000 + 77 * sample + index) / 2.0)
                .collect();
            let mask: Vec<bool> = (0..7).map(|position| position != 0 || sample % 3 != 0).collect();
            let labels: Vec<i64> = (0..7)
                .map(|position| {
                    if (sample + position) % 4 == 0 {
                        IGNORED
                    } else {
                        i64::from((3 * sample + position) % 11)
                    }
                })
                .collect();
            score(&Sample {
                mask: Some(&mask),
                label: Label::Positions(&labels),
                ..logits(&reference, &candidate, 11)
            })
            .unwrap()
        })
        .collect();
    let gate = Gate { accuracy_target: 1.0, min_cosine: 0.99, by_interval: false };
    let found = verdict(Measure::Perplexity, &scores, &gate, true);
    let (accuracy, perplexity) = (found.accuracy.unwrap(), found.perplexity.unwrap());
    close(found.rel_l2.unwrap(), NUMPY[0]);
    close(found.cosine.unwrap(), NUMPY[1]);
    close(found.kl.unwrap(), NUMPY[2]);
    close(found.changed.unwrap(), NUMPY[3]);
    close(perplexity.0, NUMPY[4]);
    close(perplexity.1, NUMPY[5]);
    close(accuracy.0, NUMPY[6]);
    close(accuracy.1, NUMPY[7]);
    close(found.estimate.unwrap(), 100.0 * (NUMPY[5] / NUMPY[4] - 1.0));
    // The standard error of the ratio is recovered from the half-width in nats; n = 5, t = 2.776445.
    let high = (found.interval.unwrap().high / 100.0).ln_1p() - (found.estimate.unwrap() / 100.0).ln_1p();
    assert!(high >= 2.776_445 * NUMPY[8] - 1e-7, "{high} {}", NUMPY[8]);
}

const NUMPY: [f64; 9] = [
    0.49837120670275986,
    0.8668665901819589,
    0.27174933006902025,
    6.19047619047619,
    62.48417705602879,
    47.70971626697761,
    8.0,
    8.0,
    0.12106398970031071,
];

#[test]
fn equal_logits_predict_the_first() {
    let found = score(&Sample { label: Label::Class(0), ..logits(&[1.0, 1.0], &[0.0, 0.0], 2) }).unwrap();
    assert_eq!((found.changed, found.correct_reference, found.correct_candidate), (0, 1, 1));
}

#[test]
fn equal_outputs_are_at_no_distance() {
    let values: Vec<f32> = (0..24).map(value).collect();
    let found = score(&logits(&values, &values, 6)).unwrap();
    assert_eq!((found.positions, found.predictions, found.changed), (4, 4, 0));
    assert_eq!((found.cosine, found.kl, found.squared_error), (1.0, 0.0, 0.0));
}

#[test]
fn only_marked_positions_count() {
    let (reference, candidate) = ([1.0, 0.0, 1.0, 0.0], [1.0, 0.0, NAN, 5.0]);
    let found = score(&Sample { mask: Some(&[true, false]), ..logits(&reference, &candidate, 2) }).unwrap();
    assert_eq!((found.positions, found.changed, found.non_finite), (1, 0, 0));
    let none = score(&Sample { mask: Some(&[false, false]), ..logits(&reference, &candidate, 2) }).unwrap();
    assert_eq!(none, Score::default());
}

#[test]
fn ignored_labels_count_as_predictions_only() {
    let found = score(&Sample {
        label: Label::Positions(&[IGNORED, 1]),
        ..logits(&[1.0, 0.0, 1.0, 0.0], &[1.0, 0.0, 1.0, 0.0], 2)
    })
    .unwrap();
    assert_eq!((found.predictions, found.labels, found.tokens), (2, 1, 1));
    close(found.nll_reference, 1.0_f64.exp().ln_1p());
}

#[test]
fn features_have_no_predictions() {
    let features = Sample { logits: false, ..logits(&[1.0, 0.0], &[0.0, 1.0], 2) };
    let found = score(&features).unwrap();
    assert_eq!((found.predictions, found.positions, found.cosine), (0, 1, 0.0));
    assert_eq!(score(&logits(&[1.0], &[0.0], 1)).unwrap().predictions, 0, "one value is no choice");
}

#[test]
fn zero_vectors() {
    let cosine = |r: &[f32], c: &[f32]| score(&logits(r, c, 2)).unwrap().cosine;
    assert_eq!((cosine(&[0.0, 0.0], &[0.0, 0.0]), cosine(&[0.0, 0.0], &[1.0, 0.0])), (1.0, 0.0));
}

/// (positions, skipped, `non_finite`, predictions, changed)
#[track_caller]
fn counts(reference: [f32; 3], candidate: [f32; 3], expected: (u64, u64, u64, u64, u64)) {
    let found = score(&logits(&reference, &candidate, 3)).unwrap();
    let counts = (found.positions, found.skipped, found.non_finite, found.predictions, found.changed);
    assert_eq!(counts, expected);
    let figures = [found.squared_error, found.squared_reference, found.cosine, found.kl];
    assert!(figures.iter().all(|figure| figure.is_finite()));
}

#[test]
fn values_that_are_not_finite() {
    let broken = |elements| (0, 0, elements, 1, 1);
    let skipped = (0, 1, 0, 0, 0);
    counts([1.0, 2.0, 3.0], [1.0, NAN, 3.0], broken(1));
    counts([1.0, 2.0, 3.0], [INF, NAN, -INF], broken(3));
    counts([1.0, -INF, 3.0], [1.0, NAN, 3.0], broken(1));
    counts([1.0, NAN, 3.0], [NAN, NAN, 3.0], broken(1));
    counts([1.0, -INF, 3.0], [1.0, -INF, 3.0], (1, 0, 0, 1, 0));
    counts([1.0, -INF, 3.0], [1.0, 2.0, 3.0], skipped);
    counts([1.0, NAN, 3.0], [1.0, NAN, 3.0], skipped);
    counts([1.0, NAN, 3.0], [1.0, 2.0, 3.0], skipped);
    counts([INF, 2.0, 3.0], [INF, 2.0, 3.0], skipped);
    counts([-INF, -INF, -INF], [-INF, -INF, -INF], skipped);
    counts([f32::MAX, f32::MIN, 0.0], [f32::MIN, f32::MAX, 0.0], (1, 0, 0, 1, 1));
}

#[test]
fn a_broken_prediction_is_wrong() {
    let found = score(&Sample { label: Label::Class(0), ..logits(&[1.0, 0.0], &[NAN, NAN], 2) }).unwrap();
    assert_eq!((found.labels, found.correct_reference, found.correct_candidate), (1, 1, 0));
}

#[test]
fn a_label_that_the_original_rules_out_has_no_likelihood() {
    let values = [1.0, -INF];
    let found = score(&Sample { label: Label::Positions(&[1]), ..logits(&values, &values, 2) }).unwrap();
    assert_eq!((found.labels, found.tokens, found.nll_reference), (1, 0, 0.0));
}

#[test]
fn what_does_not_fit_together() {
    let four = [0.0; 4];
    let errors = [
        logits(&four, &four[..2], 2),
        logits(&four, &four, 3),
        logits(&four, &four, 0),
        Sample { mask: Some(&[true]), ..logits(&four, &four, 2) },
        Sample { label: Label::Class(4), ..logits(&four, &four, 4) },
        Sample { label: Label::Class(IGNORED), ..logits(&four, &four, 4) },
        Sample { label: Label::Class(0), ..logits(&four, &four, 2) },
        Sample { label: Label::Class(0), ..logits(&four[..1], &four[..1], 1) },
        Sample { label: Label::Positions(&[0]), ..logits(&four, &four, 2) },
        Sample { label: Label::Positions(&[0, 2]), ..logits(&four, &four, 2) },
        Sample { label: Label::Positions(&[0, -1]), ..logits(&four, &four, 2) },
    ]
    .map(|sample| {
        let error = score(&sample).unwrap_err();
        assert_eq!(error.kind(), Kind::Format);
        error.to_string()
    });
    insta::assert_snapshot!(errors.join("\n"), @r"
    output: the original gives 4 values, the rewritten 2
    output: 4 values are not whole rows of 3
    output: 4 values are not whole rows of 0
    mask: 1 entries, the output has 2 positions
    label: class 4 of an output with 4 classes
    label: class -100 of an output with 4 classes (-100 takes a position out where there is a label per position; leave the sample out)
    output: 2 positions, but one label per sample
    label: the output has one value per position, no classes
    labels: 1 entries, the output has 2 positions
    label: class 2 of an output with 2 classes
    label: class -1 of an output with 2 classes
    ");
}

#[test]
fn likeness_is_the_cosine_of_vectors_as_long_and_less_of_others() {
    let features = |r, c| score(&Sample { logits: false, ..logits(r, c, 2) }).unwrap();
    let turned = features(&[3.0, 4.0], &[4.0, 3.0]);
    close(turned.likeness, turned.cosine);
    let longer = features(&[3.0, 4.0], &[9.0, 12.0]);
    assert_eq!(longer.cosine, 1.0);
    close(longer.likeness, 0.6);
    assert_eq!(features(&[0.0, 0.0], &[0.0, 0.0]).likeness, 1.0);
    assert_eq!(features(&[0.1, 0.7], &[0.1, 0.7]).likeness, 1.0);
}

/// 1 − Lin's concordance correlation of (1, 2, 4, 5) and (1, 3, 4, 6), from its definition.
#[test]
fn single_numbers_are_judged_over_all_samples() {
    let gate = Gate { accuracy_target: 1.0, min_cosine: 0.99, by_interval: false };
    let judged = |pairs: &[(f32, f32)]| {
        let one = |(r, c): &(f32, f32)| score(&Sample { logits: false, ..logits(&[*r], &[*c], 1) }).unwrap();
        let scores: Vec<Score> = pairs.iter().map(one).collect();
        verdict(Measure::Concordance, &scores, &gate, true)
    };
    let found = judged(&[(1.0, 1.0), (2.0, 3.0), (4.0, 4.0), (5.0, 6.0)]);
    close(found.estimate.unwrap(), 100.0 * (1.0 - 2.0 * 11.0 / (10.0 + 13.0 + 4.0 * 0.25)));
    assert_eq!((found.outcome, found.cosine), (Outcome::Failed, None));
    let negated: Vec<(f32, f32)> = (1..9).map(|at| (at as f32, -(at as f32))).collect();
    assert_eq!(judged(&negated).outcome, Outcome::Failed);
    let shifted: Vec<(f32, f32)> = (1..9).map(|at| (at as f32, at as f32 + 100.0)).collect();
    assert_eq!(judged(&shifted).outcome, Outcome::Failed);
    let close_by: Vec<(f32, f32)> = (1..9).map(|at| (at as f32, at as f32 + 0.01)).collect();
    assert_eq!(judged(&close_by).outcome, Outcome::Passed);
    assert_eq!(judged(&[(2.0, 2.0), (2.0, 2.0)]).estimate, Some(0.0));
    close(judged(&[(2.0, 3.0), (2.0, 3.0)]).estimate.unwrap(), 100.0);
}
