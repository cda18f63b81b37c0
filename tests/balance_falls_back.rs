//! Promise: what cannot be balanced stays shared, or is balanced less exactly, and says so: Unix paths and UDP, a sandbox
//! that forbids the socket options or bpf(2), a master without the right. Everybody is served all the same, on each of
//! several ports of both families. `--backlog` is what the kernel holds.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};

use crate::common::{
    self, Addr, Launch, Master, Stopped, app, backlog_of, is_root, pid_in, skip, tool, wait_until,
};
use crate::deploys::{document, reload, wait_settled};
use serde_json::{Value, json};

const MODES: [&str; 3] = ["spread", "source-ip", "least-conn"];

fn fleet(mode: &str, workers: u32) -> Launch {
    Launch::new("http.js")
        .env("HOST", "127.0.0.1")
        .workers(workers)
        .options(["--balance", mode])
}

fn servers(mode: &str, workers: u32, servers: &[Value]) -> Launch {
    let launch = Launch::new("servers.js")
        .workers(workers)
        .options(["--balance", mode]);
    servers
        .iter()
        .fold(launch, |launch, server| launch.arg(server.to_string()))
}

/// How often the log says it.
fn said(master: &Master, words: &str) -> usize {
    let log = master.log();
    log.lines().filter(|line| line.contains(words)).count()
}

fn listeners(master: &Master) -> Vec<Value> {
    let document = document(master);
    document["listeners"].as_array().cloned().expect("a list")
}

/// All workers answer; with `source-ip`, the same one always.
#[track_caller]
fn serves(addr: &Addr, mode: &str, workers: usize) {
    let pids: BTreeSet<i32> = (0..60).map(|_| pid_in(&addr.get("/").json())).collect();
    let wanted = if mode == "source-ip" { 1 } else { workers };
    // By chance alone, one run in 10^10 would miss one.
    assert_eq!(pids.len(), wanted, "{mode} {addr}: {pids:?}");
}

#[test]
fn several_ports_of_both_families() {
    for mode in MODES {
        let http = |listen: Value| json!({"kind": "http", "listen": listen});
        let wanted = [
            http(json!({"host": "127.0.0.1", "port": 0})),
            http(json!({"host": "::1", "port": 0})),
            http(json!({"port": 0})),
        ];
        let mut master = servers(mode, 3, &wanted).start();
        master.wait_ready(3);
        let all = listeners(&master);
        assert_eq!(all.len(), 3, "{all:?}");
        for listener in &all {
            let seats = if mode == "least-conn" { 1 } else { 3 };
            assert_eq!(listener["seats"], seats, "{mode}: {all:?}");
            let text = listener["address"].as_str().expect("an address");
            let addr = Addr::parse(text).expect("a port");
            serves(&addr, mode, 3);
            if text.starts_with("[::]") {
                serves(&Addr::port(addr.tcp_port()), mode, 3);
            }
        }
        reload(&master);
        wait_settled(&master, 3);
        assert_eq!(listeners(&master).len(), 3);
        master.stop();
    }
}

#[test]
fn paths_and_udp_stay_shared_and_say_so() {
    for mode in MODES {
        let dir = common::scratch();
        let path = dir.path().join("app.sock");
        let wanted = [
            json!({"kind": "http", "listen": {"path": &path}}),
            json!({"kind": "udp4", "listen": {"port": 0, "address": "127.0.0.1"}}),
            json!({"kind": "http", "listen": {"port": 0, "host": "127.0.0.1"}}),
        ];
        let mut master = servers(mode, 3, &wanted).start();
        master.wait_ready(3);
        master.each_answers_http(&Addr::Unix(path.clone()));
        let udp = listeners(&master)
            .iter()
            .find_map(|l| l["address"].as_str()?.strip_prefix("udp:")?.parse().ok())
            .expect("a UDP address");
        assert!(pid_in(&ask_by_udp(udp)) > 0);
        let shared = "only TCP is balanced: this address stays shared by all workers";
        assert_eq!(said(&master, shared), 2, "{}", master.log());
        let alone = |l: &&Value| l["seats"] == 1;
        let count = if mode == "least-conn" { 3 } else { 2 };
        let all = listeners(&master);
        assert_eq!(all.iter().filter(alone).count(), count, "{all:?}");
        // A reload has nothing new to say.
        reload(&master);
        wait_settled(&master, 3);
        assert_eq!(said(&master, shared), 2, "{}", master.log());
        master.each_answers_http(&Addr::Unix(path));
        master.stop();
    }
}

/// What a UDP server answers; a datagram may be lost.
#[track_caller]
fn ask_by_udp(to: SocketAddr) -> Value {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let wait = std::time::Duration::from_millis(200);
    socket.set_read_timeout(Some(wait)).expect("a timeout");
    wait_until("an answer by UDP", common::BOOT, || {
        socket.send_to(b"who", to).expect("sent");
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).ok()?;
        serde_json::from_slice(&buffer[..length]).ok()
    })
}

/// A master in a sandbox of apps/forbid.py that makes these calls fail.
fn sandboxed(launch: Launch, calls: &str) -> Option<Master> {
    let Some(python) = tool("python3") else {
        skip("no python3 to make a seccomp filter with");
        return None;
    };
    let (python, script) = (python, app("forbid.py"));
    let words = [&python, &script].map(|path| path.to_str().expect("UTF-8"));
    Some(launch.under([words[0], words[1], calls]).start())
}

#[test]
fn without_the_socket_option_workers_share_a_socket() {
    for mode in ["spread", "source-ip"] {
        let Some(mut master) = sandboxed(fleet(mode, 3), "reuseport") else {
            return;
        };
        master.wait_ready(3);
        let refused = "SO_REUSEPORT is refused";
        assert_eq!(said(&master, refused), 1, "{}", master.log());
        let all = listeners(&master);
        assert_eq!(all[0]["seats"], 1, "{all:?}");
        master.each_answers_http(&master.addr());
        reload(&master);
        wait_settled(&master, 3);
        assert_eq!(said(&master, refused), 1, "{}", master.log());
        master.stop();
    }
}

#[test]
fn without_any_program_the_kernel_chooses_and_nobody_is_left_waiting() {
    for mode in ["spread", "source-ip"] {
        let Some(mut master) = sandboxed(fleet(mode, 3), "attach,bpf") else {
            return;
        };
        master.wait_ready(3);
        let failed = "failed to attach a BPF program: the kernel chooses by its hash";
        assert_eq!(said(&master, failed), 1, "{}", master.log());
        let all = listeners(&master);
        assert_eq!(
            (&all[0]["seats"], &all[0]["steering"]),
            (&json!(3), &json!("hash"))
        );
        // Everybody gets something, also where the address was to decide.
        let addr = master.addr();
        serves(&addr, "hash", 3);
        reload(&master);
        let workers = wait_settled(&master, 3);
        serves(&addr, "hash", 3);
        // The kernel goes on giving to those who stand still.
        let pids = [workers[0].process(), workers[2].process()];
        let stopped = Stopped::new(&pids);
        wait_until("the weight of one alone", common::BOOT, || {
            let weights = listeners(&master)[0]["weights"].clone();
            let zeros = weights.as_array()?.iter().filter(|w| **w == 0);
            (zeros.count() == 2).then_some(())
        });
        for _ in 0..60 {
            assert_eq!(pid_in(&addr.get("/").json()), workers[1].process());
        }
        drop(stopped);
        assert_eq!(said(&master, failed), 1, "{}", master.log());
        master.stop();
    }
}

#[track_caller]
fn uses_classic_bpf_and_says_so_once(mut master: Master) {
    master.wait_ready(3);
    let said_it = "connections are dealt out by weighted chance (classic BPF)";
    assert_eq!(said(&master, said_it), 1, "{}", master.log());
    let all = listeners(&master);
    assert_eq!(
        (&all[0]["seats"], &all[0]["steering"]),
        (&json!(3), &json!("cbpf"))
    );
    serves(&master.addr(), "spread", 3);
    reload(&master);
    wait_settled(&master, 3);
    assert!(master.command(&["scale", "4"]).status.success());
    master.wait_ready(4);
    assert_eq!(said(&master, said_it), 1, "{}", master.log());
    master.stop();
}

#[test]
fn a_sandbox_without_bpf_gets_a_classic_program() {
    if let Some(master) = sandboxed(fleet("spread", 3), "bpf") {
        uses_classic_bpf_and_says_so_once(master);
    }
}

#[test]
fn a_master_without_the_right_gets_a_classic_program() {
    if !is_root() || tool("setpriv").is_none() {
        skip("only root, with setpriv, can give rights up");
        return;
    }
    let launch = fleet("spread", 3).under([
        "setpriv",
        "--bounding-set=-bpf,-sys_admin,-net_admin,-perfmon",
    ]);
    uses_classic_bpf_and_says_so_once(launch.start());
}

#[test]
fn with_the_right_it_says_once_that_turns_are_exact() {
    if !is_root() {
        skip("exact turns in the kernel need root");
        return;
    }
    let mut master = fleet("spread", 3).start();
    master.wait_ready(3);
    reload(&master);
    wait_settled(&master, 3);
    let exact = "connections are dealt out by exact turns (eBPF)";
    assert_eq!(said(&master, exact), 1, "{}", master.log());
    assert_eq!(listeners(&master)[0]["steering"], "ebpf");
    master.stop();
}

#[test]
fn the_backlog_is_what_was_asked_for() {
    for (mode, seats) in [("shared", 1), ("spread", 2), ("least-conn", 1)] {
        let mut master = fleet(mode, 2).options(["--backlog", "77"]).start();
        master.wait_ready(2);
        // A worker's own listen() has said 511.
        let all = listeners(&master);
        assert_eq!(all[0]["backlog"], 77 * seats, "{mode}: {all:?}");
        match backlog_of(master.addr().tcp_port()) {
            Some(backlog) => assert_eq!(backlog, 77, "{mode}"),
            None => skip("no ss to ask the kernel with"),
        }
        master.stop();
    }
}

#[test]
fn a_backlog_that_the_kernel_cuts_is_told() {
    let text = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("a limit");
    let limit: u32 = text.trim().parse().expect("a number");
    let wanted = (limit + 1).to_string();
    let mut master = fleet("shared", 1).options(["--backlog", &wanted]).start();
    master.wait_ready(1);
    assert_eq!(listeners(&master)[0]["backlog"], limit);
    assert_eq!(said(&master, "somaxconn"), 1, "{}", master.log());
    master.stop();
    // And not where it is not.
    let wanted = limit.to_string();
    let mut master = fleet("shared", 1).options(["--backlog", &wanted]).start();
    master.wait_ready(1);
    assert_eq!(said(&master, "somaxconn"), 0, "{}", master.log());
    master.stop();
}
