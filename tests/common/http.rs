//! A blocking HTTP/1.1 client, as small as the tests allow.

use std::io::{self, Read as _, Write as _};

use super::addr::{Addr, Stream};

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// Status line and header fields as received.
    pub(crate) head: String,
    /// The body, chunking undone.
    pub(crate) body: String,
}

impl Response {
    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

/// One connection.
pub(crate) struct Conn {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl Conn {
    /// Connects to `addr`.
    pub(crate) fn open(addr: &Addr) -> io::Result<Self> {
        Ok(Self {
            stream: addr.connect()?,
            buffer: Vec::new(),
        })
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, raw: &str) -> io::Result<()> {
        self.stream.write_all(raw.as_bytes())
    }

    /// Reads one answer: up to its `Content-Length`, its last chunk, or the end of the stream.
    pub(crate) fn read(&mut self) -> io::Result<Response> {
        let head_end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if self.fill()? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the stream ended before the head of an answer",
                ));
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).into_owned();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        self.buffer.drain(..head_end);
        let lower = head.to_ascii_lowercase();
        let body = if lower.contains("transfer-encoding: chunked") {
            self.read_chunks()?
        } else if let Some(length) =
            field(&lower, "content-length").and_then(|length| length.parse::<usize>().ok())
        {
            self.take(length)?
        } else {
            while self.fill()? > 0 {}
            std::mem::take(&mut self.buffer)
        };
        Ok(Response {
            status,
            head,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    /// Reads the head of an answer.
    pub(crate) fn read_head(&mut self) -> io::Result<String> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    /// Reads until these words have come.
    pub(crate) fn read_until(&mut self, words: &str) -> io::Result<String> {
        while find(&self.buffer, words.as_bytes()).is_none() {
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(String::from_utf8_lossy(&self.buffer).into_owned())
    }

    /// Reads to the end of the stream.
    pub(crate) fn read_to_end(&mut self) -> io::Result<String> {
        while self.fill()? > 0 {}
        Ok(String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned())
    }

    fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let at = loop {
                if let Some(at) = find(&self.buffer, b"\r\n") {
                    break at;
                }
                if self.fill()? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            };
            let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
            self.buffer.drain(..at + 2);
            let size = usize::from_str_radix(line.trim(), 16)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            let chunk = self.take(size + 2)?;
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let read = self.stream.read(&mut chunk)?;
        self.buffer.extend_from_slice(&chunk[..read]);
        Ok(read)
    }
}

impl Addr {
    /// One request on a connection of its own.
    pub(crate) fn try_request(&self, method: &str, path: &str) -> io::Result<Response> {
        let mut conn = Conn::open(self)?;
        conn.send(&format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))?;
        conn.read()
    }

    /// GET that must succeed, whatever its status code.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        self.try_request("GET", path)
            .unwrap_or_else(|error| panic!("GET {path} from {self}: {error}"))
    }

    /// What a plain TCP or Unix server says until it closes.
    #[track_caller]
    pub(crate) fn hear(&self) -> String {
        Conn::open(self)
            .and_then(|mut conn| conn.read_to_end())
            .unwrap_or_else(|error| panic!("hearing {self}: {error}"))
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}
