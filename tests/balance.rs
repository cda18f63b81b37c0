//! Promise: `--balance` gives every worker its share, by load, by turns or by the client's address; what cannot be
//! balanced stays shared and says so; a worker that cannot take its connections leaves none of them waiting.

mod common;
#[path = "common/reload.rs"]
mod deploys;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use common::{Addr, BOOT, Conn, Launch, Master, Stopped, is_root, kill, skip, wait_until};
use deploys::{document, reload, wait_settled};
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

/// The slot that answers a client with the address 127.0.0.`host`.
#[track_caller]
fn slot_of(host: u8, port: u16) -> usize {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0));
    socket.bind(&from.into()).expect("a loopback address");
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.connect(&to.into()).expect("not refused");
    let mut stream = TcpStream::from(socket);
    stream
        .set_read_timeout(Some(common::LONG))
        .expect("a timeout");
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    slot_in(&serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")))
}

const CLIENTS: u8 = 48;

fn slots_of_clients(port: u16) -> Vec<usize> {
    (1..=CLIENTS).map(|host| slot_of(host, port)).collect()
}

/// Which clients have moved between two looks.
fn moved(before: &[usize], after: &[usize]) -> Vec<usize> {
    let pairs = before.iter().zip(after);
    let moved = pairs.filter(|(b, a)| a != b);
    moved.map(|(b, _)| *b).collect()
}

#[test]
fn clients_stay_where_their_address_sends_them() {
    let mut master = fleet("source-ip", 4).start();
    let workers = master.wait_ready(4);
    let port = master.addr().tcp_port();
    let before = slots_of_clients(port);
    for slot in 0..4 {
        assert!(before.contains(&slot), "{before:?}");
    }
    assert_eq!(before, slots_of_clients(port));
    // Stopped: its clients are answered by others, and only they move.
    let stopped = Stopped::new(&[workers[1].process()]);
    let during = slots_of_clients(port);
    assert!(!during.contains(&1), "{during:?}");
    let those = moved(&before, &during);
    assert!(those.iter().all(|slot| *slot == 1), "{before:?} {during:?}");
    drop(stopped);
    wait_until("everybody where he was", BOOT, || {
        (slots_of_clients(port) == before).then_some(())
    });
    // A replacement sits in the same slot, whatever the reason.
    reload(&master);
    wait_settled(&master, 4);
    assert_eq!(before, slots_of_clients(port));
    let victim = master.wait_ready(4).remove(2);
    kill(victim.process(), SIGKILL);
    master.wait_replaced(&victim);
    wait_until("everybody where he was", BOOT, || {
        (slots_of_clients(port) == before).then_some(())
    });
    // More workers: clients move only to the new one.
    assert!(master.command(&["scale", "5"]).status.success());
    master.wait_ready(5);
    let more = wait_until("clients in the new slot", BOOT, || {
        Some(slots_of_clients(port)).filter(|slots| slots.contains(&4))
    });
    for (before, after) in before.iter().zip(&more) {
        assert!(before == after || *after == 4, "{more:?}");
    }
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
        let held = Held::open(&master.addr(), 64);
        let counts = held.counts(4);
        println!("{mode}: {counts:?}");
        // A worker that is slow for a moment (a busy machine) loses a turn. By chance so even is one run in ten.
        let (most, least) = (counts.iter().max(), counts.iter().min());
        let range = most.zip(least).map(|(most, least)| most - least);
        assert!(range <= Some(4), "{mode}: {counts:?} {}", listener(&master));
        let shares = wait_until("what is open", BOOT, || {
            let balance = document(&master)["balance"].clone();
            let even = balance["fairness"]["connections"].as_f64() == Some(0.0);
            even.then(|| balance["shares"].clone())
        });
        for slot in 0..4 {
            assert_eq!(shares[slot]["connections"], 16, "{shares}");
        }
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
        let shares = document(&master)["balance"]["shares"].clone();
        let open = |slot: usize| shares[slot]["connections"].as_u64();
        (open(2) == Some(many as u64) && [0, 1, 3].map(open) == [Some(0); 3]).then_some(())
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
fn a_dead_workers_queue_is_answered(mode: &str) {
    let mut master = fleet(mode, 2).start();
    let workers = master.wait_ready(2);
    let addr = master.addr();
    let pids = [workers[0].process(), workers[1].process()];
    // Nobody can take anything: clients wait.
    let all = Stopped::new(&pids);
    let mut clients: Vec<Conn> = (0..24)
        .map(|_| {
            let mut conn = Conn::open(&addr).expect("not refused");
            conn.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .expect("sent");
            conn
        })
        .collect();
    kill(pids[0], SIGKILL);
    drop(all);
    let answers: Vec<i32> = clients
        .iter_mut()
        .map(|conn| common::pid_in(&conn.read().expect("an answer").json()))
        .collect();
    assert!(!answers.contains(&pids[0]), "{mode}: {answers:?}");
    let passed = document(&master)["balance"]["passed"].as_u64();
    let by_hand = passed.unwrap_or_else(|| panic!("no count"));
    assert_eq!(by_hand > 0, mode != "shared", "{mode}: {by_hand} passed");
    drop(clients);
    master.wait_replaced(&workers[0]);
    master.stop();
}

#[test]
fn what_waits_for_a_dead_worker_is_answered_by_another() {
    for mode in ["shared", "spread", "source-ip", "least-conn"] {
        a_dead_workers_queue_is_answered(mode);
    }
}

/// Connections that come while a worker stands still are answered while it does.
#[test]
fn nobody_waits_for_a_worker_that_stands_still() {
    for mode in ["shared", "spread", "source-ip", "least-conn"] {
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

#[test]
fn an_upgrade_goes_on_as_it_was() {
    for mode in ["spread", "source-ip", "least-conn"] {
        let mut master = fleet(mode, 4).start();
        master.wait_ready(4);
        let addr = master.addr();
        let port = addr.tcp_port();
        let look = || {
            let now = listener(&master);
            ["seats", "steering", "weights"].map(|name| now[name].clone())
        };
        let of_clients = || (mode == "source-ip").then(|| slots_of_clients(port));
        let before = (look(), of_clients());
        let told = master.command(&["upgrade"]);
        assert!(told.status.success(), "{told:?}\n{}", master.log());
        assert_eq!((look(), of_clients()), before, "{mode}: {}", master.log());
        if mode != "source-ip" {
            let held = Held::open(&addr, 16);
            if is_root() {
                assert_eq!(held.counts(4), [4; 4], "{mode}: {}", listener(&master));
            }
        }
        master.each_answers_http(&addr);
        master.stop();
    }
}
