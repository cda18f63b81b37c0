//! Promise: a worker is judged by all that it said before it exited, however late the master reads it.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP};
use serde_json::Value;

use crate::blocking::library;
use crate::common::{BOOT, Launch, Master, Node, kill, on_two_nodes, state_of, wait_until};
use crate::deploys::{hold, reload, touch};
use crate::drains::{ended, launch, start, wait_requests};

#[track_caller]
fn blames_nobody(master: &Master) {
    ended(master, 0);
    let output = master.command(&["incidents", "--json"]);
    let incidents: Vec<Value> = serde_json::from_slice(&output.stdout).expect("incidents");
    assert_eq!(incidents, [] as [Value; 0], "{}", master.log());
}

/// The worker answers, drains and exits while the master does not run at all.
#[track_caller]
fn ends_unheard(master: &Master, pid: i32, go: &Path) {
    let mut held = hold(&master.addr(), go);
    wait_requests(master, "/hold", 1);
    reload(master);
    master.wait_events("drain", 1);
    kill(master.pid(), SIGSTOP);
    touch(go);
    held.read().expect("an answer");
    drop(held);
    wait_until("a zombie", BOOT, || {
        (state_of(pid) == Some('Z')).then_some(())
    });
    kill(master.pid(), SIGCONT);
}

fn a_master_that_stands_still_blames_nobody(node: Node) {
    let (mut master, pid, go) = start(launch(node, &["http"]));
    ends_unheard(&master, pid, &go);
    blames_nobody(&master);
    master.stop();
}

/// It is preempted again between the exit and the channel. Once an exit waited for half a second, and no longer.
fn a_master_that_is_preempted_after_an_exit_blames_nobody(node: Node) {
    let launch = launch(node, &["http"]);
    let slow = launch.dir.path().join("slow");
    fs::create_dir(&slow).expect("a folder");
    fs::write(slow.join("on"), "").expect("a file");
    let launch = launch.env("SLOW", &slow).env("SLOW_REAP", "550");
    let (mut master, pid, go) = start(launch.env("LD_PRELOAD", library()));
    master.may_be_blocked();
    ends_unheard(&master, pid, &go);
    blames_nobody(&master);
    assert!(slow.join("delays").exists(), "it was not preempted");
    master.stop();
}

/// What a worker leaves behind holds its channel and writes into it without end: its exit is told all the same.
fn a_process_that_writes_on_into_the_channel_of_a_dead_worker_delays_nothing(node: Node) {
    let launch = Launch::new("floods.js").node(node).workers(1);
    let mut master = launch.start();
    let before = master.wait_ready(1);
    master.wait_events("flood", 1);
    kill(before[0].process(), SIGKILL);
    master.wait_replaced(&before[0]);
    for flood in master.events("flood") {
        let pid = flood["child"].as_i64().expect("a pid");
        kill(i32::try_from(pid).expect("a pid"), SIGKILL);
    }
    master.stop();
}

on_two_nodes!(
    a_master_that_stands_still_blames_nobody,
    a_master_that_is_preempted_after_an_exit_blames_nobody,
    a_process_that_writes_on_into_the_channel_of_a_dead_worker_delays_nothing,
);
