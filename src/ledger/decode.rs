//! An exact reader of HTTP/1.1 answers (RFC 9112), without I/O. It is our own because the classes need to know at which byte an answer
//! ended.

use std::ops::Range;
use std::time::Duration;

/// Longest head, and longest line in a chunked body, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// The head of a final answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// The header `x-id`.
    pub(super) id: Option<String>,
    /// The server will close (or, HTTP/1.0, does not say that it keeps).
    pub(super) close: bool,
    /// `Keep-Alive: timeout=N`.
    pub(super) keep: Option<Duration>,
}

/// Something in the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More bytes are needed.
    Need,
    Head(Head),
    /// A piece of the body, for [`Decoder::bytes`].
    Body(Range<usize>),
    /// The answer is complete.
    End,
}

/// Not HTTP.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed answer: {0}")]
pub(super) struct Malformed(&'static str);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    UntilClose,
    Done,
}

/// Bytes of a connection, and where in an answer they are.
pub(super) struct Decoder {
    buffer: Vec<u8>,
    at: usize,
    state: State,
    /// Bytes of this answer that have been taken from the buffer.
    taken: u64,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            buffer: Vec::new(),
            at: 0,
            state: State::Head,
            taken: 0,
        }
    }

    /// The next answer begins.
    pub(super) fn begin(&mut self) {
        self.state = State::Head;
        self.taken = 0;
    }

    /// Bytes of this answer seen so far.
    pub(super) fn seen(&self) -> u64 {
        self.taken + self.left() as u64
    }

    /// Bytes that have not been taken yet.
    pub(super) fn left(&self) -> usize {
        self.buffer.len() - self.at
    }

    /// Where the next bytes go.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
        } else if self.at > MAX_HEAD {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.reserve(16 * 1024);
        &mut self.buffer
    }

    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// Whether an end of file here is the end of the answer.
    pub(super) fn may_end(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Done)
    }

    /// The next thing in the bytes.
    pub(super) fn step(&mut self) -> Result<Step, Malformed> {
        loop {
            match self.state {
                State::Head => {
                    let Some(head) = self.line(b"\r\n\r\n", "a head of over 64 KiB")? else {
                        return Ok(Step::Need);
                    };
                    let (head, framing) = parse_head(&self.buffer[head])?;
                    // RFC 9110 section 15.2: interim answers precede the final one.
                    if (100..200).contains(&head.status) && head.status != 101 {
                        continue;
                    }
                    self.state = framing;
                    return Ok(Step::Head(head));
                }
                State::Length(0) => self.state = State::Done,
                State::Length(n) => match self.piece(n) {
                    Some(range) => {
                        self.state = State::Length(n - range.len() as u64);
                        return Ok(Step::Body(range));
                    }
                    None => return Ok(Step::Need),
                },
                State::ChunkSize => {
                    let Some(line) = self.line(b"\r\n", "a chunk size of over 64 KiB")? else {
                        return Ok(Step::Need);
                    };
                    let line = &self.buffer[line];
                    let digits = line
                        .split(|b| *b == b';')
                        .next()
                        .unwrap_or(line)
                        .trim_ascii_end();
                    let valid = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
                    let size = std::str::from_utf8(digits).ok().filter(|_| valid);
                    let size = size.and_then(|size| u64::from_str_radix(size, 16).ok());
                    self.state = match size.ok_or(Malformed("a chunk size"))? {
                        0 => State::Trailer,
                        n => State::Chunk(n),
                    };
                }
                State::Chunk(0) => self.state = State::ChunkEnd,
                State::Chunk(n) => match self.piece(n) {
                    Some(range) => {
                        self.state = State::Chunk(n - range.len() as u64);
                        return Ok(Step::Body(range));
                    }
                    None => return Ok(Step::Need),
                },
                State::ChunkEnd => {
                    if self.left() < 2 {
                        return Ok(Step::Need);
                    }
                    if !self.buffer[self.at..].starts_with(b"\r\n") {
                        return Err(Malformed("a chunk longer than its size"));
                    }
                    self.take(2);
                    self.state = State::ChunkSize;
                }
                State::Trailer => match self.line(b"\r\n", "a trailer of over 64 KiB")? {
                    None => return Ok(Step::Need),
                    Some(line) if line.is_empty() => self.state = State::Done,
                    Some(_) => {}
                },
                State::UntilClose => {
                    return Ok(self.piece(u64::MAX).map_or(Step::Need, Step::Body));
                }
                State::Done => return Ok(Step::End),
            }
        }
    }

    fn take(&mut self, n: usize) {
        self.at += n;
        self.taken += n as u64;
    }

    /// Up to n bytes, if there are any.
    fn piece(&mut self, n: u64) -> Option<Range<usize>> {
        let n = usize::try_from(n).unwrap_or(usize::MAX).min(self.left());
        let start = self.at;
        self.take(n);
        (n > 0).then_some(start..start + n)
    }

    /// The bytes up to a mark, which is taken too.
    fn line(
        &mut self,
        mark: &[u8],
        too_long: &'static str,
    ) -> Result<Option<Range<usize>>, Malformed> {
        let rest = &self.buffer[self.at..];
        match rest.windows(mark.len()).position(|window| window == mark) {
            Some(n) => {
                let start = self.at;
                self.take(n + mark.len());
                Ok(Some(start..start + n))
            }
            None if rest.len() > MAX_HEAD => Err(Malformed(too_long)),
            None => Ok(None),
        }
    }
}

fn parse_head(head: &[u8]) -> Result<(Head, State), Malformed> {
    let head = std::str::from_utf8(head).map_err(|_| Malformed("a head that is no text"))?;
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let (old, rest) = match (
        status_line.strip_prefix("HTTP/1.1 "),
        status_line.strip_prefix("HTTP/1.0 "),
    ) {
        (Some(rest), _) => (false, rest),
        (None, Some(rest)) => (true, rest),
        (None, None) => return Err(Malformed("no status line")),
    };
    let digits = rest.split(' ').next().unwrap_or_default();
    let status: u16 = match digits.parse() {
        Ok(status) if digits.len() == 3 && status >= 100 => status,
        _ => return Err(Malformed("a status")),
    };
    let mut parsed = Head {
        status,
        close: old,
        ..Head::default()
    };
    let mut length = None;
    let mut chunked = false;
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .ok_or(Malformed("a header without a colon"))?;
        let value = value.trim_matches([' ', '\t']);
        let is = |other| name.eq_ignore_ascii_case(other);
        if is("content-length") {
            if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
                return Err(Malformed("a content-length"));
            }
            let n: u64 = value.parse().map_err(|_| Malformed("a content-length"))?;
            if length.replace(n).is_some_and(|other| other != n) {
                return Err(Malformed("two content-lengths"));
            }
        } else if is("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(Malformed("an unknown transfer-encoding"));
            }
            chunked = true;
        } else if is("connection") {
            for option in value.split(',').map(str::trim) {
                if option.eq_ignore_ascii_case("close") {
                    parsed.close = true;
                } else if old && option.eq_ignore_ascii_case("keep-alive") {
                    parsed.close = false;
                }
            }
        } else if is("keep-alive") {
            let timeout = value
                .split(',')
                .find_map(|part| part.trim().strip_prefix("timeout="));
            parsed.keep = timeout
                .and_then(|n| n.trim().parse().ok())
                .map(Duration::from_secs);
        } else if is("x-id") {
            parsed.id = Some(value.into());
        }
    }
    let framing = match (status, chunked, length) {
        (101, ..) => State::UntilClose,
        (100..200, ..) => State::Head,
        (204 | 304, ..) => State::Done,
        (_, true, Some(_)) => return Err(Malformed("chunked and a content-length")),
        (_, true, None) => State::ChunkSize,
        (_, false, Some(n)) => State::Length(n),
        (_, false, None) => State::UntilClose,
    };
    // RFC 9112 section 6.3: without a length the end of the connection is the end of the answer.
    parsed.close |= framing == State::UntilClose;
    Ok((parsed, framing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds the bytes in pieces: the heads, the body, whether it ended, bytes left.
    fn decode(input: &[u8], size: usize) -> Result<(Vec<Head>, Vec<u8>, bool, usize), Malformed> {
        let mut decoder = Decoder::new();
        let mut heads = Vec::new();
        let mut body = Vec::new();
        let mut ended = false;
        for piece in input.chunks(size) {
            decoder.buffer().extend_from_slice(piece);
            while !ended {
                match decoder.step()? {
                    Step::Need => break,
                    Step::Head(head) => heads.push(head),
                    Step::Body(range) => body.extend_from_slice(decoder.bytes(range)),
                    Step::End => ended = true,
                }
            }
        }
        assert_eq!(decoder.seen(), input.len() as u64);
        Ok((heads, body, ended || decoder.may_end(), decoder.left()))
    }

    /// The same whatever the pieces.
    fn all_ways(input: &str) -> Result<(Vec<Head>, Vec<u8>, bool, usize), Malformed> {
        let whole = decode(input.as_bytes(), input.len());
        for size in 1..input.len() {
            assert_eq!(decode(input.as_bytes(), size), whole, "in pieces of {size}");
        }
        whole
    }

    #[test]
    fn lengths_chunks_and_ends() {
        let (heads, body, ended, left) = all_ways(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Id: 3.4\r\nContent-Length: 5\r\nKeep-Alive: timeout=5, max=9\r\n\r\nhello",
        )
        .unwrap();
        let head = Head {
            status: 200,
            id: Some("3.4".into()),
            close: false,
            keep: Some(Duration::from_secs(5)),
        };
        assert_eq!(
            (heads, body, ended, left),
            (vec![head], b"hello".to_vec(), true, 0)
        );

        let (heads, body, ended, _) = all_ways(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: foo, Close\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nt: 1\r\n\r\n",
        )
        .unwrap();
        assert!(heads[0].close && ended);
        assert_eq!(body, b"abc0123456789");

        let (heads, body, ended, _) = all_ways("HTTP/1.1 200 OK\r\n\r\nuntil the end").unwrap();
        assert!(heads[0].close && ended);
        assert_eq!(body, b"until the end");

        assert!(all_ways("HTTP/1.1 204 No Content\r\n\r\n").unwrap().2);
        assert!(
            !all_ways("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n")
                .unwrap()
                .0[0]
                .close
        );
    }

    #[test]
    fn a_cut_answer_has_not_ended() {
        let length = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        let chunked =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        for whole in [length, chunked] {
            for n in 1..whole.len() {
                assert!(!decode(&whole.as_bytes()[..n], n).unwrap().2, "cut at {n}");
            }
            assert!(decode(whole.as_bytes(), 1).unwrap().2);
        }
    }

    #[test]
    fn what_follows_stays() {
        let input = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200";
        assert_eq!(decode(input, input.len()).unwrap().3, 12);
    }

    #[test]
    fn malformed_answers() {
        for (input, what) in [
            ("ICY 200 OK\r\n\r\n", "no status line"),
            ("HTTP/1.1 20 OK\r\n\r\n", "a status"),
            (
                "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
                "a header without a colon",
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
                "a content-length",
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
                "a content-length",
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
                "two content-lengths",
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
                "an unknown transfer-encoding",
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
                "a chunk size",
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc",
                "a chunk longer than its size",
            ),
        ] {
            assert_eq!(all_ways(input).unwrap_err(), Malformed(what), "{input:?}");
        }
        let endless = vec![b'x'; MAX_HEAD + 2];
        assert_eq!(
            decode(&endless, 1000).unwrap_err(),
            Malformed("a head of over 64 KiB")
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            start in "(HTTP/1.1 200 OK\r\n(transfer-encoding: chunked\r\n\r\n)?)?",
            bytes in proptest::collection::vec(any::<u8>(), 1..300), size in 1usize..50
        ) {
            let mut input = start.into_bytes();
            input.extend(bytes);
            drop(decode(&input, size));
        }
    }
}
