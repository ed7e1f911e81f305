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
        assert_eq!(for_markdown("a|<b>`"), "a\\|\\<b\\>\\`");
    }
}
