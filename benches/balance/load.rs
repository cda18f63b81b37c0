//! The load of this bench: connections that arrive over a time, pauses between requests, a share of dear requests, and an account of
//! which worker got what.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpFastOpenConnect;
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::support::client::{Mode, exchange, field};

/// A request that does not end in this time is a failure: something is lost, and the bench goes on.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) connections: usize,
    /// They begin evenly over this time.
    pub(crate) arrive: Duration,
    /// Requests begin until this time.
    pub(crate) until: Duration,
    /// Mean pause after an answer, exponentially distributed; zero is none.
    pub(crate) think: Duration,
    /// One request in so many is dear; 0 is none.
    pub(crate) dear: u32,
    /// The request goes with the SYN, where the server takes it (TCP Fast Open).
    pub(crate) fast_open: bool,
    pub(crate) seed: u64,
}

/// What one worker got.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Share {
    pub(crate) connections: u64,
    pub(crate) requests: u64,
}

/// What became of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// By what a worker calls itself.
    pub(crate) workers: BTreeMap<String, Share>,
    /// Microseconds, of all requests and of those that are not dear.
    pub(crate) all: Histogram<u32>,
    pub(crate) light: Histogram<u32>,
    pub(crate) failures: u64,
}

impl Seen {
    fn new() -> Self {
        // 1 µs to 60 s with 3 digits: the arguments are valid by construction.
        let empty = Histogram::new_with_bounds(1, 60_000_000, 3).expect("valid histogram bounds");
        Self {
            workers: BTreeMap::new(),
            all: empty.clone(),
            light: empty,
            failures: 0,
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (worker, share) in &other.workers {
            let own = self.workers.entry(worker.clone()).or_default();
            own.connections += share.connections;
            own.requests += share.requests;
        }
        // Same bounds on both sides: adding cannot fail.
        let _ = self.all.add(&other.all);
        let _ = self.light.add(&other.light);
        self.failures += other.failures;
    }

    /// What each of `workers` got, the most first; those that nobody saw got nothing.
    pub(crate) fn shares(&self, workers: usize, of: fn(&Share) -> u64) -> Vec<u64> {
        let mut shares: Vec<u64> = self.workers.values().map(of).collect();
        shares.resize(shares.len().max(workers), 0);
        shares.sort_unstable_by(|a, b| b.cmp(a));
        shares
    }
}

/// Standard deviation over mean.
pub(crate) fn variation(shares: &[u64]) -> f64 {
    let count = shares.len() as f64;
    let mean = shares.iter().sum::<u64>() as f64 / count;
    let square = |share: &u64| (*share as f64 - mean).powi(2);
    (shares.iter().map(square).sum::<f64>() / count).sqrt() / mean
}

/// Carries out a plan. Fails if nothing was answered.
pub(crate) fn run(runtime: &Runtime, server: SocketAddr, plan: Plan) -> Result<Seen> {
    let seen = runtime.block_on(async {
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for number in 0..plan.connections {
            tasks.spawn(client(server, plan, number, started));
        }
        let mut sum = Seen::new();
        while let Some(part) = tasks.join_next().await {
            sum.merge(&part?);
        }
        anyhow::Ok(sum)
    })?;
    ensure!(
        !seen.workers.is_empty(),
        "nothing was answered on {server} ({} failures)",
        seen.failures
    );
    Ok(seen)
}

async fn client(server: SocketAddr, plan: Plan, number: usize, started: Instant) -> Seen {
    let mut rng = fastrand::Rng::with_seed(plan.seed << 32 | number as u64);
    let mut seen = Seen::new();
    let mut kept = None;
    let mut buffer = vec![0; 4096];
    let place = number as f64 / plan.connections as f64;
    tokio::time::sleep(plan.arrive.mul_f64(place)).await;
    while started.elapsed() < plan.until {
        let dear = plan.dear > 0 && rng.u32(..plan.dear) == 0;
        let request = request(plan.mode, dear);
        let fresh = kept.is_none();
        let began = Instant::now();
        if fresh && plan.fast_open {
            kept = connect_fast(server).await.ok();
        }
        let answer = exchange(server, plan.mode, request, &mut kept, &mut buffer);
        let answer = tokio::time::timeout(PATIENCE, answer)
            .await
            .context("no answer")
            .flatten()
            .and_then(|head| {
                let head = std::str::from_utf8(&buffer[..head])?;
                field(head, "x-worker").context("find x-worker")
            });
        match answer {
            Ok(worker) => {
                let time = began.elapsed().as_micros() as u64;
                seen.all.saturating_record(time);
                if !dear {
                    seen.light.saturating_record(time);
                }
                if !seen.workers.contains_key(worker) {
                    seen.workers.insert(worker.to_owned(), Share::default());
                }
                if let Some(share) = seen.workers.get_mut(worker) {
                    share.requests += 1;
                    share.connections += u64::from(fresh);
                }
            }
            Err(error) => {
                if seen.failures == 0 {
                    eprintln!("   request to {server} failed: {error:#}");
                }
                seen.failures += 1;
                kept = None;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        if !plan.think.is_zero() {
            // The distribution of pauses between independent events; 1 - u is never 0.
            let pause = plan.think.mul_f64(-(1.0 - rng.f64()).ln());
            tokio::time::sleep(pause).await;
        }
    }
    seen
}

/// A connection whose SYN waits for the first write (`TCP_FASTOPEN_CONNECT`, tcp(7)).
async fn connect_fast(server: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    setsockopt(&socket, TcpFastOpenConnect, &true)?;
    Ok(socket.connect(server).await?)
}

fn request(mode: Mode, dear: bool) -> &'static [u8] {
    match (mode, dear) {
        (Mode::KeepAlive, false) => b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n",
        (Mode::KeepAlive, true) => b"GET /burn HTTP/1.1\r\nHost: bench\r\n\r\n",
        (Mode::Short, false) => b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n",
        (Mode::Short, true) => b"GET /burn HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n",
    }
}
