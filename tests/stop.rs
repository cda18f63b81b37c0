//! Promise: TERM, INT and QUIT end it in bounded time with the right exit code, at every moment, and nothing is left;
//! after `kill -9` of the master nothing is left either, and the next start binds.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::thread;
use std::time::Duration;

use crate::common::{
    self, Addr, BOOT, Conn, LONG, Launch, Master, Node, Worker, on_two_nodes, running, state_of,
    tool, wait_until,
};
use nix::sys::signal::Signal::{self, SIGINT, SIGKILL, SIGQUIT, SIGTERM};

fn http(node: Node) -> Launch {
    Launch::new("http.js")
        .node(node)
        .workers(2)
        .env("HOST", "127.0.0.1")
}

fn term_int_and_quit_stop_cleanly(node: Node) {
    for signal in [SIGTERM, SIGINT, SIGQUIT] {
        let mut master = http(node).start();
        master.wait_ready(2);
        master.signal(signal);
        assert_eq!(
            master.wait_exit().code(),
            Some(0),
            "{signal}\n{}",
            master.log()
        );
        let codes: Vec<_> = master
            .events("exit")
            .iter()
            .map(|event| event["code"].clone())
            .collect();
        assert_eq!(
            codes,
            [0, 0],
            "the workers ended by themselves: {}",
            master.out()
        );
        master.finish();
    }
}

fn a_request_in_flight_is_answered(node: Node) {
    let mut master = http(node).start();
    master.wait_ready(2);
    let addr = master.addr();
    let mut conn = Conn::open(&addr).expect("a connection");
    conn.send("GET /slow?ms=1500 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    master.wait_events("slow", 1);
    master.signal(SIGTERM);
    master.wait_status("stopping", |status| {
        (status.state == "stopping").then_some(())
    });
    let answer = conn.read().expect("an answer to the request in flight");
    assert_eq!(answer.status, 200);
    drop(conn);
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    master.finish();
}

fn a_worker_that_lives_on_after_its_drain_gets_the_stop_signal(node: Node) {
    for (named, expected) in [
        (None, "SIGTERM"),
        (Some("SIGINT"), "SIGINT"),
        (Some("USR2"), "SIGUSR2"),
    ] {
        let launch = http(node)
            .env("CATCH", "SIGTERM,SIGINT,SIGUSR2")
            .env("CATCH_EXIT", "1")
            .env("HOLD", "1");
        let launch = launch.options(["--drain-timeout", "1s"]);
        let mut master = match named {
            Some(signal) => launch.options(["--stop-signal", signal]).start(),
            None => launch.start(),
        };
        master.wait_ready(2);
        master.signal(SIGTERM);
        assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
        let seen: Vec<_> = master
            .events("signal")
            .iter()
            .map(|event| event["signal"].clone())
            .collect();
        assert_eq!(seen, [expected, expected], "{}", master.out());
        master.finish();
    }
}

fn ctrl_c_reaches_the_master_alone(node: Node) {
    let Some(python) = tool("python3") else {
        common::skip("no python3 to make a pseudo-terminal with");
        return;
    };
    let launch = http(node).env("CATCH", "SIGINT,SIGHUP");
    let go = launch.dir.path().join("go");
    let mut master = launch
        .under([
            python.to_str().expect("UTF-8"),
            common::app("terminal.py").to_str().expect("UTF-8"),
            go.to_str().expect("UTF-8"),
        ])
        .start();
    let ready = master.wait_ready(2);
    fs::write(go, "").expect("the sign to type");
    assert_eq!(
        master.wait_exit().code(),
        Some(0),
        "{}{}",
        master.log(),
        master.out()
    );
    assert!(
        !master.out().contains(r#""event":"signal""#),
        "a worker saw Ctrl-C: {}",
        master.out()
    );
    assert!(ready.iter().all(|worker| !running(worker.process())));
    master.finish();
}

fn kill_9_of_the_master_ends_all_workers(node: Node) {
    let port = Addr::free_port();
    let launch = || {
        http(node).env("PORT", port.to_string()).options([
            "--drain-timeout",
            "1s",
            "--kill-timeout",
            "1s",
        ])
    };
    let mut master = launch().start();
    let pids: Vec<_> = master.wait_ready(2).iter().map(Worker::process).collect();
    // One worker spins for ever: it never sees the end of its channel.
    let spinning = common::pid_in(&Addr::port(port).get("/spin").json());
    wait_until("a spinning worker", BOOT, || {
        (state_of(spinning) == Some('R')).then_some(())
    });
    master.kill_master();
    master.wait_no_process();
    assert!(pids.iter().all(|pid| !running(*pid)));
    // The next start takes the stale control socket over and binds the same port.
    let control = master.control.clone();
    let mut next = launch().control(&control).start();
    next.wait_ready(2);
    next.each_answers_http(&Addr::port(port));
    next.stop();
    assert_eq!(
        common::list(control.parent().expect("a folder")),
        Vec::<String>::new()
    );
    master.forget();
}

on_two_nodes!(
    term_int_and_quit_stop_cleanly,
    a_request_in_flight_is_answered,
    a_worker_that_lives_on_after_its_drain_gets_the_stop_signal,
    ctrl_c_reaches_the_master_alone,
    kill_9_of_the_master_ends_all_workers,
);

fn stubborn(drain: &str) -> Master {
    let master = Launch::new("stubborn.py")
        .workers(2)
        .options(["--drain-timeout", drain, "--kill-timeout", "500ms"])
        .start();
    master.wait_ready(2);
    master
}

#[test]
fn workers_that_ignore_everything_are_killed_and_the_exit_code_says_so() {
    let mut master = stubborn("500ms");
    master.signal(SIGTERM);
    assert_eq!(master.wait_exit().code(), Some(6), "{}", master.log());
    master.finish();
}

#[test]
fn a_signal_a_second_after_the_first_means_now() {
    for (first, second) in [(SIGTERM, SIGTERM), (SIGINT, SIGINT), (SIGTERM, SIGINT)] {
        // Ten minutes of drain: only "now" ends this within the patience of the harness.
        let mut master = stubborn("10m");
        master.signal(first);
        master.wait_status("stopping", |status| {
            (status.state == "stopping").then_some(())
        });
        // Those that come too soon change nothing.
        let status = wait_until("the end of the master", LONG, || {
            master.signal(second);
            master.has_ended().then(|| master.wait_exit())
        });
        assert_eq!(status.code(), Some(6), "{first} {second}\n{}", master.log());
        master.finish();
    }
}

#[test]
fn signals_in_quick_succession_are_one() {
    let mut master = http(Node::V20).start();
    master.wait_ready(2);
    let mut conn = Conn::open(&master.addr()).expect("a connection");
    conn.send("GET /slow?ms=1500 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    master.wait_events("slow", 1);
    // A forwarding script, `timeout` and the terminal each send their own.
    for signal in [SIGINT, SIGTERM, SIGTERM, SIGINT] {
        master.signal(signal);
        // Each is caught on its own.
        wait_until("the signal to be taken", BOOT, || {
            (!common::has_pending(master.pid())).then_some(())
        });
    }
    let answer = conn.read().expect("an answer to the request in flight");
    assert_eq!(answer.status, 200);
    drop(conn);
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    master.finish();
}

#[test]
fn a_spinning_worker_is_killed_at_the_deadline() {
    let mut master = http(Node::V20)
        // With a handler of its own SIGTERM waits for the loop, which never turns.
        .env("CATCH", "SIGTERM")
        .options(["--drain-timeout", "500ms", "--kill-timeout", "500ms"])
        .start();
    master.wait_ready(2);
    let spinning = common::pid_in(&master.addr().get("/spin").json());
    wait_until("a spinning worker", BOOT, || {
        (state_of(spinning) == Some('R')).then_some(())
    });
    master.signal(SIGTERM);
    assert_eq!(master.wait_exit().code(), Some(6), "{}", master.log());
    master.finish();
}

#[test]
fn a_stopped_worker_is_killed_at_the_deadline() {
    let mut master = http(Node::V20)
        .options(["--drain-timeout", "500ms", "--kill-timeout", "500ms"])
        .start();
    let ready = master.wait_ready(2);
    common::kill(ready[0].process(), Signal::SIGSTOP);
    master.signal(SIGTERM);
    assert_eq!(master.wait_exit().code(), Some(6), "{}", master.log());
    master.finish();
}

#[test]
fn kill_9_of_the_master_ends_workers_that_ignore_everything() {
    let mut master = stubborn("1s");
    master.kill_master();
    master.wait_no_process();
    master.forget();
}

#[test]
fn kill_9_of_the_master_lets_a_request_in_flight_end() {
    let mut master = http(Node::V20).options(["--drain-timeout", "30s"]).start();
    let pids: Vec<_> = master.wait_ready(2).iter().map(Worker::process).collect();
    let mut conn = Conn::open(&master.addr()).expect("a connection");
    conn.send("GET /slow?ms=2000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    master.wait_events("slow", 1);
    master.kill_master();
    let answer = conn.read().expect("an answer to the request in flight");
    assert_eq!(answer.status, 200);
    let answered = i64::from(common::pid_in(&answer.json()));
    assert!(pids.contains(&i32::try_from(answered).expect("a pid")));
    drop(conn);
    master.wait_no_process();
    master.forget();
}

/// At each of these moments after the start the signal must lead to a bounded, clean end.
fn at_every_moment(
    launch: impl Fn() -> Launch,
    signal: Signal,
    moments: impl Iterator<Item = u64>,
) {
    for moment in moments {
        let mut master = launch().start();
        // The moment itself is what is tested: no condition to wait for.
        thread::sleep(Duration::from_millis(moment));
        master.signal(signal);
        let status = master.wait_exit();
        // Before main() runs nobody can catch a signal; then nothing was begun either.
        let folder = master.control.parent().expect("a folder");
        let before_main = status.signal() == Some(signal as i32)
            && master.log().is_empty()
            && common::list(folder).is_empty();
        assert!(
            status.code() == Some(0) || before_main,
            "{signal} after {moment} ms: {status}\n{}",
            master.log()
        );
        master.finish();
    }
}

#[test]
fn term_at_every_moment_of_a_boot() {
    at_every_moment(|| http(Node::V20), SIGTERM, (0..=200).step_by(10));
}

#[test]
fn int_at_every_moment_of_a_boot() {
    at_every_moment(|| http(Node::V24), SIGINT, (5..=205).step_by(20));
}

#[test]
fn term_while_a_crash_loop_backs_off() {
    let launch = Launch::new("crash.py").workers(2);
    let fate = launch.dir.path().to_owned();
    let mut master = launch.env("FATE", &fate).start();
    let before = master.wait_ready(2);
    fs::write(fate.join("bad"), "").expect("a file");
    for worker in &before {
        common::kill(worker.process(), SIGKILL);
    }
    master.wait_status("three restarts", |status| {
        status
            .workers
            .iter()
            .any(|worker| worker.restarts >= 3)
            .then_some(())
    });
    master.stop();
}

#[test]
fn term_while_no_worker_becomes_ready() {
    let mut master = Launch::new("never.js").workers(2).start();
    master.wait_status("booting workers", |status| {
        (status.workers.len() == 2).then_some(())
    });
    master.stop();
}
