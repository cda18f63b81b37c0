//! Promise: whatever the parent did to signals, the master hears its own, reaps its workers and stops; a worker that ended is
//! noticed even if nothing told of it; a guard that stands still holds nobody up.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command, Stdio};

use crate::common::{
    self, Addr, BOOT, Conn, LONG, Launch, Master, Node, Stat, Stopped, Worker, kill, running, skip,
    state_of, tool, wait_until,
};
use nix::sys::signal::Signal::{self, SIGINT, SIGKILL, SIGTERM};

#[test]
fn signals_that_the_parent_blocked_or_ignored_work() {
    let Some(python) = tool("python3") else {
        skip("no python3 to block signals with");
        return;
    };
    let app = common::app("inherits.py");
    for how in ["mask", "ignore"] {
        for signal in [SIGTERM, SIGINT] {
            let mut master = Launch::new("http.js")
                .workers(2)
                .under([
                    python.to_str().expect("UTF-8"),
                    app.to_str().expect("UTF-8"),
                    how,
                ])
                .start();
            let before = master.wait_ready(2);
            kill(before[0].process(), SIGKILL);
            master.wait_replaced(&before[0]);
            assert!(master.zombies().is_empty(), "{:?}", master.zombies());
            master.signal(signal);
            assert_eq!(
                master.wait_exit().code(),
                Some(0),
                "{how} {signal}\n{}",
                master.log()
            );
            master.finish();
        }
    }
}

#[test]
fn a_worker_of_a_parent_that_blocks_signals_has_none_blocked() {
    let Some(python) = tool("python3") else {
        skip("no python3 to block signals with");
        return;
    };
    let app = common::app("inherits.py");
    for how in ["mask", "ignore"] {
        let mut master = Launch::new("inherits.py")
            .workers(1)
            .under([
                python.to_str().expect("UTF-8"),
                app.to_str().expect("UTF-8"),
                how,
            ])
            .start();
        let seen = master.wait_events("inherited", 1).remove(0);
        assert_eq!(seen["blocked"], "0000000000000000", "{how}: {seen}");
        // Python itself ignores SIGPIPE and SIGXFSZ.
        assert_eq!(seen["ignored"], "0000000001001000", "{how}: {seen}");
        master.stop();
    }
}

#[test]
fn a_stop_ends_although_the_ends_of_workers_were_missed() {
    if tool("strace").is_none() {
        skip("no strace");
        return;
    }
    let mut master = Launch::new("http.js").workers(2).start();
    master.wait_ready(2);
    let mut strace = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "-e", "trace=waitid"])
        .args(["-e", "inject=waitid:error=EINVAL:when=1..3"])
        .args(["-p", &master.pid().to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace runs");
    let mut said = String::new();
    let mut err = BufReader::new(strace.stderr.take().expect("piped"));
    err.read_line(&mut said).expect("it says something");
    if !said.contains(" attached") {
        strace.wait().expect("it ends");
        skip(&format!(
            "strace cannot look at the master: {}",
            said.trim()
        ));
        return master.stop();
    }
    master.signal(SIGTERM);
    let status = master.wait_exit();
    assert_eq!(status.code(), Some(0), "{}", master.log());
    strace.wait().expect("it ends with the master");
    master.finish();
}

/// The guard of a master.
#[track_caller]
fn guard(master: &Master) -> i32 {
    let folder = master.control.parent().expect("a folder");
    wait_until("a guard", BOOT, || {
        let mut all = Stat::all().into_iter();
        let guard = all.find(|stat| {
            stat.parent == master.pid()
                && stat.state != 'Z'
                && stat.names(folder)
                && fs::read(format!("/proc/{}/cmdline", stat.pid))
                    .is_ok_and(|line| line.starts_with(b"rcluster-guard\0"))
        });
        Some(guard?.pid)
    })
}

#[test]
fn a_guard_that_is_stopped_does_not_stop_the_master() {
    let mut master = Launch::new("good.py").workers(2).start();
    master.wait_ready(2);
    let guard = guard(&master);
    {
        let _stopped = Stopped::new(&[guard]);
        master.signal(SIGTERM);
        let status = master.wait_exit();
        assert_eq!(status.code(), Some(0), "{}", master.log());
    }
    master.finish();
}

/// Fills the pipe from which a process reads its standard input.
fn fill_stdin(pid: i32) {
    let mut pipe = fs::OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("/proc/{pid}/fd/0"))
        .expect("its standard input");
    while pipe.write(&[b'\n'; 512]).is_ok() {}
}

#[test]
fn a_guard_that_reads_nothing_is_replaced() {
    if !common::is_root() {
        skip("only root opens the pipe of a process that cannot be dumped");
        return;
    }
    let mut master = Launch::new("good.py").workers(2).start();
    let before = master.wait_ready(2);
    let old = guard(&master);
    kill(old, Signal::SIGSTOP);
    fill_stdin(old);
    kill(before[0].process(), SIGKILL);
    master.wait_replaced(&before[0]);
    wait_until("another guard", BOOT, || {
        (guard(&master) != old && !running(old)).then_some(())
    });
    master.wait_ready(2);
    master.stop();
}

#[test]
fn the_guard_can_do_nothing_but_its_task() {
    let mut master = Launch::new("good.py").workers(1).start();
    let worker = master.wait_ready(1).remove(0);
    let guard = guard(&master);
    let of = |pid: i32, name: &str| common::status_field(pid, name);
    wait_until("a filter", BOOT, || {
        (of(guard, "Seccomp") == "2").then_some(())
    });
    assert_eq!(of(guard, "NoNewPrivs"), "1");
    // Workers have no filter: node may call what it likes.
    assert_eq!(of(worker.process(), "Seccomp"), of(master.pid(), "Seccomp"));
    master.stop();
}

#[test]
fn what_master_and_guard_leave_when_killed_at_once_is_ended_by_the_next() {
    let port = Addr::free_port();
    let launch = || {
        let http = Launch::new("http.js").node(Node::V20).workers(2);
        let http = http.env("HOST", "127.0.0.1").env("PORT", port.to_string());
        http.options(["--drain-timeout", "20s"])
    };
    let mut master = launch().start();
    let pids: Vec<_> = master.wait_ready(2).iter().map(Worker::process).collect();
    let addr = Addr::port(port);
    let spinning = common::pid_in(&addr.get("/spin").json());
    wait_until("a spinning worker", BOOT, || {
        (state_of(spinning) == Some('R')).then_some(())
    });
    // The other one has a request in flight.
    let mut conn = Conn::open(&addr).expect("a connection");
    conn.send("GET /slow?ms=4000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    master.wait_events("slow", 1);
    let guard = guard(&master);
    kill(master.pid(), Signal::SIGSTOP);
    kill(guard, SIGKILL);
    master.kill_master();
    assert!(running(spinning));
    let mut next = launch().control(&master.control).start();
    next.wait_ready(2);
    wait_until("the end of the spinning worker", LONG, || {
        (!running(spinning)).then_some(())
    });
    let answer = conn.read().expect("an answer to the request in flight");
    assert_eq!(answer.status, 200);
    assert!(pids.contains(&common::pid_in(&answer.json())));
    drop(conn);
    next.each_answers_http(&addr);
    next.stop();
    master.wait_no_process();
    master.forget();
}

#[test]
fn stop_says_when_workers_had_to_be_killed() {
    let start = |drain: &str| {
        let options = ["--drain-timeout", drain, "--kill-timeout", "300ms"];
        let master = Launch::new("stubborn.py")
            .workers(2)
            .options(options)
            .start();
        master.wait_ready(2);
        master
    };
    let mut master = start("200ms");
    let stopped = master.command(&["stop"]);
    assert_eq!(stopped.status.code(), Some(6), "{stopped:?}");
    assert_eq!(master.wait_exit().code(), Some(6));
    master.finish();

    // The master is killed while somebody waits for its answer: nobody knows how the workers ended.
    let mut master = start("10m");
    let control = master.control.clone();
    let asked = std::thread::spawn(move || {
        Command::new(env!("CARGO_BIN_EXE_rcluster"))
            .args(["stop", "--control"])
            .arg(control)
            .output()
            .expect("rcluster runs")
    });
    master.wait_status("stopping", |status| {
        (status.state == "stopping").then_some(())
    });
    let workers: Vec<_> = master
        .status()
        .workers
        .iter()
        .map(Worker::process)
        .collect();
    master.kill_master();
    let stopped = asked.join().expect("it ends");
    assert_eq!(stopped.status.code(), Some(1), "{stopped:?}");
    assert_eq!(stopped.stdout, b"", "{stopped:?}");
    for pid in workers {
        kill(pid, SIGKILL);
    }
    master.wait_no_process();
    master.forget();
}

#[test]
fn stop_waits_for_the_master_and_not_for_another_process_of_its_number() {
    if !common::is_root() || tool("unshare").is_none() {
        skip("no right to make a pid namespace");
        return;
    }
    // In there it is process 1, and so is another one out here.
    let container = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"];
    let mut master = Launch::new("site.js").workers(1).under(container).start();
    master.wait_ready(1);
    assert_eq!(master.status().pid, 1);
    let stopped = master.command(&["stop"]);
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    master.finish();
}
