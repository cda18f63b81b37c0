//! Promise: workers of a killed master have the time that they were told: for what is in flight, and then for their handlers
//! of the stop signal.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::common::{BOOT, LONG, Launch, Node, on_two_nodes, wait_until};
use crate::deploys::{hold, reload, touch};
use crate::drains::{start, wait_requests};

fn launch(node: Node, kinds: &[&str]) -> (Launch, PathBuf) {
    let launch = Launch::new("ending.js").node(node).workers(1);
    let launch = launch.env("RCLUSTER_MIN_UPTIME", "0s");
    let sign = launch.dir.path().join("sign");
    let launch = launch.env("SIGN", &sign);
    (kinds.iter().fold(launch, Launch::arg), sign)
}

#[track_caller]
fn signs(sign: &Path) {
    wait_until("the handler", LONG, || sign.exists().then_some(()));
}

/// A client has sent all that it will, and the app neither reads nor writes: nothing holds the event loop.
fn a_silent_connection_leaves_the_handler_its_turn(node: Node) {
    let (launch, sign) = launch(node, &["mute", "sign"]);
    let (mut master, ..) = start(launch.options(["--drain-timeout", "1s"]));
    let mut client =
        TcpStream::connect(("127.0.0.1", master.addr().tcp_port())).expect("connected");
    let upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: mute\r\n\r\n";
    client.write_all(upgrade).expect("sent");
    client.read_exact(&mut [0; 12]).expect("an answer");
    client.shutdown(Shutdown::Write).expect("FIN");
    master.wait_events("mute", 1);
    master.kill_master();
    signs(&sign);
    drop(client);
    master.wait_no_process();
    master.forget();
}

/// Nothing is in flight, and the handler takes longer than a drain: the guard killed it there once.
fn a_long_handler_ends_by_itself(node: Node) {
    let (launch, sign) = launch(node, &["slow"]);
    let (mut master, ..) = start(launch.options(["--drain-timeout", "1s"]));
    master.kill_master();
    signs(&sign);
    master.wait_no_process();
    master.forget();
}

/// A reload shortened the drain timeout. The old worker was told the longer one.
fn an_old_worker_has_the_time_that_it_was_told(node: Node) {
    let (launch, _) = launch(node, &[]);
    let file = launch.dir.path().join("options.toml");
    let config = |drain: &str| fs::write(&file, format!("drain-timeout = \"{drain}\"\n"));
    config("20s").expect("written");
    let (mut master, pid, go) = start(launch.option("--config").option(&file));
    let mut held = hold(&master.addr(), &go);
    wait_requests(&master, "/hold", 1);
    config("1s").expect("written");
    reload(&master);
    master.wait_events("drain", 1);
    master.kill_master();
    // The fault is the time itself: the guard killed it 2.5 s after the master's end once.
    thread::sleep(Duration::from_millis(3500));
    touch(&go);
    assert_eq!(held.read().expect("an answer").json()["pid"], pid);
    drop(held);
    wait_until("its end", BOOT, || {
        (!crate::common::running(pid)).then_some(())
    });
    master.wait_no_process();
    master.forget();
}

on_two_nodes!(
    a_silent_connection_leaves_the_handler_its_turn,
    a_long_handler_ends_by_itself,
    an_old_worker_has_the_time_that_it_was_told,
);
