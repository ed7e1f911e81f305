use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn any_value() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -9.0_f32..9.0,
        1 => prop::sample::select(vec![0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-45]),
    ]
}

fn measures() -> impl Strategy<Value = Measure> {
    prop::sample::select(vec![
        Measure::Accuracy,
        Measure::Perplexity,
        Measure::Changed,
        Measure::Likeness,
        Measure::Concordance,
    ])
}

proptest! {
    #[test]
    fn anything_is_scored_or_refused(
        reference in vec(any_value(), 0..24),
        candidate in vec(any_value(), 24),
        width in 0_usize..5,
        is_logits: bool,
        mask in prop::option::of(vec(any::<bool>(), 0..8)),
        labels in vec(prop_oneof![Just(IGNORED), -1_i64..5], 0..8),
        kind in 0..3,
    ) {
        let label = match (kind, labels.first()) {
            (1, Some(&class)) => Label::Class(class),
            (2, _) => Label::Positions(&labels),
            _ => Label::None,
        };
        let candidate = &candidate[..reference.len()];
        let mask = mask.as_deref();
        let sample = Sample { reference: &reference, candidate, width, logits: is_logits, mask, label };
        if let Ok(score) = score(&sample) {
            let figures = [score.squared_error, score.squared_reference, score.cosine, score.kl, score.nll_reference, score.nll_candidate];
            prop_assert!(figures.iter().all(|figure| figure.is_finite()), "{score:?}");
            prop_assert!(score.changed <= score.predictions && score.labels <= score.predictions);
            prop_assert!(score.tokens <= score.labels);
            prop_assert!((score.positions + score.skipped) as usize <= reference.len());
        }
    }

    #[test]
    fn every_verdict_holds_together(
        rows in vec((any_value(), any_value(), any_value(), any_value(), 0_i64..2), 0..40),
        measure in measures(),
        accuracy_target in prop_oneof![Just(f64::NAN), -1.0..20.0_f64],
        min_cosine in -1.0..1.0_f64,
        by_interval: bool,
        real_data: bool,
    ) {
        let scores: Vec<Score> = rows
            .iter()
            .map(|&(a, b, c, d, label)| {
                let label = [label];
                let label = if measure == Measure::Accuracy { Label::Class(label[0]) } else { Label::Positions(&label) };
                score(&Sample { label, ..logits(&[a, b], &[c, d], 2) }).unwrap()
            })
            .collect();
        let gate = Gate { accuracy_target, min_cosine, by_interval };
        let found = verdict(measure, &scores, &gate, real_data);
        prop_assert_eq!(found.samples + found.excluded, scores.len() as u64);
        prop_assert!(!found.reason.is_empty() && !found.reason.contains('\n'));
        if let (Some(estimate), Some(interval)) = (found.estimate, found.interval) {
            prop_assert!(interval.low <= estimate && estimate <= interval.high, "{found:?}");
            prop_assert!(real_data);
            if by_interval && found.outcome == Outcome::Passed {
                prop_assert!(interval.high <= found.target);
            }
        }
        prop_assert!(found.non_finite == 0 || found.outcome == Outcome::Failed);
        prop_assert!(real_data || matches!(found.outcome, Outcome::Failed | Outcome::NotVerified));
        let json = serde_json::to_string(&found).unwrap();
        prop_assert!(accuracy_target.is_nan() || serde_json::from_str::<Verdict>(&json).is_ok(), "{json}");
        if let Some(needed) = found.samples_needed {
            prop_assert!(needed > found.samples && needed <= 10_000_000, "{found:?}");
        }
    }
}
