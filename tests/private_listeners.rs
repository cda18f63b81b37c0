//! Promise: what a request in flight needs of the app's own servers is there until its answer, and an address that only one
//! process can have prevents no reload.

use nix::sys::signal::Signal::SIGTERM;

use crate::common::{Addr, BOOT, Launch, Master, Node, on_every_node, on_two_nodes, wait_until};
use crate::deploys::{hold, reload, reload_with, touch};
use crate::drains::{ended, start, wait_requests};

fn launch(node: Node, kind: &str) -> (Launch, Addr) {
    let port = Addr::free_port();
    let launch = Launch::new("backend.js").node(node).arg(kind);
    let folder = launch.dir.path().to_owned();
    let launch = launch
        .env("PORT", port.to_string())
        .env("RCLUSTER_MIN_UPTIME", "0s")
        .option("--cwd")
        .option(folder);
    (launch, Addr::port(port))
}

/// A request that is held while its worker drains, is then let go, and is answered by the server behind it.
fn answered_in_a_drain(launch: Launch, addr: &Addr, begin: impl Fn(&Master)) -> Master {
    let (master, pid, go) = start(launch.workers(1));
    master.wait_events("listening", 1);
    let mut held = hold(addr, &go);
    wait_requests(&master, "/hold", 1);
    begin(&master);
    master.wait_events("drain", 1);
    touch(&go);
    let answer = held.read().expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}\n{}", master.log());
    // Another worker may listen on a port of the loopback interface, too.
    assert!(answer.json()["pid"] == pid || master.events("listening").len() > 1);
    master
}

fn over_a_reload(launch: Launch, addr: &Addr) {
    let mut master = answered_in_a_drain(launch, addr, reload);
    ended(&master, 0);
    master.stop();
}

fn at_a_stop(launch: Launch, addr: &Addr) {
    let mut master = answered_in_a_drain(launch, addr, |master| master.signal(SIGTERM));
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    assert!(
        !master.log().contains("connections_cut"),
        "{}",
        master.log()
    );
    master.finish();
}

fn a_server_behind_outlives_the_requests_of_a_drain(node: Node) {
    for kind in ["exclusive", "loopback", "unix"] {
        let (launch, addr) = self::launch(node, kind);
        over_a_reload(launch, &addr);
        let (launch, addr) = self::launch(node, kind);
        at_a_stop(launch, &addr);
    }
}

fn a_server_behind_may_open_in_a_drain(node: Node) {
    for kind in ["exclusive", "loopback", "unix"] {
        let (launch, addr) = self::launch(node, kind);
        at_a_stop(launch.env("LATE", "1"), &addr);
    }
}

/// Where the master hands connections over, it hands those of such a server to a worker that drains.
fn a_balanced_server_behind_is_asked_in_a_drain(node: Node) {
    for mode in ["least-conn", "spread", "source-ip"] {
        let (launch, addr) = self::launch(node, "loopback");
        at_a_stop(launch.options(["--balance", mode]), &addr);
    }
}

/// The control: what clients know is closed at once.
fn a_drain_closes_what_clients_know_at_once(node: Node) {
    let (launch, addr) = self::launch(node, "exclusive");
    let (mut master, _, go) = start(launch.workers(1));
    master.wait_events("listening", 1);
    let mut held = hold(&addr, &go);
    wait_requests(&master, "/hold", 1);
    master.signal(SIGTERM);
    wait_until("no server", BOOT, || {
        let shown = &crate::deploys::document(&master)["workers"][0]["listening"];
        (!shown.to_string().contains("127.0.0.1")).then_some(())
    });
    touch(&go);
    assert_eq!(held.read().expect("an answer").status, 200);
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    master.finish();
}

/// No successor can listen on a path that names its predecessor.
fn a_path_with_the_pid_prevents_no_reload(node: Node) {
    let (launch, addr) = self::launch(node, "unix");
    let mut master = launch
        .workers(2)
        .options(["--ready-timeout", "20s", "--drain-timeout", "5s"])
        .start();
    let old = master.wait_ready(2);
    master.wait_events("listening", 2);
    reload_with(&master, &["reload", "--drained"]);
    let new = master.wait_ready(2);
    master.wait_events("listening", 4);
    assert!(
        old.iter()
            .all(|old| new.iter().all(|new| new.process() != old.process()))
    );
    assert_eq!(addr.get("/").status, 200);
    master.stop();
}

on_every_node!(
    a_server_behind_outlives_the_requests_of_a_drain,
    a_path_with_the_pid_prevents_no_reload,
);
on_two_nodes!(
    a_server_behind_may_open_in_a_drain,
    a_balanced_server_behind_is_asked_in_a_drain,
    a_drain_closes_what_clients_know_at_once,
);
