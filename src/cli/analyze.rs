//! `efq analyze`.

use super::args::{Analyze, General};
use super::exit::Exit;
use super::options::WeightAlgorithmArg;
use super::progress::Bars;
use super::tell;
use crate::error::Result;
use crate::pipeline::{AnalyzeOptions, analyze};
use crate::quant::Algorithm;
use crate::report::to_json;

pub(super) fn run(args: &Analyze, general: &General) -> Result<Exit> {
    let options = AnalyzeOptions {
        input: args.model.clone(),
        data: args.samples.sources(None)?.0,
        output_name: args.samples.output_name.clone(),
        algorithm: match args.algorithm {
            WeightAlgorithmArg::Rtn => Algorithm::Rtn,
            WeightAlgorithmArg::Percentile => Algorithm::Percentile { percent: 99.9 },
            WeightAlgorithmArg::Search => Algorithm::Search,
        },
    };
    let progress = Bars::new(general);
    let analysis = analyze(&options, &progress)?;
    drop(progress);
    tell(general, || analysis.text(general.verbose), || to_json(&analysis))?;
    Ok(Exit::Done)
}
