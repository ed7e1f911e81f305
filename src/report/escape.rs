//! Names come from models, and models come from anywhere.

/// `text` on one line of a terminal: control characters, and those that change the direction of writing or
/// are not seen, as `\u{…}`; shortened in the middle beyond 400 characters.
pub fn for_terminal(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden = c.is_control()
            || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
        if hidden {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    let count = shown.chars().count();
    if count <= 400 {
        return shown;
    }
    let head: String = shown.chars().take(250).collect();
    let tail: String = shown.chars().skip(count - 120).collect();
    format!("{head}…{tail}")
}

/// `text` in at most `width` characters, shortened in the middle, where names of one model differ least.
pub(super) fn middle(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_owned();
    }
    // The end of a name tells more than its beginning.
    let head = width.saturating_sub(1) / 3;
    let tail = width.saturating_sub(1) - head;
    text.chars().take(head).chain(['…']).chain(text.chars().skip(count - tail)).collect()
}

/// `text` in at most `width` characters, shortened at the end.
pub(super) fn ending(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// `text` in a cell of a Markdown table, as text and nothing else.
pub(super) fn for_markdown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in for_terminal(text).chars() {
        if matches!(c, '|' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '\\' | '#' | '~' | '&' | '!') {
            shown.push('\\');
        }
        shown.push(c);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        assert_eq!(for_terminal("a\u{1b}[31mb\nc\u{202e}d"), "a\\u{1b}[31mb\\u{a}c\\u{202e}d");
        assert_eq!(for_terminal("Gewicht/größe"), "Gewicht/größe");
        assert_eq!(for_terminal(&"x".repeat(1000)).chars().count(), 371);
        assert_eq!(middle("encoder/layer.11/attention/query", 16), "encod…tion/query");
        assert_eq!((middle("äöü", 3).as_str(), middle("äöüß", 3).as_str()), ("äöü", "…üß"));
        assert_eq!(ending("one two three", 9), "one two…");
        assert_eq!(for_markdown("a|<b>`"), "a\\|\\<b\\>\\`");
    }
}
