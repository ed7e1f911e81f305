//! The frontier of size against loss: plans for several budgets, each carried out and measured.

use std::path::PathBuf;

use super::budget::{Costs, Scope};
use super::fitting::Fitting;
use super::judge::{Judge, Judged};
use super::notes::{Notes, file};
use super::{RewriteOptions, carry_out, refuse_unread};
use crate::data;
use crate::error::{Error, Result};
use crate::graph::inventory;
use crate::onnx::{load, load_bytes};
use crate::plan::{self, choose};
use crate::progress::Progress;
use crate::report::{Frontier, FrontierPoint, Validation};
use crate::settings::{Budget, Settings};

/// What [`pareto`] is asked to do.
#[derive(Debug, Clone)]
pub struct ParetoOptions {
    /// A model file, or a folder that holds one.
    pub input: PathBuf,
    /// Rules, gate and algorithm.
    pub settings: Settings,
    /// Samples that judge.
    pub data: Option<data::Source>,
    /// Samples that weights are fitted to.
    pub calibration: Option<data::Source>,
    /// The output to compare; `None` chooses it.
    pub output_name: Option<String>,
    /// Of synthetic samples.
    pub seed: u64,
    /// Budgets between the smallest and the most precise plan, both included; at least 2.
    pub points: usize,
    /// Bytes of memory that calibration may take by estimate.
    pub max_memory: u64,
}

/// Measures plans for budgets spread evenly over the sizes that a model can have.
///
/// # Errors
/// A model or samples that cannot be read, or that the runtime cannot run.
pub fn pareto(options: &ParetoOptions, progress: &dyn Progress) -> Result<Frontier> {
    let asked = RewriteOptions {
        data: options.data.clone(),
        calibration: options.calibration.clone(),
        output_name: options.output_name.clone(),
        seed: options.seed,
        max_memory: options.max_memory,
        ..RewriteOptions::new(&options.input, options.settings.clone())
    };
    refuse_unread(&asked)?;
    progress.stage("reading", 1);
    let model = load(&options.input)?;
    let known = inventory(&model);
    let samples = options.data.as_ref().map(|source| data::load(source, &model)).transpose()?;
    let remarks = samples.as_ref().map_or_else(Vec::new, |samples| samples.remarks.clone());
    let plan = choose(&model, "", &known, &options.settings)?;
    let notes = Notes::new(&model, &options.settings);
    let mut fitting = Fitting::new(&asked, &model)?;
    let mut judge = Judge::new(&asked, &model, &known, samples);
    let costs = Costs::of(&model, &known, &plan, Scope::All, &mut fitting, &mut judge, progress)?;
    let smallest = costs.extreme(&model, &known, &plan, &notes, f64::INFINITY)?;
    let finest = costs.extreme(&model, &known, &plan, &notes, 0.0)?;
    let steps = options.points.max(2) - 1;
    let mut points: Vec<FrontierPoint> = Vec::new();
    for step in 0..=steps {
        if progress.cancelled() {
            return Err(Error::interrupted());
        }
        let share = step as f64 / steps as f64;
        let most = (smallest as f64 * (finest as f64 / smallest as f64).powf(share)).ceil() as u64;
        let (mut made, _) = costs.plan(&model, &known, &plan, Budget::Size(most), 0, &notes)?;
        if !made.changes_anything() {
            continue;
        }
        plan::share(&mut made, &known);
        let fitted = fitting.fit(&model, &known, &made, progress)?;
        let bytes = carry_out(&model, &known, &made, fitted, notes.metadata(&made))?.draft.to_bytes()?;
        let size = bytes.len() as u64;
        if points.last().is_some_and(|last| last.bytes == size) {
            continue;
        }
        match judge.judge(&load_bytes(bytes)?, progress)? {
            Judged::Measured { verdict, validation } => points.push(FrontierPoint {
                bytes: size,
                rel_l2: verdict.rel_l2,
                weights_only: match validation {
                    Validation::Measured { weights_only, .. } => weights_only.rel_l2,
                    _ => None,
                },
                loss: verdict.estimate,
                unit: verdict.measure.unit().to_owned(),
                knee: false,
            }),
            Judged::Not(Validation::Skipped { reason } | Validation::Unavailable { reason }) => {
                return Err(Error::unsupported("runtime", reason));
            }
            Judged::Not(_) => {}
        }
    }
    mark_knee(&mut points);
    let warnings = [costs.warning(), fitting.shared_with(&model, judge.samples()), fitting.few()];
    let left_out = fitting.left_out().iter().chain(judge.left_out()).cloned();
    Ok(Frontier {
        schema: crate::report::SCHEMA,
        model: file(&model, model.path(), model.digest()),
        preset: options.settings.preset.clone(),
        real_samples: judge.samples().is_some(),
        points,
        warnings: remarks
            .into_iter()
            .chain(warnings.into_iter().flatten())
            .chain(left_out)
            .chain(fitting.undone())
            .collect(),
    })
}

/// The knee: the point farthest below the line from the first to the last, both axes as logarithms.
fn mark_knee(points: &mut [FrontierPoint]) {
    let place =
        |point: &FrontierPoint| ((point.bytes as f64).ln(), point.rel_l2.unwrap_or(0.0).max(1e-9).ln());
    let (Some(first), Some(last)) = (points.first().map(place), points.last().map(place)) else { return };
    let (dx, dy) = (last.0 - first.0, last.1 - first.1);
    let below = |point: &FrontierPoint| {
        let (x, y) = place(point);
        (first.1 + dy * (x - first.0) / dx) - y
    };
    if points.len() < 3 || dx <= 0.0 {
        return;
    }
    let inner = 1..points.len() - 1;
    let knee = inner.max_by(|a, b| below(&points[*a]).total_cmp(&below(&points[*b])));
    if let Some(point) = knee.and_then(|at| points.get_mut(at)) {
        point.knee = true;
    }
}
