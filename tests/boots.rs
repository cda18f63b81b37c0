//! Promise: workers that boot never cost the master: they go first when memory runs out, and few boot at a time.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::common::{self, Launch, is_root};

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
