//! `cargo bench --bench serve [-- SECTION... --out FILE]`: rcluster beside Node's cluster, a plain node and the bare limit.
//!
//! Sections: `throughput`, `master`, `start`, `stubs`. Environment: `RCLUSTER_BENCH_NODES` (majors, default `20,24`),
//! `RCLUSTER_BENCH_NODE_<major>` (a binary), `RCLUSTER_BENCH_BIN` (another rcluster), `RCLUSTER_BENCH_OUT`,
//! `RCLUSTER_BENCH_ROUNDS`, `RCLUSTER_BENCH_SLICE_MS`, `RCLUSTER_BENCH_ANSWERS`, `RCLUSTER_BENCH_STARTS`.
//!
//! Only ratios of interleaved rounds mean something: the client shares the machine with the servers.

#![allow(clippy::disallowed_macros, reason = "a test prints for its author")]

#[path = "serve/master.rs"]
mod master;
#[path = "serve/start.rs"]
mod start;
#[path = "serve/stubs.rs"]
mod stubs;
#[allow(dead_code, reason = "each bench uses its part of the shared files")]
mod support;
#[path = "serve/throughput.rs"]
mod throughput;

use anyhow::{Context, Result};
use support::args::Args;
use support::nodes::Node;
use support::report::Report;

fn main() -> Result<()> {
    let Some(args) = Args::parse()? else {
        return Ok(());
    };
    support::cleanup::on_interrupt()?;
    let majors = std::env::var("RCLUSTER_BENCH_NODES").unwrap_or_else(|_| "20,24".to_owned());
    let nodes: Vec<Node> = majors
        .split(',')
        .map(|major| {
            Node::of_major(
                major
                    .trim()
                    .parse()
                    .with_context(|| format!("read the major {major:?}"))?,
            )
        })
        .collect::<Result<_>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut report = Report::new("Serving: rcluster and its peers", &nodes);
    if args.wants("throughput") {
        throughput::run(&mut report, &nodes, &runtime)?;
    }
    if args.wants("master") {
        master::run(&mut report, &nodes, &runtime)?;
    }
    if args.wants("start") {
        start::run(&mut report, &nodes)?;
    }
    if args.wants("stubs") {
        stubs::run(&mut report)?;
    }
    report.finish(args.out.as_deref())
}
