use super::*;

fn gate(accuracy_target: f64, by_interval: bool) -> Gate {
    Gate { accuracy_target, min_cosine: 0.99, by_interval }
}

/// `lost` samples that only the original has right, `gained` the other way round, of `n`.
fn labelled(lost: usize, gained: usize, n: usize) -> Vec<Score> {
    (0..n)
        .map(|index| Score {
            positions: 1,
            cosine: 1.0,
            likeness: 1.0,
            predictions: 1,
            changed: u64::from(index < lost + gained),
            labels: 1,
            correct_reference: u64::from(index < lost || index >= lost + gained),
            correct_candidate: u64::from(index >= lost),
            squared_error: 1e-4,
            squared_reference: 1.0,
            ..Score::default()
        })
        .collect()
}

/// Cosines 1 − d for distances around `mean`.
fn distant(mean: f64, n: usize) -> Vec<Score> {
    let distance = |index: usize| mean * (0.9 + 0.2 * (index % 2) as f64);
    (0..n)
        .map(|index| Score {
            positions: 1,
            likeness: 1.0 - distance(index),
            squared_error: 1e-4,
            ..Score::default()
        })
        .collect()
}

fn outcome(found: &Verdict) -> (Outcome, Option<u64>) {
    (found.outcome, found.samples_needed)
}

#[test]
fn unchanged_accuracy_still_has_an_upper_end() {
    let found = verdict(Measure::Accuracy, &labelled(0, 0, 2000), &gate(0.5, true), true);
    assert_eq!((found.estimate, outcome(&found)), (Some(0.0), (Outcome::Passed, None)));
    assert!((found.interval.unwrap().high - 0.1917).abs() < 1e-4);

    let few = verdict(Measure::Accuracy, &labelled(0, 0, 100), &gate(0.5, true), true);
    let (decided, needed) = outcome(&few);
    assert_eq!((decided, needed), (Outcome::Undecided, Some(765)), "3.8415 (1 / 0.005 − 1) = 764.5");
    let enough = verdict(Measure::Accuracy, &labelled(0, 0, 765), &gate(0.5, true), true);
    assert_eq!(enough.outcome, Outcome::Passed);
}

#[test]
fn identical_outputs_pass() {
    let same = |n| -> Vec<Score> {
        labelled(0, 0, n).into_iter().map(|score| Score { squared_error: 1e-13, ..score }).collect()
    };
    for measure in [Measure::Accuracy, Measure::Changed, Measure::Likeness] {
        for by_interval in [true, false] {
            let found = verdict(measure, &same(5), &gate(0.3, by_interval), true);
            assert_eq!(outcome(&found), (Outcome::Passed, None), "{measure:?} {by_interval}");
            assert_eq!(found.reason, "the outputs are identical on all 5 samples");
        }
    }
    // One sample, one that differs, one that could not be compared, made-up ones: not the same.
    let not = |scores: &[Score], real| verdict(Measure::Accuracy, scores, &gate(0.3, true), real).outcome;
    assert_eq!(not(&same(1), true), Outcome::Undecided);
    assert_eq!(not(&same(5), false), Outcome::NotVerified);
    for change in [
        |score: &mut Score| score.squared_error = 1e-11,
        |score: &mut Score| score.skipped = 1,
        |score: &mut Score| score.positions = 0,
    ] {
        let mut scores = same(5);
        change(&mut scores[3]);
        assert_eq!(not(&scores, true), Outcome::Undecided);
    }
}

/// 0.3 points on 200 samples, of which one is half a point.
#[test]
fn a_target_finer_than_the_samples() {
    let reason = |lost| verdict(Measure::Accuracy, &labelled(lost, 0, 200), &gate(0.3, true), true).reason;
    let exactly = verdict(Measure::Accuracy, &labelled(1, 0, 200), &gate(0.5, true), true).reason;
    insta::assert_snapshot!([reason(0), reason(1), exactly].join("\n"), @r"
    the loss of accuracy is between -1.88 and 1.88 points (95 % interval), on both sides of 0.3 points; about 1277 samples would decide if the estimate holds
    the loss of accuracy is between -1.39 and 2.78 points (95 % interval), on both sides of 0.3 points; about 2873 samples would decide if the estimate holds
    the loss of accuracy is between -1.39 and 2.78 points (95 % interval), on both sides of 0.5 points; at least 765 samples are needed to show that it is held
    ");
}

#[test]
fn the_number_needed_decides() {
    for (lost, gained) in [(3, 1), (7, 0), (12, 10)] {
        let found = verdict(Measure::Accuracy, &labelled(lost, gained, 400), &gate(1.0, true), true);
        let Outcome::Undecided = found.outcome else { panic!("{found:?}") };
        let times = found.samples_needed.unwrap().div_ceil(400) as usize;
        let more = labelled(lost * times, gained * times, 400 * times);
        assert_ne!(verdict(Measure::Accuracy, &more, &gate(1.0, true), true).outcome, Outcome::Undecided);
    }
    let even = verdict(Measure::Accuracy, &labelled(4, 0, 400), &gate(1.0, true), true);
    assert_eq!(outcome(&even), (Outcome::Undecided, None), "no number decides what lies on the target");
}

#[test]
fn a_loss_that_is_sure() {
    let found = verdict(Measure::Accuracy, &labelled(100, 2, 1000), &gate(1.0, true), true);
    assert_eq!(outcome(&found), (Outcome::Failed, None));
    let gain = verdict(Measure::Accuracy, &labelled(2, 100, 1000), &gate(0.5, true), true);
    assert_eq!(outcome(&gain), (Outcome::Passed, None));
    assert!(gain.estimate.unwrap() < 0.0);
}

#[test]
fn by_the_estimate_the_doubt_is_stated() {
    let found = verdict(Measure::Accuracy, &labelled(3, 0, 1000), &gate(0.5, false), true);
    assert_eq!(found.outcome, Outcome::Passed);
    assert!(found.samples_needed.is_some() && found.reason.contains("both sides"), "{}", found.reason);
    let failed = verdict(Measure::Accuracy, &labelled(6, 0, 1000), &gate(0.5, false), true);
    assert_eq!(failed.outcome, Outcome::Failed);
}

#[test]
fn one_sample_decides_nothing() {
    for (measure, scores) in [(Measure::Accuracy, labelled(0, 0, 1)), (Measure::Likeness, distant(0.001, 1))]
    {
        for by_interval in [true, false] {
            let found = verdict(measure, &scores, &gate(0.5, by_interval), true);
            assert_eq!(outcome(&found), (Outcome::Undecided, None), "{measure:?} {by_interval}");
        }
    }
    let none = verdict(Measure::Perplexity, &labelled(0, 0, 9), &gate(0.5, false), true);
    assert_eq!((outcome(&none), none.excluded, none.estimate), ((Outcome::Undecided, None), 9, None));
}

#[test]
fn a_mean_of_few_samples_does_not_decide() {
    let few = verdict(Measure::Likeness, &distant(0.001, 29), &gate(0.5, true), true);
    assert_eq!(outcome(&few), (Outcome::Undecided, Some(30)));
    assert!(few.interval.unwrap().high < few.target);
    assert_eq!(
        verdict(Measure::Likeness, &distant(0.001, 30), &gate(0.5, true), true).outcome,
        Outcome::Passed
    );
    assert_eq!(
        verdict(Measure::Likeness, &distant(0.1, 30), &gate(0.5, true), true).outcome,
        Outcome::Failed
    );
    assert_eq!(
        verdict(Measure::Likeness, &distant(0.001, 29), &gate(0.5, false), true).outcome,
        Outcome::Passed
    );
}

#[test]
fn unchanged_predictions_still_have_an_upper_end() {
    let sample = Score { predictions: 128, positions: 128, squared_error: 1.0, ..Score::default() };
    let found = verdict(Measure::Changed, &[sample; 256], &gate(1.0, true), true);
    assert!((found.interval.unwrap().high - 100.0 * (1.0 - 0.025_f64.powf(1.0 / 256.0))).abs() < 1e-6);
    assert_eq!(outcome(&found), (Outcome::Undecided, Some(368)), "ln 0.025 / ln 0.99 = 367.04");
}

#[test]
fn made_up_samples_verify_nothing_but_may_break() {
    let mut scores = labelled(0, 0, 2000);
    let found = verdict(Measure::Accuracy, &scores, &gate(0.5, true), false);
    assert_eq!((outcome(&found), found.interval), ((Outcome::NotVerified, None), None));
    assert_eq!(found.estimate, Some(0.0));
    scores[7].non_finite = 1;
    for real_data in [true, false] {
        let broken = verdict(Measure::Accuracy, &scores, &gate(0.5, true), real_data);
        assert_eq!((broken.outcome, broken.non_finite), (Outcome::Failed, 1));
    }
}

#[test]
fn a_target_that_is_no_number_decides_nothing() {
    for by_interval in [true, false] {
        let found = verdict(Measure::Accuracy, &labelled(1, 0, 100), &gate(f64::NAN, by_interval), true);
        assert_eq!(outcome(&found), (Outcome::Undecided, None));
    }
}

#[test]
fn reasons() {
    let accuracy = |lost, n, by_interval, real| {
        verdict(Measure::Accuracy, &labelled(lost, 0, n), &gate(0.5, by_interval), real).reason
    };
    let cosine =
        |n, by_interval| verdict(Measure::Likeness, &distant(0.001, n), &gate(0.5, by_interval), true).reason;
    let broken = [Score { non_finite: 3, ..Score::default() }];
    let reasons = [
        accuracy(0, 2000, true, true),
        accuracy(0, 100, true, true),
        accuracy(50, 1000, true, true),
        accuracy(2, 1000, false, true),
        accuracy(0, 2000, false, true),
        accuracy(20, 1000, false, true),
        accuracy(0, 1, false, true),
        accuracy(0, 0, true, true),
        accuracy(0, 2000, true, false),
        cosine(20, true),
        cosine(300, true),
        cosine(1, false),
        verdict(Measure::Likeness, &broken, &gate(0.5, true), true).reason,
    ];
    insta::assert_snapshot!(reasons.join("\n"), @r"
    the loss of accuracy is at most 0.192 points (95 % interval), within 0.5 points
    the loss of accuracy is between -3.7 and 3.7 points (95 % interval), on both sides of 0.5 points; about 765 samples would decide if the estimate holds
    the loss of accuracy is at least 3.81 points (95 % interval), beyond 0.5 points
    the loss of accuracy is 0.2 points (estimate), within 0.5 points; the 95 % interval from -0.183 to 0.726 points lies on both sides of it; about 2124 samples would decide if the estimate holds
    the loss of accuracy is 0 points (estimate), within 0.5 points
    the loss of accuracy is 2 points (estimate), beyond 0.5 points
    one sample cannot tell how the loss varies
    no sample has anything to judge by
    the samples are not real data: they show a distance, not a loss
    20 samples are too few for an interval to decide; about 30 samples would decide if the estimate holds
    the distance of the outputs is at most 0.101 % (95 % interval), within 1 %
    one sample cannot tell how the loss varies
    3 values of the rewritten model are NaN or infinite where the original is finite
    ");
}

#[test]
fn a_ruined_model_still_has_a_figure() {
    let scores = [Score { tokens: 1, nll_candidate: 1e38, ..Score::default() }; 40];
    let found = verdict(Measure::Perplexity, &scores, &gate(0.5, true), true);
    assert_eq!(
        (found.outcome, found.estimate, found.perplexity),
        (Outcome::Failed, Some(1e12), Some((1.0, 1e12)))
    );
}

/// No loss has an exponent or digits that say nothing, and a target is told as it was asked for.
#[test]
fn figures_are_fit_to_be_read() {
    let reason = |mean, by_interval, min_cosine| {
        let gate = Gate { accuracy_target: 1.0, min_cosine, by_interval };
        verdict(Measure::Likeness, &distant(mean, 40), &gate, true).reason
    };
    assert_eq!(reason(1e-7, false, 0.99), "the distance of the outputs is < 0.001 % (estimate), within 1 %");
    assert_eq!(
        reason(1e-7, true, 0.99),
        "the distance of the outputs is < 0.001 % (95 % interval), within 1 %"
    );
    let small = reason(1e-5, false, 0.999_999);
    assert_eq!(small, "the distance of the outputs is 0.001 % (estimate), beyond 0.0001 %");
    assert_eq!([figure(0.0), figure(-4e-4), figure(-0.25)], ["0", "> -0.001", "-0.25"]);
}
