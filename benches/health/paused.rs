//! The master is stopped for a while, under load.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcluster_ledger::Mode;

use super::load::{Loads, WORKERS, fleet};
use crate::support::control;
use crate::support::nodes::Node;
use crate::support::report::Report;

const PHASE: &str = "stopped";

pub(crate) fn run(report: &mut Report, node: &Node, seconds: u64) -> Result<()> {
    report.section(
        "The master is stopped",
        &format!(
            "{WORKERS} workers, 16 clients with keep-alive and 16 with short connections. SIGSTOP of the master for {seconds} s, then SIGCONT and 5 s more."
        ),
    );
    let server = fleet(node)?;
    let before = control::serving(&control::status(&server.control())?);
    let loads = Loads::start(&server, &[Mode::KeepAlive, Mode::Short])?;
    std::thread::sleep(Duration::from_secs(2));
    loads.mark(PHASE);
    let master = Pid::from_raw(server.master());
    kill(master, Signal::SIGSTOP)?;
    std::thread::sleep(Duration::from_secs(seconds));
    let resumed = Instant::now();
    kill(master, Signal::SIGCONT)?;
    let status = control::status(&server.control())?;
    let woke = resumed.elapsed();
    std::thread::sleep(Duration::from_secs(5));
    let outcome = loads.stop(&server)?;
    outcome.tell(report, PHASE);
    let after = control::status(&server.control())?;
    let incidents = after["incidents"].as_array().map_or(0, Vec::len);
    let same = control::serving(&status) == before && control::serving(&after) == before;
    report.note(&format!(
        "Its status was answered {:.1} ms after SIGCONT.",
        woke.as_secs_f64() * 1e3
    ));
    let (lost, total) = (outcome.report.lost(), outcome.report.total);
    report.target(
        format!("master stopped for {seconds} s: lost"),
        "0",
        format!("{lost} of {total}"),
        lost == 0 && outcome.unexplained(&BTreeMap::new()).is_empty(),
    );
    report.target(
        "master stopped: workers replaced or blamed afterwards",
        "0",
        if same {
            format!("{incidents}")
        } else {
            format!("{incidents}; others serve now")
        },
        same && incidents == 0,
    );
    Ok(())
}
