//! `cargo bench --bench balance [-- SECTION... --out FILE]`: who gets the next connection, and what that costs: the modes of `--balance`
//! beside Node's two policies, PM2, Watt, Bun and bare parents.
//!
//! Sections: `throughput`, `shares`, `mixed`, `faults`, `growth`, `accept`. Needs `npm ci` in `benches/`.
//!
//! `RCLUSTER_BENCH_QUICK=1` shows in three minutes that it works, and measures little. Single values: `RCLUSTER_BENCH_ROUNDS` (of each
//! section), `RCLUSTER_BENCH_SLICE_MS`, `RCLUSTER_BENCH_MIXED_MS`, `RCLUSTER_BENCH_GROWTH` (worker counts, default `2,8,32,128`),
//! `RCLUSTER_BENCH_ONLY` (part of a contender's name, several by commas), `RCLUSTER_BENCH_NODES` (a major, default 24), `RCLUSTER_BENCH_BIN`.

#![allow(clippy::disallowed_macros, reason = "a test prints for its author")]

#[path = "balance/accept.rs"]
mod accept;
#[path = "balance/faults.rs"]
mod faults;
#[path = "balance/growth.rs"]
mod growth;
#[path = "balance/lineup.rs"]
mod lineup;
#[path = "balance/load.rs"]
mod load;
#[path = "balance/mixed.rs"]
mod mixed;
#[path = "balance/shares.rs"]
mod shares;
#[path = "balance/sockopt.rs"]
mod sockopt;
#[allow(dead_code, reason = "each bench uses its part of the shared files")]
mod support;
#[path = "balance/throughput.rs"]
mod throughput;

use std::time::Instant;

use anyhow::{Context, Result};
use support::args::{Args, number};
use support::nodes::Node;
use support::peers;
use support::report::Report;

/// How much is done.
struct Effort {
    quick: bool,
    rounds: u64,
    /// Length of one slice of the throughput.
    slice_ms: u64,
    /// Length of one load of mixed costs.
    mixed_ms: u64,
    growth: Vec<usize>,
}

impl Effort {
    fn from_env() -> Result<Self> {
        let quick = number("RCLUSTER_BENCH_QUICK", 0)? > 0;
        let either =
            |name: &str, long: u64, short: u64| number(name, if quick { short } else { long });
        let growth = std::env::var("RCLUSTER_BENCH_GROWTH")
            .unwrap_or_else(|_| if quick { "2,8" } else { "2,8,32,128" }.to_owned());
        Ok(Self {
            quick,
            rounds: either("RCLUSTER_BENCH_ROUNDS", 3, 1)?,
            slice_ms: either("RCLUSTER_BENCH_SLICE_MS", 250, 150)?,
            mixed_ms: either("RCLUSTER_BENCH_MIXED_MS", 2000, 700)?,
            growth: growth
                .split(',')
                .map(|n| n.trim().parse().context("read RCLUSTER_BENCH_GROWTH"))
                .collect::<Result<_>>()?,
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut report = Report::new(
        "Balance: who gets the next connection",
        std::slice::from_ref(&node),
    );
    report.note(&format!(
        "PM2 {}, Watt {}, Bun {}. Every contender runs the same small app (Bun its own server); the client shares the cores.{}",
        peers::version("pm2"),
        peers::version("wattpm"),
        peers::version("@oven/bun-linux-x64"),
        if effort.quick {
            " **A quick run: it shows that the bench works; its figures mean little.**"
        } else {
            ""
        }
    ));
    for section in [
        "throughput",
        "shares",
        "mixed",
        "faults",
        "growth",
        "accept",
    ] {
        if !args.wants(section) {
            continue;
        }
        let report = &mut report;
        let began = Instant::now();
        let done = match section {
            "throughput" => throughput::run(report, &node, &runtime, &effort),
            "shares" => shares::run(report, &node, &runtime, &effort),
            "mixed" => mixed::run(report, &node, &runtime, &effort),
            "faults" => {
                faults::run(report, &node, &effort);
                Ok(())
            }
            "growth" => growth::run(report, &node, &runtime, &effort),
            _ => accept::run(report, &node, &effort),
        };
        eprintln!("   {section} took {:.0} s", began.elapsed().as_secs_f64());
        if let Err(error) = done {
            // The other sections are worth having all the same.
            let error = format!("{error:#}");
            let first = error.lines().next().unwrap_or_default().to_owned();
            report.target(
                format!("the section `{section}` runs"),
                "to its end",
                first,
                false,
            );
        }
    }
    report.finish(args.out.as_deref())
}
