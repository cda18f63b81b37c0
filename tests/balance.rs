//! Promise: `--balance` gives every worker its share, by load, by turns or by the client's address; what cannot be
//! balanced stays shared and says so; a worker that cannot take its connections leaves none of them waiting.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use crate::common::{
    self, Addr, BOOT, Conn, LONG, Launch, Master, Node, Stopped, is_root, kill, on_every_node,
    skip, tool, wait_until,
};
use crate::deploys::{document, reload, wait_settled};
use nix::sys::signal::Signal::SIGKILL;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

fn fleet(mode: &str, workers: u32) -> Launch {
    Launch::new("http.js")
        .env("HOST", "127.0.0.1")
        .workers(workers)
        .options(["--balance", mode])
}

/// The first listener, as status shows it.
#[track_caller]
fn listener(master: &Master) -> Value {
    document(master)["listeners"][0].clone()
}

fn numbers(value: &Value) -> Vec<u64> {
    let list = value.as_array().cloned().unwrap_or_default();
    list.iter().filter_map(Value::as_u64).collect()
}

/// Connections that are open at each slot, as status shows it.
#[track_caller]
fn open(master: &Master) -> Vec<u64> {
    let balance = document(master)["balance"].clone();
    let shares = balance["shares"].as_array().expect("shares").clone();
    let open = |share: &Value| share["connections"].as_u64();
    shares.iter().filter_map(open).collect()
}

/// Connections that stay open, and the slot of each.
struct Held(Vec<(Conn, usize)>);

impl Held {
    #[track_caller]
    fn open(addr: &Addr, count: usize) -> Self {
        let one = |_| {
            let mut conn = Conn::open(addr).expect("a connection");
            conn.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .expect("sent");
            let answer = conn.read().expect("an answer").json();
            (conn, slot_in(&answer))
        };
        Self((0..count).map(one).collect())
    }

    fn counts(&self, slots: usize) -> Vec<usize> {
        let mut counts = vec![0; slots];
        self.0.iter().for_each(|(_, slot)| counts[*slot] += 1);
        counts
    }
}

#[track_caller]
fn slot_in(answer: &Value) -> usize {
    let slot = answer["slot"].as_str().and_then(|slot| slot.parse().ok());
    slot.unwrap_or_else(|| panic!("no slot in {answer}"))
}

/// A request of a client with the address 127.0.0.`host`.
#[track_caller]
fn request(host: u8, port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0));
    socket.bind(&from.into()).expect("a loopback address");
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.connect(&to.into()).expect("not refused");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LONG)).expect("a timeout");
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("sent");
    stream
}

#[track_caller]
fn answer(mut stream: TcpStream) -> Value {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

const CLIENTS: u8 = 48;

fn slots_of_clients(port: u16) -> Vec<usize> {
    (1..=CLIENTS)
        .map(|host| slot_in(&answer(request(host, port))))
        .collect()
}

/// Which clients have moved between two looks.
fn moved(before: &[usize], after: &[usize]) -> Vec<usize> {
    let pairs = before.iter().zip(after);
    let moved = pairs.filter(|(b, a)| a != b);
    moved.map(|(b, _)| *b).collect()
}

#[track_caller]
fn everybody_is_back(port: u16, before: &[usize]) {
    wait_until("everybody where he was", BOOT, || {
        (slots_of_clients(port) == before).then_some(())
    });
}

#[test]
fn clients_stay_where_their_address_sends_them() {
    let mut master = fleet("source-ip", 4).start();
    let workers = master.wait_ready(4);
    let port = master.addr().tcp_port();
    let before = wait_until("clients that stay", BOOT, || {
        // A worker that is late on a busy machine lends its clients to others.
        Some(slots_of_clients(port)).filter(|slots| *slots == slots_of_clients(port))
    });
    for slot in 0..4 {
        assert!(before.contains(&slot), "{before:?}");
    }
    // Stopped: its clients are answered by others, and only they move.
    let stopped = Stopped::new(&[workers[1].process()]);
    wait_until("its clients elsewhere, and no others", BOOT, || {
        let during = slots_of_clients(port);
        assert!(!during.contains(&1), "{during:?}");
        let those = moved(&before, &during);
        those.iter().all(|slot| *slot == 1).then_some(())
    });
    drop(stopped);
    everybody_is_back(port, &before);
    // A replacement sits in the same slot, whatever the reason.
    reload(&master);
    wait_settled(&master, 4);
    everybody_is_back(port, &before);
    let victim = master.wait_ready(4).remove(2);
    kill(victim.process(), SIGKILL);
    master.wait_replaced(&victim);
    everybody_is_back(port, &before);
    // More workers: clients move only to the new one.
    assert!(master.command(&["scale", "5"]).status.success());
    master.wait_ready(5);
    wait_until(
        "clients in the new slot, and none moved elsewhere",
        BOOT,
        || {
            let after = slots_of_clients(port);
            let mut pairs = before.iter().zip(&after);
            (after.contains(&4) && pairs.all(|(b, a)| b == a || *a == 4)).then_some(())
        },
    );
    master.stop();
}

#[test]
fn turns_are_even() {
    for mode in ["spread", "least-conn"] {
        if mode == "spread" && !is_root() {
            skip("exact turns in the kernel need root");
            continue;
        }
        let mut master = fleet(mode, 4).start();
        master.wait_ready(4);
        // Of few rounds one at least is exact; by chance it would be one in 500. A worker that is slow for a moment
        // (a busy machine) loses a turn.
        let addr = master.addr();
        let mut rounds = 0;
        let held = wait_until("a round of exact turns", LONG, || {
            rounds += 1;
            assert!(rounds <= 12, "{mode}: {}", listener(&master));
            let held = Held::open(&addr, 64);
            if held.counts(4) == [16; 4] {
                return Some(held);
            }
            println!("{mode}: {:?}", held.counts(4));
            drop(held);
            wait_until("nothing open", BOOT, || {
                (open(&master) == [0; 4]).then_some(())
            });
            None
        });
        wait_until("what is open", BOOT, || {
            (open(&master) == [16; 4]).then_some(())
        });
        let fairness = document(&master)["balance"]["fairness"]["connections"].clone();
        assert_eq!(fairness, 0.0);
        drop(held);
        master.stop();
    }
}

/// A slot with many open connections gets fewer new ones.
fn load_is_levelled(mode: &str, classic: bool) {
    let mut launch = fleet(mode, 4);
    if classic {
        launch = launch.env("RCLUSTER_BALANCE_KERNEL", "classic");
    }
    let mut master = launch.start();
    master.wait_ready(4);
    let addr = master.addr();
    let mut held = Held::open(&addr, 64);
    held.0.retain(|(_, slot)| *slot == 2);
    let many = held.0.len();
    assert!(many >= 4, "{mode}: {many} of 64");
    wait_until("what is open", BOOT, || {
        (open(&master) == [0, 0, many as u64, 0]).then_some(())
    });
    if mode == "spread" {
        wait_until("other weights", BOOT, || {
            let weights = numbers(&listener(&master)["weights"]);
            let light = [0, 1, 3].iter().all(|slot| weights[*slot] > 2 * weights[2]);
            light.then_some(())
        });
    }
    let counts = Held::open(&addr, many).counts(4);
    let fair = many / 4;
    assert!(
        counts[2] < fair,
        "{mode}: {counts:?} beside {many} in slot 2"
    );
    if mode == "least-conn" {
        assert_eq!(counts[2], 0, "{counts:?}");
    }
    drop(held);
    master.stop();
}

#[test]
fn a_slot_with_many_connections_gets_fewer() {
    load_is_levelled("spread", false);
    load_is_levelled("spread", true);
    load_is_levelled("least-conn", false);
}

/// What waits at a slot whose worker died is answered by another one, before the slot has a worker again.
fn a_dead_workers_queue_is_answered(mode: &str, fleet: Launch) {
    let mut master = fleet.start();
    let workers = master.wait_ready(2);
    let port = master.addr().tcp_port();
    let pids = [workers[0].process(), workers[1].process()];
    // Nobody can take anything: clients wait.
    let all = Stopped::new(&pids);
    let clients: Vec<_> = (1..=CLIENTS).map(|host| request(host, port)).collect();
    kill(pids[0], SIGKILL);
    drop(all);
    let answers = clients.into_iter().map(answer);
    let answers: Vec<i32> = answers.map(|answer| common::pid_in(&answer)).collect();
    assert!(!answers.contains(&pids[0]), "{mode}: {answers:?}");
    let passed = document(&master)["balance"]["passed"].as_u64();
    let by_hand = passed.unwrap_or_else(|| panic!("no count"));
    assert_eq!(by_hand > 0, mode != "shared", "{mode}: {by_hand} passed");
    master.wait_replaced(&workers[0]);
    master.stop();
}

#[test]
fn what_waits_for_a_dead_worker_is_answered_by_another() {
    for mode in ["shared", "spread", "source-ip", "least-conn"] {
        a_dead_workers_queue_is_answered(mode, fleet(mode, 2));
    }
    // Through the channel, as Node's own primary does it.
    let plain = fleet("least-conn", 2).options(["--no-shim"]);
    a_dead_workers_queue_is_answered("least-conn", plain);
}

/// Connections that wait at a worker that stands still, or come for it, are answered by others while it does.
#[test]
fn nobody_waits_for_a_worker_that_stands_still() {
    for mode in ["shared", "spread", "source-ip"] {
        let mut master = fleet(mode, 4).start();
        let workers = master.wait_ready(4);
        let addr = master.addr();
        for worker in &workers[..2] {
            let _stopped = Stopped::new(&[worker.process()]);
            for _ in 0..12 {
                let answer = addr.get("/").json();
                assert_ne!(common::pid_in(&answer), worker.process());
            }
        }
        master.stop();
    }
}

/// What the master has given to a worker that does not take it is taken back and answered by another, long before anybody
/// could call the worker hung; and when it turns again, it gets its share again.
fn nobody_waits_in_a_queue(node: Node) {
    let mut master = fleet("least-conn", 4)
        .node(node)
        .options(["--hang-timeout", "1h"])
        .start();
    let workers = master.wait_ready(4);
    let addr = master.addr();
    let first = workers[0].process();
    let by_first = || common::pid_in(&addr.get("/").json()) == first;
    wait_until("an answer of the first", BOOT, || by_first().then_some(()));
    let stopped = Stopped::new(&[first]);
    for _ in 0..12 {
        assert!(!by_first());
    }
    assert_eq!(master.status().workers[0].pid, Some(first));
    drop(stopped);
    wait_until("an answer of the first", BOOT, || by_first().then_some(()));
    master.stop();
}

on_every_node!(nobody_waits_in_a_queue);

#[test]
fn an_upgrade_goes_on_as_it_was() {
    for mode in ["spread", "source-ip", "least-conn"] {
        let mut master = fleet(mode, 4).start();
        master.wait_ready(4);
        let addr = master.addr();
        let port = addr.tcp_port();
        let look = || {
            let now = listener(&master);
            ["seats", "steering"].map(|name| now[name].clone())
        };
        let of_clients = || (mode == "source-ip").then(|| slots_of_clients(port));
        let before = (look(), of_clients());
        let told = master.command(&["upgrade"]);
        assert!(told.status.success(), "{told:?}\n{}", master.log());
        assert_eq!(look(), before.0, "{mode}: {}", master.log());
        wait_until("clients where they were", BOOT, || {
            (of_clients() == before.1).then_some(())
        });
        if mode != "source-ip" {
            let counts = Held::open(&addr, 40).counts(4);
            assert!(!counts.contains(&0), "{mode}: {counts:?}");
        }
        assert_eq!(addr.get("/").status, 200);
        master.stop();
    }
}

/// A worker can shut its seat's socket down for all. It listens again under another number in the kernel, and everybody
/// gets what is his.
#[test]
fn a_seat_that_is_shut_down_serves_on() {
    let Some(python) = tool("python3").filter(|_| is_root()) else {
        skip("only root, with python3, can reach into the master's sockets");
        return;
    };
    for (mode, classic) in [("spread", false), ("spread", true), ("source-ip", true)] {
        let mut launch = fleet(mode, 3);
        if classic {
            launch = launch.env("RCLUSTER_BALANCE_KERNEL", "classic");
        }
        let mut master = launch.start();
        master.wait_ready(3);
        let addr = master.addr();
        let port = addr.tcp_port();
        let before = (mode == "source-ip").then(|| slots_of_clients(port));
        let reopened = || {
            let log = master.log();
            log.matches("it listens again").count()
        };
        for nth in [0, 1] {
            let words = [master.pid().to_string(), port.to_string(), nth.to_string()];
            let shut = Command::new(&python)
                .arg(common::app("shut.py"))
                .args(&words)
                .output();
            let shut = shut.expect("python runs");
            assert_eq!(String::from_utf8_lossy(&shut.stdout), "3\n", "{shut:?}");
            wait_until("the word that it listens again", BOOT, || {
                (reopened() > nth).then_some(())
            });
            if let Some(before) = &before {
                everybody_is_back(port, before);
            } else {
                let counts = Held::open(&addr, 60).counts(3);
                assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
            }
        }
        master.stop();
    }
}
