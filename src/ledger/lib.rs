//! The ledger: a load generator that accounts for every request.
//!
//! A throughput tool counts what comes back. The ledger counts what was sent: each request has an [`Id`], is sent once (there is
//! no retry), and ends in exactly one [`Class`]. A request that vanishes, is cut, answered twice or never answered is therefore seen, and
//! [`Report::lost`] says how many there were.
//!
//! # What makes it strict
//!
//! - **Commit first.** A keep-alive HTTP/1.1 client decides to send and writes, without having looked at the socket since the
//!   last answer. Real clients behind a network cannot see a FIN that is still on its way either. Only after an answer with
//!   `Connection: close` may the client open a new connection without a loss. HTTP/2 and WebSocket clients read all the time, as real
//!   ones do: what they have *noticed* (GOAWAY, a close frame) before they send costs nothing.
//! - **Latency.** With [`Load::latency`] every connection runs through a delay line: what is written reaches the server's socket half a round
//!   trip later, and data, FIN and RST are noticed half a round trip after they arrived. At 0 ms the races of a closing
//!   server hide; use 0, 5, 20 and 100 ms.
//! - **Idle reuse.** A server that advertises `Keep-Alive: timeout=N` may close after N seconds. The client does not reuse a connection that
//!   has been idle for longer than N - 1 s (as undici does; RFC 9112 section 9.3 promises clients nothing).
//! - **After the last answer** of a connection the client goes on reading for at most a second: bytes that still come are a
//!   [`Class::Duplicate`], a RST instead of a FIN is [`Class::OkReset`].
//!
//! # The contract with the application
//!
//! With [`Check::Echo`] (the default) each request carries its id in the header `x-id`:
//!
//! - HTTP (1.1, TLS, 2): `POST path` with a body of printable ASCII. Answer: 200, header `x-id` as in the request, the
//!   same body. A header `x-delay-ms: N` asks the application to wait that long before it answers.
//! - WebSocket: a text message `id:padding`, answered by the same message.
//! - Server-sent events: `GET path?n=EVENTS&every=MS`; that many events with consecutive numbers in `id:`. A clean end before the last one
//!   is a [`Class::WrongBody`].
//! - Download: `GET path?bytes=N&ms=T`: 200 and N bytes, where byte i is i mod 251, over about T ms.
//! - Upload: `POST path` with such a body. Answer: 200 and the text `ID BYTES HASH` (FNV-1a, 32 bit, 8 hex digits).
//!
//! With [`Check::Complete`] any application will do: `GET path`, the answer must be complete, its status 2xx or 3xx. With [`Check::Served`] the
//! request is any [`Ask`] over HTTP/1.1, and the answer must be complete with a status below 500.
//!
//! A worker may journal: a folder with one file a process, lines `R id` (received) and `A id` (answered), read by [`reconcile`].
//!
//! # Running
//!
//! [`run`] wants a current-thread tokio runtime with I/O and time; [`spawn`] makes one in a thread of its own. Load from several threads:
//! distinct [`Load::first_client`] numbers, then [`Report::absorb`].

#![forbid(unsafe_code)]

mod book;
mod check;
mod class;
mod connect;
mod connection;
mod context;
mod control;
mod decode;
mod http1;
mod http2;
mod id;
mod journal;
mod load;
mod report;
mod run;
mod websocket;
mod wire;

pub use class::Class;
pub use control::Control;
pub use id::Id;
pub use journal::{Fate, Reconciliation, reconcile};
pub use load::{Ask, Check, LedgerError, Limit, Load, Method, Mode, Scheme, Target};
pub use report::{Latency, Line, Phase, Report, Sample, Slot};
pub use run::{Running, run, spawn};
