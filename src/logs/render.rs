//! Lines as they are written: plain, marked, or as JSON. Pure but for the time of day.

use std::{borrow::Cow, io::Write as _, time::SystemTime};

use serde::{Deserialize, Serialize};

use rcluster_core::escape;

/// Which of a worker's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl Stream {
    /// As it stands in a file's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Who printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The slot.
    pub slot: u32,
    /// The worker's id: two workers of one slot print at the same time in a reload.
    pub worker: u64,
    /// The stream.
    pub stream: Stream,
}

/// How lines are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Not at all.
    Raw,
    /// Not at all, on a terminal: what acts on it is escaped, see [`escape::coloured`].
    Shown,
    /// `w2 |` before each line.
    Prefix {
        /// In the slot's colour.
        colour: bool,
        /// On a terminal: what acts on it is escaped.
        terminal: bool,
    },
    /// One object a line.
    Json,
}

/// What stands at the end of a piece of a line that was too long.
const CUT: &[u8] = b" [rcluster: a long line, it goes on]";
/// Colours that can be read on black and on white.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

#[derive(Serialize)]
struct JsonLine<'a> {
    timestamp: &'a str,
    #[serde(flatten)]
    origin: Origin,
    line: Cow<'a, str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

impl Style {
    /// Writes whole lines, or a part of one (`cut`), to `out`; each ends with a newline. Returns how many.
    pub(super) fn render(self, origin: Origin, bytes: &[u8], cut: bool, out: &mut Vec<u8>) -> u64 {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let end: &[u8] = if cut { CUT } else { b"" };
        if self == Self::Raw {
            out.reserve(bytes.len() + end.len() + 1);
            out.extend_from_slice(bytes);
            out.extend_from_slice(end);
            out.push(b'\n');
            return 1 + memchr::memchr_iter(b'\n', bytes).count() as u64;
        }
        let prefix = self.prefix(origin.slot);
        let now = match self {
            Self::Json => humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
            Self::Raw | Self::Shown | Self::Prefix { .. } => String::new(),
        };
        let (mut lines, mut start) = (0, 0);
        for at in memchr::memchr_iter(b'\n', bytes).chain([bytes.len()]) {
            let line = &bytes[start..at];
            start = at + 1;
            lines += 1;
            if self == Self::Json {
                let object = JsonLine {
                    timestamp: &now,
                    origin,
                    line: String::from_utf8_lossy(line),
                    cut,
                };
                // All keys are strings: cannot fail.
                let object = serde_json::to_string(&object).unwrap_or_default();
                out.extend_from_slice(escape::json(&object).as_bytes());
            } else {
                out.extend_from_slice(&prefix);
                if self.is_on_terminal() {
                    let line = line.strip_suffix(b"\r").unwrap_or(line);
                    let line = String::from_utf8_lossy(line);
                    out.extend_from_slice(escape::coloured(&line).as_bytes());
                } else {
                    out.extend_from_slice(line);
                }
                out.extend_from_slice(end);
            }
            out.push(b'\n');
        }
        lines
    }

    fn is_on_terminal(self) -> bool {
        matches!(self, Self::Shown | Self::Prefix { terminal: true, .. })
    }

    fn prefix(self, slot: u32) -> Vec<u8> {
        let mut prefix = vec![];
        let _ = match self {
            Self::Prefix { colour: true, .. } => {
                let colour = COLOURS[slot as usize % COLOURS.len()];
                write!(prefix, "\x1b[{colour}mw{slot} |\x1b[0m ")
            }
            Self::Prefix { colour: false, .. } => write!(prefix, "w{slot} | "),
            Self::Raw | Self::Shown | Self::Json => Ok(()),
        };
        prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin = Origin {
        slot: 2,
        worker: 7,
        stream: Stream::Stderr,
    };

    fn render(style: Style, bytes: &[u8], cut: bool) -> (u64, String) {
        let mut out = vec![];
        let lines = style.render(ORIGIN, bytes, cut, &mut out);
        (lines, String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn each_line_has_its_mark_and_its_newline() {
        let text = Style::Prefix {
            colour: false,
            terminal: false,
        };
        assert_eq!(
            render(text, b"a\n\nb", false),
            (3, "w2 | a\nw2 | \nw2 | b\n".to_owned())
        );
        assert_eq!(
            render(Style::Raw, b"a\nb\n", false),
            (2, "a\nb\n".to_owned())
        );
        let terminal = Style::Prefix {
            colour: true,
            terminal: true,
        };
        let (_, colour) = render(terminal, b"a\n", false);
        assert_eq!(colour, "\x1b[32mw2 |\x1b[0m a\n");
        let (_, cut) = render(text, b"xyz", true);
        assert_eq!(cut, "w2 | xyz [rcluster: a long line, it goes on]\n");
    }

    #[test]
    fn on_a_terminal_only_colours_pass() {
        let bytes = b"\x1b[31mred\x1b]0;x\x07\ra\x9b\tb\xc2\x9b\r\n";
        let shown = "\x1b[31mred\\u{1b}]0;x\\u{7}\\ra\u{fffd}\tb\\u{9b}\x1b[0m\n";
        assert_eq!(render(Style::Shown, bytes, false), (1, shown.to_owned()));
        let terminal = Style::Prefix {
            colour: false,
            terminal: true,
        };
        let (_, prefixed) = render(terminal, bytes, false);
        assert_eq!(prefixed, format!("w2 | {shown}"));
        let (_, json) = render(Style::Json, "\u{9b}\u{202e}".as_bytes(), false);
        assert!(json.contains(r#""line":"\u009b\u202e""#), "{json}");
    }

    #[test]
    fn json_takes_any_byte() {
        let (lines, text) = render(Style::Json, b"a \"b\" \xff\x00\ntwo\n", false);
        assert_eq!(lines, 2);
        let objects: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(objects[0]["line"], "a \"b\" \u{fffd}\0");
        assert_eq!(objects[0]["slot"], 2);
        assert_eq!(objects[1]["stream"], "stderr");
        assert_eq!(objects[1]["worker"], 7);
    }
}
