//! One worker of four is killed again and again, under load.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcluster_ledger::{Class, Mode};

use super::load::{Loads, WORKERS, fleet};
use super::promotion::{last_seen, ms};
use crate::support::control;
use crate::support::nodes::Node;
use crate::support::report::Report;
use crate::support::stats::Samples;

const EVERY: Duration = Duration::from_millis(300);
const PHASE: &str = "kills";

pub(crate) fn run(report: &mut Report, node: &Node, kills: u64) -> Result<()> {
    report.section(
        "One of four killed every 300 ms",
        &format!(
            "{WORKERS} workers, 16 clients with keep-alive and 16 with short connections, 2 ms of think time, POSTs that are echoed and checked, no \
             retry, 10 s of patience. `kill -9` of the worker that has served longest, {kills} times; if none serves at that moment, as soon as one \
             does. Reaped: the process is not there any more, looked at every 50 µs."
        ),
    );
    let server = fleet(node)?;
    let loads = Loads::start(&server, &[Mode::KeepAlive, Mode::Short])?;
    std::thread::sleep(Duration::from_secs(2));
    loads.mark(PHASE);
    let began = Instant::now();
    let mut dead = BTreeMap::new();
    let mut reaped = Samples::default();
    let mut ready = Samples::default();
    let mut waited = 0;
    let mut due = Instant::now();
    while (dead.len() as u64) < kills {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let serving = control::serving(&control::status(&server.control())?);
        ensure!(
            began.elapsed() < Duration::from_secs(300),
            "nobody serves: {}",
            server.log_tail()
        );
        let Some(&(_, victim)) = serving.iter().find(|(_, pid)| !dead.contains_key(pid)) else {
            waited += 1;
            due = Instant::now() + Duration::from_millis(5);
            continue;
        };
        ready.push(serving.len() as f64);
        let killed = Instant::now();
        due = killed + EVERY;
        dead.insert(victim, SystemTime::now());
        kill(Pid::from_raw(victim), Signal::SIGKILL)?;
        reaped.push(ms(last_seen(victim)? - killed));
    }
    let took = began.elapsed();
    // What is lost is known to its client by now.
    std::thread::sleep(Duration::from_secs(2));
    let outcome = loads.stop(&server)?;
    outcome.tell(report, PHASE);
    report.note(&format!(
        "{kills} kills in {:.1} s; serving at the moment of a kill: {} of {WORKERS}, at least {:.0}; looks at which nobody served: {waited}. \
         Reaped after {} ms, at most {:.1}.",
        took.as_secs_f64(),
        ready.show(1),
        ready.quantile(0.0),
        reaped.show(2),
        reaped.quantile(1.0)
    ));
    for class in [Class::Refused, Class::ConnectTimeout, Class::NeverAnswered] {
        let count = outcome.report.count(class);
        report.target(
            format!("{kills} kills: {class}"),
            "0",
            count.to_string(),
            count == 0,
        );
    }
    let unexplained = outcome.unexplained(&dead);
    for line in unexplained.iter().take(20) {
        eprintln!("   unexplained: {line}");
    }
    let lost = outcome.report.lost();
    report.target(
        format!("{kills} kills: lost, but not accepted by a killed worker"),
        "0",
        format!(
            "{} ({lost} lost of {})",
            unexplained.len(),
            outcome.report.total
        ),
        unexplained.is_empty() && lost > 0,
    );
    report.target(
        format!("{kills} kills: reaped"),
        "<= 50 ms",
        format!("{} ms, at most {:.1}", reaped.show(2), reaped.quantile(1.0)),
        reaped.quantile(1.0) <= 50.0,
    );
    Ok(())
}
