//! Promise: what a heartbeat says is true from the first one on, and its absence is told apart from a hang.

use crate::common::{self, Launch, Node, kill, on_every_node, wait_until};
use crate::deploys::document;
use nix::sys::signal::Signal::SIGSTOP;
use serde_json::Value;

fn the_first_heartbeat_tells_an_idle_worker(node: Node) {
    let mut master = Launch::new("http.js")
        .node(node)
        .workers(1)
        .options(["--hang-timeout", "18s"])
        .start();
    master.wait_ready(1);
    let first = wait_until("a heartbeat", common::BOOT, || {
        let beat = document(&master)["workers"][0]["beat"].take();
        (!beat.is_null()).then_some(beat)
    });
    // Thousandths of the two seconds since the start, in most of which it did nothing.
    let busy = first["busy"].as_u64().expect("a number");
    assert!(busy < 900, "{first}");
    master.stop();
}

fn a_worker_that_sends_no_heartbeat_is_told_apart_from_a_hang(node: Node) {
    let mut master = Launch::new("estranged.js")
        .node(node)
        .workers(1)
        .arg("beats")
        .options(["--hang-timeout", "1s", "--log-format", "json"])
        .start();
    let worker = master.wait_ready(1).remove(0);
    let lines = |event: &str| {
        let log = master.log();
        let lines = log
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok());
        lines.filter(|line| line["event"] == event).count()
    };
    wait_until("its report", common::BOOT, || {
        (lines("heartbeat_missing") > 0).then_some(())
    });
    wait_until("four times the limit", common::BOOT, || {
        let worker = document(&master)["workers"][0].clone();
        (worker["uptime_ms"].as_u64()? > 4000).then_some(())
    });
    assert_eq!(master.status().ready()[0].id, worker.id);
    assert_eq!(document(&master)["incidents"], serde_json::json!([]));
    assert_eq!(lines("heartbeat_missing"), 1, "{}", master.log());
    // One that hangs all the same is found.
    kill(worker.process(), SIGSTOP);
    master.wait_replaced(&worker);
    assert_eq!(document(&master)["incidents"][0]["kind"], "stopped");
    master.stop();
}

on_every_node!(
    the_first_heartbeat_tells_an_idle_worker,
    a_worker_that_sends_no_heartbeat_is_told_apart_from_a_hang,
);
