//! Promise: a drain cuts nothing before its timeout, writes nothing into what it does not own, raises no error in the app, and
//! runs the app's handlers of the stop signal. What dies in it is told.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{BOOT, Conn, Launch, Master, Node, on_every_node, on_two_nodes, wait_until};
use crate::deploys::{begin, hold, number, reload, reload_with, touch, wait_settled};
use crate::drains::{ended, start, wait_requests};

fn launch(node: Node, kinds: &[&str]) -> Launch {
    let launch = Launch::new("ending.js").node(node).workers(1);
    let launch = launch.env("RCLUSTER_MIN_UPTIME", "0s");
    kinds.iter().fold(launch, Launch::arg)
}

fn incidents(master: &Master) -> Vec<Value> {
    let output = master.command(&["incidents", "--json"]);
    serde_json::from_slice(&output.stdout).expect("incidents")
}

/// What a command that waits for a reload prints with `--json`.
#[track_caller]
fn reply(master: &Master, words: &[&str]) -> Value {
    let output = master.command(words);
    assert!(output.status.success(), "{output:?}\n{}", master.log());
    serde_json::from_slice(&output.stdout).expect("an answer")
}

fn what_ends_just_before_the_timeout_is_answered(node: Node) {
    const TIMEOUT: Duration = Duration::from_secs(6);
    let launch = launch(node, &[]).options(["--drain-timeout", "6s"]);
    let (mut master, pid, go) = start(launch);
    let addr = master.addr();
    let mut held = hold(&addr, &go);
    wait_requests(&master, "/hold", 1);
    reload(&master);
    master.wait_events("drain", 1);
    let told = Instant::now();
    // The fault is the time itself: a sixth of it was cut off once.
    thread::sleep((TIMEOUT * 9 / 10).saturating_sub(told.elapsed()));
    touch(&go);
    assert_eq!(held.read().expect("an answer").json()["pid"], pid);
    drop(held);
    ended(&master, 0);
    master.stop();
}

/// The control: what does not end in it is cut, and at the timeout.
fn what_ends_after_the_timeout_is_cut(node: Node) {
    let launch = launch(node, &[]).options(["--drain-timeout", "1s"]);
    let (mut master, _, go) = start(launch);
    let mut held = hold(&master.addr(), &go);
    wait_requests(&master, "/hold", 1);
    reload(&master);
    held.read().expect_err("cut");
    ended(&master, 1);
    master.stop();
}

/// A client of the gateway that has read the first half of its message, and what it read.
fn upgraded(master: &Master) -> (Box<dyn std::io::Read>, Vec<u8>) {
    let mut client = master.addr().connect().expect("a connection");
    client
        .write_all(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .expect("sent");
    let mut seen = vec![];
    while !seen.ends_with(&[b'a'; 2000]) {
        let mut some = [0; 4096];
        let n = client.read(&mut some).expect("the first half");
        assert!(n > 0, "closed after {seen:?}");
        seen.extend_from_slice(&some[..n]);
    }
    (client, seen)
}

fn a_gateways_stream_is_not_written_to(node: Node) {
    let launch = launch(node, &["gateway"]).options(["--drain-timeout", "4s"]);
    let go = launch.dir.path().join("go");
    let (mut master, ..) = start(launch.env("UNTIL", &go));
    let (mut client, mut seen) = upgraded(&master);
    reload(&master);
    master.wait_events("drain", 1);
    // The close frame of the shim came a tenth of a second after this.
    thread::sleep(Duration::from_millis(600));
    touch(&go);
    client
        .read_to_end(&mut seen)
        .expect("the second half, and FIN");
    let message = [[b'a'; 2000], [b'b'; 2000]].concat();
    assert!(seen.ends_with(&message), "{} bytes", seen.len());
    ended(&master, 1);
    master.stop();
}

fn a_client_that_reads_no_events_crashes_nobody(node: Node) {
    let launch = launch(node, &[]).options(["--drain-timeout", "3s"]);
    let (mut master, pid, go) = start(launch);
    let addr = master.addr();
    let deaf = begin(&addr, "/flood");
    let mut held = hold(&addr, &go);
    for path in ["/flood", "/hold"] {
        wait_requests(&master, path, 1);
    }
    reload(&master);
    master.wait_events("drain", 1);
    // Time in which the app writes into what was ended once.
    thread::sleep(Duration::from_millis(600));
    touch(&go);
    assert_eq!(held.read().expect("an answer").json()["pid"], pid);
    drop(held);
    ended(&master, 1);
    assert_eq!(incidents(&master), [] as [Value; 0]);
    drop(deaf);
    master.stop();
}

/// The master is killed, and the client closes some time after the drain timeout: the guard waits for the app's handler.
fn a_killed_master_leaves_time_to_close(node: Node) {
    let launch = launch(node, &["gateway", "sign"]).options([
        "--drain-timeout",
        "1s",
        "--kill-timeout",
        "4s",
    ]);
    let path = |name| launch.dir.path().join(name);
    let (go, sign) = (path("go"), path("sign"));
    let (mut master, ..) = start(launch.env("UNTIL", &go).env("SIGN", &sign));
    let (mut client, mut seen) = upgraded(&master);
    master.kill_master();
    client.read_to_end(&mut seen).expect("FIN");
    // The fault is the time itself: the guard killed at the drain timeout once.
    thread::sleep(Duration::from_millis(300));
    drop(client);
    wait_until("the handler", BOOT, || sign.exists().then_some(()));
    master.wait_no_process();
    master.forget();
}

/// A worker with a request in flight and a connection at rest that ends in its drain: how it ended, and what is told.
#[track_caller]
fn dies(node: Node, kind: &str, drained: bool) -> (Master, Value) {
    let (master, pid, go) = start(launch(node, &[kind]));
    let addr = master.addr();
    let mut idle = begin(&addr, "/");
    idle.read().expect("an answer");
    let mut held = hold(&addr, &go);
    wait_requests(&master, "/hold", 1);
    let words: &[&str] = if drained {
        &["reload", "--drained", "--json"]
    } else {
        &["reload", "--json"]
    };
    let answer = reply(&master, words);
    wait_settled(&master, 1);
    held.read().expect_err("it died");
    let noted = incidents(&master);
    assert_eq!(noted.len(), 1, "{noted:?}");
    assert_eq!(
        (&noted[0]["kind"], &noted[0]["pid"]),
        (&json!("undrained"), &json!(pid))
    );
    assert_eq!(number(&master, "cut_total"), 1, "not the one at rest");
    (master, answer)
}

fn a_worker_that_dies_in_its_drain_is_told(node: Node) {
    let (mut master, answer) = dies(node, "crash", true);
    assert_eq!(answer["outcome"], "done");
    let warnings = answer["warnings"].as_array().expect("warnings");
    assert_eq!(warnings.len(), 1, "{answer}");
    assert!(
        warnings[0]
            .as_str()
            .expect("text")
            .contains("1 connections cut"),
        "{answer}"
    );
    let error = incidents(&master)[0]["error"].to_string();
    assert!(error.contains("crashed in the drain"), "{error}");
    let log = master.log();
    let line = log.lines().find(|line| line.contains("worker died"));
    assert!(line.is_some_and(|line| line.contains("WARN")), "{log}");
    // Not a word of it in the answer to the next one.
    fs::write(master.dir.path().join("go"), "").expect("written");
    let next = reply(&master, &["reload", "--json"]);
    assert_eq!(next["warnings"], Value::Null, "{next}");
    master.stop();
}

fn a_worker_that_leaves_in_its_drain_is_told(node: Node) {
    let (mut master, _) = dies(node, "leave", false);
    master.stop();
}

/// Nothing but the server holds the event loop: it ends with the drain, and a signal of the master's came too late.
fn the_handlers_of_the_stop_signal_run(node: Node) {
    let (mut master, pid, go) = start(launch(node, &["handler"]));
    let mut held = hold(&master.addr(), &go);
    wait_requests(&master, "/hold", 1);
    reload(&master);
    assert_eq!(
        master.events("sigterm").len(),
        0,
        "not before its last answer"
    );
    touch(&go);
    held.read().expect("an answer");
    drop(held);
    wait_settled(&master, 1);
    assert_eq!(master.events("sigterm")[0]["pid"], pid);
    for n in 2..5 {
        reload_with(&master, &["reload", "--drained"]);
        assert_eq!(
            master.events("sigterm").len(),
            n,
            "once for each: {}",
            master.out()
        );
    }
    master.stop();
    assert_eq!(master.events("sigterm").len(), 5);
}

/// A script that runs node as its child: the master's signal would reach the script alone.
fn behind_a_wrapper_they_run_too(node: Node) {
    let launch = launch(node, &["handler"]).without_node();
    let wrapper: PathBuf = launch.dir.path().join("node");
    let text = format!("#!/bin/sh\n{} \"$@\"\n", launch.node_path().display());
    fs::write(&wrapper, text).expect("written");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("executable");
    let launch = launch.option("--node").option(wrapper);
    let mut master = launch.start();
    master.wait_ready(1);
    reload_with(&master, &["reload", "--drained"]);
    assert_eq!(master.events("sigterm").len(), 1, "{}", master.log());
    master.stop();
    assert_eq!(master.events("sigterm").len(), 2, "{}", master.log());
}

/// And is not sent again; SIGKILL comes after the kill timeout, with a warning.
fn a_handler_that_does_not_end_it_is_run_once(node: Node) {
    let launch = launch(node, &["ignore"]).options(["--kill-timeout", "1s"]);
    let (mut master, pid, _) = start(launch);
    reload_with(&master, &["reload", "--drained"]);
    let of_it = master.events("sigterm");
    assert_eq!(of_it.iter().filter(|event| event["pid"] == pid).count(), 1);
    let log = master.log();
    let line = log
        .lines()
        .find(|line| line.contains("event=\"worker_killed\""));
    assert!(line.is_some_and(|line| line.contains("WARN")), "{log}");
    master.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(master.wait_exit().code(), Some(6), "{}", master.log());
    master.finish();
}

fn a_server_whose_connection_went_to_the_master_closes(node: Node) {
    let launch = Launch::new("ipc.js").node(node).workers(1);
    let mut master = launch.start();
    master.wait_ready(1);
    let mut conn = Conn::open(&master.addr()).expect("a connection");
    conn.send("GET /given HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("sent");
    let given = wait_until("the server's close", BOOT, || conn.read().ok()).json();
    assert_eq!(
        (&given["failed"], &given["count"]),
        (&Value::Null, &json!(0)),
        "{given}"
    );
    master.stop();
}

on_every_node!(
    a_gateways_stream_is_not_written_to,
    a_client_that_reads_no_events_crashes_nobody,
    the_handlers_of_the_stop_signal_run,
    a_server_whose_connection_went_to_the_master_closes,
);
on_two_nodes!(
    what_ends_just_before_the_timeout_is_answered,
    a_killed_master_leaves_time_to_close,
    what_ends_after_the_timeout_is_cut,
    a_worker_that_dies_in_its_drain_is_told,
    a_worker_that_leaves_in_its_drain_is_told,
    behind_a_wrapper_they_run_too,
    a_handler_that_does_not_end_it_is_run_once,
);
