//! `cargo bench --bench reload [-- SECTION... --out FILE]`: reloads under the ledger's load, beside PM2 and Node's cluster.
//!
//! Sections: `loads`, `boot`, `soak`. Needs `npm ci` in `benches/` (PM2, Express, Fastify).
//!
//! By default a quick run of some minutes. `RCLUSTER_BENCH_NIGHTLY=1` is the long one (>= 3,000,000 requests, >= 1,000 reloads, 10,000 in
//! the soak; about three hours). Single values: `RCLUSTER_BENCH_RELOADS` and `RCLUSTER_BENCH_SECONDS` (least a row), `RCLUSTER_BENCH_BOOTS`,
//! `RCLUSTER_BENCH_ONLY` (part of a row's title, as `PM2, http`), `RCLUSTER_BENCH_SOAK` (with Node), `RCLUSTER_BENCH_SOAK_STUB`, `RCLUSTER_BENCH_NODES` (a major, default 24).

#![allow(clippy::disallowed_macros, reason = "a test prints for its author")]

#[path = "reload/boot.rs"]
mod boot;
#[path = "reload/loads.rs"]
mod loads;
#[path = "reload/soak.rs"]
mod soak;
#[allow(dead_code, reason = "each bench uses its part of the shared files")]
mod support;

use anyhow::{Context, Result};
use support::args::{Args, number};
use support::nodes::Node;
use support::report::Report;

/// How much is done.
struct Effort {
    nightly: bool,
    /// The peers run every app, not only plain http.
    all_peers: bool,
    /// Rows whose title has this in it; all if empty.
    only: String,
    /// At least so many reloads, and so many seconds, for each row.
    reloads: u64,
    seconds: u64,
    /// Time without a reload between two.
    quiet_ms: u64,
    boots: u64,
    soak_node: u64,
    soak_stub: u64,
}

impl Effort {
    fn from_env() -> Result<Self> {
        let nightly = number("RCLUSTER_BENCH_NIGHTLY", 0)? > 0;
        let either =
            |name: &str, night: u64, quick: u64| number(name, if nightly { night } else { quick });
        Ok(Self {
            nightly,
            all_peers: number("RCLUSTER_BENCH_ALL_PEERS", 0)? > 0,
            only: std::env::var("RCLUSTER_BENCH_ONLY").unwrap_or_default(),
            reloads: either("RCLUSTER_BENCH_RELOADS", 60, 3)?,
            seconds: either("RCLUSTER_BENCH_SECONDS", 240, 0)?,
            quiet_ms: 500,
            boots: either("RCLUSTER_BENCH_BOOTS", 30, 10)?,
            soak_node: either("RCLUSTER_BENCH_SOAK", 10_000, 50)?,
            soak_stub: either("RCLUSTER_BENCH_SOAK_STUB", 10_000, 1000)?,
        })
    }
}

fn main() -> Result<()> {
    let Some(args) = Args::parse()? else {
        return Ok(());
    };
    support::cleanup::on_interrupt()?;
    let major = number("RCLUSTER_BENCH_NODES", 24)?;
    let node = Node::of_major(u32::try_from(major).context("a major of Node")?)?;
    let effort = Effort::from_env()?;
    let mut report = Report::new(
        "Reloading: rcluster and its peers",
        std::slice::from_ref(&node),
    );
    if args.wants("loads") {
        loads::run(&mut report, &node, &effort)?;
    }
    if args.wants("boot") {
        boot::run(&mut report, &node, &effort)?;
    }
    if args.wants("soak") {
        soak::run(&mut report, &node, &effort)?;
    }
    report.finish(args.out.as_deref())
}
