//! Promise: what the shim does needs nothing that the app, or somebody else, can take away after the app's first line.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{
    self, Launch, Master, Node, is_root, kill, on_every_node, on_two_nodes, pid_in, running, skip,
    wait_until,
};
use crate::deploys::{begin, document, number, reload, wait_settled};
use nix::sys::signal::Signal::SIGUSR2;

pub(crate) fn launch(node: Node) -> Launch {
    Launch::new("estranged.js")
        .node(node)
        .workers(1)
        .env("RCLUSTER_MIN_UPTIME", "0s")
        .options(["--hang-timeout", "1s", "--drain-timeout", "10s"])
}

/// The folder that a worker's shim was read from.
fn folder(pid: i32) -> PathBuf {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("a command line");
    let shim = line.split('\0').find(|word| word.ends_with("shim.cjs"));
    let shim = Path::new(shim.expect("the shim")).to_owned();
    shim.parent().expect("a folder").to_owned()
}

/// Heartbeats come, for longer than a silent worker would live; and a drain is the shim's, and loses nothing.
#[track_caller]
pub(crate) fn beats_and_drains(mut master: Master) {
    let old = master.wait_ready(1).remove(0);
    let addr = master.addr();
    wait_until("two seconds of heartbeats", common::BOOT, || {
        let document = document(&master);
        let worker = &document["workers"][0];
        assert_eq!(worker["id"], old.id, "{document}\n{}", master.log());
        (worker["uptime_ms"].as_u64()? > 2500).then_some(())
    });
    assert_eq!(document(&master)["incidents"], serde_json::json!([]));
    let mut held = begin(&addr, "/hold");
    master.wait_events("held", 1);
    reload(&master);
    assert_ne!(pid_in(&addr.get("/").json()), old.process());
    kill(old.process(), SIGUSR2);
    let answer = held.read().expect("an answer of the old worker");
    assert_eq!(pid_in(&answer.json()), old.process());
    let lower = answer.head.to_ascii_lowercase();
    assert!(lower.contains("\r\nconnection: close\r\n"), "{lower}");
    assert_eq!(held.read_to_end().expect("a FIN"), "");
    wait_settled(&master, 1);
    assert_eq!(number(&master, "cut_total"), 0, "{}", master.log());
    assert_eq!(document(&master)["incidents"], serde_json::json!([]));
    assert_eq!(faults(&master), 0, "{}", master.log());
    master.stop();
}

/// How often the log says that the shim failed.
pub(crate) fn faults(master: &Master) -> usize {
    master.log().matches("shim_fault").count()
}

fn its_folder_may_go_after_the_boot(node: Node) {
    let master = launch(node).start();
    let pid = master.wait_ready(1)[0].process();
    fs::remove_dir_all(folder(pid)).expect("removed");
    beats_and_drains(master);
}

fn the_app_may_stop_being_root(node: Node) {
    if !is_root() {
        return skip("not root: cannot become another user");
    }
    let master = launch(node).arg("root").start();
    master.wait_ready(1);
    // Threads of the app read the shim again, as that user.
    assert_eq!(master.addr().get("/thread").body, "hello");
    beats_and_drains(master);
}

fn the_app_may_fake_time_and_refuse_modules(node: Node) {
    beats_and_drains(launch(node).arg("timers").arg("require").start());
}

on_every_node!(
    its_folder_may_go_after_the_boot,
    the_app_may_stop_being_root,
    the_app_may_fake_time_and_refuse_modules,
);

#[test]
fn a_request_in_flight_survives_a_killed_master_whose_folder_is_removed() {
    // systemd removes RuntimeDirectory= when the master dies.
    let mut master = launch(Node::V24).start();
    let pid = master.wait_ready(1)[0].process();
    let addr = master.addr();
    let mut held = begin(&addr, "/hold");
    master.wait_events("held", 1);
    let folder = folder(pid);
    master.kill_master();
    fs::remove_dir_all(folder).expect("removed");
    wait_until("the port to be given up", common::BOOT, || {
        addr.connect().is_err().then_some(())
    });
    assert!(running(pid), "it has an answer to give");
    kill(pid, SIGUSR2);
    let answer = held.read().expect("the answer");
    assert_eq!(pid_in(&answer.json()), pid);
    master.wait_no_process();
    master.forget();
}

fn a_shim_that_cannot_drain_says_so_once_and_ends(node: Node) {
    // Prototypes that are frozen after the boot refuse the hooks of the drain.
    let mut master = launch(node).arg("prototypes").start();
    let old = master.wait_ready(1).remove(0);
    let addr = master.addr();
    reload(&master);
    wait_settled(&master, 1);
    assert!(!running(old.process()), "{}", master.log());
    assert_eq!(faults(&master), 1, "{}", master.log());
    // Its successor has the same fault, and no master that could be told of it.
    let pid = master.wait_ready(1)[0].process();
    let folder = folder(pid);
    master.kill_master();
    wait_until(
        "the end of a worker that cannot drain",
        common::BOOT,
        || (addr.connect().is_err() && !running(pid)).then_some(()),
    );
    let _ = fs::remove_dir_all(folder);
    master.wait_no_process();
    master.forget();
}

/// Two errors: one that a domain handles, and one that a listener of `uncaughtException` survives.
fn an_error_that_a_domain_handles_is_not_told(node: Node) {
    let mut master = Launch::new("domains.js").node(node).workers(1).start();
    master.wait_ready(1);
    wait_until("the other one in the log", common::BOOT, || {
        master.log().contains("of nobody").then_some(())
    });
    assert_eq!(master.events("handled").len(), 1);
    assert!(!master.log().contains("of a domain"), "{}", master.log());
    master.stop();
}

on_every_node!(an_error_that_a_domain_handles_is_not_told);
on_two_nodes!(a_shim_that_cannot_drain_says_so_once_and_ends);
