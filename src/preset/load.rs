//! What stands after `-p` → [`Preset`].

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::fault::{Fault, quoted};
use super::{Origin, Preset, builtin, builtin_names, nearest, read};
use crate::error::{Error, Result};

/// Loads the preset that `name_or_path` means: a built-in one by its name, a file if there is a path
/// separator in it or it ends in `.yaml` or `.yml`.
///
/// # Errors
/// A name that is not built in; a file that cannot be read, is over 1 MiB or not UTF-8; whatever
/// [`Preset::parse`] refuses.
pub fn load(name_or_path: &str) -> Result<Preset> {
    if let Some((name, text)) = builtin::find(name_or_path) {
        return Preset::parse(text, Origin::Builtin(name));
    }
    if is_path(name_or_path) {
        return load_file(Path::new(name_or_path));
    }
    Err(unknown(name_or_path))
}

fn is_path(text: &str) -> bool {
    let ending = Path::new(text).extension();
    text.contains(std::path::is_separator)
        || ending.is_some_and(|end| end.eq_ignore_ascii_case("yaml") || end.eq_ignore_ascii_case("yml"))
}

fn unknown(name: &str) -> Error {
    let known: Vec<_> = builtin_names().collect();
    let error = Error::caller(format!("preset {}", quoted(name)), "there is no built-in preset of this name");
    let list = known.join(", ");
    if !name.is_empty() && Path::new(name).is_file() {
        return error.help(format!("for the file write ./{name}; built in: {list}"));
    }
    match nearest(name, known.iter().copied(), 1).first() {
        Some(near) => error.help(format!("did you mean '{near}'? built in: {list}; a file ends in .yaml")),
        None => error.help(format!("built in: {list}; a file ends in .yaml")),
    }
}

fn load_file(path: &Path) -> Result<Preset> {
    let bytes = read_file(path).map_err(|error| {
        let shown = Error::io(path, &error);
        let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(builtin::find);
        match stem {
            Some((name, _)) if error.kind() == std::io::ErrorKind::NotFound => {
                shown.help(format!("the built-in preset is '{name}'"))
            }
            _ => shown,
        }
    })?;
    let origin = Origin::File(path.to_owned());
    let text = decode(&bytes).map_err(|fault| fault.in_file(&origin.to_string()))?;
    Preset::parse(text, origin)
}

/// The bytes of a file, one more than accepted at most.
fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(read::BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<&str, Fault> {
    if bytes.len() > read::BYTES {
        return Err(read::too_large());
    }
    if matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..]) {
        return Err(Fault::whole("the text is UTF-16, UTF-8 is expected").help("save it as UTF-8"));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count() + 1;
        Fault::whole(format!("line {line} is not UTF-8")).help("save it as UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::error::Kind;

    fn refused(name: &str) -> String {
        load(name).unwrap_err().to_string()
    }

    /// The error for a file of these bytes, without its folder.
    fn refused_file(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.yaml");
        fs::write(&path, bytes).unwrap();
        let error = load(path.to_str().unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::Caller);
        error.to_string().replace(&format!("{}{}", folder.path().display(), std::path::MAIN_SEPARATOR), "")
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        insta::assert_snapshot!(refused("automotive"), @"preset 'automotive': there is no built-in preset of this name (did you mean 'automotive_adas'? built in: high_accuracy, high_compression, medical_grade, automotive_adas, balanced_production, manufacturing_qc; a file ends in .yaml)");
        insta::assert_snapshot!(refused(""), @"preset '': there is no built-in preset of this name (built in: high_accuracy, high_compression, medical_grade, automotive_adas, balanced_production, manufacturing_qc; a file ends in .yaml)");
        insta::assert_snapshot!(refused("Cargo.toml"), @"preset 'Cargo.toml': there is no built-in preset of this name (for the file write ./Cargo.toml; built in: high_accuracy, high_compression, medical_grade, automotive_adas, balanced_production, manufacturing_qc)");
    }

    #[test]
    fn a_missing_file_is_told_by_its_path() {
        insta::assert_snapshot!(refused("nowhere/mine.yml"), @"nowhere/mine.yml: no such file or folder");
        insta::assert_snapshot!(refused("medical_grade.YAML"), @"medical_grade.YAML: no such file or folder (the built-in preset is 'medical_grade')");
        assert_eq!(load("src/").unwrap_err().kind(), Kind::Io);
    }

    #[test]
    fn a_file_is_read_by_its_ending_or_separator() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["mine.yaml", "mine.yml", "mine"] {
            let path = folder.path().join(name);
            fs::write(&path, "\u{feff}name: mine\r\nhead: keep\r\n").unwrap();
            let preset = load(path.to_str().unwrap()).unwrap();
            assert_eq!(preset.name, "mine");
            assert_eq!(preset.origin, Origin::File(path));
        }
    }

    #[test]
    fn other_encodings_and_sizes_are_named() {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        insta::assert_snapshot!(refused_file(&utf16("\u{feff}name: a")), @"p.yaml: the text is UTF-16, UTF-8 is expected (save it as UTF-8)");
        insta::assert_snapshot!(refused_file(&utf16("name: a")), @"p.yaml: the text is UTF-16, UTF-8 is expected (save it as UTF-8)");
        insta::assert_snapshot!(refused_file(b"name: a\n# caf\xe9\n"), @"p.yaml: line 2 is not UTF-8 (save it as UTF-8)");
        insta::assert_snapshot!(refused_file(b""), @"p.yaml: the preset is empty (it needs at least 'name')");
        insta::assert_snapshot!(refused_file(b"head: four\nname: a"), @"p.yaml:1:7: 'head' cannot be 'four' (allowed: keep, int8, int4)");
        insta::assert_snapshot!(refused_file(&vec![b'#'; (1 << 20) + 1]), @"p.yaml: more than 1 MiB, too much for a preset (check the path)");
    }
}
