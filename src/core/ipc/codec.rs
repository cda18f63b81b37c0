//! Framing: one JSON value a line (`lib/internal/child_process/serialization.js`, `json`).

use serde::{Deserialize, Serialize};

use super::bounds::MAX_LINE;

/// A decoded line.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A whole line without its newline.
    Whole(&'a [u8]),
    /// A line over [`MAX_LINE`] ended; its bytes were dropped.
    TooLong,
}

/// Cuts a byte stream into lines. Holds at most [`MAX_LINE`] bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LineDecoder {
    #[serde(with = "super::text")]
    partial: Vec<u8>,
    dropping: bool,
}

impl LineDecoder {
    /// Takes the next bytes and calls `each` for every line that they complete.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (head, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            if self.dropping || self.partial.len() + head.len() > MAX_LINE {
                each(Line::TooLong);
            } else if self.partial.is_empty() {
                each(Line::Whole(head));
            } else {
                self.partial.extend_from_slice(head);
                each(Line::Whole(&self.partial));
            }
            self.reset();
        }
        if self.dropping || self.partial.len() + bytes.len() > MAX_LINE {
            self.reset();
            self.dropping = true;
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    fn reset(&mut self) {
        self.dropping = false;
        self.partial.clear();
        // A long line must not hold its memory for the life of the worker.
        self.partial.shrink_to(4096);
    }

    /// Bytes of a line that has not ended yet.
    pub fn pending(&self) -> usize {
        self.partial.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(chunks: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
        let mut decoder = LineDecoder::default();
        let mut lines = vec![];
        for chunk in chunks {
            decoder.feed(chunk, |line| {
                lines.push(match line {
                    Line::Whole(bytes) => Some(bytes.to_vec()),
                    Line::TooLong => None,
                });
            });
        }
        lines
    }

    #[test]
    fn a_line_over_the_limit_is_dropped_to_its_newline_and_memory_is_bounded() {
        let mut decoder = LineDecoder::default();
        let chunk = vec![b'x'; 64 * 1024];
        let mut seen = 0;
        for _ in 0..3200 {
            decoder.feed(&chunk, |_| seen += 1);
            assert!(decoder.partial.capacity() <= 2 * MAX_LINE);
        }
        assert_eq!(seen, 0);
        let mut lines = vec![];
        decoder.feed(b"tail\n{}\n", |line| {
            lines.push(matches!(line, Line::Whole(b"{}")));
        });
        assert_eq!(lines, [false, true]);
    }

    #[test]
    fn exactly_the_limit_is_kept() {
        let long = vec![b'x'; MAX_LINE];
        assert_eq!(decode(&[&long, b"\n"]), [Some(long.clone())]);
        assert_eq!(decode(&[&long, b"x\n"]), [None]);
    }

    #[test]
    fn a_line_goes_on_after_it_was_written_out_between_two_of_its_bytes() {
        let mut decoder = LineDecoder::default();
        // The first two of the three bytes of a character.
        decoder.feed(b"\"\xe2\x82", |_| unreachable!());
        let text = serde_json::to_string(&decoder).unwrap();
        let mut read: LineDecoder = serde_json::from_str(&text).unwrap();
        let mut lines = vec![];
        read.feed(b"\xac\"\n", |line| lines.push(format!("{line:?}")));
        assert_eq!(lines, [format!("{:?}", Line::Whole("\"€\"".as_bytes()))]);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_lines(
            lines in proptest::collection::vec("[^\n]{0,20}", 0..8),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let text: String = lines.iter().flat_map(|l| [l, "\n"]).collect();
            let bytes = text.as_bytes();
            let mut at: Vec<_> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let chunks: Vec<_> = at.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            let expected: Vec<_> = lines.iter().map(|l| Some(l.clone().into_bytes())).collect();
            prop_assert_eq!(decode(&chunks), expected);
        }
    }
}
