//! Texts in a file: one a line of a `.txt`, or in a field of each line of a `.jsonl`.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::error::{Error, Result, one_line};
use crate::limits;

/// The field of a `.jsonl` that holds the text where none is named.
const FIELD: &str = "text";
/// The field that holds the class.
const LABEL: &str = "label";
/// Fields that an error lists.
const LISTED: usize = 20;

/// One text of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Text<'a> {
    pub text: Cow<'a, str>,
    /// Its class, where the file says so.
    pub class: Option<Class>,
}

/// What a file says that a text is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Class {
    Number(i64),
    /// No class number, on this line: of weight only where the model gives classes.
    Other {
        line: usize,
        found: String,
    },
}

impl Class {
    /// The class number.
    ///
    /// # Errors
    /// Whatever else stands in its place, with the line.
    pub fn number(&self) -> Result<i64> {
        match self {
            Self::Number(class) => Ok(*class),
            Self::Other { line, found } => {
                let what = format!("field '{LABEL}' holds {found}: class numbers must be integers");
                Err(Error::format(format!("line {line}"), what).help("null where there is no label"))
            }
        }
    }
}

/// Every line that is not blank.
pub(super) fn lines(bytes: &[u8]) -> Result<Vec<Text<'_>>> {
    let texts = numbered(bytes)?.into_iter();
    Ok(texts.map(|(_, line)| Text { text: Cow::Borrowed(line), class: None }).collect())
}

/// The texts in `field` (without a name: `text`) of the objects in the lines.
pub(super) fn objects<'a>(bytes: &'a [u8], field: Option<&str>) -> Result<Vec<Text<'a>>> {
    let name = field.unwrap_or(FIELD);
    let object = |(at, line): (usize, &'a str)| {
        let place = || format!("line {at}");
        let value: Value = serde_json::from_str(line)
            .map_err(|error| Error::format(place(), format!("is no JSON: {error}")))?;
        let Value::Object(mut fields) = value else {
            return Err(
                Error::format(place(), "is no JSON object").help("one {\"text\": …} a line is expected")
            );
        };
        match fields.remove(name) {
            Some(Value::String(text)) => {
                let class = match fields.get(LABEL) {
                    None | Some(Value::Null) => None,
                    Some(value) => Some(value.as_i64().map_or_else(
                        || Class::Other { line: at, found: one_line(&value.to_string()) },
                        Class::Number,
                    )),
                };
                Ok(Text { text: Cow::Owned(text), class })
            }
            Some(_) => {
                Err(Error::format(place(), format!("field '{name}' holds no text")).help(listed(&fields)))
            }
            None => Err(Error::format(place(), format!("field '{name}' is missing")).help(listed(&fields))),
        }
    };
    numbered(bytes)?.into_iter().map(object).collect()
}

fn listed(fields: &Map<String, Value>) -> String {
    let names: Vec<&str> = fields.keys().map(String::as_str).take(LISTED).collect();
    let more = if fields.len() > LISTED { ", …" } else { "" };
    match names.is_empty() {
        true => "it has no other field".to_owned(),
        false => format!("name one with --field; there are: {}{more}", names.join(", ")),
    }
}

/// The lines that are not blank, counted from 1.
fn numbered(bytes: &[u8]) -> Result<Vec<(usize, &str)>> {
    if bytes.len() as u64 > limits::TEXT_BYTES {
        let what = format!("{} bytes of text, {} are read", bytes.len(), limits::TEXT_BYTES);
        return Err(Error::limit("text", what).help("give a part of it"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::format(format!("line {line}"), "is no UTF-8").help("save the file as UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        if line.len() > limits::LINE_BYTES {
            let what = format!("{} bytes in one line, {} are read", line.len(), limits::LINE_BYTES);
            return Err(Error::limit(format!("line {}", at + 1), what));
        }
        lines.push((at + 1, line));
    }
    if lines.len() > limits::SAMPLES {
        return Err(Error::limit("text", format!("{} lines, {} are read", lines.len(), limits::SAMPLES)));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(found: Result<Vec<Text<'_>>>) -> Vec<String> {
        found.unwrap().into_iter().map(|text| text.text.into_owned()).collect()
    }

    #[test]
    fn lines_are_texts_and_blank_ones_are_not() {
        assert_eq!(texts(lines(b"\xef\xbb\xbfone\r\n\n  \n two \n")), ["one", " two "]);
        assert!(lines(b"").unwrap().is_empty());
        let error = lines(b"a\nb\n\xff\n").unwrap_err().to_string();
        assert_eq!(error, "line 3: is no UTF-8 (save the file as UTF-8)");
    }

    #[test]
    fn a_field_of_each_object_is_the_text() {
        let file = b"{\"text\": \"a\", \"label\": 3}\n\n{\"label\": null, \"text\": \"b\"}";
        let found = objects(file, None).unwrap();
        assert_eq!(
            found.iter().map(|text| text.class.clone()).collect::<Vec<_>>(),
            [Some(Class::Number(3)), None]
        );
        assert_eq!(texts(objects(file, None)), ["a", "b"]);
        assert_eq!(texts(objects(b"{\"q\": \"a\"}", Some("q"))), ["a"]);
    }

    #[test]
    fn what_a_line_lacks_is_said() {
        let error = |line: &str| objects(line.as_bytes(), None).unwrap_err().to_string();
        assert_eq!(
            error("{\"text\": \"a\"}\n{\"id\": 1, \"body\": \"b\"}"),
            "line 2: field 'text' is missing (name one with --field; there are: body, id)"
        );
        assert_eq!(error("{}"), "line 1: field 'text' is missing (it has no other field)");
        assert_eq!(error("{\"text\": 5}"), "line 1: field 'text' holds no text (it has no other field)");
        assert_eq!(error("[1]"), "line 1: is no JSON object (one {\"text\": …} a line is expected)");
        assert!(error("{\"text\"").starts_with("line 1: is no JSON: EOF"));
    }

    #[test]
    fn a_class_that_is_no_integer_is_told_where_it_is_asked_for() {
        for found in ["\"pos\"", "1.0", "true", "[1]", "18446744073709551615"] {
            let file = format!("{{\"text\": \"a\"}}\n{{\"text\": \"b\", \"label\": {found}}}");
            let texts = objects(file.as_bytes(), None).unwrap();
            let error = texts[1].class.as_ref().unwrap().number().unwrap_err().to_string();
            let wanted = format!("line 2: field 'label' holds {found}: class numbers must be integers");
            assert!(error.starts_with(&wanted), "{error}");
        }
    }

    proptest! {
        #[test]
        fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,80}") {
            let _ = lines(&bytes);
            let _ = objects(&bytes, None);
            let _ = objects(text.as_bytes(), Some("a"));
            let wrapped = format!("{{\"a\": {text}}}\n{{\"a\": \"{text}\"}}");
            let _ = objects(wrapped.as_bytes(), Some("a"));
        }
    }
}
