//! Texts as samples: token ids and what goes with them, by the names of the graph's inputs.
//!
//! A text is one sample. For a language model that continues texts all of them are one stream, cut into windows
//! whose labels are the next tokens, so that perplexity is measured.

use super::inputs::{Dim, InputSpec, fit, inputs, output_dims};
use super::tables::Tables;
use super::text::Text;
use super::tokenizer::{Tokens, Words};
use super::{Array, IGNORED, Label, Sample, Source};
use crate::error::{Error, Result};
use crate::graph::{Inventory, inventory, measured_output};
use crate::onnx::Model;
use crate::onnx::proto::tensor_proto::DataType;

/// Most tokens of a text.
const LENGTH: usize = 512;
/// Most tokens of a window.
const WINDOW: usize = 256;

/// The samples that `texts` are for `model`.
///
/// # Errors
/// No tokenizer, or one of another model; an input that no text fills; a fixed length that would have to be padded
/// without a mask that says so.
pub(super) fn samples(texts: &[Text<'_>], source: &Source, model: &Model) -> Result<Vec<Sample>> {
    let known = inventory(model);
    let tables = Tables::of(model, &known);
    let feed = Feed::of(model, &tables)?;
    let output = Scores::of(model, &known);
    let words = Words::find(source.tokenizer.as_deref(), model)?;
    let most = |most: usize| {
        let allowed = [Some(source.length.unwrap_or(most)), feed.fixed, tables.positions];
        allowed.into_iter().flatten().min().unwrap_or(most)
    };
    if words.continues() && feed.continues(output, &words) {
        windows(texts, &words, &feed, most(WINDOW))
    } else {
        each(texts, words, &feed, most(LENGTH), output)
    }
}

/// One sample a text.
fn each(
    texts: &[Text<'_>],
    mut words: Words,
    feed: &Feed,
    most: usize,
    output: Option<Scores>,
) -> Result<Vec<Sample>> {
    words.cut(most.min(words.truncation.unwrap_or(most)))?;
    // A label is for a whole text: it means nothing where the output has positions.
    let whole = output.is_some_and(|output| output.rank == 2);
    let tokens = words.encode(texts, true)?;
    let mut samples = Vec::with_capacity(tokens.len());
    for (text, tokens) in texts.iter().zip(&tokens).filter(|(_, tokens)| !tokens.ids.is_empty()) {
        feed.check(tokens, &words)?;
        if !whole && !feed.has(Part::Mask) && feed.fixed.is_some_and(|fixed| fixed > tokens.ids.len()) {
            let what = format!(
                "takes exactly {} tokens, a text has {}, and no attention_mask tells padding from text",
                feed.fixed.unwrap_or(0),
                tokens.ids.len()
            );
            return Err(Error::unsupported(format!("input '{}'", feed.ids.name), what)
                .help("export it with a free length, or give token ids in an .npz"));
        }
        let label = match text.class.as_ref().filter(|_| whole) {
            Some(class) => Label::Class(class.number()?),
            None => Label::None,
        };
        samples.push(Sample { inputs: feed.fill(tokens, words.pad)?, label });
    }
    Ok(samples)
}

/// All texts as one stream, cut into windows with the next tokens for labels.
fn windows(texts: &[Text<'_>], words: &Words, feed: &Feed, length: usize) -> Result<Vec<Sample>> {
    let lines: Vec<Text<'_>> =
        texts.iter().map(|text| Text { text: format!("{}\n", text.text).into(), class: None }).collect();
    let stream: Vec<u32> = words.encode(&lines, false)?.into_iter().flat_map(|tokens| tokens.ids).collect();
    let body = length.saturating_sub(words.frame.len()).max(1);
    let mut samples = Vec::with_capacity(stream.len() / body + 1);
    for (at, part) in stream.chunks(body).enumerate() {
        let ids = [&words.frame, part].concat();
        let mut labels: Vec<i64> = ids.iter().skip(1).map(|id| i64::from(*id)).collect();
        labels.push(stream.get(at * body + part.len()).map_or(IGNORED, |id| i64::from(*id)));
        let short = feed.fixed.is_some_and(|fixed| ids.len() < fixed);
        if labels.iter().all(|label| *label == IGNORED) || (short && !feed.has(Part::Mask)) {
            continue;
        }
        labels.resize(feed.fixed.unwrap_or(ids.len()), IGNORED);
        let tokens = Tokens { types: vec![0; ids.len()], ids };
        feed.check(&tokens, words)?;
        let inputs = feed.fill(&tokens, words.pad)?;
        samples.push(Sample { inputs, label: Label::Positions(labels) });
    }
    if samples.is_empty() && !stream.is_empty() {
        let what = format!("{} tokens, a window takes {length}", stream.len());
        return Err(Error::format("text", what).help("give more text"));
    }
    Ok(samples)
}

/// The scores of classes that a model gives.
#[derive(Debug, Clone, Copy)]
struct Scores {
    /// Dimensions: 2 for one class a sample, 3 for one a position.
    rank: usize,
    /// Classes, where they are declared.
    width: Option<usize>,
}

impl Scores {
    fn of(model: &Model, known: &Inventory) -> Option<Self> {
        let output = measured_output(model, known, None).ok().filter(|output| output.logits)?;
        let dims = output_dims(model, &output.name)?;
        let width = match dims.last() {
            Some(Dim::Fixed(width)) => Some(*width),
            _ => None,
        };
        Some(Self { rank: dims.len(), width })
    }
}

/// What of a text an input holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Ids,
    Mask,
    Types,
    Positions,
}

/// The inputs of a graph that takes text.
struct Feed {
    parts: Vec<(InputSpec, Part)>,
    ids: InputSpec,
    /// The length of every sample, where it is declared.
    fixed: Option<usize>,
    /// Rows of the table that the ids index.
    rows: Option<usize>,
}

impl Feed {
    fn of(model: &Model, tables: &Tables) -> Result<Self> {
        let mut parts = Vec::new();
        for spec in inputs(model)? {
            let subject = format!("input '{}'", spec.name);
            let part = part_of(&spec, tables.rows.contains_key(&spec.name)).ok_or_else(|| {
                Error::unsupported(subject.clone(), "cannot be filled from text")
                    .help("give an .npz with one array for each input")
            })?;
            if spec.dims.as_ref().is_some_and(|dims| !(1..=2).contains(&dims.len())) {
                let what = format!("takes {}, text fills [batch, tokens]", spec.shape_text());
                return Err(
                    Error::unsupported(subject, what).help("give an .npz with one array for each input")
                );
            }
            if spec.dims.as_ref().is_none_or(|dims| dims.len() == 2) {
                spec.takes_one_sample()?;
            }
            parts.push((spec, part));
        }
        let mut ids = parts.iter().filter(|(_, part)| *part == Part::Ids).map(|(spec, _)| spec.clone());
        let (Some(first), None) = (ids.next(), ids.next()) else {
            let names: Vec<&str> = parts.iter().map(|(spec, _)| spec.name.as_str()).collect();
            let what = format!("not one of them is for token ids: {}", names.join(", "));
            return Err(Error::unsupported("inputs", what).help("give an .npz with one array for each input"));
        };
        let fixed = parts.iter().find_map(|(spec, _)| match spec.dims.as_deref()?.last() {
            Some(Dim::Fixed(length)) => Some(*length),
            _ => None,
        });
        if fixed == Some(0) {
            return Err(Error::unsupported(format!("input '{}'", first.name), "takes no token"));
        }
        Ok(Self { parts, rows: tables.rows.get(&first.name).copied(), ids: first, fixed })
    }

    fn has(&self, part: Part) -> bool {
        self.parts.iter().any(|(_, found)| *found == part)
    }

    /// Whether the model gives scores of the next token at each position.
    fn continues(&self, output: Option<Scores>, words: &Words) -> bool {
        let Some(Scores { rank: 3, width }) = output else { return false };
        let vocabulary = width.is_some() && width == self.rows;
        let bare = !self.has(Part::Mask) && width.is_none_or(|width| width >= words.size());
        !self.has(Part::Types) && (vocabulary || bare)
    }

    /// Refuses ids that the table does not have.
    fn check(&self, tokens: &Tokens, words: &Words) -> Result<()> {
        let Some(rows) = self.rows else { return Ok(()) };
        match tokens.ids.iter().find(|id| **id as usize >= rows) {
            None => Ok(()),
            Some(id) => Err(Error::format(
                words.shown(),
                format!(
                    "gives id {id} for '{}', the table of '{}' has {rows} rows",
                    words.token(*id),
                    self.ids.name
                ),
            )
            .help("it is the tokenizer of another model: name the right one with --tokenizer")),
        }
    }

    /// The inputs for `tokens`, padded to the declared length.
    fn fill(&self, tokens: &Tokens, pad: u32) -> Result<Vec<(String, Array)>> {
        let real = tokens.ids.len();
        let length = self.fixed.unwrap_or(real);
        let padded = |values: &[u32], pad: u32| -> Vec<i64> {
            let rest = std::iter::repeat(pad);
            values.iter().copied().chain(rest).take(length).map(i64::from).collect()
        };
        let mut filled = Vec::with_capacity(self.parts.len());
        for (spec, part) in &self.parts {
            let values: Vec<i64> = match part {
                Part::Ids => padded(&tokens.ids, pad),
                Part::Types => padded(&tokens.types, 0),
                Part::Mask => (0..length).map(|at| i64::from(at < real)).collect(),
                Part::Positions => (0..length as i64).collect(),
            };
            let flat = spec.dims.as_ref().is_some_and(|dims| dims.len() == 1);
            let array = Array {
                data_type: DataType::Int64,
                shape: if flat { vec![length] } else { vec![1, length] },
                bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into(),
            };
            filled.push((spec.name.clone(), fit(spec, array)?));
        }
        Ok(filled)
    }
}

/// What `spec` is for, by its name; ids also by the table that they index.
fn part_of(spec: &InputSpec, indexes: bool) -> Option<Part> {
    use DataType as D;
    let name = spec.name.to_lowercase();
    let integers = matches!(spec.data_type, D::Int64 | D::Int32);
    if name.contains("decoder") || name.contains("past") || name.contains("cache") {
        None
    } else if name.contains("mask") {
        Some(Part::Mask)
    } else if !integers {
        None
    } else if name.contains("token_type") || name.contains("segment") {
        Some(Part::Types)
    } else if name.contains("position") {
        Some(Part::Positions)
    } else if indexes || name.contains("ids") || name.contains("token") {
        Some(Part::Ids)
    } else {
        None
    }
}
