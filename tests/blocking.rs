//! Promise: nothing blocks the loop. Calls that may block take 300 ms here (`common/slow.c`, preloaded into the master),
//! and no turn of the loop may be blocked for 50 ms: `Master::finish` looks for that in the log.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::signal::Signal::SIGKILL;

use crate::common::{Launch, Master, Node, app, kill, scratch};

/// The library, built once.
fn library() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("slow.so");
        let done = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/slow.c"))
            .arg("-ldl")
            .status();
        assert!(done.expect("cc runs").success());
        library
    });
    built.clone()
}

/// A folder in which everything can become slow, and an app in it.
struct Slow(tempfile::TempDir);

impl Slow {
    fn new() -> Self {
        let slow = Self(scratch());
        fs::copy(app("http.js"), slow.path("server.js")).expect("an app");
        slow
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn launch(&self) -> Launch {
        Launch::new(self.path("server.js"))
            .node(Node::V24)
            .cwd(self.0.path())
            .env("SLOW", self.0.path())
            .env("LD_PRELOAD", library())
            .workers(2)
    }

    fn delays(&self) -> u64 {
        fs::metadata(self.path("delays")).map_or(0, |meta| meta.len())
    }

    /// From now on calls are slow; they must be made, or the test sees nothing.
    fn on(&self) {
        fs::write(self.path("on"), "").expect("a file");
    }

    #[track_caller]
    fn off(&self) {
        fs::remove_file(self.path("on")).expect("it was on");
        assert!(self.delays() > 0, "no slow call was made");
    }
}

#[track_caller]
fn replaced(master: &Master) {
    let before = master.wait_ready(2);
    kill(before[0].process(), SIGKILL);
    master.wait_replaced(&before[0]);
}

#[test]
fn a_start_on_a_slow_file_system_does_not_block_the_loop() {
    let slow = Slow::new();
    let mut master = slow.launch().start();
    master.wait_ready(2);
    slow.on();
    replaced(&master);
    slow.off();
    master.stop();
}

#[test]
fn a_reload_of_a_slow_release_does_not_block_the_loop() {
    let slow = Slow::new();
    fs::write(slow.path("env"), "A=1\n").expect("a file");
    let mut launch = slow.launch();
    for option in ["--env-file", "--pidfile"] {
        let name = option.trim_start_matches('-').replace("-file", "");
        launch = launch.option(option).option(slow.path(&name));
    }
    let mut master = launch.start();
    let before = master.wait_ready(2);
    slow.on();
    assert_eq!(master.command(&["reload"]).status.code(), Some(0));
    slow.off();
    assert!(master.wait_ready(2)[0].id > before[1].id);
    master.stop();
}

#[test]
fn a_blocked_loop_is_noticed() {
    // The control: a slow call that the loop does make.
    let slow = Slow::new();
    let mut master = slow.launch().env("SLOW_FORK", "1").start();
    master.may_be_blocked();
    master.wait_ready(2);
    slow.on();
    replaced(&master);
    slow.off();
    master.stop();
    assert!(master.log().contains("loop_blocked"), "{}", master.log());
}
