//! `efq presets`.

use super::args::{Presets, PresetsCommand};
use super::exit::Exit;
use super::print;
use crate::error::{Error, Result};
use crate::preset::{self, Preset, builtin_names, builtin_text};
use crate::report::table;

pub(super) fn run(args: &Presets) -> Result<Exit> {
    match &args.show {
        Some(PresetsCommand::Show { name }) => match builtin_text(name) {
            Some(text) => print(text)?,
            // Gives the error with the nearest name.
            None => {
                let loaded = preset::load(name)?;
                return Err(Error::caller(loaded.origin.to_string(), "is a file, not a built-in preset"));
            }
        },
        None => print(&list())?,
    }
    Ok(Exit::Done)
}

fn list() -> String {
    let mut rows =
        table(&["preset", "target", "decided by", "block", "zero points", "stays in full precision"]);
    for preset in builtin_names().filter_map(Preset::builtin) {
        let kept: Vec<&str> = preset.keep.iter().map(|keep| keep.name.as_str()).collect();
        rows.add_row([
            preset.name.clone(),
            format!("{} %", preset.accuracy_target),
            preset.decide_by.name().to_owned(),
            preset.block_size.name().to_owned(),
            if preset.symmetric { "no" } else { "yes" }.to_owned(),
            if kept.is_empty() { "nothing".to_owned() } else { kept.join(", ") },
        ]);
    }
    format!(
        "{}\n\nNo preset certifies anything. `efq presets show NAME` prints one to start from.\n",
        crate::report::lines(&rows)
    )
}
