//! Promise: another binary takes the master's place in the same process, and nobody notices: no worker restarts, no request
//! is lost, no message is torn. A binary that cannot is refused, and nothing has changed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use crate::common::{self, Launch, Master, Node, fd_count, kill, rss_kib, wait_until};
use nix::sys::signal::Signal;
use rcluster_ledger::{Load, Mode, Target, reconcile, spawn};
use serde_json::{Value, json};

/// Its `upgrade` in the status.
#[track_caller]
fn view(master: &Master) -> Value {
    let output = master.command(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    status["upgrade"].clone()
}

#[track_caller]
fn upgrade(master: &Master) {
    let output = master.command(&["upgrade"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", master.log());
}

fn script(master: &Master, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = master.dir.path().join(name);
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
    path
}

fn pids(master: &Master) -> Vec<i32> {
    let ready = master.wait_ready(2);
    ready.iter().map(common::Worker::process).collect()
}

fn many_upgrades_under_load_lose_nothing(node: Node) {
    let nightly = std::env::var_os("RCLUSTER_NIGHTLY").is_some();
    let rounds = if nightly { 1000 } else { 20 };
    let launch = Launch::new("ledger-http.cjs").node(node).workers(2);
    let journal = launch.dir.path().join("journal");
    fs::create_dir(&journal).expect("a folder");
    let mut master = launch.env("JOURNAL", &journal).start();
    let before = pids(&master);
    let target = Target::Tcp(match master.addr() {
        common::Addr::Tcp(socket) => socket,
        other @ (common::Addr::Unix(_) | common::Addr::Abstract(_)) => panic!("{other:?}"),
    });
    upgrade(&master);
    let (fds, rss) = (fd_count(master.pid()), rss_kib(master.pid()));
    let load = Load {
        clients: 6,
        think: Duration::from_millis(5),
        ..Load::new(target)
    };
    let short = Load {
        mode: Mode::Short,
        first_client: 6,
        ..load.clone()
    };
    let loads = [load, short].map(|load| spawn(load).expect("a load"));
    for _ in 0..rounds {
        let done = loads.each_ref().map(|load| load.control().done());
        upgrade(&master);
        wait_until("each load goes on", common::LONG, || {
            let on = loads.iter().zip(done);
            on.into_iter()
                .all(|(load, done)| load.control().done() > done)
                .then_some(())
        });
    }
    for load in &loads {
        load.control().stop();
    }
    let [mut report, other] = loads.map(|load| load.join().expect("a report"));
    report.absorb(&other);
    println!("{rounds} upgrades: {report}");
    assert_eq!((report.ok(), report.lost()), (report.total, 0), "{report}");
    let journals = reconcile(&journal, &report).expect("the journals can be read");
    assert!(journals.duplicates.is_empty() && journals.failures.is_empty());
    assert_eq!(pids(&master), before, "no worker restarts");
    assert_eq!(view(&master)["done"], rounds + 1);
    // The connection of the last question may still be open, then and now.
    wait_until("no more descriptors than before", common::LONG, || {
        (fd_count(master.pid()) <= fds).then_some(())
    });
    assert!(rss_kib(master.pid()) < rss + 8 * 1024, "memory");
    // It is a master like any other.
    let reload = master.command(&["reload"]);
    assert_eq!(reload.status.code(), Some(0), "{}", master.log());
    master.stop();
}

common::on_two_nodes!(many_upgrades_under_load_lose_nothing);

/// The worker of apps/upgrade.py, up to its first step.
fn caught(pretend: Option<&str>) -> (Master, PathBuf) {
    let launch = Launch::new("upgrade.py").workers(1);
    let go = launch.dir.path().join("go");
    let launch = launch.env("GO", &go).options(["--log-level", "debug"]);
    let launch = match pretend {
        Some(what) => launch.env("RCLUSTER_TEST_UPGRADE", what),
        None => launch,
    };
    let master = launch.start();
    master.wait_ready(1);
    master.wait_events("half", 1);
    (master, go)
}

fn go_on(go: &std::path::Path, step: &str) {
    fs::write(format!("{}-{step}", go.display()), "").expect("a sign");
}

fn nothing_is_torn(pretend: Option<&str>) {
    let (mut master, go) = caught(pretend);
    for (step, then) in [
        ("half", "whole"),
        ("held", "acknowledged"),
        ("full", "drained"),
    ] {
        master.wait_events(step, 1);
        upgrade(&master);
        go_on(&go, step);
        assert_eq!(master.wait_events(then, 1)[0]["handle"], true, "{then}");
    }
    assert_eq!(master.events("whole")[0]["data"], 1000);
    assert_eq!(master.events("drained")[0]["data"], 600_000);
    assert_eq!(
        master.events("half").len(),
        1,
        "no other worker was started"
    );
    master.stop();
}

#[test]
fn half_lines_unacknowledged_handles_and_unread_answers_are_carried() {
    nothing_is_torn(None);
}

#[test]
fn a_state_of_a_newer_version_is_read_too() {
    nothing_is_torn(Some("newer"));
}

/// The control of the two before it.
#[test]
fn without_the_buffers_a_line_is_torn() {
    let (mut master, go) = caught(Some("forget-buffers"));
    upgrade(&master);
    go_on(&go, "half");
    wait_until("the torn line", common::BOOT, || {
        master.log().contains("malformed lines").then_some(())
    });
    assert!(master.events("whole").is_empty());
    kill(master.pid(), Signal::SIGKILL);
    master.wait_exit();
    master.wait_no_process();
    master.forget();
}

#[test]
fn a_binary_that_cannot_take_over_is_refused_and_nothing_changes() {
    let mut master = Launch::new("site.js").workers(2).start();
    let before = pids(&master);
    let plain = script(&master, "plain", "#!/bin/sh\nexit 0\n", 0o644);
    let fails = script(
        &master,
        "fails",
        "#!/bin/sh\necho it is broken >&2\nexit 1\n",
        0o755,
    );
    let echo = script(&master, "echo", "#!/bin/sh\ncat; exit 0\n", 0o755);
    for (binary, why) in [
        (PathBuf::from("/nowhere/rcluster"), "failed to find"),
        (plain, "Permission denied"),
        (fails, "it is broken"),
        (echo, "did not say that it can go on"),
        (PathBuf::from("/bin/true"), "did not say that it can go on"),
    ] {
        let output = master.command(&["upgrade", "--binary", binary.to_str().expect("UTF-8")]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(16), "{said}");
        assert!(said.contains(why), "{said}");
    }
    let hangs = script(&master, "hangs", "#!/bin/sh\nexec sleep 1000\n", 0o755);
    let output = master.command(&["upgrade", "--binary", hangs.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(16));
    assert!(String::from_utf8_lossy(&output.stderr).contains("did not answer within"));
    assert_eq!(view(&master)["done"], 0);
    assert_eq!(pids(&master), before);
    upgrade(&master);
    assert_eq!(pids(&master), before);
    master.stop();
}

#[test]
fn a_state_that_is_too_new_is_refused_and_a_failure_after_the_exec_goes_back() {
    for (what, why) in [
        ("much-newer", "reads 1 to 3"),
        ("fail", "the old one went on"),
    ] {
        let launch = Launch::new("site.js").workers(2);
        let mut master = launch.env("RCLUSTER_TEST_UPGRADE", what).start();
        let before = pids(&master);
        let output = master.command(&["upgrade"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(16), "{said}\n{}", master.log());
        assert!(said.contains(why), "{said}");
        assert_eq!(view(&master)["done"], json!(0));
        assert_eq!(pids(&master), before);
        master.stop();
    }
}

/// A program of version 1 takes a plain master, and none with what it would lose. That it reads what is written then is
/// tested where the state is defined, against what such programs wrote.
#[test]
fn a_downgrade_is_refused_where_the_older_program_would_lose_something() {
    let options = [
        (None, ""),
        (Some(["--admin", "127.0.0.1:0"]), "(--admin)"),
        (
            Some(["--log-file", "/dev/null"]),
            "(--log-prefix and --log-file)",
        ),
        (Some(["--balance", "spread"]), "(--balance)"),
    ];
    for (option, news) in options {
        let mut launch = Launch::new("site.js").workers(2);
        if let Some(words) = option {
            launch = launch.options(words);
        }
        let mut master = launch.env("RCLUSTER_TEST_UPGRADE", "reads-1").start();
        let before = pids(&master);
        let output = master.command(&["upgrade"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if option.is_none() {
            assert_eq!(output.status.code(), Some(0), "{said}");
            assert_eq!(view(&master)["done"], 1);
        } else {
            assert_eq!(output.status.code(), Some(16), "{option:?}: {said}");
            assert!(said.contains("needs a binary that reads 2"), "{said}");
            assert!(said.contains(news), "{said}");
            assert_eq!(view(&master)["done"], 0);
        }
        assert_eq!(pids(&master), before);
        assert_eq!(master.addr().get("/").status, 200);
        master.stop();
    }
}

#[test]
fn a_question_in_the_moment_of_an_upgrade_is_answered() {
    let mut master = Launch::new("site.js").workers(1).start();
    master.wait_ready(1);
    let control = master.control.clone();
    let ask = || {
        for _ in 0..100 {
            let mut command = Command::new(env!("CARGO_BIN_EXE_rcluster"));
            command
                .args(["status", "--json", "--control"])
                .arg(&control);
            let output = command.output().expect("it runs");
            assert!(output.status.success(), "{output:?}");
        }
    };
    thread::scope(|scope| {
        let asking = [scope.spawn(ask), scope.spawn(ask), scope.spawn(ask)];
        while !asking.iter().all(ScopedJoinHandle::is_finished) {
            upgrade(&master);
        }
        for asker in asking {
            asker.join().expect("each question was answered");
        }
    });
    master.stop();
}

#[test]
fn usr2_upgrades_deaths_are_seen_and_the_guard_still_guards() {
    let mut master = Launch::new("site.js").workers(2).start();
    let ready = master.wait_ready(2);
    master.signal(Signal::SIGUSR2);
    kill(ready[0].process(), Signal::SIGKILL);
    wait_until("the upgrade", common::BOOT, || {
        (view(&master)["done"] == 1).then_some(())
    });
    let new = master.wait_replaced(&ready[0]);
    assert_eq!(new.restarts, 1);
    assert!(master.zombies().is_empty());
    master.kill_master();
    master.wait_no_process();
    master.forget();
}
