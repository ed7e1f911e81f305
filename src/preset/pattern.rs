//! Globs over the names of tensors and nodes.

use std::fmt;

use globset::{GlobBuilder, GlobSet};

use super::fault::quoted;
use crate::error::{Error, Result};

/// Bytes of a pattern; bounds the nesting of braces as well.
const BYTES: usize = 4096;

/// Put behind pattern and name: globset takes both for paths, and a path that ends in a dot for one without a
/// file name, which `*.` does not match.
const END: char = '$';

/// A compiled glob over names.
///
/// `*` stands for any characters, `/` included, `?` for one byte, `[ab]` for one of the bytes, `{a,b}` for
/// one of the texts, and `\` takes the next character as it is. A name that equals the text always matches,
/// whatever special characters it has.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    // A set of one: compiling a glob by itself panics on one that is too complex, a set returns an error.
    glob: GlobSet,
}

impl Pattern {
    /// Compiles `text`.
    ///
    /// # Errors
    /// [`Kind::Caller`](crate::Kind::Caller) for a text that is empty, over 4 KiB, no glob, or a glob too
    /// complex to compile.
    pub fn new(text: &str) -> Result<Self> {
        Self::compile(text).map_err(|reason| Error::caller("pattern", reason))
    }

    /// As [`Pattern::new`], with the bare reason as the error.
    pub(super) fn compile(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        if text.len() > BYTES {
            return Err(format!("is longer than {BYTES} bytes"));
        }
        let build = |text| GlobBuilder::new(text).literal_separator(false).backslash_escape(true).build();
        let ended = format!("{text}{END}");
        let glob = build(text)
            .and_then(|_| build(&ended))
            .map_err(|error| format!("{} is no glob: {}", quoted(text), error.kind()))?;
        let glob = GlobSet::new([glob]).map_err(|_| format!("{} is too complex", quoted(text)))?;
        Ok(Self { text: text.to_owned(), glob })
    }

    /// Whether the whole of `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        name == self.text || self.glob.is_match(format!("{name}{END}"))
    }

    /// The text as given.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).unwrap().matches(name)
    }

    #[test]
    fn globs_cross_slashes_and_cover_the_whole_name() {
        assert!(matches("*/attn/*", "/h.0/attn/c_attn/MatMul"));
        assert!(matches("*.weight", "encoder/layer.0.weight"));
        assert!(matches("layer.{0,11}.*", "layer.11.query"));
        assert!(matches("layer.[0-3].*", "layer.2.query"));
        assert!(matches("layer.?", "layer.2"));
        assert!(matches("*.", "a/..") && matches("*/.", "a/.") && matches("**", "a/"));
        assert!(!matches("attn", "/attn/"));
        assert!(!matches("layer.[!0-3]", "layer.2"));
    }

    #[test]
    fn special_characters_match_themselves() {
        assert!(matches("onnx::MatMul_[12]", "onnx::MatMul_[12]"));
        assert!(matches("onnx::MatMul_[12]", "onnx::MatMul_1"));
        assert!(matches("a{b,c}?*", "a{b,c}?*"));
        assert!(matches(r"a\*", "a*"));
        assert!(matches(r"a\*", r"a\*"));
        assert!(!matches(r"a\*", "ab"));
    }

    #[test]
    fn what_is_no_glob_is_refused() {
        let refused = |text: &str| Pattern::new(text).unwrap_err().to_string();
        insta::assert_snapshot!(refused(""), @"pattern: is empty");
        insta::assert_snapshot!(refused(&"a".repeat(5000)), @"pattern: is longer than 4096 bytes");
        insta::assert_snapshot!(refused("a["), @"pattern: 'a[' is no glob: unclosed character class; missing ']'");
        insta::assert_snapshot!(refused("[b-a]"), @"pattern: '[b-a]' is no glob: invalid range; 'b' > 'a'");
        insta::assert_snapshot!(refused("a\\"), @r"pattern: 'a\' is no glob: dangling '\'");
        let deep = format!("{}a{}", "{".repeat(2000), "}".repeat(2000));
        assert!(refused(&deep).ends_with(" is too complex"));
    }

    proptest! {
        #[test]
        fn a_star_stands_for_any_part(name in "[a-c./_é]{1,12}", from in 0..13_usize, to in 0..13_usize) {
            let letters: Vec<char> = name.chars().collect();
            let to = to.min(letters.len());
            let from = from.min(to);
            let pattern: String =
                letters[..from].iter().chain(&['*']).chain(&letters[to..]).collect();
            prop_assert!(matches(&pattern, &name), "{} {}", pattern, name);
        }

        #[test]
        fn no_pattern_panics(pattern in prop_oneof![any::<String>(), r"[\[\]{},!*?\\a-c/^-]{0,40}"], name: String) {
            if let Ok(pattern) = Pattern::new(&pattern) {
                pattern.matches(&name);
                prop_assert!(pattern.matches(pattern.as_str()));
            }
        }
    }
}
