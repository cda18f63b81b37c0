//! Promise: workers that boot never cost the master: they go first when memory runs out, and few boot at a time.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::common::{self, Launch, Master, Worker, is_root};

/// Runs the workers by a shell script, in which `$dir` is the scratch folder and `$node` their node.
fn through(launch: Launch, script: &str) -> Launch {
    let wrapper: PathBuf = launch.dir.path().join("node");
    let (dir, node) = (launch.dir.path().display(), launch.node_path().display());
    let text = format!("#!/bin/sh\ndir='{dir}' node='{node}'\n{script}");
    fs::write(&wrapper, text).expect("written");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("executable");
    launch.without_node().option("--node").option(wrapper)
}

#[test]
fn the_kernel_prefers_a_worker_to_the_master_before_its_program_runs() {
    let users: &[Option<u32>] = if is_root() && common::can_be_somebody_else() {
        // The files in /proc of a process that cannot be dumped belong to root.
        &[None, Some(12_345)]
    } else {
        &[None]
    };
    for user in users {
        let mut launch = Launch::new("good.py").workers(1);
        if let Some(uid) = user {
            launch = launch.uid(*uid);
        }
        let script = "cat /proc/self/oom_score_adj > \"$dir/score\"\nexec \"$node\" \"$@\"\n";
        let mut master = through(launch, script).start();
        master.wait_ready(1);
        let number = |path: PathBuf| {
            let text = fs::read_to_string(path).expect("a score");
            text.trim().parse::<i32>().expect("a number")
        };
        let of_worker = number(master.dir.path().join("score"));
        let of_master = number(format!("/proc/{}/oom_score_adj", master.pid()).into());
        assert_eq!(of_worker, of_master + 100, "as user {user:?}");
        master.stop();
    }
}

/// Holds each boot until the file `go` is there.
const HELD: &str = "while [ ! -e \"$dir/go\" ]; do sleep 0.02; done\nexec \"$node\" \"$@\"\n";

/// On one CPU, so that four workers may boot at the same time.
fn held(workers: u32) -> (Master, PathBuf) {
    let launch = Launch::new("good.py")
        .workers(workers)
        .under(["taskset", "-c", "0"]);
    let go = launch.dir.path().join("go");
    (through(launch, HELD).start(), go)
}

/// Waits until so many processes boot, and says how many workers there are then.
#[track_caller]
fn wait_booting(master: &Master, count: usize) -> usize {
    master.wait_status("workers that boot", |status| {
        let booting = |w: &&Worker| w.state == "booting" && w.pid.is_some();
        (status.workers.iter().filter(booting).count() >= count).then_some(status.workers.len())
    })
}

#[test]
fn few_workers_boot_at_the_same_time() {
    let (mut master, go) = held(6);
    assert_eq!(wait_booting(&master, 4), 4, "{}", master.log());
    // The others are in no crash loop.
    let waiting = &crate::deploys::document(&master)["waiting"];
    assert_eq!(*waiting, serde_json::json!([]));
    fs::write(&go, "").expect("written");
    master.wait_ready(6);
    fs::remove_file(&go).expect("removed");
    assert_eq!(master.command(&["scale", "+5"]).status.code(), Some(0));
    assert_eq!(wait_booting(&master, 4), 6 + 4, "{}", master.log());
    fs::write(&go, "").expect("written");
    master.wait_ready(11);
    master.stop();
}

#[test]
fn far_more_workers_than_cpus_are_wanted_only_by_force() {
    let (mut master, go) = held(1);
    fs::write(&go, "").expect("written");
    master.wait_ready(1);
    fs::remove_file(&go).expect("removed");
    for words in [["scale", "65"], ["scale", "+64"]] {
        let told = master.command(&words);
        assert_eq!(told.status.code(), Some(2), "{told:?}");
        let why = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(why.contains("--force"), "{why}");
    }
    let event = "event=\"many_workers\"";
    assert_eq!(master.status().workers.len(), 1);
    assert!(!master.log().contains(event), "{}", master.log());
    let told = master.command(&["scale", "65", "--force"]);
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    assert_eq!(wait_booting(&master, 4), 1 + 4, "{}", master.log());
    assert_eq!(master.log().matches(event).count(), 1, "{}", master.log());
    // Fewer of too many needs no force.
    assert_eq!(master.command(&["scale", "-1"]).status.code(), Some(0));
    assert_eq!(master.command(&["scale", "1"]).status.code(), Some(0));
    fs::write(&go, "").expect("written");
    master.wait_ready(1);
    master.stop();
}
