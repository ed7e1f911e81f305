//! `efq completions`.

use clap::CommandFactory as _;

use super::args::{Args, Completions, Format, General};
use super::exit::Exit;
use super::print;
use crate::error::{Error, Result};

pub(super) fn run(args: &Completions, general: &General) -> Result<Exit> {
    if general.format == Format::Json {
        return Err(Error::caller("--format json", "a completion script has one form").help("leave it out"));
    }
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "efq", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
