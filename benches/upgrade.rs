//! `cargo bench --bench upgrade [-- SECTION... --out FILE]`: the master is replaced, or killed, under the ledger's load; and `--watch`.
//!
//! Sections: `gap`, `many`, `store`, `orphans`, `watch`. Needs `npm ci` in `benches/` (nodemon). About five minutes; shorter with
//! `RCLUSTER_BENCH_UPGRADES` (1000), `RCLUSTER_BENCH_ROUNDS` (7). `RCLUSTER_BENCH_NODES`: a major, default 24.

#![allow(clippy::disallowed_macros, reason = "a test prints for its author")]

#[path = "upgrade/killed.rs"]
mod killed;
#[path = "upgrade/place.rs"]
mod place;
#[allow(dead_code, reason = "each bench uses its part of the shared files")]
mod support;
#[path = "upgrade/watch.rs"]
mod watch;

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
    let rounds = number("RCLUSTER_BENCH_ROUNDS", 7)?;
    let upgrades = number("RCLUSTER_BENCH_UPGRADES", 1000)?;
    let title = "The master replaced in place, or killed; and --watch";
    let mut report = Report::new(title, std::slice::from_ref(&node));
    if cfg!(debug_assertions) {
        report.note("A debug build of rcluster, and of the bench: times are larger than those of a release.");
    }
    if args.wants("gap") {
        place::gap(&mut report, &node, rounds)?;
    }
    if args.wants("many") {
        place::many(&mut report, &node, upgrades)?;
    }
    if args.wants("store") {
        killed::store(&mut report, &node, rounds)?;
    }
    if args.wants("orphans") {
        killed::orphans(&mut report, &node, rounds)?;
    }
    if args.wants("watch") {
        watch::run(&mut report, &node, rounds)?;
    }
    report.finish(args.out.as_deref())
}
