//! `efq completions`.

use clap::CommandFactory as _;

use super::args::{Args, Completions};
use super::exit::Exit;
use super::print;
use crate::error::Result;

pub(super) fn run(args: &Completions) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "efq", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
