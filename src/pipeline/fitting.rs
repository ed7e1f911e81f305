//! Which samples the weights are fitted to, and what came of it.

use std::collections::HashMap;
use std::path::Path;

use super::blame::blame;
use super::judge::provenance;
use super::left_out::to_fit;
use super::{RewriteOptions, memory, output_of};
use crate::calibrate::{
    Calibrated, Fitted, LEAST_SAMPLES, Likeness, Material, PASSES, calibrate, from_statistics, generate,
    weight_beside,
};
use crate::data::{self, Origin, Sample, Samples};
use crate::error::{Error, Kind, Result};
use crate::graph::Inventory;
use crate::onnx::staged::StagedFile;
use crate::onnx::{Checked, Model, map_file};
use crate::plan::{FittedTo, Plan};
use crate::progress::Progress;
use crate::quant::Algorithm;
use crate::report;
use crate::settings::Settings;
use crate::statistics::Kept;

/// Rows made up beside real ones that are few: more than they count as, for what moments they have.
const MADE_ROWS: u64 = 8192;

/// What a file of statistics says of itself.
const MODEL: &str = "model_blake3";
const SOURCE: &str = "source";
const SAMPLES: &str = "samples";
const LIKENESS: &str = "likeness";
const CLOSE: &str = "close";

/// The samples of a run, read once, and the last calibration.
pub(super) struct Fitting<'a> {
    options: &'a RewriteOptions,
    samples: Option<(Samples, Likeness)>,
    /// Samples made up beside real ones, once they were asked for.
    beside: Option<Vec<Sample>>,
    calibrated: Calibrated,
    /// Statistics of an earlier run, in the place of samples.
    kept: Option<(Kept, report::StatisticsFile)>,
    /// Statistics of this run, not yet under their name.
    staged: Option<StagedFile>,
    /// Why there are no statistics where they were wanted.
    reason: Option<String>,
    /// Samples that were left out, and why.
    left_out: Vec<String>,
}

impl<'a> Fitting<'a> {
    /// Reads the calibration samples that `options` name.
    ///
    /// # Errors
    /// Samples that cannot be read, do not fit the model or hold no numbers.
    pub fn new(options: &'a RewriteOptions, model: &Model) -> Result<Self> {
        let specs = data::inputs(model)?;
        let samples = options.calibration.as_ref().map(|source| data::load(source, model)).transpose()?;
        // What reaches a linear from padding has no part in statistics.
        let useful = samples.map(|samples| to_fit(samples.without_padding(&specs))).transpose()?;
        let (samples, left_out) = useful
            .map_or_else(Default::default, |useful| (Some((useful.samples, Likeness::Close)), useful.told));
        let existing = options.statistics.as_deref().filter(|path| path.exists());
        let kept = match existing {
            Some(path) if options.calibration.is_none() => Some(read_statistics(path, model)?),
            Some(path) if !options.overwrite => {
                return Err(Error::caller(path.display().to_string(), "holds statistics already")
                    .help("leave --calibration out to use them, or --force to replace them"));
            }
            _ => None,
        };
        Ok(Self {
            options,
            samples,
            beside: None,
            calibrated: Calibrated::default(),
            kept,
            staged: None,
            reason: None,
            left_out,
        })
    }

    /// The calibration samples of the user.
    pub fn given(&self) -> Option<&[Sample]> {
        let (samples, _) = self.samples.as_ref().filter(|(samples, _)| samples.are_real())?;
        Some(&samples.list)
    }

    /// What this run fits the weights of `plan` to, in the plan's words where that is the same.
    pub fn fitted_to(&self, plan: &Plan) -> Option<FittedTo> {
        if !plan.is_fitted() {
            return None;
        }
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let seed = self.options.seed;
        let now = match (&self.kept, self.samples.as_ref().map(|(samples, _)| &samples.origin)) {
            (Some((_, file)), _) => FittedTo::Statistics {
                name: name(Path::new(&file.path)).unwrap_or_default(),
                blake3: file.blake3.clone(),
            },
            (None, Some(Origin::File { path, blake3 })) => {
                FittedTo::Samples { name: name(path).unwrap_or_default(), blake3: blake3.clone(), seed }
            }
            _ => FittedTo::MadeUp { seed },
        };
        Some(plan.fitted_to.clone().filter(|told| told.is_same(&now)).unwrap_or(now))
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
        if !plan.is_fitted() {
            return Ok(&self.calibrated.fitted);
        }
        if let Some((kept, _)) = &self.kept {
            let likeness = if kept.about.get(LIKENESS).is_some_and(|like| like == CLOSE) {
                Likeness::Close
            } else {
                Likeness::Rough
            };
            self.calibrated = from_statistics(model, known, plan, kept, likeness, progress)?;
            return Ok(&self.calibrated.fitted);
        }
        if self.options.calibration.is_none() {
            self.reason = memory::too_large(model, known, &[], self.options.max_memory, "--max-memory");
            if self.reason.is_some() {
                return Ok(&self.calibrated.fitted);
            }
        }
        match self.run(model, known, plan, progress) {
            Ok(calibrated) => {
                self.calibrated = calibrated;
                self.keep(model)?;
            }
            Err(error) => match self.blame(error, model, known, progress) {
                error if error.kind() == Kind::Unsupported => self.reason = Some(error.to_string()),
                error => return Err(error),
            },
        }
        Ok(&self.calibrated.fitted)
    }

    /// `error` as one of the user's samples, where they are at fault.
    fn blame(
        &self,
        error: Error,
        model: &Checked<Model>,
        known: &Inventory,
        progress: &dyn Progress,
    ) -> Error {
        match &self.samples {
            // Of a plan that calibration cannot serve.
            _ if error.is_about("calibration") => error,
            Some((samples, _)) => blame(error, samples, self.options, model, known, progress),
            None => error,
        }
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
            None => self.made_up(model, known, &output.name, None, progress)?,
        };
        let beside = match self.beside.take() {
            Some(known) => known,
            None if samples.are_real() && self.options.steps.beside => {
                self.made_up_beside(model, known, &output.name, &samples.list, progress)?
            }
            None => Vec::new(),
        };
        let keep = self.keeps();
        let (samples, likeness) = self.samples.insert((samples, likeness));
        let beside = self.beside.insert(beside);
        let limits =
            memory::limits(model, known, samples.list.iter().chain(&*beside), self.options.max_memory);
        let material = Material { samples: &samples.list, likeness: *likeness, beside, limits };
        calibrate(model, known, plan, material, self.options.steps, keep, &output.name, progress)
    }

    /// Whether the statistics of this run are still to be kept.
    fn keeps(&self) -> bool {
        self.options.statistics.is_some() && self.kept.is_none() && self.staged.is_none()
    }

    /// Writes the statistics of this run down, once; they get their name with the model, so that a run that fails leaves
    /// nothing that the next one would stumble over.
    fn keep(&mut self, model: &Model) -> Result<()> {
        let parts = std::mem::take(&mut self.calibrated.kept);
        let (Some(path), Some((samples, likeness))) = (&self.options.statistics, &self.samples) else {
            return Ok(());
        };
        if parts.is_empty() {
            return Ok(());
        }
        let source = serde_json::to_string(&provenance(samples)).unwrap_or_default();
        let likeness = if *likeness == Likeness::Close { CLOSE } else { "rough" };
        let about = [
            ("efq_version", env!("CARGO_PKG_VERSION").to_owned()),
            (MODEL, model.digest().to_owned()),
            (SOURCE, source),
            (SAMPLES, samples.list.len().to_string()),
            (LIKENESS, likeness.to_owned()),
        ];
        let about = about.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        self.staged = Some(StagedFile::new(path, &Kept { about, parts }.to_bytes()?)?);
        Ok(())
    }

    /// Gives the statistics of this run their name, where some were kept.
    ///
    /// # Errors
    /// The file exists (without `overwrite`), or cannot be written.
    pub fn publish(&mut self) -> Result<()> {
        self.staged.take().map_or(Ok(()), |staged| staged.publish(self.options.overwrite))
    }

    /// Samples to go beside real ones; none where none can be made up.
    fn made_up_beside(
        &self,
        model: &Checked<Model>,
        known: &Inventory,
        output: &str,
        real: &[Sample],
        progress: &dyn Progress,
    ) -> Result<Vec<Sample>> {
        let rows = real.iter().map(memory::positions).fold(0, u64::saturating_add);
        let counted = weight_beside(usize::try_from(rows).unwrap_or(usize::MAX)) as u64;
        let wanted = if counted * 2 > rows { counted.max(MADE_ROWS) } else { counted };
        let mut list = match self.made_up(model, known, output, Some(wanted), progress) {
            Ok((samples, _)) => samples.list,
            Err(error) if error.kind() == Kind::Unsupported => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        keep_rows(&mut list, wanted);
        Ok(list)
    }

    /// Texts that the model writes itself if it can, else samples from what it tells of its inputs; where only
    /// so many `rows` are of use, the texts are no more.
    fn made_up(
        &self,
        model: &Checked<Model>,
        known: &Inventory,
        output: &str,
        rows: Option<u64>,
        progress: &dyn Progress,
    ) -> Result<(Samples, Likeness)> {
        let seed = self.options.seed;
        if let Some(mut drafts) = data::drafts(model, known, PASSES, seed)? {
            if let Some(rows) = rows {
                keep_rows(&mut drafts.samples.list, rows);
            }
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
        let kept = self.kept.as_ref().map(|(kept, _)| &kept.about);
        let told = |key: &str| kept.and_then(|about| about.get(key)).map_or("", String::as_str);
        let data = serde_json::from_str(told(SOURCE)).unwrap_or_else(|_| {
            match (&self.samples, self.options.calibration.is_some()) {
                (Some((samples, _)), _) => provenance(samples),
                (None, _) => report::Data::Synthetic { seed: self.options.seed, made: String::new() },
            }
        });
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
        let samples = told(SAMPLES).parse().unwrap_or(found.samples);
        Some(report::Fitting {
            judged_by_real: matches!(data, report::Data::File { .. }) && samples >= LEAST_SAMPLES,
            data,
            statistics: self.kept.as_ref().map(|(_, file)| file.clone()),
            samples,
            beside: self.beside.as_ref().map_or(0, Vec::len),
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

    /// Warnings where what was asked for was not done: no weight was fitted to the user's samples, or their statistics were
    /// not kept.
    pub fn undone(&self) -> Vec<String> {
        let mut out = Vec::new();
        let reason = self.reason.as_deref();
        if let (Some(source), Some(reason)) = (&self.options.calibration, reason) {
            out.push(format!("no weight was fitted to --calibration {}: {reason}", source.path.display()));
        }
        let kept = self.kept.is_some() || self.staged.is_some();
        if let (Some(path), false) = (&self.options.statistics, kept) {
            let why = reason.unwrap_or("no statistics were collected");
            out.push(format!("--statistics {} was not written: {why}", path.display()));
        }
        out
    }

    /// Warnings of samples that were of no use.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// What of the source of the samples is not in them.
    pub fn remarks(&self) -> &[String] {
        self.samples.as_ref().map_or(&[], |(samples, _)| &samples.remarks)
    }

    /// A warning where the samples are too few to say much.
    pub fn few(&self) -> Option<String> {
        let (mine, _) = self.samples.as_ref().filter(|(samples, _)| samples.are_real())?;
        let count = mine.list.len();
        (count < LEAST_SAMPLES && self.reason.is_none()).then(|| {
            let are = if count == 1 { "sample is" } else { "samples are" };
            format!("{count} calibration {are} few: made-up ones count more than they do, a few hundred would be plenty")
        })
    }

    /// How linears are fitted in this run.
    pub fn algorithm(&self) -> Algorithm {
        self.options.settings.algorithm
    }

    /// What decides in this run.
    pub fn settings(&self) -> &Settings {
        &self.options.settings
    }

    /// What came of it.
    pub fn calibrated(&self) -> &Calibrated {
        &self.calibrated
    }
}

/// Cuts `list` where its samples have `rows` rows; one stays at least.
fn keep_rows(list: &mut Vec<Sample>, rows: u64) {
    let mut sum = 0;
    let enough = list.iter().position(|sample| {
        sum += memory::positions(sample);
        sum >= rows
    });
    list.truncate(enough.map_or(list.len(), |last| last + 1));
}

/// Statistics that an earlier run kept, for `model` only.
fn read_statistics(path: &Path, model: &Model) -> Result<(Kept, report::StatisticsFile)> {
    let place = |error: Error| error.within(path.display());
    let bytes = map_file(path)?;
    let kept = Kept::from_bytes(&bytes).map_err(place)?;
    let about = |key: &str| kept.about.get(key).cloned().unwrap_or_default();
    if about(MODEL) != model.digest() {
        return Err(place(
            Error::format("statistics", "are of another model")
                .help("collect them anew: --calibration FILE --statistics NEW_FILE"),
        ));
    }
    let file = report::StatisticsFile {
        path: path.display().to_string(),
        blake3: blake3::hash(&bytes).to_hex().to_string(),
    };
    Ok((kept, file))
}
