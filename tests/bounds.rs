//! Promise: what a worker can make the master keep, log or count is bounded: queries at the gate, keys, texts of errors,
//! numbers. `src/runtime/bounds_test.rs` has any order of messages.

use std::fs;

use crate::common::{self, Addr, Launch, Master, kill, rss_kib, wait_until};
use nix::sys::signal::Signal::SIGKILL;

/// No deed may cost the master more than this.
const MEMORY_KIB: u64 = 16 * 1024;
/// Nor make its log longer than this.
const LOG: u64 = 1024 * 1024;

fn greedy(deed: &str, times: u32, bad: &str) -> Launch {
    let launch = Launch::new("greedy.py").arg(deed).arg(times.to_string());
    launch.env("BAD", bad)
}

/// What the deed says at its end; the master is small, its log is short, and it answers.
#[track_caller]
fn done(master: &Master, event: &str, before: u64) -> serde_json::Value {
    let said = master.wait_events(event, 1).remove(0);
    let grown = rss_kib(master.pid()).saturating_sub(before);
    assert!(grown < MEMORY_KIB, "the master grew by {grown} KiB");
    let log = fs::metadata(master.dir.path().join("log")).expect("a log");
    assert!(log.len() < LOG, "the log has {} bytes", log.len());
    master.status();
    said
}

#[test]
fn queries_at_the_gate_are_bounded_and_the_rest_is_refused() {
    let launch = greedy("gate", 20_000, "1").options(["--spares", "1"]);
    let mut master = launch.workers(1).start();
    master.wait_ready(1);
    let before = rss_kib(master.pid());
    let said = done(&master, "held", before);
    assert_eq!(said["refused"], 20_000);
    master.stop();
}

#[test]
fn long_addresses_are_refused_and_neither_kept_nor_logged_whole() {
    let mut master = greedy("long_keys", 200, "0").workers(2).start();
    master.wait_ready(2);
    let before = rss_kib(master.pid());
    let said = done(&master, "answered", before);
    // ENAMETOOLONG, and EINVAL for what is no address.
    assert_eq!(said["errnos"], serde_json::json!([-36, -22]));
    master.stop();
}

#[test]
fn one_declared_address_has_a_bounded_number_of_keys() {
    let port = Addr::free_port();
    let launch = greedy("aliases", 1000, "0").env("DECLARED", port.to_string());
    let bind = format!("127.0.0.1:{port}");
    let mut master = launch.workers(2).options(["-b", &bind]).start();
    master.wait_ready(2);
    let before = rss_kib(master.pid());
    let said = done(&master, "answered", before);
    assert_eq!(said["errno"], -24, "{said}");
    assert!(said["granted"].as_u64() < Some(256), "{said}");
    master.stop();
}

#[test]
fn errors_and_drains_that_a_worker_reports_without_end_cost_few_log_lines() {
    let mut master = greedy("errors", 10_000, "0").workers(2).start();
    let workers = master.wait_ready(2);
    let before = rss_kib(master.pid());
    done(&master, "answered", before);
    // How many were left out is said when the worker ends, at the latest.
    kill(workers[0].process(), SIGKILL);
    master.wait_replaced(&workers[0]);
    wait_until("the count", common::BOOT, || {
        let log = master.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("event=\"worker_lines_suppressed\""));
        let counts = lines.filter_map(|line| {
            let count = line.split_once("lines=")?.1;
            count.split(' ').next()?.parse::<u64>().ok()
        });
        (counts.sum::<u64>() > 20_000).then_some(())
    });
    master.stop();
}

#[test]
fn the_largest_numbers_overflow_no_count() {
    let mut master = greedy("counters", 50, "0,1").workers(2).start();
    let workers = master.wait_ready(2);
    master.wait_events("answered", 2);
    let control = Addr::Unix(master.control.clone());
    for round in 0..2 {
        for path in ["/v1/status", "/metrics"] {
            assert_eq!(control.get(path).status, 200, "{path}");
        }
        let top = master.command(&["status"]);
        assert!(top.status.success(), "{top:?}");
        if round == 0 {
            // What the dead have counted is added to what the living count.
            for worker in &workers {
                kill(worker.process(), SIGKILL);
                master.wait_replaced(worker);
            }
            master.wait_events("answered", 4);
        }
    }
    master.stop();
}
