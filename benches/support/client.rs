//! A closed-loop HTTP client: each connection sends, waits for the whole answer, sends again.
//!
//! One thread, so that it takes the same small share of the machine from every contender. It checks status and
//! body; `rcluster_ledger` accounts for each request, this does not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// How requests use connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    KeepAlive,
    /// A new connection for each request, `Connection: close`.
    Short,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::Short => "short",
        }
    }

    fn request(self) -> &'static [u8] {
        match self {
            Self::KeepAlive => b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n",
            Self::Short => b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n",
        }
    }
}

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    Elapsed(Duration),
    Answers(u64),
}

/// What a load saw.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) answers: u64,
    pub(crate) failures: u64,
    pub(crate) elapsed: Duration,
    /// Microseconds from the start of the request (with `Short`: of the connection) to the end of its answer.
    pub(crate) latency: Histogram<u32>,
}

impl Load {
    pub(crate) fn new() -> Self {
        Self {
            answers: 0,
            failures: 0,
            elapsed: Duration::ZERO,
            // 1 µs to 60 s with 3 digits: the arguments are valid by construction.
            latency: Histogram::new_with_bounds(1, 60_000_000, 3).expect("valid histogram bounds"),
        }
    }

    /// Adds another load that ran after this one.
    pub(crate) fn append(&mut self, other: &Self) {
        self.elapsed += other.elapsed;
        self.merge(other);
    }

    /// Answers a second.
    pub(crate) fn rate(&self) -> f64 {
        self.answers as f64 / self.elapsed.as_secs_f64()
    }

    /// Latency at a quantile, in milliseconds.
    pub(crate) fn quantile_ms(&self, q: f64) -> f64 {
        self.latency.value_at_quantile(q) as f64 / 1000.0
    }

    fn merge(&mut self, other: &Self) {
        self.answers += other.answers;
        self.failures += other.failures;
        // Same bounds on both sides: adding cannot fail.
        let _ = self.latency.add(&other.latency);
    }
}

/// Loads `server` over so many connections at a time. Fails if nothing was answered.
pub(crate) fn run(
    runtime: &Runtime,
    server: SocketAddr,
    mode: Mode,
    connections: usize,
    until: Until,
) -> Result<Load> {
    let load = runtime.block_on(async {
        let started = Instant::now();
        let stop = Arc::new(Stop {
            started,
            until,
            left: AtomicU64::new(0),
        });
        if let Until::Answers(n) = until {
            stop.left.store(n, Ordering::Relaxed);
        }
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            tasks.spawn(client(server, mode, Arc::clone(&stop)));
        }
        let mut sum = Load::new();
        while let Some(part) = tasks.join_next().await {
            sum.merge(&part?);
        }
        sum.elapsed = match until {
            Until::Elapsed(time) => time,
            Until::Answers(_) => started.elapsed(),
        };
        anyhow::Ok(sum)
    })?;
    ensure!(
        load.answers > 0,
        "nothing was answered on {server} ({} failures)",
        load.failures
    );
    Ok(load)
}

struct Stop {
    started: Instant,
    until: Until,
    left: AtomicU64,
}

impl Stop {
    /// Takes leave to send one more request.
    fn next(&self) -> bool {
        match self.until {
            Until::Elapsed(time) => self.started.elapsed() < time,
            Until::Answers(_) => self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                .is_ok(),
        }
    }

    /// Whether an answer at that moment still counts: one after the end belongs to no measured time.
    fn counts(&self, at: Instant) -> bool {
        match self.until {
            Until::Elapsed(time) => at - self.started < time,
            Until::Answers(_) => true,
        }
    }
}

async fn client(server: SocketAddr, mode: Mode, stop: Arc<Stop>) -> Load {
    let mut load = Load::new();
    let mut kept = None;
    let mut buffer = vec![0; 4096];
    while stop.next() {
        let began = Instant::now();
        match exchange(server, mode, mode.request(), &mut kept, &mut buffer).await {
            Ok(_) => {
                let now = Instant::now();
                if stop.counts(now) {
                    load.answers += 1;
                    load.latency
                        .saturating_record((now - began).as_micros() as u64);
                }
            }
            Err(error) => {
                if load.failures == 0 {
                    eprintln!("   request to {server} failed: {error:#}");
                }
                load.failures += 1;
                kept = None;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    load
}

/// One request and its whole answer, over the connection that was kept, or a new one. Returns the length of the answer's head, which is
/// in the buffer.
pub(crate) async fn exchange(
    server: SocketAddr,
    mode: Mode,
    request: &[u8],
    kept: &mut Option<TcpStream>,
    buffer: &mut [u8],
) -> Result<usize> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => TcpStream::connect(server).await.context("connect")?,
    };
    stream.write_all(request).await.context("send")?;
    let mut filled = 0;
    let mut length = None;
    loop {
        let n = stream
            .read(&mut buffer[filled..])
            .await
            .context("receive")?;
        if n == 0 {
            // A short answer is whole when its length is; the FIN after it ends the exchange.
            return match length {
                Some((head, whole)) if mode == Mode::Short && filled == whole => Ok(head),
                _ => bail!("connection ended after {filled} bytes of an answer"),
            };
        }
        filled += n;
        if length.is_none() {
            length = answer_length(&buffer[..filled])?;
        }
        let whole = length.map_or(usize::MAX, |(_, whole)| whole);
        ensure!(
            filled <= whole && filled < buffer.len(),
            "answer is longer than announced"
        );
        if mode == Mode::KeepAlive && filled == whole {
            *kept = Some(stream);
            return Ok(length.map_or(0, |(head, _)| head));
        }
    }
}

/// Length of the head, and of head and body, once the head is there.
fn answer_length(bytes: &[u8]) -> Result<Option<(usize, usize)>> {
    let Some(head) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..head])?;
    ensure!(text.starts_with("HTTP/1.1 200 "), "answered {text:?}");
    let length: usize = field(text, "content-length")
        .context("find Content-Length")?
        .parse()?;
    Ok(Some((head, head + 4 + length)))
}

/// A field of an answer's head.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim_start())
    })
}
