//! Promise: what an old worker has begun it finishes, whatever the protocol; what cannot be finished in time is cut,
//! logged and counted; the app hears of it in time, and gets its own ending.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::thread;
use std::time::Duration;

use crate::common::{BOOT, Conn, Node, on_every_node, on_two_nodes, pid_in, running, wait_until};
use crate::deploys::{begin, hold, number, pids, reload, reload_with, touch, wait_settled};
use crate::drains::{ended, launch, start, wait_requests};
use nix::sys::signal::Signal::SIGTERM;
use serde_json::Value;

fn is_last(head: &str) -> bool {
    head.to_ascii_lowercase()
        .contains("\r\nconnection: close\r\n")
}

/// The last answer on a connection: by the old worker, said to be the last, then a FIN.
#[track_caller]
fn last_answer(what: &str, conn: &mut Conn, pid: i32) -> Value {
    let answer = conn
        .read()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(answer.status, 200, "{what}: {answer:?}");
    assert!(is_last(&answer.head), "{what}: {answer:?}");
    let rest = conn
        .read_to_end()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(rest, "", "{what}");
    let facts = answer.json();
    assert_eq!(pid_in(&facts), pid, "{what}");
    facts
}

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Every state that an HTTP/1.1 connection can be in, all at once over one reload.
fn http1_over(node: Node, unix: bool) {
    let mut launch = launch(node, &["http"]);
    if unix {
        let path = launch.dir.path().join("app.sock");
        launch = launch.env("UNIX", path);
    }
    let (mut master, pid, go) = start(launch);
    let addr = master.addr();
    let open = || Conn::open(&addr).expect("a connection");

    let mut idle = begin(&addr, "/");
    idle.read().expect("an answer");
    let mut left_alone = begin(&addr, "/");
    left_alone.read().expect("an answer");
    let mut in_flight = hold(&addr, &go);
    let path = format!("/hold?until={}", go.display());
    let first = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut pipelined = open();
    pipelined
        .send(&format!("{first}{GET}{first}"))
        .expect("sent");
    // Its second and third answer are made before the drain, and wait behind the first.
    let mut prepared = open();
    prepared.send(&format!("{first}{GET}{GET}")).expect("sent");
    let mut expecting = addr.connect().expect("a connection");
    expecting
        .write_all(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .expect("sent");
    let mut upload = open();
    upload
        .send("POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\n")
        .expect("sent");
    upload.send(&"a".repeat(1000)).expect("sent");
    let mut chunked = open();
    chunked.send("POST /chunked HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").expect("sent");
    let mut download = begin(&addr, &format!("/stream?until={}", go.display()));
    let mut events = begin(&addr, &format!("/events?until={}", go.display()));
    let mut old_version = open();
    old_version
        .send(&format!("GET {path} HTTP/1.0\r\n\r\n"))
        .expect("sent");
    let mut half = open();
    half.send("GET / HTTP/1.1\r\nHo").expect("sent");
    for path in ["/echo", "/upload", "/chunked", "/stream", "/events"] {
        wait_requests(&master, path, 1);
    }
    wait_requests(&master, "/hold", 5);
    // The last to be opened: when it has an answer, the worker has accepted all those before it.
    begin(&addr, "/").read().expect("an answer");

    reload(&master);
    assert!(running(pid), "it has much to finish");
    assert_ne!(
        pid_in(&addr.get("/").json()),
        pid,
        "new connections meet the new worker"
    );

    idle.send(GET).expect("sent");
    last_answer("idle keep-alive", &mut idle, pid);
    let mut seen = [0; 25];
    expecting.read_exact(&mut seen).expect("the sign to go on");
    assert_eq!(&seen, b"HTTP/1.1 100 Continue\r\n\r\n");
    expecting.write_all(b"hello").expect("sent");
    let mut seen = String::new();
    expecting
        .read_to_string(&mut seen)
        .expect("an answer and a FIN");
    assert!(
        seen.starts_with("HTTP/1.1 200 ") && is_last(&seen),
        "{seen}"
    );
    assert!(seen.contains("\"length\":5"), "{seen}");
    upload.send(&"b".repeat(1000)).expect("sent");
    assert_eq!(last_answer("upload", &mut upload, pid)["length"], 2000);
    chunked.send("4\r\ndefg\r\n0\r\n\r\n").expect("sent");
    assert_eq!(
        last_answer("chunked upload", &mut chunked, pid)["length"],
        7
    );
    half.send("st: localhost\r\n\r\n").expect("sent");
    last_answer("half a header", &mut half, pid);

    touch(&go);
    let seen = events.read().expect("the whole stream of events");
    assert_eq!(seen.body, "id: 1\ndata: first\n\nid: 2\ndata: [DONE]\n\n");
    last_answer("in flight", &mut in_flight, pid);
    for (conn, answers) in [(&mut pipelined, 2), (&mut prepared, 3)] {
        for n in 0..answers {
            let answer = conn.read().expect("an answer");
            assert!(!is_last(&answer.head), "{n} of {answers}: {answer:?}");
            assert_eq!(pid_in(&answer.json()), pid);
        }
    }
    last_answer("pipelined", &mut pipelined, pid);
    prepared.send(GET).expect("sent");
    last_answer("after the prepared ones", &mut prepared, pid);
    let body = download.read().expect("the whole download").body;
    assert_eq!(body, "a".repeat(1000) + &"b".repeat(1000));
    last_answer("HTTP/1.0", &mut old_version, pid);
    // It was told a keep-alive timeout, and is not closed before.
    left_alone.send(GET).expect("sent");
    last_answer("idle for the whole drain", &mut left_alone, pid);
    drop(download);
    ended(&master, 0);
    wait_until("the end of the old worker", BOOT, || {
        (!running(pid)).then_some(())
    });
    let exits = master.events("exit");
    assert!(
        exits
            .iter()
            .any(|exit| exit["pid"] == pid && exit["code"] == 0),
        "{exits:?}"
    );
    master.stop();
}

fn http1(node: Node) {
    http1_over(node, false);
}

fn http1_over_a_unix_path(node: Node) {
    http1_over(node, true);
}

fn what_does_not_end_is_cut_and_counted(node: Node) {
    let launch = launch(node, &["http"]).options(["--drain-timeout", "3s"]);
    let (mut master, pid, go) = start(launch);
    let addr = master.addr();
    // Not counted: it is at rest.
    let mut idle = begin(&addr, "/");
    idle.read().expect("an answer");
    // Counted: no answer in time, a client that never reads, half a header, half a body.
    let mut stuck = hold(&addr, &go);
    let mut deaf = begin(&addr, "/flood");
    let header = Conn::open(&addr).map(|mut conn| conn.send("GET / HTTP/1.1\r\nX-").map(|()| conn));
    let header = header.expect("a connection").expect("sent");
    let mut body = Conn::open(&addr).expect("a connection");
    body.send("POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        .expect("sent");
    for path in ["/hold", "/flood", "/body"] {
        wait_requests(&master, path, 1);
    }
    begin(&addr, "/").read().expect("an answer");
    // Two of them dribble on as long as they can.
    let dribble = |mut conn: Conn| {
        thread::spawn(move || {
            while conn.send("x").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        })
    };
    let dribbling = [dribble(header), dribble(body)];
    reload_with(&master, &["reload", "--drained"]);
    assert!(!running(pid), "{}", master.log());
    ended(&master, 4);
    for thread in dribbling {
        thread.join().expect("no panic");
    }
    stuck.read().expect_err("cut");
    deaf.read().expect_err("cut within the body");
    assert_eq!(addr.get("/").status, 200);
    master.stop();
}

fn the_app_hears_of_it_and_gets_its_own_ending(node: Node) {
    for message in [false, true] {
        let launch = launch(node, &["http"]).env("CLOSE_MS", "400");
        let launch = launch.options(["--drain-timeout", "20s"]);
        let launch = if message {
            launch.option("--shutdown-message")
        } else {
            launch
        };
        let (mut master, pid, go) = start(launch);
        let mut held = hold(&master.addr(), &go);
        wait_requests(&master, "/hold", 1);
        reload(&master);
        let told = master.wait_events("drain", 1).remove(0);
        assert_eq!(pid_in(&told), pid);
        let left = told["left"].as_i64().expect("milliseconds");
        assert!((1..=20_000).contains(&left), "the deadline is in {left} ms");
        // A second reload and a stop: it is told once.
        reload(&master);
        let of = |event: &str| {
            master
                .events(event)
                .iter()
                .filter(|e| e["pid"] == pid)
                .count()
        };
        assert_eq!(of("sigterm"), 0, "not before its last answer");
        touch(&go);
        last_answer("in flight", &mut held, pid);
        drop(held);
        wait_settled(&master, 1);
        assert_eq!(
            (of("drain"), of("sigterm"), of("closed")),
            (1, 1, 1),
            "{}",
            master.out()
        );
        assert_eq!(of("message"), usize::from(message));
        if message {
            assert_eq!(master.events("message")[0]["message"], "shutdown");
        }
        let order: BTreeMap<_, _> = ["drain", "sigterm", "closed"]
            .map(|event| {
                (
                    master.out().find(&format!("\"{event}\",\"pid\":{pid}")),
                    event,
                )
            })
            .into_iter()
            .collect();
        let order: Vec<_> = order.into_values().collect();
        assert_eq!(order, ["drain", "sigterm", "closed"]);
        assert_eq!(number(&master, "cut_total"), 0);
        master.stop();
    }
}

fn an_ending_that_takes_too_long_is_ended(node: Node) {
    let launch = launch(node, &["http"]).env("CLOSE_MS", "600000");
    let (mut master, pid, _) = start(launch.options(["--kill-timeout", "1s"]));
    reload_with(&master, &["reload", "--drained"]);
    assert!(!running(pid));
    assert_eq!(master.events("sigterm").len(), 1);
    assert!(master.events("closed").is_empty());
    assert!(
        master.log().contains("killed by SIGKILL"),
        "{}",
        master.log()
    );
    master.signal(SIGTERM);
    assert_eq!(master.wait_exit().code(), Some(6), "{}", master.log());
    master.finish();
}

fn a_blocked_worker_does_not_stop_a_reload(node: Node) {
    // With a handler for it, a blocked process does not hear SIGTERM.
    for (handler, end) in [(false, "killed by SIGTERM"), (true, "killed by SIGKILL")] {
        let launch = launch(node, &["http"]);
        let launch = launch.options(["--drain-timeout", "1s", "--kill-timeout", "1s"]);
        let launch = if handler {
            launch.env("CLOSE_MS", "1")
        } else {
            launch
        };
        let (mut master, pid, _) = start(launch);
        let addr = master.addr();
        begin(&addr, "/spin").read().expect("an answer");
        master.wait_events("spins", 1);
        reload(&master);
        assert_ne!(pid_in(&addr.get("/").json()), pid);
        wait_settled(&master, 1);
        assert!(!running(pid));
        assert!(master.log().contains(end), "{}", master.log());
        master.stop();
    }
}

fn without_the_shim_the_request_in_flight_is_answered(node: Node) {
    let (mut master, pid, go) = start(launch(node, &["http"]).option("--no-shim"));
    let mut held = hold(&master.addr(), &go);
    wait_requests(&master, "/hold", 1);
    reload(&master);
    assert_eq!(master.events("drain").len(), 0);
    touch(&go);
    let answer = held.read().expect("an answer");
    assert_eq!(pid_in(&answer.json()), pid);
    drop(held);
    let after = pids(&wait_settled(&master, 1));
    assert_eq!(pid_in(&master.addr().get("/").json()), after[0]);
    master.stop();
}

fn a_stop_during_a_drain_finishes_both(node: Node) {
    let (mut master, pid, go) = start(launch(node, &["http"]));
    let addr = master.addr();
    let mut old = hold(&addr, &go);
    wait_requests(&master, "/hold", 1);
    reload(&master);
    let new = master.wait_ready(1)[0].process();
    let mut young = hold(&addr, &go);
    wait_requests(&master, "/hold", 2);
    master.signal(SIGTERM);
    master.wait_events("drain", 2);
    touch(&go);
    last_answer("the old worker's", &mut old, pid);
    last_answer("the new worker's", &mut young, new);
    drop((old, young));
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    assert_eq!(master.events("drain").len(), 2, "each is told once");
    master.finish();
}

on_every_node!(http1);
on_two_nodes!(
    http1_over_a_unix_path,
    what_does_not_end_is_cut_and_counted,
    the_app_hears_of_it_and_gets_its_own_ending,
    an_ending_that_takes_too_long_is_ended,
    a_blocked_worker_does_not_stop_a_reload,
    without_the_shim_the_request_in_flight_is_answered,
    a_stop_during_a_drain_finishes_both,
);
