//! `efq presets`.

use serde_json::Value;

use super::args::{Format, General, Presets, PresetsCommand};
use super::exit::Exit;
use super::{print, tell};
use crate::error::{Error, Kind, Result};
use crate::preset::{self, Preset, builtin_names, builtin_text};
use crate::report::{Grid, to_json};

pub(super) fn run(args: &Presets, general: &General) -> Result<Exit> {
    match &args.show {
        Some(PresetsCommand::Show { name }) => print(&show(name, general.format)?)?,
        None => tell(general, list, || to_json(&Value::from_iter(builtin_names().filter_map(as_json))))?,
    }
    Ok(Exit::Done)
}

/// The preset as its file has it, or the same keys and values as JSON.
fn show(name: &str, format: Format) -> Result<String> {
    let Some(text) = builtin_text(name) else {
        // Gives the error with the nearest name.
        let loaded = preset::load(name).map_err(Error::of_caller)?;
        return Err(Error::caller(loaded.origin.to_string(), "is a file, not a built-in preset"));
    };
    match format {
        Format::Text => Ok(text.to_owned()),
        Format::Json => as_json(name)
            .map(|value| to_json(&value))
            .ok_or_else(|| Error::new(Kind::Format, name, "is not to be read as JSON")),
    }
}

fn as_json(name: &str) -> Option<Value> {
    serde_yaml::from_str(builtin_text(name)?).ok()
}

fn list() -> String {
    let mut rows = Grid::new(&["preset", "accepts", "weights", "keeps in full precision"]);
    for preset in builtin_names().filter_map(Preset::builtin) {
        let kept: Vec<&str> = preset.keep.iter().map(|keep| keep.name.as_str()).collect();
        rows.row([
            preset.name.clone(),
            format!("{} % {}", preset.accuracy_target, preset.decide_by.name()),
            format!("{} block {}", if preset.symmetric { "int4" } else { "uint4" }, preset.block_size.name()),
            if kept.is_empty() { "nothing".to_owned() } else { kept.join(", ") },
        ]);
    }
    format!(
        "{}\n\nNo preset certifies anything. `efq presets show NAME` prints one to start from.\n",
        rows.render()
    )
}
