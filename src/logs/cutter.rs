//! A stream of bytes, cut into whole lines. Pure.

use memchr::memrchr;

/// Longest line that is kept in one piece, bytes.
pub(super) const LINE_LIMIT: usize = 64 * 1024;
/// What a quiet stream costs, bytes.
const START: usize = 4 * 1024;

/// What has been read and is no whole line yet.
#[derive(Debug)]
pub(super) struct Cutter {
    buffer: Vec<u8>,
    filled: usize,
}

/// Some of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Whole lines, each with its newline; or a part of one line, without.
    pub(super) bytes: Vec<u8>,
    /// It is a part: the line was too long, and goes on.
    pub(super) cut: bool,
}

impl Cutter {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; START],
            filled: 0,
        }
    }

    /// One that goes on where another stood.
    pub(super) fn resume(rest: &[u8]) -> Self {
        let mut cutter = Self::new();
        if rest.len() >= START {
            cutter.buffer.resize(LINE_LIMIT.max(rest.len() + 1), 0);
        }
        cutter.buffer[..rest.len()].copy_from_slice(rest);
        cutter.filled = rest.len();
        cutter
    }

    /// What was read of a line that has not ended.
    pub(super) fn begun(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Where to read into; never empty.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// So many bytes were read into the room.
    pub(super) fn took(&mut self, count: usize) -> Option<Piece> {
        let old = self.filled;
        self.filled += count;
        let full = self.filled == self.buffer.len();
        let found = memrchr(b'\n', &self.buffer[old..self.filled]);
        let piece = match found {
            Some(at) => Some(self.cut_at(old + at + 1, false)),
            None if full && self.filled >= LINE_LIMIT => Some(self.cut_at(self.filled, true)),
            None => None,
        };
        if full && self.buffer.len() < LINE_LIMIT {
            self.buffer.resize(LINE_LIMIT, 0);
        }
        piece
    }

    /// The stream has ended: what is left of it.
    pub(super) fn rest(&mut self) -> Option<Piece> {
        (self.filled > 0).then(|| self.cut_at(self.filled, false))
    }

    fn cut_at(&mut self, end: usize, cut: bool) -> Piece {
        let bytes = self.buffer[..end].to_vec();
        self.buffer.copy_within(end..self.filled, 0);
        self.filled -= end;
        Piece { bytes, cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(cutter: &mut Cutter, bytes: &[u8]) -> Vec<Piece> {
        let mut pieces = vec![];
        let mut left = bytes;
        while !left.is_empty() {
            let room = cutter.room();
            let count = room.len().min(left.len());
            room[..count].copy_from_slice(&left[..count]);
            pieces.extend(cutter.took(count));
            left = &left[count..];
        }
        pieces
    }

    #[test]
    fn only_whole_lines_come_before_the_end() {
        let mut cutter = Cutter::new();
        assert_eq!(feed(&mut cutter, b"one"), []);
        let lines = feed(&mut cutter, b" and\ntwo\nthr");
        assert_eq!(lines[0].bytes, b"one and\ntwo\n");
        assert_eq!(feed(&mut cutter, b"ee"), []);
        let rest = cutter.rest().expect("a rest");
        assert_eq!((&rest.bytes[..], rest.cut), (&b"three"[..], false));
        assert_eq!(cutter.rest(), None);
    }

    #[test]
    fn a_line_of_ten_megabytes_comes_in_bounded_pieces() {
        let mut cutter = Cutter::new();
        let mut bytes = vec![b'x'; 10_000_000];
        bytes.push(b'\n');
        let pieces = feed(&mut cutter, &bytes);
        assert!(pieces.iter().all(|p| p.bytes.len() <= LINE_LIMIT));
        let last = pieces.last().expect("pieces");
        assert!(!last.cut && pieces.iter().filter(|p| p.cut).count() == pieces.len() - 1);
        assert_eq!(
            pieces.iter().map(|p| p.bytes.len()).sum::<usize>(),
            bytes.len()
        );
    }

    proptest! {
        /// Nothing is lost, added or reordered, however the bytes arrive.
        #[test]
        fn all_bytes_come_out_in_order(chunks in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..6000), 0..40)) {
            let mut cutter = Cutter::new();
            let mut out = vec![];
            for chunk in &chunks {
                for piece in feed(&mut cutter, chunk) {
                    prop_assert!(piece.cut || piece.bytes.ends_with(b"\n"));
                    out.extend(piece.bytes);
                }
            }
            out.extend(cutter.rest().map(|p| p.bytes).unwrap_or_default());
            prop_assert_eq!(out, chunks.concat());
        }
    }
}
