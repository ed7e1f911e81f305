//! Whose fault it is that a model cannot be run on samples: theirs, where they are the user's and made-up ones run.

use std::collections::HashSet;

use super::{RewriteOptions, output_of};
use crate::data::{self, InputSpec, Origin, Sample, Samples, Sequence};
use crate::engine::{Runner, Variant};
use crate::error::{Error, Kind, Result};
use crate::graph::Inventory;
use crate::onnx::{Checked, Model};
use crate::progress::Progress;

/// Positions that any model of sequences takes.
const FEW: usize = 4;

/// `error` of running `model` on `samples`, as one of their file where the runtime can run the model on made-up samples and
/// not on one of them; else as it is.
pub(super) fn blame(
    error: Error,
    samples: &Samples,
    options: &RewriteOptions,
    model: &Checked<Model>,
    known: &Inventory,
    progress: &dyn Progress,
) -> Error {
    let Origin::File { path, .. } = &samples.origin else { return error };
    if error.kind() != Kind::Unsupported {
        return error;
    }
    let find = || -> Result<Option<Error>> {
        let runner = Runner::new(model, &output_of(options, model, known)?.name, Variant::WeightsOnly)?;
        let run = |sample: &Sample| {
            progress.advance(0);
            if progress.cancelled() { Err(Error::interrupted()) } else { runner.run(sample).map(drop) }
        };
        let specs = data::inputs(model)?;
        for sample in &data::synthetic(model, known, 1, options.seed)?.list {
            // The tables of a model need not tell how long the samples may be that are made up for it.
            run(sample).or_else(|_| run(&short(sample, &specs)))?;
        }
        for at in by_shape(&samples.list) {
            let Some(sample) = samples.list.get(at) else { continue };
            match run(sample) {
                Ok(()) => {}
                Err(stop) if stop.kind() == Kind::Interrupted => return Err(stop),
                Err(why) => {
                    let found = reason(samples, at, sample, &specs, &why, &run);
                    return if progress.cancelled() { Err(Error::interrupted()) } else { Ok(Some(found)) };
                }
            }
        }
        Ok(None)
    };
    match find() {
        Ok(Some(found)) => found.of_file(path),
        Err(stop) if stop.kind() == Kind::Interrupted => stop,
        // The runtime cannot run the model at all, or can run it on every sample.
        _ => error,
    }
}

/// `sample` with few positions.
fn short(sample: &Sample, specs: &[InputSpec]) -> Sample {
    let mut short = sample.clone();
    for sequence in sample.sequences(specs) {
        if let Some(cut) = short.first_positions(specs, &sequence, sequence.length.min(FEW)) {
            short = cut;
        }
    }
    short
}

/// Numbers of all samples: one of each shape, then the others.
fn by_shape(list: &[Sample]) -> Vec<usize> {
    let mut known = HashSet::new();
    let (mut first, others): (Vec<usize>, Vec<usize>) =
        (0..list.len()).partition(|at| list.get(*at).is_some_and(|sample| known.insert(sample.shapes())));
    first.extend(others);
    first
}

/// Why sample `at` cannot be run: by its length, or as the runtime says.
fn reason(
    samples: &Samples,
    at: usize,
    sample: &Sample,
    specs: &[InputSpec],
    why: &Error,
    run: &dyn Fn(&Sample) -> Result<()>,
) -> Error {
    for sequence in sample.sequences(specs) {
        let Some(most) = longest(sample, specs, &sequence, run) else { continue };
        let length = |sample: &Sample| {
            let found = sample.sequences(specs).into_iter().find(|other| other.input == sequence.input);
            found.map_or(0, |other| other.length)
        };
        let longer = samples.list.iter().filter(|sample| length(sample) > most).count();
        let what = format!("{} positions in sample {at}, the model takes {most}", sequence.length);
        let help = format!("{longer} of {} samples have more: cut or split them", samples.list.len());
        return Error::format(format!("'{}'", sequence.input), what).help(help);
    }
    let what = format!("the model cannot be run on it, though it can on made-up samples: {why}");
    Error::format(format!("sample {at}"), what)
}

/// The most positions of `sequence` with which `sample` can be run, where one more cannot whatever stands there; `None` where
/// its length is not the cause.
fn longest(
    sample: &Sample,
    specs: &[InputSpec],
    sequence: &Sequence,
    run: &dyn Fn(&Sample) -> Result<()>,
) -> Option<usize> {
    let cut = |count: usize| sample.first_positions(specs, sequence, count);
    let runs = |count: usize| cut(count).is_some_and(|sample| run(&sample).is_ok());
    let (mut least, mut beyond) = (sequence.length / 2, sequence.length);
    while least > 0 && !runs(least) {
        (least, beyond) = (least / 2, least);
    }
    if least == 0 {
        return None;
    }
    while beyond - least > 1 {
        let middle = least.midpoint(beyond);
        if runs(middle) {
            least = middle;
        } else {
            beyond = middle;
        }
    }
    let next = Sequence { length: beyond, ..sequence.clone() };
    let other = cut(beyond)?.with_first_at_end(specs, &next)?;
    run(&other).is_err().then_some(least)
}
