//! The only way to show text that somebody else chose: a worker, a client, another user's master.
//!
//! Such text can hold terminal escapes (ECMA-48), line breaks that forge a line, and characters that
//! change the order of what is read (Unicode UAX #9). Each becomes a visible escape like `\u{1b}`.
//! Pure: text in, text out.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

use serde_json::Value;

/// Whether a character can act on a terminal or hides in a line: C0, DEL, C1, line and paragraph
/// separators, bidirectional controls and other invisible format characters (category Cf). The
/// joiners U+200C and U+200D stay: scripts and emoji need them.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// A value that is shown on one line: `\n` for a line break, `\u{1b}` for an escape. Escapes while
/// it formats; allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Line<T>(pub T);

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(acts) {
            let (plain, tail) = rest.split_at(at);
            self.0.write_str(plain)?;
            let mut chars = tail.chars();
            for escaped in chars.next().into_iter().flat_map(char::escape_debug) {
                self.0.write_char(escaped)?;
            }
            rest = chars.as_str();
        }
        self.0.write_str(rest)
    }
}

impl<T: fmt::Display> fmt::Display for Line<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Text on one line.
pub fn line(text: &str) -> Cow<'_, str> {
    if text.contains(acts) {
        Cow::Owned(Line(text).to_string())
    } else {
        Cow::Borrowed(text)
    }
}

/// Text that may have several lines, as a stack has: line breaks and tabs stay.
pub fn lines(text: &str) -> String {
    joined(text, "\n")
}

/// The same for printing: each line after the first is indented by four spaces, so none can pass for a
/// line of ours.
pub fn block(text: &str) -> String {
    joined(text.trim_end(), "\n    ")
}

fn joined(text: &str, between: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (number, part) in text.split('\n').enumerate() {
        let part = part.strip_suffix('\r').unwrap_or(part);
        if number > 0 {
            out.push_str(between);
        }
        for (column, piece) in part.split('\t').enumerate() {
            if column > 0 {
                out.push('\t');
            }
            out.push_str(&line(piece));
        }
    }
    out
}

/// JSON text with the same characters as `\u` escapes (RFC 8259, section 7): the same value, without
/// an effect on a terminal. Line breaks between values stay.
pub fn json(text: &str) -> Cow<'_, str> {
    let acts = |c: char| acts(c) && !matches!(c, '\n' | '\t' | '\r');
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 32);
    for c in text.chars() {
        if acts(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Into a String: cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// A line of an app's own log on a terminal: its colours (SGR, ECMA-48 8.3.117) and tabs stay, and no
/// colour outlasts the line.
pub fn coloured(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut colours = false;
    while let Some(at) = rest.find(acts) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(length) = sgr(rest) {
            out.push_str(&rest[..length]);
            rest = &rest[length..];
            colours = true;
            continue;
        }
        let mut chars = rest.chars();
        match chars.next() {
            Some('\t') => out.push('\t'),
            Some(c) => out.extend(c.escape_debug()),
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    if colours {
        out.push_str("\x1b[0m");
    }
    out
}

/// The length of a colour sequence at the start of the text.
fn sgr(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then_some(end + 3)
}

/// Keys of documents whose texts may have several lines.
const LINES: [&str; 5] = ["error", "stack", "reason", "detail", "last_reload_error"];

/// Escapes every text in a document of another process, for printing.
pub fn document(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(escaped) = line(text) {
                *text = escaped;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(document),
        Value::Object(fields) => {
            for (key, value) in fields {
                if let Value::String(text) = value
                    && LINES.contains(&key.as_str())
                {
                    *text = lines(text);
                } else {
                    document(value);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The text cut to at most `max` bytes, between two characters.
pub fn cut(text: &mut String, max: usize) {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_acts_on_a_terminal_is_shown_and_the_rest_is_left() {
        assert_eq!(line("plain: é 漢 👩‍💻"), "plain: é 漢 👩‍💻");
        assert_eq!(
            line("\x1b]52;c;aGk=\x07\u{9b}31m\u{202e}a\nb\tc\x7f\u{2066}"),
            "\\u{1b}]52;c;aGk=\\u{7}\\u{9b}31m\\u{202e}a\\nb\\tc\\u{7f}\\u{2066}"
        );
        assert_eq!(
            block("a\r\n\tb \\t\n\x1bc\n"),
            "a\n    \tb \\t\n    \\u{1b}c"
        );
        assert_eq!(
            json("{\"a\":\"\u{9b}\u{e0001}\"}\n"),
            "{\"a\":\"\\u009b\\udb40\\udc01\"}\n"
        );
        assert_eq!(
            coloured("\x1b[1;31mred\x1b[2J\t"),
            "\x1b[1;31mred\\u{1b}[2J\t\x1b[0m"
        );
    }

    proptest! {
        #[test]
        fn nothing_that_acts_is_left(text in "\\PC*|.{0,200}|[\\x00-\\x20\\x7f-\\u{a0}\\u{2020}-\\u{2070}]{0,40}") {
            prop_assert!(!line(&text).contains(acts));
            prop_assert!(!block(&text).contains(|c| acts(c) && c != '\n' && c != '\t'));
            let value = serde_json::to_string(&text).unwrap();
            let shown = json(&value);
            prop_assert!(!shown.contains(acts));
            prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text.clone());
            // Every escape that is left begins a colour, whose end is on the line.
            let rest = coloured(&text);
            prop_assert!(rest.match_indices('\x1b').all(|(at, _)| sgr(&rest[at..]).is_some()));
        }
    }
}
