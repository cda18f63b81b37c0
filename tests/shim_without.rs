//! Promise: workers without descriptors, without the file system or without the shim itself are kept and told of.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal::SIGUSR2;

use crate::common::{
    self, Launch, Master, Node, app, is_root, kill, on_oldest_and_newest_node, pid_in, running,
    skip, wait_until,
};
use crate::deploys::{begin, document, number, reload, wait_settled};
use crate::shim::{beats_and_drains, faults, launch};

const FEW: [&str; 4] = ["sh", "-c", "ulimit -n 64; exec \"$@\"", "sh"];

/// A worker whose descriptors are taken, but for so many, before its shim is loaded.
fn eaten(node: Node, free: u32) -> Launch {
    let eater = format!("--require={}", app("eater.cjs").display());
    let launch = launch(node).under(FEW).env("FREE", free.to_string());
    launch.option("--node-arg").option(eater)
}

/// One descriptor is enough to read it.
fn descriptors_run_out_before_it_is_loaded(node: Node) {
    let master = eaten(node, 1).start();
    let taken = &master.wait_events("eaten", 1)[0]["taken"];
    assert!(taken.as_u64().is_some_and(|taken| taken > 10), "{taken}");
    beats_and_drains(master);
}

/// Node itself says what it cannot read.
fn without_any_descriptor_the_boot_fails(node: Node) {
    let ended = eaten(node, 0).run();
    assert_eq!(ended.code, Some(3), "{ended:?}");
    for part in ["EMFILE", "shim.cjs"] {
        assert!(ended.log.contains(part), "{ended:?}");
    }
}

/// What the drain needs was loaded at the start.
fn descriptors_run_out_after_the_boot(node: Node) {
    let mut master = launch(node).under(FEW).start();
    let old = master.wait_ready(1).remove(0);
    let addr = master.addr();
    let mut held = begin(&addr, "/hold");
    master.wait_events("held", 1);
    assert_eq!(addr.get("/eat").json()["code"], "EMFILE");
    reload(&master);
    assert_ne!(pid_in(&addr.get("/").json()), old.process());
    kill(old.process(), SIGUSR2);
    let answer = held.read().expect("an answer of the old worker");
    assert_eq!(pid_in(&answer.json()), old.process());
    let lower = answer.head.to_ascii_lowercase();
    assert!(lower.contains("\r\nconnection: close\r\n"), "{lower}");
    wait_settled(&master, 1);
    assert_eq!(number(&master, "cut_total"), 0, "{}", master.log());
    assert_eq!(faults(&master), 0, "{}", master.log());
    master.stop();
}

fn the_app_may_change_its_root_folder(node: Node) {
    if !is_root() {
        return skip("not root: chroot(2) is not allowed");
    }
    let launch = launch(node).arg("chroot");
    let (lib, jail) = (
        launch.dir.path().join("jail.so"),
        launch.dir.path().join("jail"),
    );
    fs::create_dir(&jail).expect("a folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/jail.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&lib)
        .arg(source)
        .status();
    assert!(built.expect("a C compiler").success());
    let master = launch.env("LD_PRELOAD", lib).env("JAIL", jail).start();
    assert_eq!(master.wait_events("jailed", 1)[0]["code"], "ENOENT");
    beats_and_drains(master);
}

/// A script that runs node without the option that loads the shim.
fn dropping(launch: Launch) -> Launch {
    let wrapper: PathBuf = launch.dir.path().join("node");
    let text = format!(
        "#!/bin/sh\nskip=\nfor word in \"$@\"; do\n  shift\n  if [ -n \"$skip\" ]; then skip=\n  \
         elif [ \"$word\" = --require ]; then skip=1\n  else set -- \"$@\" \"$word\"; fi\ndone\nexec {} \"$@\"\n",
        launch.node_path().display()
    );
    fs::write(&wrapper, text).expect("written");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("executable");
    launch.without_node().option("--node").option(wrapper)
}

fn missing(master: &Master) -> usize {
    let log = master.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("event=\"shim_missing\""));
    lines
        .inspect(|line| assert!(line.contains("WARN"), "{line}"))
        .count()
}

/// A worker that never says hello is not taken for one that hangs; its generation is told of once.
fn a_worker_without_it_is_kept_and_told_of(node: Node) {
    let mut master = dropping(launch(node)).start();
    let old = master.wait_ready(1).remove(0);
    let addr = master.addr();
    wait_until("more than twice the hang timeout", common::BOOT, || {
        let document = document(&master);
        let worker = &document["workers"][0];
        assert_eq!(worker["id"], old.id, "{document}\n{}", master.log());
        (worker["uptime_ms"].as_u64()? > 2500).then_some(())
    });
    assert_eq!(missing(&master), 1, "{}", master.log());
    assert_eq!(document(&master)["incidents"], serde_json::json!([]));
    // Its drain is Node's own.
    let mut held = begin(&addr, "/hold");
    master.wait_events("held", 1);
    reload(&master);
    assert_ne!(pid_in(&addr.get("/").json()), old.process());
    kill(old.process(), SIGUSR2);
    let answer = held.read().expect("an answer of the old worker");
    assert_eq!(pid_in(&answer.json()), old.process());
    drop(held);
    wait_settled(&master, 1);
    wait_until("the end of the old worker", common::BOOT, || {
        (!running(old.process())).then_some(())
    });
    assert_eq!(missing(&master), 2, "once a generation\n{}", master.log());
    assert_eq!(document(&master)["incidents"], serde_json::json!([]));
    master.stop();
}

on_oldest_and_newest_node!(
    descriptors_run_out_before_it_is_loaded,
    without_any_descriptor_the_boot_fails,
    descriptors_run_out_after_the_boot,
    the_app_may_change_its_root_folder,
    a_worker_without_it_is_kept_and_told_of,
);
