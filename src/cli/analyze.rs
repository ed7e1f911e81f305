//! `efq analyze`.

use super::args::{AlgorithmArg, Analyze, Format, General};
use super::exit::Exit;
use super::print;
use super::progress::Bars;
use crate::error::Result;
use crate::pipeline::{AnalyzeOptions, analyze};
use crate::quant::Algorithm;
use crate::report::to_json;

pub(super) fn run(args: &Analyze, general: &General) -> Result<Exit> {
    let options = AnalyzeOptions {
        input: args.model.clone(),
        data: args.samples.source(),
        output_name: args.samples.output_name.clone(),
        algorithm: match args.algorithm {
            AlgorithmArg::Rtn => Algorithm::Rtn,
            AlgorithmArg::Percentile => Algorithm::Percentile { percent: 99.9 },
            AlgorithmArg::Search => Algorithm::Search,
        },
    };
    let progress = Bars::new(general);
    let analysis = analyze(&options, &progress)?;
    drop(progress);
    print(&match general.format {
        Format::Json => to_json(&analysis),
        Format::Text => analysis.text(general.verbose),
    })?;
    Ok(Exit::Done)
}
