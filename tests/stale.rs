//! Promise: files of masters that were killed and are not started again do not pile up; those that somebody needs stay.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal::{SIGKILL, SIGUSR2};

use crate::common::{
    self, BOOT, Launch, Master, Node, is_root, kill, list, pid_in, running, skip, wait_until,
};
use crate::deploys::begin;

/// Nobody in particular: whose shim is beside the control socket.
const SOMEBODY: u32 = 12_345;

/// A master in the default folder below `runtime`.
fn named(runtime: &Path, name: &str, app: &str) -> Master {
    let control = runtime.join("rcluster").join(format!("{name}.sock"));
    let mut launch = Launch::new(app).without_control();
    if is_root() && common::can_be_somebody_else() {
        launch = launch.uid(SOMEBODY);
    }
    let launch = launch.control(control).workers(1);
    let launch = launch.env("XDG_RUNTIME_DIR", runtime);
    let master = launch
        .options(["--drain-timeout", "30s", "--name", name])
        .start();
    master.wait_ready(1);
    master
}

/// The guard's process.
fn guard(master: &Master) -> i32 {
    let text = fs::read_to_string(master.control.with_extension("guard")).expect("its file");
    text.lines()
        .next()
        .and_then(|pid| pid.parse().ok())
        .expect("a number")
}

/// Kills master and guard at once.
fn kill_both(master: &mut Master) {
    // It would start another guard.
    let stopped = common::Stopped::new(&[master.pid()]);
    kill(guard(master), SIGKILL);
    master.kill_master();
    drop(stopped);
}

/// And the workers, too: nobody is left that could remove anything.
fn kill_all(master: &mut Master) {
    let workers = master.wait_ready(1);
    kill_both(master);
    for worker in workers {
        kill(worker.process(), SIGKILL);
    }
    master.wait_no_process();
    master.forget();
}

fn of(folder: &Path, name: &str) -> Vec<String> {
    let mut names = list(folder);
    names.retain(|file| file.split('.').next() == Some(name));
    names.sort();
    names
}

#[track_caller]
fn wait_cleared(master: &Master) {
    wait_until("word of it", BOOT, || {
        let log = master.log();
        log.contains("event=\"stale_files_removed\" names=1")
            .then_some(())
    });
}

#[test]
fn of_killed_masters_nothing_stays_in_the_default_folder() {
    let runtime = common::scratch();
    let runtime = runtime.path();
    // The shim of a root master is elsewhere.
    let files = if is_root() && common::can_be_somebody_else() {
        chown(runtime, Some(SOMEBODY), Some(SOMEBODY)).expect("chown as root");
        4
    } else {
        3
    };
    let folder = runtime.join("rcluster");
    let mut dead = named(runtime, "dead", "good.py");
    let mut lives = named(runtime, "lives", "good.py");
    // Its guard waits for a request in flight.
    let mut guarded = named(runtime, "guarded", "estranged.js");
    // Nobody guards this one's worker.
    let mut orphaned = named(runtime, "orphaned", "estranged.js");
    let names = ["lives", "guarded", "orphaned"];
    let before = names.map(|name| of(&folder, name));
    assert!(
        before.iter().all(|names| names.len() >= files),
        "{before:?}"
    );
    kill_all(&mut dead);
    assert!(of(&folder, "dead").len() >= files, "{:?}", list(&folder));
    let mut requests = vec![];
    for master in [&mut guarded, &mut orphaned] {
        let worker = master.wait_ready(1)[0].process();
        requests.push((worker, begin(&master.addr(), "/hold")));
        master.wait_events("held", 1);
    }
    kill_both(&mut orphaned);
    guarded.kill_master();
    let mut next = named(runtime, "next", "good.py");
    wait_cleared(&next);
    assert_eq!(of(&folder, "dead"), [""; 0]);
    assert_eq!(
        names.map(|name| of(&folder, name)),
        before,
        "{}",
        next.log()
    );
    assert_eq!(lives.status().workers.len(), 1);
    for (worker, mut request) in requests {
        assert!(running(worker));
        kill(worker, SIGUSR2);
        assert_eq!(pid_in(&request.read().expect("an answer").json()), worker);
    }
    for master in [&mut guarded, &mut orphaned] {
        master.wait_no_process();
        master.forget();
    }
    for master in [&mut next, &mut lives] {
        master.stop();
    }
}

/// The folder of a worker's shim.
fn shim_of(pid: i32) -> PathBuf {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("a command line");
    let shim = line.split('\0').find(|word| word.ends_with("shim.cjs"));
    Path::new(shim.expect("the shim"))
        .parent()
        .expect("a folder")
        .to_owned()
}

#[test]
fn the_shims_of_killed_masters_do_not_pile_up() {
    if !is_root() {
        return skip("not root: the shim is beside the control socket");
    }
    let start = || {
        let master = Launch::new("estranged.js")
            .node(Node::V24)
            .workers(1)
            .start();
        let worker = master.wait_ready(1)[0].process();
        (master, worker)
    };
    let (mut dead, worker) = start();
    let shim = shim_of(worker);
    assert!(shim.starts_with("/run/rcluster-shim"), "{}", shim.display());
    let (mut lives, other) = start();
    let (mut orphaned, orphan) = start();
    let kept = [shim_of(other), shim_of(orphan)];
    let mut held = begin(&orphaned.addr(), "/hold");
    orphaned.wait_events("held", 1);
    kill_both(&mut orphaned);
    kill_all(&mut dead);
    let (mut next, _) = start();
    wait_until("its shim to be removed", BOOT, || {
        (!shim.exists()).then_some(())
    });
    // What a later start finds is the same.
    next.stop();
    let (mut next, _) = start();
    next.stop();
    assert!(kept.iter().all(|folder| folder.join("shim.cjs").is_file()));
    kill(orphan, SIGUSR2);
    held.read().expect("an answer");
    orphaned.wait_no_process();
    orphaned.forget();
    lives.stop();
}

#[test]
fn a_shim_whose_folders_are_removed_is_written_again() {
    let private = [
        "unshare",
        "-m",
        "sh",
        "-c",
        "mount -t tmpfs none /run && exec \"$@\"",
        "sh",
    ];
    let allowed = std::process::Command::new(private[0])
        .args(&private[1..])
        .arg("true")
        .status();
    if !is_root() || !allowed.is_ok_and(|status| status.success()) {
        return skip("not root, or no mount namespace of its own");
    }
    let launch = Launch::new("estranged.js").node(Node::V24).workers(1);
    let mut master = launch.under(private).start();
    let worker = master.wait_ready(1)[0].process();
    let shim = shim_of(worker);
    let open = shim
        .parent()
        .and_then(|open| open.strip_prefix("/").ok())
        .expect("a folder");
    // The end of the last other master removes it as well.
    fs::remove_dir_all(Path::new(&format!("/proc/{worker}/root")).join(open)).expect("removed");
    crate::deploys::reload(&master);
    master.stop();
}
