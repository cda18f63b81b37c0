//! Promise: nobody on the host gets into a worker by its inspector: not while the stack of a hung one is captured, and not
//! by the signal that opens one.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::common::{
    self, Addr, Conn, Launch, Node, is_root, kill, on_every_node, running, wait_until,
};
use crate::deploys::document;
use nix::sys::signal::Signal::{SIGKILL, SIGTERM, SIGUSR1};

/// TCP ports on which anybody listens, with the inode of the socket.
fn listening() -> BTreeSet<(u16, u64)> {
    let table = fs::read_to_string("/proc/net/tcp").expect("a table");
    let port = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..] else {
            return None;
        };
        let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        Some((port, inode.parse().ok()?))
    };
    table.lines().filter_map(port).collect()
}

/// TCP ports on which a process listens.
fn ports_of(pid: i32) -> BTreeSet<u16> {
    let folder = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
    let targets: BTreeSet<String> = folder
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    let ours = |inode: u64| targets.contains(&format!("socket:[{inode}]"));
    listening()
        .into_iter()
        .filter(|(_, inode)| ours(*inode))
        .map(|(port, _)| port)
        .collect()
}

/// What an inspector tells everybody of its targets.
fn targets(port: u16) -> Option<String> {
    let answer = Addr::port(port).try_request("GET", "/json/list").ok()?;
    (answer.status == 200 && answer.body.contains("webSocketDebuggerUrl")).then_some(answer.body)
}

fn launch(node: Node) -> Launch {
    Launch::new("unwell.js")
        .node(node)
        .workers(1)
        .options(["--min-uptime", "0s"])
}

/// Asks each port that comes up in a process for its targets, as any user of the host can.
struct Attacker {
    over: Arc<AtomicBool>,
    found: Arc<Mutex<Vec<String>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Attacker {
    fn start(victim: i32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let found = Arc::new(Mutex::new(vec![]));
        let (ended, list) = (Arc::clone(&over), Arc::clone(&found));
        let known = ports_of(victim);
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                for port in ports_of(victim).difference(&known) {
                    list.lock().expect("no panic").extend(targets(*port));
                }
            }
        });
        Self {
            over,
            found,
            thread: Some(thread),
        }
    }

    fn stop(mut self) -> Vec<String> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().expect("once").join().expect("no panic");
        self.found.lock().expect("no panic").clone()
    }
}

fn a_captured_stack_leaves_no_way_in(node: Node) {
    // No replacement ever becomes ready: the hung worker stays, and with it whatever was opened in it.
    let mut launch = launch(node).options(["--autopsy", "--hang-timeout", "1s"]);
    let once = launch.dir.path().join("once");
    launch = launch.env("ONCE", once);
    let mut master = launch.start();
    let hung = master.wait_ready(1).remove(0);
    let before = ports_of(hung.process());
    let attacker = Attacker::start(hung.process());
    let mut conn = Conn::open(&master.addr()).expect("a connection");
    conn.send("GET /spin HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("sent");
    let incident = wait_until("the stack", common::BOOT, || {
        let document = document(&master);
        let incident = document["incidents"].get(0)?.clone();
        (!incident["stack"].is_null()).then_some(incident)
    });
    let stack = incident["stack"].as_str().expect("text");
    assert!(stack.starts_with("at spinForEver (/"), "{stack}");
    assert!(running(hung.process()), "it was not replaced yet");
    assert_eq!(ports_of(hung.process()), before, "{}", master.log());
    let found = attacker.stop();
    assert!(found.is_empty(), "{found:?}");
    kill(hung.process(), SIGKILL);
    master.signal(SIGTERM);
    master.wait_exit();
    master.finish();
}

fn the_inspector_that_a_signal_opens_tells_nobody_its_id(node: Node) {
    let mut master = launch(node)
        .options(["--autopsy", "--hang-timeout", "12s"])
        .start();
    let worker = master.wait_ready(1).remove(0);
    wait_until("a heartbeat", common::BOOT, || {
        (!document(&master)["workers"][0]["beat"].is_null()).then_some(())
    });
    let before = ports_of(worker.process());
    kill(worker.process(), SIGUSR1);
    let port = wait_until("an inspector", common::BOOT, || {
        ports_of(worker.process())
            .difference(&before)
            .next()
            .copied()
    });
    // It answers, and says nothing.
    let answer = Addr::port(port)
        .try_request("GET", "/json/list")
        .expect("an answer");
    assert_eq!(answer.status, 404, "{answer:?}");
    // Whoever reads the log, as the developer who sent the signal, can connect.
    assert!(
        master
            .log()
            .contains("Debugger listening on ws://127.0.0.1:")
    );
    master.stop();
}

fn where_stacks_are_not_captured_the_signal_opens_nothing(node: Node) {
    let launch = launch(node).options(["--hang-timeout", "1s"]);
    let mut master = if is_root() {
        launch.start()
    } else {
        launch.option("--no-autopsy").start()
    };
    let worker = master.wait_ready(1).remove(0);
    let before = ports_of(worker.process());
    kill(worker.process(), SIGUSR1);
    // It is delivered before the request that comes after it is answered, twice.
    for _ in 0..2 {
        let pid = common::pid_in(&master.addr().get("/").json());
        assert_eq!(pid, worker.process());
    }
    assert_eq!(ports_of(worker.process()), before);
    assert!(!master.log().contains("Debugger listening"));
    // A hung one is told as such, and why there is no stack.
    let mut conn = Conn::open(&master.addr()).expect("a connection");
    conn.send("GET /spin HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("sent");
    master.wait_replaced(&worker);
    let incident = document(&master)["incidents"][0].take();
    assert_eq!(incident["kind"], "hung", "{incident}");
    assert!(incident["stack"].is_null(), "{incident}");
    let reason = incident["reason"].as_str().expect("a reason");
    assert!(reason.contains("--no-autopsy"), "{reason}");
    assert!(reason.contains("uses the processor"), "{reason}");
    assert!(!master.log().contains("Debugger listening"));
    master.stop();
}

on_every_node!(
    a_captured_stack_leaves_no_way_in,
    the_inspector_that_a_signal_opens_tells_nobody_its_id,
    where_stacks_are_not_captured_the_signal_opens_nothing,
);
