//! Promise: what the kernel refuses or takes away does not end the master. A worker that is killed for memory is told as
//! such, a full process table is waited out, and bind rights hold.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Addr, Conn, Launch, Master, Node, kill, skip, wait_until};
use nix::sys::signal::Signal::SIGKILL;
use serde_json::Value;

/// A cgroup of a v1 or v2 hierarchy of this test alone, removed at its end.
struct Group(PathBuf);

impl Group {
    /// Makes one with this limit; `None` (and says so) where it cannot be had.
    fn with(controller: &str, file: &str, limit: &str) -> Option<Self> {
        let name = format!("rcluster-test-{}-{controller}", std::process::id());
        let root = PathBuf::from("/sys/fs/cgroup").join(controller);
        let group = Self(root.join(name));
        let made = fs::create_dir(&group.0).and_then(|()| fs::write(group.0.join(file), limit));
        if let Err(error) = made {
            skip(&format!("no {controller} cgroup v1 to write to ({error})"));
            return None;
        }
        Some(group)
    }

    /// Runs rcluster in it.
    fn launch(&self, launch: Launch) -> Launch {
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.0.display());
        launch.under(["sh", "-c", &enter, "sh"])
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn document(master: &Master) -> Value {
    let control = Addr::Unix(master.control.clone());
    let answer = control.try_request("GET", "/v1/status");
    answer.expect("the control socket answers").json()
}

fn unwell() -> Launch {
    Launch::new("unwell.js").node(Node::V24).workers(2)
}

#[test]
fn a_worker_that_is_killed_for_memory_is_told_as_such() {
    let Some(group) = Group::with("memory", "memory.limit_in_bytes", "400M") else {
        return;
    };
    let mut master = group.launch(unwell()).start();
    let before = master.wait_ready(2);
    let addr = master.addr();
    // Until one of them is gone.
    let dead = wait_until("a worker killed for memory", common::BOOT, || {
        if let Ok(mut conn) = Conn::open(&addr) {
            let _ = conn.send("GET /leak HTTP/1.1\r\nHost: x\r\n\r\n");
            let _ = conn.read();
        }
        let now = master.status();
        let gone = |w: &&common::Worker| !now.workers.iter().any(|n| n.id == w.id);
        before.iter().find(gone).cloned()
    });
    master.wait_replaced(&dead);
    let incidents = document(&master)["incidents"].clone();
    let incident = incidents
        .as_array()
        .and_then(|all| all.iter().find(|i| i["worker"] == dead.id));
    let incident = incident.unwrap_or_else(|| panic!("{incidents}"));
    assert_eq!(incident["kind"], "killed", "{incident}");
    assert!(incident["oom_kills"].as_u64() >= Some(1), "{incident}");
    assert!(
        incident["reason"]
            .as_str()
            .is_some_and(|r| r.contains("out of memory")),
        "{incident}"
    );
    master.wait_ready(2);
    master.stop();
}

#[test]
fn a_full_process_table_is_waited_out() {
    let Some(group) = Group::with("pids", "pids.max", "max") else {
        return;
    };
    let mut master = group.launch(unwell()).start();
    let before = master.wait_ready(2);
    // Not one process or thread more than there are.
    let now = fs::read_to_string(group.0.join("pids.current")).expect("a number");
    let now: u32 = now.trim().parse().expect("a number");
    fs::write(group.0.join("pids.max"), "2").expect("a limit");
    assert!(now > 2);
    kill(before[0].process(), SIGKILL);
    wait_until("word of the failed start", common::BOOT, || {
        let log = master.log();
        let failed = log.contains("failed to start") && log.contains("os error 11");
        failed.then_some(())
    });
    // The other one serves on.
    assert_eq!(
        common::pid_in(&master.addr().get("/").json()),
        before[1].process()
    );
    fs::write(group.0.join("pids.max"), "max").expect("no limit");
    master.wait_replaced(&before[0]);
    master.wait_ready(2);
    let kinds = document(&master)["incidents"].clone();
    let kinds: Vec<_> = kinds
        .as_array()
        .into_iter()
        .flatten()
        .map(|i| i["kind"].clone())
        .collect();
    assert!(kinds.contains(&"not-started".into()), "{kinds:?}");
    master.stop();
}

/// What a listener of the app's own gets.
#[track_caller]
fn other(master: &Master) -> Value {
    master.addr().get("/path").json()["code"].clone()
}

#[test]
fn with_strict_bind_workers_listen_only_where_it_is_declared() {
    let folder = common::scratch();
    let path = folder.path().join("other.sock");
    let port = Addr::free_port();
    let mut master = unwell()
        .env("OTHER", &path)
        .options(["--strict-bind", "-b", &format!("127.0.0.1:{port}")])
        .start();
    master.wait_ready(2);
    assert_eq!(Addr::port(port).get("/path").json()["code"], "EACCES");
    assert!(
        master
            .log()
            .contains("with --strict-bind workers listen only where --bind says")
    );
    master.stop();
    // The control: without it the same listener is bound.
    let mut master = unwell().env("OTHER", &path).start();
    master.wait_ready(2);
    assert_eq!(other(&master), "listens");
    master.stop();
}

#[test]
fn a_root_master_makes_no_socket_in_strange_folders() {
    if !nix::unistd::geteuid().is_root() {
        skip("only root is held to this");
        return;
    }
    let path = format!("/var/lib/rcluster-test-{}.sock", std::process::id());
    let mut master = unwell().env("OTHER", &path).start();
    master.wait_ready(2);
    assert_eq!(other(&master), "EACCES");
    assert!(!PathBuf::from(&path).exists());
    assert!(
        master
            .log()
            .contains("the working directory and the temp folder only")
    );
    master.stop();
}
