//! Which samples the weights are fitted to, and what came of it.

use std::collections::HashMap;

use super::judge::provenance;
use super::{AUTO_BYTES, RewriteOptions, output_of};
use crate::calibrate::{Calibrated, Fitted, Likeness, PASSES, calibrate, generate};
use crate::data::{self, Samples};
use crate::error::{Kind, Result};
use crate::graph::Inventory;
use crate::onnx::{Checked, Model};
use crate::plan::{Encoding, Plan};
use crate::progress::Progress;
use crate::quant::{Algorithm, Emit, ScaleStorage};
use crate::report;

/// The samples of a run, read once, and the last calibration.
pub(super) struct Fitting<'a> {
    options: &'a RewriteOptions,
    samples: Option<(Samples, Likeness)>,
    calibrated: Calibrated,
    /// Why there are no statistics where they were wanted.
    reason: Option<String>,
}

impl<'a> Fitting<'a> {
    /// Reads the calibration samples that `options` name.
    ///
    /// # Errors
    /// Samples that cannot be read or do not fit the model.
    pub fn new(options: &'a RewriteOptions, model: &Model) -> Result<Self> {
        let specs = data::inputs(model)?;
        let samples = options.calibration.as_ref().map(|source| data::load(source, model)).transpose()?;
        // What reaches a linear from padding has no part in statistics.
        let samples = samples.map(|samples| (samples.without_padding(&specs), Likeness::Close));
        Ok(Self { options, samples, calibrated: Calibrated::default(), reason: None })
    }

    /// Fits the weights that `plan` wants fitted.
    ///
    /// # Errors
    /// An interruption, or samples of the user that the model cannot be run on.
    pub fn fit(
        &mut self,
        model: &Checked<Model>,
        known: &Inventory,
        plan: &Plan,
        progress: &dyn Progress,
    ) -> Result<&HashMap<(usize, usize), Fitted>> {
        self.calibrated = Calibrated::default();
        self.reason = None;
        let wanted = plan.decisions.iter().flat_map(|decision| &decision.uses).any(
            |usage| matches!(usage.encoding, Encoding::Blocks { algorithm, .. } if algorithm.wants_statistics()),
        );
        if !wanted {
            return Ok(&self.calibrated.fitted);
        }
        if model.size() > AUTO_BYTES && self.options.calibration.is_none() {
            self.reason = Some("the model is larger than 2 GB (--calibration runs it)".to_owned());
            return Ok(&self.calibrated.fitted);
        }
        match self.run(model, known, plan, progress) {
            Ok(calibrated) => self.calibrated = calibrated,
            Err(error) if error.kind() == Kind::Unsupported => self.reason = Some(error.to_string()),
            Err(error) => return Err(error),
        }
        Ok(&self.calibrated.fitted)
    }

    fn run(
        &mut self,
        model: &Checked<Model>,
        known: &Inventory,
        plan: &Plan,
        progress: &dyn Progress,
    ) -> Result<Calibrated> {
        let output = output_of(self.options, model, known)?;
        let (samples, likeness) = match self.samples.take() {
            Some(known) => known,
            None => self.made_up(model, known, &output.name, progress)?,
        };
        let (samples, likeness) = self.samples.insert((samples, likeness));
        calibrate(model, known, plan, &samples.list, *likeness, &output.name, progress)
    }

    /// Texts that the model writes itself if it can, else samples from what it tells of its inputs.
    fn made_up(
        &self,
        model: &Checked<Model>,
        known: &Inventory,
        output: &str,
        progress: &dyn Progress,
    ) -> Result<(Samples, Likeness)> {
        let seed = self.options.seed;
        if let Some(drafts) = data::drafts(model, known, PASSES, seed)? {
            match generate(model, &drafts, output, seed, progress) {
                Ok(Some(texts)) => return Ok((texts, Likeness::Close)),
                Ok(None) => {}
                // Other sizes may suit the runtime.
                Err(error) if error.kind() == Kind::Unsupported => {}
                Err(error) => return Err(error),
            }
        }
        Ok((data::synthetic_calibration(model, known, seed)?, Likeness::Rough))
    }

    /// The same for the report; `None` where no statistics were asked for.
    pub fn report(&self, plan: &Plan) -> Option<report::Fitting> {
        let data = match (&self.samples, self.options.calibration.is_some()) {
            (Some((samples, _)), _) => provenance(samples),
            (None, _) => report::Data::Synthetic { seed: self.options.seed },
        };
        let found = &self.calibrated;
        if found.layers.is_empty() && self.reason.is_none() {
            return None;
        }
        let layers = found.layers.iter().map(|layer| {
            let decision = plan.decisions.get(layer.decision);
            report::FittedLayer {
                tensor: decision.map_or(String::new(), |decision| decision.tensor.clone()),
                algorithm: layer.algorithm.to_owned(),
                error_by_search: layer.errors.map(|errors| errors.0),
                error: layer.errors.map(|errors| errors.1),
                fallback: layer.fallback.map(str::to_owned),
            }
        });
        Some(report::Fitting {
            data,
            samples: found.samples,
            rows: found.rows,
            layers: layers.collect(),
            skipped: self.reason.clone(),
        })
    }

    /// A warning where the samples that judge are among those that were fitted to.
    pub fn shared_with(&self, model: &Model, judges: Option<&Samples>) -> Option<String> {
        let (mine, _) = self.samples.as_ref().filter(|(samples, _)| samples.are_real())?;
        let judges = judges?;
        let count = data::coincide(mine, &judges.without_padding(&data::inputs(model).ok()?));
        (count > 0).then(|| {
            format!(
                "{count} of {} samples that judge are calibration samples too: the verdict is optimistic",
                judges.list.len()
            )
        })
    }

    /// How linears are fitted in this run.
    pub fn algorithm(&self) -> Algorithm {
        self.options.settings.algorithm
    }

    /// Type of the scales in this run.
    pub fn scales(&self) -> ScaleStorage {
        self.options.settings.scales
    }

    /// The node that takes a blocked weight in this run.
    pub fn emit(&self) -> Emit {
        self.options.settings.emit
    }

    /// What came of it.
    pub fn calibrated(&self) -> &Calibrated {
        &self.calibrated
    }
}
