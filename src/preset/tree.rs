//! YAML text → tree of nodes that know their place.
//!
//! yaml_serde gives no place of a value and resolves anchors and aliases unseen, so the structure is read from
//! parser events; what a scalar means is left to yaml_serde (see `fields`).

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::fault::{Fault, Place, quoted};

/// Nesting of lists and mappings; a preset needs three levels.
const DEPTH: usize = 16;

#[derive(Debug)]
pub(super) struct Node {
    pub place: Place,
    pub content: Content,
}

impl Node {
    /// Whether there is no value: nothing, `~` or `null`.
    pub fn is_null(&self) -> bool {
        match &self.content {
            Content::Scalar { text, plain } => {
                *plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            Content::List(_) | Content::Mapping(_) => false,
        }
    }
}

#[derive(Debug)]
pub(super) enum Content {
    /// `plain` if written without quotes and not as a block of lines.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub place: Place,
    pub value: Node,
}

/// The one document of `text`.
///
/// # Errors
/// Anything but one document of well-formed YAML without anchors, aliases, tags, merge keys, repeated keys and
/// deep nesting.
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    let mut events = Events { text, parser: Parser::new_from_str(text) };
    let root = loop {
        match events.next()? {
            (Event::StreamStart | Event::DocumentStart(_), _) => {}
            (Event::StreamEnd, _) => return Err(empty()),
            (event, span) => break events.node(event, span, 0)?,
        }
    };
    loop {
        match events.next()? {
            (Event::StreamEnd, _) => return Ok(root),
            (Event::DocumentStart(_), span) => {
                return Err(Fault::new(place(span.start), "a second document begins")
                    .help("a preset file holds one preset"));
            }
            _ => {}
        }
    }
}

/// The fault of a text that says nothing.
pub(super) fn empty() -> Fault {
    Fault::whole("the preset is empty").help("it needs at least 'name'")
}

struct Events<'a> {
    text: &'a str,
    parser: Parser<'a, StrInput<'a>>,
}

impl<'a> Events<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Fault> {
        let event = self.parser.next_event().unwrap_or(Ok((Event::StreamEnd, Span::default())));
        event.map_err(|error| self.syntax(&error))
    }

    fn syntax(&self, error: &ScanError) -> Fault {
        let marker = *error.marker();
        // A glob without quotes is an alias without an anchor to the parser.
        if self.text.chars().nth(marker.index()) == Some('*') {
            return alias(place(marker));
        }
        Fault::new(place(marker), format!("not well-formed YAML: {}", error.info()))
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Fault> {
        let place = place(span.start);
        if depth > DEPTH {
            return Err(Fault::new(place, format!("nested more than {DEPTH} levels deep")));
        }
        let content = match event {
            Event::Scalar(text, style, anchor, tag) => {
                refuse_marks(place, anchor, tag.is_some())?;
                Content::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_marks(place, anchor, tag.is_some())?;
                Content::List(self.list(depth)?)
            }
            Event::MappingStart(anchor, tag) => {
                refuse_marks(place, anchor, tag.is_some())?;
                Content::Mapping(self.mapping(depth)?)
            }
            Event::Alias(_) => return Err(alias(place)),
            _ => return Err(Fault::new(place, "not well-formed YAML: a value is missing")),
        };
        Ok(Node { place, content })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Fault> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<Entry>, Fault> {
        let mut entries = Vec::new();
        let mut lines = HashMap::new();
        loop {
            let (key, place) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(entries),
                (event, span) => self.key(event, span, depth)?,
            };
            if let Some(line) = lines.insert(key.clone(), place.line) {
                return Err(Fault::new(
                    place,
                    format!("the key {} stands in line {line} already", quoted(&key)),
                )
                .help("remove one of the two"));
            }
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            entries.push(Entry { key, place, value });
        }
    }

    fn key(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<(String, Place), Fault> {
        let Node { place, content } = self.node(event, span, depth + 1)?;
        match content {
            Content::Scalar { text, plain: true } if text == "<<" => {
                Err(Fault::new(place, "merge keys (<<) are not accepted").help("write the keys out"))
            }
            Content::Scalar { text, .. } => Ok((text, place)),
            Content::List(_) | Content::Mapping(_) => {
                Err(Fault::new(place, "a list or mapping stands where a key is expected"))
            }
        }
    }
}

fn refuse_marks(place: Place, anchor: usize, tagged: bool) -> Result<(), Fault> {
    if anchor != 0 {
        return Err(Fault::new(place, "anchors (&name) are not accepted")
            .help("remove it, or quote the value if it begins with '&'"));
    }
    if tagged {
        return Err(Fault::new(place, "tags (!name) are not accepted")
            .help("remove it, or quote the value if it begins with '!'"));
    }
    Ok(())
}

fn alias(place: Place) -> Fault {
    Fault::new(place, "aliases (*name) are not accepted")
        .help("write the value out, or quote it if it begins with '*'")
}

fn place(marker: Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}
