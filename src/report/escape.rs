//! Names come from models, and models come from anywhere.

/// Whether `c` controls a terminal, changes the direction of writing or is not seen.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` on one line of a terminal: characters that act, and what the logs of CI services take for commands, as
/// `\u{…}`; shortened in the middle beyond 400 characters.
pub fn for_terminal(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    // `::error::` of GitHub counts at the start of a line only, `##[error]` and `##vso[…]` anywhere.
    if shown.trim_start().starts_with("::") {
        shown = shown.replacen(':', "\\u{3a}", 1);
    }
    for mark in ["[", "vso["] {
        shown = shown.replace(&format!("##{mark}"), &format!("#\\u{{23}}{mark}"));
    }
    let count = shown.chars().count();
    if count <= 400 {
        return shown;
    }
    let head: String = shown.chars().take(250).collect();
    let tail: String = shown.chars().skip(count - 120).collect();
    format!("{head}…{tail}")
}

/// JSON whose strings hold no character that acts: it may be looked at in a terminal, and says the same.
pub(super) fn for_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // What acts stands in strings only, line breaks between them.
        if acts(c) && c != '\n' {
            shown.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            shown.push(c);
        }
    }
    shown
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
        assert_eq!(
            for_terminal(" ::error::a ##[b] ##vso[c]"),
            " \\u{3a}:error::a #\\u{23}[b] #\\u{23}vso[c]"
        );
        assert_eq!(
            for_json("[\n\"\u{9b}\u{7f}\u{e0041}\u{e9}\"]"),
            "[\n\"\\u009b\\u007f\\udb40\\udc41\u{e9}\"]"
        );
        assert_eq!(for_terminal("Gewicht/größe"), "Gewicht/größe");
        assert_eq!(for_terminal(&"x".repeat(1000)).chars().count(), 371);
        assert_eq!(middle("encoder/layer.11/attention/query", 16), "encod…tion/query");
        assert_eq!((middle("äöü", 3).as_str(), middle("äöüß", 3).as_str()), ("äöü", "…üß"));
        assert_eq!(ending("one two three", 9), "one two…");
        assert_eq!(for_markdown("a|<b>`"), "a\\|\\<b\\>\\`");
    }
}
