//! Promise: a worker whose event loop is silent is replaced, new one first, and the log says where it hangs. One that is
//! only stopped is told apart, one that comes to itself is drained, and the master's own pause condemns nobody.

use crate::common::{
    self, Addr, Conn, Launch, Master, Node, Worker, kill, on_two_nodes, pid_in, wait_until,
};
use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use serde_json::Value;

fn fleet(node: Node, workers: u32, hang_timeout: &str, min_uptime: &str) -> Launch {
    Launch::new("unwell.js")
        .node(node)
        .workers(workers)
        .options(["--hang-timeout", hang_timeout, "--min-uptime", min_uptime])
        // The tests' master may be root.
        .option("--autopsy")
}

fn launch(node: Node) -> Launch {
    fleet(node, 2, "1s", "100ms")
}

fn document(master: &Master) -> Value {
    let answer = Addr::Unix(master.control.clone())
        .try_request("GET", "/v1/status")
        .expect("the control socket answers");
    answer.json()
}

/// The incident of a worker, once its process has ended.
#[track_caller]
fn incident(master: &Master, worker: &Worker) -> Value {
    wait_until("the incident of the worker", common::BOOT, || {
        let document = document(master);
        let all = document["incidents"].as_array()?.clone();
        all.into_iter()
            .find(|i| i["worker"] == worker.id && !i["exit"].is_null())
    })
}

/// Sends a request that makes the one who takes it ill; gives the worker that it was.
#[track_caller]
fn strike(master: &Master, path: &str) -> (Worker, Conn) {
    let addr = master.addr();
    let ready = master.status().ready();
    let mut conn = Conn::open(&addr).expect("a connection");
    conn.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
        .expect("sent");
    // Who it is shows in its silence.
    let gone = master.wait_status("a worker that is condemned", |_| {
        let document = document(master);
        let workers = document["workers"].as_array()?.clone();
        let ill = workers.iter().find(|w| !w["condemned"].is_null())?;
        ready.iter().find(|w| ill["id"] == w.id).cloned()
    });
    (gone, conn)
}

fn a_busy_loop_is_replaced_and_its_stack_is_told(node: Node) {
    let mut master = launch(node).start();
    let before = master.wait_ready(2);
    let (hung, mut conn) = strike(&master, "/spin");
    let new = master.wait_replaced(&hung);
    assert!(before.iter().all(|old| old.id < new.id));
    let incident = incident(&master, &hung);
    assert_eq!(incident["kind"], "hung", "{incident}");
    assert_eq!(incident["exit"]["signal"]["signal"], 9, "{incident}");
    let stack = incident["stack"].as_str().expect("a stack");
    let first = stack.lines().next().expect("a frame");
    assert!(
        first.starts_with("at spinForEver (/") && first.contains("unwell.js:"),
        "{stack}"
    );
    let log = master.log();
    assert!(
        log.contains("hung: no heartbeat for") && log.contains("at spinForEver"),
        "{log}"
    );
    let told = master.command(&["incidents"]);
    let text = String::from_utf8_lossy(&told.stdout);
    for words in [
        "ago: hung: slot",
        "ended: killed by SIGKILL",
        "at spinForEver",
    ] {
        assert!(text.contains(words), "{words:?} in {text}");
    }
    // Its own request is lost, and nothing else.
    assert!(conn.read().is_err());
    master.wait_ready(2);
    master.each_answers_http(&master.addr());
    master.stop();
}
on_two_nodes!(a_busy_loop_is_replaced_and_its_stack_is_told);

#[test]
fn every_major_tells_its_stack() {
    for node in [Node::V18, Node::V20, Node::V22, Node::V24, Node::V26] {
        let mut master = fleet(node, 1, "1s", "100ms").start();
        master.wait_ready(1);
        let (hung, _conn) = strike(&master, "/spin");
        let incident = incident(&master, &hung);
        let stack = incident["stack"].as_str().unwrap_or_default();
        assert!(stack.contains("spinForEver"), "{incident}");
        master.stop();
    }
}

/// A regular expression looks for interrupts, so the debugger gets in; one long call of native code does not.
#[test]
fn what_native_code_lets_be_seen() {
    for node in [Node::V20, Node::V24] {
        let told = |path: &str| {
            let mut master = fleet(node, 1, "1s", "100ms").start();
            master.wait_ready(1);
            let (hung, _conn) = strike(&master, path);
            let incident = incident(&master, &hung);
            master.wait_ready(1);
            master.stop();
            incident
        };
        let regex = told("/regex");
        let stack = regex["stack"].as_str().unwrap_or_default();
        assert!(stack.starts_with("at catastrophe"), "{regex}");
        for (path, words) in [
            ("/native", "native code uses the processor"),
            ("/exec", "waits, perhaps for its child (execSync): s"),
        ] {
            let incident = told(path);
            assert!(incident["stack"].is_null(), "{incident}");
            let reason = incident["reason"].as_str().expect("a reason");
            assert!(reason.contains(words), "{path}: {reason}");
        }
    }
}

#[test]
fn a_stopped_process_is_told_apart() {
    let mut master = launch(Node::V24).start();
    let stopped = master.wait_ready(2).remove(1);
    kill(stopped.process(), SIGSTOP);
    master.wait_replaced(&stopped);
    let incident = incident(&master, &stopped);
    assert_eq!(incident["kind"], "stopped", "{incident}");
    assert_eq!(incident["exit"]["signal"]["signal"], 9, "{incident}");
    master.each_answers_http(&master.addr());
    master.stop();
}

#[test]
fn without_autopsy_it_is_replaced_without_a_stack() {
    let mut master = launch(Node::V24).option("--no-autopsy").start();
    master.wait_ready(2);
    let (hung, _conn) = strike(&master, "/spin");
    master.wait_replaced(&hung);
    let incident = incident(&master, &hung);
    assert!(incident["stack"].is_null(), "{incident}");
    assert!(!master.log().contains("Debugger listening"));
    master.stop();
}

#[test]
fn one_that_comes_to_itself_is_drained() {
    let mut master = fleet(Node::V24, 2, "1s", "4s").start();
    master.wait_ready(2);
    let (paused, _conn) = strike(&master, "/pause");
    master.wait_replaced(&paused);
    let incident = incident(&master, &paused);
    assert_eq!(incident["kind"], "hung", "{incident}");
    assert_eq!(incident["exit"]["code"], 0, "it was not killed: {incident}");
    master.stop();
}

#[test]
fn a_hang_in_the_boot_ends_before_the_ready_timeout() {
    let mut master = fleet(Node::V24, 1, "1s", "100ms")
        .options(["--boot-hang-timeout", "1s"])
        .env("SPIN_IN_BOOT", "1")
        .start();
    let status = master.wait_exit();
    assert_eq!(status.code(), Some(3), "{}", master.log());
    let log = master.log();
    assert!(log.contains("hung: no heartbeat for"), "{log}");
    assert!(log.contains("unwell.js:5:"), "its stack: {log}");
    master.finish();
}

/// The negative control: with 0 the same worker stays.
#[test]
fn with_0_nobody_is_looked_at() {
    let mut master = fleet(Node::V24, 2, "0s", "100ms")
        .options(["--drain-timeout", "1s"])
        .options(["--kill-timeout", "500ms"])
        .start();
    let before = master.wait_ready(2);
    kill(before[0].process(), SIGSTOP);
    // The other one is seen to live on for longer than the limit would be.
    let beats = |master: &Master| document(master)["workers"][1]["silent_ms"].as_u64();
    wait_until("a beat", common::BOOT, || beats(&master));
    wait_until("3 s of silence", common::BOOT, || {
        let silent = document(&master)["workers"][0]["silent_ms"].as_u64()?;
        (silent > 3000).then_some(())
    });
    let after = master.status().ready();
    assert_eq!(after.len(), 2);
    assert_eq!(after[0].id, before[0].id);
    kill(before[0].process(), SIGCONT);
    master.stop();
}

#[test]
fn the_masters_own_pause_condemns_nobody() {
    let mut master = launch(Node::V24).start();
    let before = master.wait_ready(2);
    let addr = master.addr();
    let silent = |master: &Master| document(master)["workers"][0]["silent_ms"].as_u64();
    wait_until("a beat", common::BOOT, || {
        silent(&master).filter(|ms| *ms < 500)
    });
    master.may_be_blocked();
    kill(master.pid(), SIGSTOP);
    // Three times the limit, in requests that the workers answer meanwhile.
    let start = std::time::Instant::now();
    while start.elapsed() < std::time::Duration::from_secs(3) {
        pid_in(&addr.get("/").json());
    }
    kill(master.pid(), SIGCONT);
    let after = master.wait_ready(2);
    let ids = |workers: &[Worker]| workers.iter().map(|w| w.id).collect::<Vec<_>>();
    assert_eq!(ids(&before), ids(&after));
    wait_until("the next beat", common::BOOT, || {
        silent(&master).filter(|ms| *ms < 500)
    });
    assert_eq!(ids(&before), ids(&master.status().ready()));
    assert_eq!(
        document(&master)["incidents"].as_array().map(Vec::len),
        Some(0)
    );
    assert!(master.log().contains("the master itself was paused"));
    master.stop();
}

#[test]
fn the_app_and_its_children_do_not_see_the_inspectors_port() {
    let mut master = launch(Node::V24).start();
    master.wait_ready(2);
    let seen = master.addr().get("/").json();
    assert_eq!(seen["args"], serde_json::json!([]), "{seen}");
    master.stop();
}
