//! `efq explain`.

use super::args::{Explain, General};
use super::exit::Exit;
use super::progress::Bars;
use super::tell;
use crate::error::Result;
use crate::pipeline::{ExplainOptions, explain};
use crate::report::to_json;

pub(super) fn run(args: &Explain, general: &General) -> Result<Exit> {
    let options = ExplainOptions {
        original: args.original.clone(),
        rewritten: args.rewritten.clone(),
        data: args.samples.sources(None)?.0,
        output_name: args.samples.output_name.clone(),
        seed: args.samples.seed,
    };
    let progress = Bars::new(general);
    let found = explain(&options, &progress)?;
    drop(progress);
    tell(general, || found.text(general.verbose), || to_json(&found))?;
    Ok(Exit::Done)
}
