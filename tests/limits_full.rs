//! Promise: where no process, no thread or no descriptor can be had, the master says so or waits: it never panics, and clients
//! of the API cannot keep it from replacing a worker.

use std::fs;

use crate::common::{Addr, BOOT, Conn, Launch, Node, fd_count, kill, wait_until};
use crate::limits::Group;
use nix::sys::signal::Signal::{SIGKILL, SIGTERM};

#[test]
fn a_start_in_a_full_process_table_never_panics() {
    let Some(group) = Group::with("pids", "pids.max", "max") else {
        return;
    };
    let mut failed = 0;
    for option in ["--log-prefix", "--watch", "--strict-bind"] {
        for limit in 1..=6 {
            fs::write(group.0.join("pids.max"), limit.to_string()).expect("a limit");
            let launch = Launch::new("site.js").workers(1).option(option);
            // --watch would wait for a change.
            let launch = launch.options(["--ready-timeout", "20s"]);
            let mut master = group.launch(launch).start();
            let ended = wait_until("an end, or a state", BOOT, || {
                if master.has_ended() {
                    return Some(true);
                }
                let log = master.log();
                let settled = log.contains("waiting for a change") || log.contains("to=ready");
                settled.then_some(false)
            });
            if !ended {
                master.signal(SIGTERM);
            }
            let code = master.wait_exit().code();
            assert!(
                code.is_some_and(|code| code < 64),
                "{option} {limit}: {code:?}\n{}",
                master.log()
            );
            failed += u32::from(code != Some(0));
            fs::write(group.0.join("pids.max"), "max").expect("no limit");
            // It looks for a panic.
            master.finish();
        }
    }
    assert!(failed > 3, "the limits did not bite");
}

#[test]
fn a_scrape_in_a_full_process_table_is_answered() {
    let Some(group) = Group::with("pids", "pids.max", "max") else {
        return;
    };
    let mut master = group.launch(Launch::new("site.js").workers(1)).start();
    master.wait_ready(1);
    fs::write(group.0.join("pids.max"), "1").expect("a limit");
    let control = Addr::Unix(master.control.clone());
    for _ in 0..3 {
        let answer = control.try_request("GET", "/metrics").expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    fs::write(group.0.join("pids.max"), "max").expect("no limit");
    master.stop();
}

#[test]
fn clients_that_hold_every_descriptor_prevent_no_replacement() {
    let port = Addr::free_port();
    let launch = Launch::new("http.js").node(Node::V20).workers(2);
    let mut master = launch
        .options(["--log-prefix", "--admin", &format!("127.0.0.1:{port}")])
        .under(["sh", "-c", "ulimit -n 64; exec \"$@\"", "sh"])
        .start();
    let mut before = master.wait_ready(2);
    let addr = master.addr();
    let mut clients = vec![];
    for at in [Addr::port(port), Addr::Unix(master.control.clone())] {
        for _ in 0..40 {
            clients.extend(Conn::open(&at).ok());
        }
    }
    wait_until("clients that are let in", BOOT, || {
        (fd_count(master.pid()) >= 32).then_some(())
    });
    for _ in 0..4 {
        kill(before[0].process(), SIGKILL);
        // The API has no room for the question.
        let old = before[0].process();
        wait_until("another worker", BOOT, || {
            let answer = addr.try_request("GET", "/").ok()?.json();
            let pid = crate::common::pid_in(&answer);
            (pid != old && pid != before[1].process()).then_some(())
        });
        let others = clients.split_off(clients.len() / 2);
        drop(others);
        before = master.wait_ready(2);
        for _ in 0..40 {
            clients.extend(Conn::open(&Addr::port(port)).ok());
        }
    }
    drop(clients);
    master.wait_ready(2);
    master.stop();
}
