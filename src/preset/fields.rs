//! Typed access to the fields of a mapping; every error names the key, what was found and what is allowed.

use super::fault::{Fault, Place, quoted};
use super::tree::{Content, Entry, Node};
use super::words::Words;

/// The fields of a mapping whose keys are all known.
pub(super) struct Fields<'a> {
    place: Place,
    entries: &'a [Entry],
}

impl<'a> Fields<'a> {
    /// The fields of `node`, a `what`.
    ///
    /// # Errors
    /// A node that is no mapping; a key that is not among `known`.
    pub fn of(node: &'a Node, what: &str, known: &[&'static str]) -> Result<Self, Fault> {
        let Content::Mapping(entries) = &node.content else {
            return Err(Fault::new(node.place, format!("a {what} is {}, not keys with values", kind(node)))
                .allowed("", known));
        };
        for entry in entries {
            if !known.contains(&entry.key.as_str()) {
                let what = format!("unknown key {} in a {what}", quoted(&entry.key));
                return Err(Fault::new(entry.place, what).allowed(&entry.key, known));
            }
        }
        Ok(Self { place: node.place, entries })
    }

    /// Where the mapping begins.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The field `key`, if given.
    pub fn get(&self, key: &'static str) -> Option<Field<'a>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(Field { key, node: &entry.value })
    }

    /// The value that `read` takes from the field `key`, if given.
    pub fn read<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(Field<'a>) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        self.get(key).map(read).transpose()
    }
}

/// A value and the key that it belongs to: its own, or that of the list that it is in.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    key: &'static str,
    node: &'a Node,
}

impl<'a> Field<'a> {
    pub fn place(self) -> Place {
        self.node.place
    }

    pub fn node(self) -> &'a Node {
        self.node
    }

    /// A fault of this value.
    pub fn fault(self, what: impl Into<String>) -> Fault {
        Fault::new(self.node.place, format!("'{}' {}", self.key, what.into()))
    }

    /// A scalar as written, whatever it means.
    pub fn word(self, expected: &str) -> Result<&'a str, Fault> {
        match &self.node.content {
            Content::Scalar { text, .. } if !self.node.is_null() => Ok(text),
            _ => Err(self.unexpected(expected)),
        }
    }

    /// Text that is not empty and in one line, the line break after it left out.
    pub fn text(self) -> Result<&'a str, Fault> {
        let text = self.word("text")?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        if text.trim().is_empty() {
            return Err(self.fault("is empty"));
        }
        if text.contains(char::is_control) {
            return Err(self.fault(format!("is {}, one line of text is expected", quoted(text))));
        }
        if self.is_plain() && !means_text(text) {
            let what = format!("is {}, text is expected", quoted(text));
            return Err(self.fault(what).help(format!("write \"{text}\"")));
        }
        Ok(text)
    }

    /// A number for which `accept` holds; `range` says which those are.
    pub fn number(self, range: &str, accept: impl Fn(f64) -> bool) -> Result<f64, Fault> {
        let text = self.word("a number")?;
        let parsed = self.is_plain().then(|| serde_yaml::from_str::<f64>(text).ok()).flatten();
        let Some(number) = parsed else { return Err(self.unexpected("a number").help(range)) };
        if !accept(number) {
            return Err(self.fault(format!("is {}, out of range", quoted(text))).help(range));
        }
        Ok(number)
    }

    /// `true` or `false`.
    pub fn flag(self) -> Result<bool, Fault> {
        let text = self.word("true or false")?;
        let parsed = self.is_plain().then(|| serde_yaml::from_str(text).ok()).flatten();
        parsed.ok_or_else(|| self.unexpected("true or false"))
    }

    /// One of the words of `T`.
    pub fn choice<T: Words>(self) -> Result<T, Fault> {
        let choices: Vec<_> = T::ALL.iter().map(|value| (value.word(), *value)).collect();
        self.among(&choices)
    }

    /// One of `choices`, each a word and what it stands for.
    pub fn among<T: Copy>(self, choices: &[(&'static str, T)]) -> Result<T, Fault> {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        let found = self.word("one word").map_err(|fault| fault.allowed("", &words))?;
        match choices.iter().find(|(word, _)| *word == found) {
            Some((_, value)) => Ok(*value),
            None => Err(self.fault(format!("cannot be {}", quoted(found))).allowed(found, &words)),
        }
    }

    /// The items of a list.
    pub fn list(self) -> Result<impl Iterator<Item = Field<'a>>, Fault> {
        match &self.node.content {
            Content::List(items) => Ok(items.iter().map(move |node| Field { key: self.key, node })),
            _ => Err(self.unexpected("a list").help("[] if there is none")),
        }
    }

    fn is_plain(self) -> bool {
        matches!(self.node.content, Content::Scalar { plain: true, .. })
    }

    fn unexpected(self, expected: &str) -> Fault {
        self.fault(format!("is {}, {expected} is expected", kind(self.node)))
    }
}

/// What `node` is, for messages.
fn kind(node: &Node) -> String {
    match &node.content {
        Content::Scalar { .. } if node.is_null() => "without a value".to_owned(),
        Content::Scalar { text, plain: false } => format!("the text {}", quoted(text)),
        Content::Scalar { text, plain: true } => quoted(text),
        Content::List(_) => "a list".to_owned(),
        Content::Mapping(_) => "a mapping".to_owned(),
    }
}

fn means_text(plain: &str) -> bool {
    use serde_yaml::Value;
    // A piece that is no document by itself ("a: b" in a flow list, say) can only be text.
    !matches!(serde_yaml::from_str(plain), Ok(Value::Null | Value::Bool(_) | Value::Number(_)))
}
