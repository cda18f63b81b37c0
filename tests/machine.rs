//! Promise: what the machine takes away does not end the master: a terminal that is closed is a graceful stop, without one descriptor to
//! spare it serves on and recovers by itself, and without IPv6 it binds as plain Node does.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Addr, BOOT, Launch, Master, Worker, kill, running, skip, tool, wait_until};
use nix::sys::signal::Signal::SIGKILL;

fn http(workers: u32) -> Launch {
    Launch::new("http.js").workers(workers)
}

#[test]
fn a_terminal_that_is_closed_is_a_graceful_stop() {
    let Some(python) = tool("python3") else {
        skip("no python3 to make a pseudo-terminal with");
        return;
    };
    let launch = http(2);
    let go = launch.dir.path().join("go");
    let mut master = launch
        .under([
            python.to_str().expect("UTF-8"),
            common::app("terminal.py").to_str().expect("UTF-8"),
            go.to_str().expect("UTF-8"),
        ])
        .start();
    let ready = master.wait_ready(2);
    fs::write(&go, "close").expect("the sign to close it");
    // Not 128 + SIGHUP: the signal did not have its default action.
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    assert!(ready.iter().all(|worker| !running(worker.process())));
    master.finish();
}

/// Time on a processor, in ticks of 10 ms (fields 14 and 15 of `proc_pid_stat(5)`).
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let (_, rest) = stat.rsplit_once(')').expect("a name");
    let fields = rest.split_whitespace().skip(11).take(2);
    fields.filter_map(|field| field.parse::<u64>().ok()).sum()
}

#[track_caller]
fn limit(master: &Master, descriptors: &str) {
    let pid = master.pid().to_string();
    let set = Command::new("prlimit")
        .args(["--pid", &pid, &format!("--nofile={descriptors}")])
        .status()
        .expect("prlimit runs");
    assert!(set.success());
}

#[test]
fn without_a_descriptor_to_spare_it_serves_on_and_recovers() {
    if tool("prlimit").is_none() {
        skip("no prlimit to take the descriptors away with");
        return;
    }
    let mut master = http(2).start();
    let before = master.wait_ready(2);
    let addr = master.addr();
    // What is open stays open; nothing can be opened.
    limit(&master, "4:");
    let used = ticks(master.pid());
    kill(before[0].process(), SIGKILL);
    let failures = || {
        let log = master.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("failed to make a channel"));
        lines.filter(|line| line.contains("os error 24")).count()
    };
    wait_until("some failed starts", BOOT, || {
        (failures() >= 4).then_some(())
    });
    let left = common::pid_in(&addr.get("/").json());
    assert_eq!(left, before[1].process(), "the other one serves on");
    // Four attempts with their backoff take about a second; it does not spin meanwhile.
    let used = ticks(master.pid()) - used;
    assert!(used < 50, "{used} ticks of CPU");
    limit(&master, "1024:");
    master.wait_replaced(&before[0]);
    let pids = |workers: Vec<Worker>| workers.iter().map(Worker::process).collect::<Vec<_>>();
    assert!(pids(master.wait_ready(2)).contains(&left));
    master.stop();
}

/// A library that takes IPv6 away from whoever loads it.
fn no_ipv6(folder: &Path) -> Option<std::path::PathBuf> {
    let (source, library) = (folder.join("no6.c"), folder.join("no6.so"));
    let code = "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <errno.h>\n#include <sys/socket.h>\n\
        int socket(int domain, int type, int protocol) {\n\
        if (domain == AF_INET6) { errno = EAFNOSUPPORT; return -1; }\n\
        return ((int (*)(int, int, int))dlsym(RTLD_NEXT, \"socket\"))(domain, type, protocol); }\n";
    fs::write(&source, code).expect("written");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    let done = compiled.is_ok_and(|status| status.success());
    if !done {
        skip("no C compiler to take IPv6 away with");
    }
    done.then_some(library)
}

#[test]
fn without_ipv6_it_binds_as_plain_node_does() {
    let dir = common::scratch();
    let Some(library) = no_ipv6(dir.path()) else {
        return;
    };
    let shown = |preload: Option<&Path>, bind: bool| {
        let port = Addr::free_port();
        let mut launch = http(1).env("PORT", port.to_string());
        if let Some(library) = preload {
            launch = launch.env("LD_PRELOAD", library);
        }
        if bind {
            launch = launch.options(["-b", &format!(":{port}")]);
        }
        let mut master = launch.start();
        master.wait_ready(1);
        let addresses = master.status().addresses();
        assert_eq!(Addr::port(port).get("/").status, 200);
        master.stop();
        addresses.concat().replace(&port.to_string(), "PORT")
    };
    for bind in [false, true] {
        assert_eq!(shown(Some(&library), bind), "0.0.0.0:PORT", "{bind}");
        // The control.
        assert_eq!(shown(None, bind), "[::]:PORT", "{bind}");
    }
}
