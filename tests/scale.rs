//! Promise: more workers, fewer, none, one anew, spares and recycling all go the one path: new first, then drain.

use crate::common::{
    self, Addr, Conn, Launch, Master, Node, Worker, kill, on_two_nodes, pid_in, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::Value;

fn fleet(node: Node, workers: u32) -> Launch {
    // A beat comes six times in the hang timeout.
    Launch::new("unwell.js")
        .node(node)
        .workers(workers)
        .options(["--min-uptime", "100ms", "--hang-timeout", "9s"])
}

fn launch(node: Node) -> Launch {
    fleet(node, 2)
}

fn document(master: &Master) -> Value {
    let control = Addr::Unix(master.control.clone());
    let answer = control.try_request("GET", "/v1/status");
    answer.expect("the control socket answers").json()
}

fn slots(workers: &[Worker]) -> Vec<u32> {
    workers.iter().map(|w| w.slot).collect()
}

fn up_and_down(node: Node) {
    let mut master = launch(node).start();
    let before = master.wait_ready(2);
    master.signal(Signal::SIGTTIN);
    assert_eq!(slots(&master.wait_ready(3)), [0, 1, 2]);
    let told = master.command(&["scale", "5"]);
    assert_eq!(String::from_utf8_lossy(&told.stdout), "5 workers wanted\n");
    assert_eq!(slots(&master.wait_ready(5)), [0, 1, 2, 3, 4]);
    master.each_answers_http(&master.addr());
    assert_eq!(master.command(&["scale", "-2"]).status.code(), Some(0));
    assert_eq!(slots(&master.wait_ready(3)), [0, 1, 2]);
    master.signal(Signal::SIGTTOU);
    let after = master.wait_ready(2);
    assert!(before.iter().zip(&after).all(|(a, b)| a.id == b.id));
    // Never fewer than one.
    assert_eq!(master.command(&["scale", "-9"]).status.code(), Some(0));
    assert_eq!(slots(&master.wait_ready(1)), [0]);
    let auto = master.command(&["scale", "auto", "--json"]);
    let reply: Value = serde_json::from_slice(&auto.stdout).expect("JSON");
    let cpus = std::thread::available_parallelism()
        .expect("a number")
        .get();
    assert_eq!(reply["workers"], cpus);
    master.wait_ready(cpus);
    for wrong in ["0", "x", "1025", "+", "1.5"] {
        let told = master.command(&["scale", wrong]);
        assert_eq!(told.status.code(), Some(2), "{wrong}: {told:?}");
    }
    assert_eq!(document(&master)["cut_total"], 0);
    master.stop();
}
on_two_nodes!(up_and_down);

#[test]
fn a_number_of_workers_may_be_a_json_number() {
    let mut master = launch(Node::V24).start();
    master.wait_ready(2);
    let control = Addr::Unix(master.control.clone());
    let scale = |workers: &str| {
        let body = format!("{{\"workers\":{workers}}}");
        let length = body.len();
        let mut conn = Conn::open(&control).expect("connected");
        conn.send(&format!(
            "POST /v1/scale HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .expect("sent");
        conn.read().expect("an answer")
    };
    for (workers, wanted) in [("1", 1), ("\"2\"", 2), ("\"+1\"", 3), ("2.0", 2)] {
        let answer = scale(workers);
        assert_eq!(answer.status, 200, "{workers}: {answer:?}");
        assert_eq!(answer.json()["workers"], wanted, "{workers}");
    }
    for wrong in [
        "-1", "0", "1025", "1.5", "1e300", "null", "true", "[1]", "{}",
    ] {
        assert_eq!(scale(wrong).status, 400, "{wrong}");
    }
    assert_eq!(scale("\"+0\"").json()["workers"], 2);
    master.stop();
}

#[test]
fn parked_it_keeps_the_port() {
    let mut master = launch(Node::V24).start();
    master.wait_ready(2);
    let addr = master.addr();
    master.signal(Signal::SIGWINCH);
    master.wait_status("no worker", |s| {
        (s.state == "parked" && s.workers.is_empty()).then_some(())
    });
    // A client that comes now waits in the queue, and is not refused.
    let mut waits = addr.connect().expect("not refused");
    std::io::Write::write_all(
        &mut waits,
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .expect("sent");
    assert_eq!(master.command(&["scale", "2"]).status.code(), Some(0));
    master.wait_ready(2);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut waits, &mut text).expect("an answer");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    // A reload wakes it as well, with the new code alone.
    master.signal(Signal::SIGWINCH);
    master.wait_status("no worker", |s| s.workers.is_empty().then_some(()));
    assert_eq!(master.command(&["reload"]).status.code(), Some(0));
    let woken = master.wait_ready(2);
    assert!(woken.iter().all(|w| w.generation == 2), "{woken:?}");
    master.stop();
}

#[test]
fn one_slot_is_restarted() {
    let mut master = launch(Node::V24).start();
    let before = master.wait_ready(2);
    let told = master.command(&["restart", "1", "--json"]);
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let new: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    assert_eq!(new["slot"], 1);
    assert_ne!(new["id"], before[1].id);
    let after = master.wait_ready(2);
    assert_eq!(after[0].id, before[0].id);
    let told = master.command(&["restart", "7"]);
    assert_ne!(told.status.code(), Some(0), "{told:?}");
    let err = String::from_utf8_lossy(&told.stderr);
    assert!(err.contains("no worker serves in slot 7"), "{err}");
    master.stop();
}

fn a_spare_takes_the_place_of_one_that_dies(node: Node) {
    let mut master = launch(node).options(["--spares", "1"]).start();
    let before = master.wait_ready(2);
    let spare = |status: &common::Status| {
        let held = |w: &&Worker| w.state == "held";
        status.workers.iter().find(held).cloned()
    };
    let first = master.wait_status("a spare", spare);
    assert_eq!(first.slot, 2);
    // It serves nobody yet.
    let addr = master.addr();
    for _ in 0..20 {
        assert_ne!(pid_in(&addr.get("/").json()), first.process());
    }
    kill(before[0].process(), Signal::SIGKILL);
    let new = master.wait_replaced(&before[0]);
    assert_eq!((new.id, new.pid), (first.id, first.pid), "the spare itself");
    let second = master.wait_status("another spare", spare);
    assert!(second.id > first.id);
    // It knows its slot by now.
    master.each_answers(|| {
        let seen = addr.get("/").json();
        if pid_in(&seen) == new.process() {
            assert_eq!(seen["slot"], "0");
        }
        pid_in(&seen)
    });
    // A reload renews it.
    assert_eq!(
        master.command(&["reload", "--drained"]).status.code(),
        Some(0)
    );
    let third = master.wait_status("a spare of the new code", |s| {
        spare(s).filter(|w| w.generation == 2)
    });
    assert!(third.id > second.id);
    master.stop();
}
on_two_nodes!(a_spare_takes_the_place_of_one_that_dies);

#[track_caller]
fn recycled(launch: Launch, path: &str, words: &str) {
    let mut master = launch.start();
    let before = master.wait_ready(2);
    let addr = master.addr();
    let hit = pid_in(&addr.get(path).json());
    let hit = before.iter().find(|w| w.process() == hit).expect("ours");
    master.wait_replaced(hit);
    let incidents = document(&master)["incidents"].clone();
    assert_eq!(incidents[0]["kind"], "recycled", "{incidents}");
    let reason = incidents[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains(words), "{reason}");
    // One at a time, and nobody's fault.
    let after = master.wait_ready(2);
    assert!(after.iter().all(|w| w.restarts == 0), "{after:?}");
    assert_eq!(document(&master)["cut_total"], 0);
    master.stop();
}

#[test]
fn a_heap_over_its_limit_is_recycled() {
    recycled(
        launch(Node::V24).options(["--max-heap", "64MiB"]),
        "/heap",
        "its heap holds",
    );
}

#[test]
fn memory_over_its_limit_in_three_samples_is_recycled() {
    recycled(
        launch(Node::V24).options(["--max-rss", "128MiB"]),
        "/leak",
        "MiB, 3 samples in a row",
    );
}

#[test]
fn descriptors_at_nine_tenths_of_their_limit_are_recycled() {
    let launch = launch(Node::V24).under(["prlimit", "--nofile=440:440"]);
    recycled(launch, "/fds", "of 440 descriptors");
}

#[test]
fn so_many_requests_and_no_more() {
    let mut master = fleet(Node::V24, 1)
        .options(["--max-requests", "200"])
        .start();
    let before = master.wait_ready(1);
    let addr = master.addr();
    wait_until("a recycled worker", common::BOOT, || {
        pid_in(&addr.get("/").json());
        let now = master.status().in_slot(0)?;
        (now.id != before[0].id).then_some(())
    });
    let incident = document(&master)["incidents"][0].clone();
    assert_eq!(incident["kind"], "recycled", "{incident}");
    let told = incident["reason"].as_str().unwrap_or_default();
    assert!(told.contains("it has answered"), "{told}");
    master.stop();
}

#[test]
fn a_lifetime_ends_one_at_a_time() {
    let mut master = launch(Node::V24).options(["--max-lifetime", "10s"]).start();
    let before = master.wait_ready(2);
    let first = wait_until("the first one", common::BOOT, || {
        let now = master.status();
        before
            .iter()
            .find(|old| now.in_slot(old.slot).is_some_and(|w| w.id != old.id))
    });
    let incidents = document(&master)["incidents"].clone();
    assert_eq!(incidents.as_array().map(Vec::len), Some(1), "{incidents}");
    assert_eq!(incidents[0]["worker"], first.id);
    master.stop();
}

#[test]
fn one_that_closes_its_only_server_is_replaced() {
    let mut master = launch(Node::V24).start();
    let before = master.wait_ready(2);
    let closed = pid_in(&master.addr().get("/close").json());
    let closed = before.iter().find(|w| w.process() == closed).expect("ours");
    let new = master.wait_replaced(closed);
    assert!(new.id > closed.id);
    let incidents = document(&master)["incidents"].clone();
    assert_eq!(incidents[0]["kind"], "not-serving", "{incidents}");
    master.stop();
}
