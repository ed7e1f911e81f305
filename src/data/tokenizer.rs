//! A `tokenizer.json` as Hugging Face's tokenizers saves it: found, read, applied.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tokenizers::{PostProcessor as _, Tokenizer, TruncationDirection, TruncationParams};

use super::beside;
use super::text::Text;
use crate::error::{Error, Result, one_line};
use crate::limits;
use crate::onnx::{Model, map_file};
use crate::panics;

const FILE: &str = "tokenizer.json";
/// What pads, where the file does not say it.
const PADS: [&str; 4] = ["[PAD]", "<pad>", "<|pad|>", "<|endoftext|>"];
/// A vocabulary with one of these belongs to a model that fills gaps.
const GAPS: [&str; 2] = ["[MASK]", "<mask>"];

/// A text as token ids.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Tokens {
    pub ids: Vec<u32>,
    /// Which part of the input each token belongs to.
    pub types: Vec<u32>,
}

/// A tokenizer, with what efq asks of it.
pub(super) struct Words {
    inner: Tokenizer,
    path: PathBuf,
    /// The id that stands where nothing is.
    pub pad: u32,
    /// Most tokens of a text that the file itself allows.
    pub truncation: Option<usize>,
    /// Tokens that frame every text.
    pub frame: Vec<u32>,
    direction: TruncationDirection,
}

impl Words {
    /// The tokenizer at `named`, or the one beside `model`.
    pub fn find(named: Option<&Path>, model: &Model) -> Result<Self> {
        let found = match named {
            Some(path) => Some(path.to_owned()),
            None => beside(model, FILE).into_iter().find(|path| path.is_file()),
        };
        let path = found.ok_or_else(|| {
            Error::caller("--tokenizer", format!("no {FILE} beside the model or in the folder above"))
                .help("name one with --tokenizer, or give token ids in an .npz")
        })?;
        Self::load(path)
    }

    fn load(path: PathBuf) -> Result<Self> {
        let bytes = map_file(&path)?;
        let shown = path.display().to_string();
        if bytes.len() as u64 > limits::TEXT_BYTES {
            return Err(Error::limit(shown, format!("{} bytes are no tokenizer", bytes.len())));
        }
        let wrong = |what: &str| {
            Error::format(shown.clone(), format!("is no tokenizer: {}", one_line(what)))
                .help("a tokenizer.json of Hugging Face's tokenizers is expected")
        };
        let read = || {
            let mut inner = Tokenizer::from_bytes(&bytes)?;
            let padding = inner.get_padding().map(|padding| padding.pad_id);
            let pad = padding.or_else(|| PADS.iter().find_map(|token| inner.token_to_id(token)));
            let truncation = inner.get_truncation().map(|params| params.max_length);
            let direction = inner.get_truncation().map(|params| params.direction).unwrap_or_default();
            inner.with_padding(None).with_truncation(None)?;
            let frame = inner.encode_fast("", true)?.get_ids().to_vec();
            Ok(Self { inner, path, pad: pad.unwrap_or(0), truncation, frame, direction })
        };
        let read: Option<tokenizers::Result<Self>> = panics::caught(read);
        match read {
            Some(read) => read.map_err(|error| wrong(&error.to_string())),
            None => Err(wrong("reading it failed")),
        }
    }

    /// How errors name it.
    pub fn shown(&self) -> String {
        format!("tokenizer '{}'", self.path.display())
    }

    /// Whether its model continues texts: nothing to fill gaps with, nothing set behind a text.
    pub fn continues(&self) -> bool {
        self.frame.len() <= 1 && GAPS.iter().all(|token| self.inner.token_to_id(token).is_none())
    }

    /// Ids that it can give.
    pub fn size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token with this id, as errors show it.
    pub fn token(&self, id: u32) -> String {
        panics::caught(|| self.inner.id_to_token(id)).flatten().unwrap_or_default()
    }

    /// Cuts framed texts to `most` tokens from now on.
    pub fn cut(&mut self, most: usize) -> Result<()> {
        let added = self.inner.get_post_processor().map_or(0, |frame| frame.added_tokens(false));
        if most <= added {
            let what = format!("frames a text with {added} tokens, the model takes {most}");
            return Err(Error::unsupported(self.shown(), what));
        }
        let params =
            TruncationParams { max_length: most, direction: self.direction, ..TruncationParams::default() };
        let shown = self.shown();
        let cut = self.inner.with_truncation(Some(params)).map(|_| ());
        cut.map_err(|error| Error::unsupported(shown, one_line(&error.to_string())))
    }

    /// The tokens of each text, framed or bare.
    pub fn encode(&self, texts: &[Text<'_>], framed: bool) -> Result<Vec<Tokens>> {
        let failed =
            |at: usize, what: &str| Error::format(self.shown(), format!("fails on text {}: {what}", at + 1));
        let encode = |(at, text): (usize, &Text<'_>)| {
            let found = panics::caught(|| self.inner.encode_fast(text.text.as_ref(), framed))
                .ok_or_else(|| failed(at, "it panicked"))?;
            let found = found.map_err(|error| failed(at, &one_line(&error.to_string())))?;
            Ok(Tokens { ids: found.get_ids().to_vec(), types: found.get_type_ids().to_vec() })
        };
        let found: Vec<Result<Tokens>> = texts.par_iter().enumerate().map(encode).collect();
        // Of several errors the first text's is given.
        found.into_iter().collect()
    }
}
