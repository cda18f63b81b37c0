//! `cargo bench --bench health [-- SECTION... --out FILE]`: what is promised while workers die, hang and flood.
//!
//! Sections: `promotion`, `crash`, `hang`, `paused`, `flood`, `beats`. A full run takes about six minutes.
//!
//! Shorter, by environment: `RCLUSTER_BENCH_PROMOTIONS` (30), `RCLUSTER_BENCH_KILLS` (100), `RCLUSTER_BENCH_SECONDS` (60: the hang, the
//! pause, the beats), `RCLUSTER_BENCH_FLOOD` (seconds, 15). `RCLUSTER_BENCH_NODES` (a major, default 24), `RCLUSTER_BENCH_BIN`.

#![allow(clippy::disallowed_macros, reason = "a test prints for its author")]

#[path = "health/beats.rs"]
mod beats;
#[path = "health/crash.rs"]
mod crash;
#[path = "health/flood.rs"]
mod flood;
#[path = "health/hang.rs"]
mod hang;
#[path = "health/load.rs"]
mod load;
#[path = "health/paused.rs"]
mod paused;
#[path = "health/promotion.rs"]
mod promotion;
#[allow(dead_code, reason = "each bench uses its part of the shared files")]
mod support;

use anyhow::{Context, Result};
use support::args::{Args, number};
use support::nodes::Node;
use support::report::Report;

fn main() -> Result<()> {
    let Some(args) = Args::parse()? else {
        return Ok(());
    };
    support::cleanup::on_interrupt()?;
    let major = number("RCLUSTER_BENCH_NODES", 24)?;
    let node = Node::of_major(u32::try_from(major).context("a major of Node")?)?;
    let seconds = number("RCLUSTER_BENCH_SECONDS", 60)?;
    let mut report = Report::new(
        "Health: workers that die, hang and flood",
        std::slice::from_ref(&node),
    );
    if args.wants("promotion") {
        let rounds = number("RCLUSTER_BENCH_PROMOTIONS", 30)?;
        promotion::run(&mut report, &node, rounds)?;
    }
    if args.wants("crash") {
        crash::run(&mut report, &node, number("RCLUSTER_BENCH_KILLS", 100)?)?;
    }
    if args.wants("hang") {
        hang::run(&mut report, &node, seconds)?;
    }
    if args.wants("paused") {
        paused::run(&mut report, &node, seconds)?;
    }
    if args.wants("flood") {
        flood::run(&mut report, &node, number("RCLUSTER_BENCH_FLOOD", 15)?)?;
    }
    if args.wants("beats") {
        beats::run(&mut report, seconds)?;
    }
    report.finish(args.out.as_deref())
}
