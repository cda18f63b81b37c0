//! What to send, where to, and for how long.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Bodies that are echoed stay below what two sockets buffer, because the whole request is written before the answer is read.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix stream socket.
    Unix(PathBuf),
}

/// What is spoken. TLS is chosen by [`Load::tls`], for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP/1.1 requests, one after the other.
    Http1,
    /// HTTP/2, prior knowledge when in clear, ALPN under TLS; one stream at a time.
    H2,
    /// WebSocket messages, one after the other.
    WebSocket,
    /// Server-sent events over HTTP/1.1; one stream is one request.
    Sse {
        /// Number of events to ask for.
        events: u64,
        /// Time between two.
        every: Duration,
    },
    /// Slow uploads over HTTP/1.1.
    Upload {
        /// Size of a body in bytes.
        bytes: u64,
        /// Time over which it is sent.
        over: Duration,
    },
    /// Big or slow downloads over HTTP/1.1.
    Download {
        /// Size of a body in bytes.
        bytes: u64,
        /// Time over which the server sends it.
        over: Duration,
    },
}

/// Connections kept or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One connection a client, for as long as the server keeps it.
    KeepAlive,
    /// A new connection for each request.
    Short,
}

/// How an answer is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The application follows the contract in the module's documentation; every byte is compared.
    Echo,
    /// Any application: `GET`, status 2xx or 3xx, complete. For [`Scheme::Http1`] and [`Scheme::H2`].
    Complete,
    /// Any application, with the request in [`Load::ask`]: complete, and a status below 500, since what the application refuses
    /// it has answered. For [`Scheme::Http1`].
    Served,
}

/// The method of an [`Ask`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Without a body.
    #[default]
    Get,
    /// With [`Ask::body`].
    Post,
}

/// A request as an application of one's own wants it, for [`Check::Served`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Method.
    pub method: Method,
    /// Fields of the head, besides those that the ledger writes. `host` replaces the ledger's own; the framing
    /// (`content-length`, `transfer-encoding`, `connection`, `expect`, `upgrade`) is not to be given.
    pub headers: Vec<(String, String)>,
    /// Body of a POST; at most 64 KiB.
    pub body: String,
}

impl Ask {
    /// Fields that decide where a message ends or what follows it.
    const FRAMING: [&'static str; 6] = [
        "connection",
        "content-length",
        "expect",
        "transfer-encoding",
        "upgrade",
        "x-id",
    ];

    fn validate(&self) -> Result<(), LedgerError> {
        let bad = |what| Err(LedgerError::Invalid(what));
        if self.body.len() > MAX_BODY {
            return bad("a body of over 64 KiB");
        }
        for (name, value) in &self.headers {
            // RFC 9110 section 5.6.2, token; section 5.5, field values.
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            if name.is_empty() || !name.bytes().all(token) {
                return bad("a header whose name is no token");
            }
            if value.bytes().any(|b| b < b' ' && b != b'\t' || b == 0x7f) {
                return bad("a header whose value holds control characters");
            }
            if Self::FRAMING.iter().any(|f| name.eq_ignore_ascii_case(f)) {
                return bad("a header that the ledger itself writes");
            }
        }
        Ok(())
    }

    pub(super) fn has(&self, field: &str) -> bool {
        let mut names = self.headers.iter().map(|(name, _)| name);
        names.any(|name| name.eq_ignore_ascii_case(field))
    }
}

/// When the load ends; whichever comes first. Without either: at [`super::Control::stop`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Number of requests, over all clients.
    pub requests: Option<u64>,
    /// Time in which requests are sent; those under way then are still waited for.
    pub duration: Option<Duration>,
}

/// A load. Start from [`Load::new`] and set what differs.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where the server listens.
    pub target: Target,
    /// What is spoken.
    pub scheme: Scheme,
    /// Under TLS; any certificate is accepted (a test tool, for loopback).
    pub tls: bool,
    /// Connections kept or not.
    pub mode: Mode,
    /// How an answer is checked.
    pub check: Check,
    /// Number of clients, each with one request at a time.
    pub clients: u32,
    /// Number of the first client: ids of several loads against one journal stay distinct.
    pub first_client: u32,
    /// Simulated round trip; zero is none.
    pub latency: Duration,
    /// Mean pause between an answer and the next request (uniform from a half to one and a half of it).
    pub think: Duration,
    /// Path of the request, with a leading slash.
    pub path: String,
    /// What is asked, with [`Check::Served`].
    pub ask: Ask,
    /// Sent as `x-delay-ms`, for applications that can wait before the answer.
    pub server_delay: Option<Duration>,
    /// Size of an echoed body in bytes, uniform; at most 64 KiB. The id is part of it, so the smallest bodies are a few bytes larger.
    pub body: RangeInclusive<usize>,
    /// Time for connecting, and again for the answer. In streams (SSE, download): for the next byte.
    pub request_timeout: Duration,
    /// When the load ends.
    pub limit: Limit,
    /// Seed of sizes and pauses.
    pub seed: u64,
}

impl Load {
    /// Keep-alive HTTP/1.1 echoes to `/echo`, 16 clients, no latency, no pause, 10 s timeout, no limit.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            scheme: Scheme::Http1,
            tls: false,
            mode: Mode::KeepAlive,
            check: Check::Echo,
            clients: 16,
            first_client: 0,
            latency: Duration::ZERO,
            think: Duration::ZERO,
            path: "/echo".into(),
            ask: Ask::default(),
            server_delay: None,
            body: 16..=256,
            request_timeout: Duration::from_secs(10),
            limit: Limit::default(),
            seed: 1,
        }
    }

    /// Whether the load makes sense; [`super::run`] asks this first.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Invalid`] names what does not.
    pub fn validate(&self) -> Result<(), LedgerError> {
        let bad = |what| Err(LedgerError::Invalid(what));
        if self.clients == 0 {
            return bad("no clients");
        }
        if u64::from(self.first_client) + u64::from(self.clients) > 1 << 24 {
            return bad("client numbers end at 2^24");
        }
        if self.body.is_empty() || *self.body.end() > MAX_BODY {
            return bad("body sizes: an empty range, or over 64 KiB");
        }
        if !self.path.starts_with('/') || !self.path.bytes().all(|b| b.is_ascii_graphic()) {
            return bad("the path must begin with a slash and have printable ASCII only");
        }
        if self.request_timeout.is_zero() {
            return bad("the timeout is zero");
        }
        if self.check == Check::Complete && !matches!(self.scheme, Scheme::Http1 | Scheme::H2) {
            return bad("only HTTP requests can be checked for completeness alone");
        }
        if self.check == Check::Served && self.scheme != Scheme::Http1 {
            return bad("a request of one's own goes over HTTP/1.1");
        }
        self.ask.validate()?;
        if self.seconds() > 86_400.0 * 365.0 {
            return bad("a time is longer than a year");
        }
        Ok(())
    }

    /// The longest of the times, in seconds.
    fn seconds(&self) -> f64 {
        let scheme = match self.scheme {
            Scheme::Http1 | Scheme::H2 | Scheme::WebSocket => Duration::ZERO,
            Scheme::Sse { every: time, .. }
            | Scheme::Upload { over: time, .. }
            | Scheme::Download { over: time, .. } => time,
        };
        [
            self.latency,
            self.think,
            self.request_timeout,
            self.limit.duration.unwrap_or_default(),
            scheme,
        ]
        .iter()
        .map(Duration::as_secs_f64)
        .fold(0.0, f64::max)
    }
}

/// The ledger could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The load makes no sense.
    #[error("bad load: {0}")]
    Invalid(&'static str),
    /// TLS could not be set up.
    #[error("TLS")]
    Tls(#[from] tokio_rustls::rustls::Error),
    /// The thread or its runtime could not be made.
    #[error("cannot start the load generator")]
    Start(#[source] std::io::Error),
    /// The load generator panicked.
    #[error("the load generator panicked")]
    Panicked,
}
