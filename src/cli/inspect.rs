//! `efq inspect`.

use super::args::{Format, General, Inspect};
use super::exit::Exit;
use super::print;
use crate::error::Result;
use crate::pipeline::inspect;
use crate::preset;
use crate::report::to_json;
use crate::settings::{Overrides, Settings};

pub(super) fn run(args: &Inspect, general: &General) -> Result<Exit> {
    let settings = Settings::new(&preset::load(&args.preset)?, &Overrides::default())?;
    let inspection = inspect(&args.model, &settings)?;
    print(&match general.format {
        Format::Json => to_json(&inspection),
        Format::Text => inspection.text(general.verbose),
    })?;
    Ok(Exit::Done)
}
