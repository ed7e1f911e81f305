//! `efq inspect`.

use super::args::{General, Inspect};
use super::exit::Exit;
use super::tell;
use crate::error::{Error, Result};
use crate::pipeline::inspect;
use crate::preset;
use crate::report::to_json;
use crate::settings::{Overrides, Settings};

pub(super) fn run(args: &Inspect, general: &General) -> Result<Exit> {
    let settings =
        Settings::new(&preset::load(&args.preset).map_err(Error::of_caller)?, &Overrides::default())?;
    let inspection = inspect(&args.model, &settings)?;
    tell(general, || inspection.text(general.verbose), || to_json(&inspection))?;
    Ok(Exit::Done)
}
