//! Promise: nothing blocks the loop. Calls that may block take 300 ms here (`common/slow.c`, preloaded into the master),
//! and no turn of the loop may be blocked for so long: `Master::finish` looks for that in the log.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::signal::Signal::SIGKILL;

use crate::common::{BOOT, Conn, Launch, Master, Node, app, kill, scratch, wait_until};

/// The library, built once.
pub(crate) fn library() -> PathBuf {
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

    /// Walks of `/proc` that were slow.
    fn walks(&self) -> u64 {
        fs::metadata(self.path("walks")).map_or(0, |meta| meta.len())
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

/// A port of all addresses that this process holds.
fn taken() -> (TcpListener, u16) {
    let taken = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    (taken, port)
}

#[test]
fn finding_the_owner_of_a_taken_port_does_not_block_the_loop() {
    let (_taken, port) = taken();
    let us = format!("(pid {})", std::process::id());
    for declared in [false, true] {
        let slow = Slow::new();
        let mut launch = slow.launch().env("SLOW_PROC", "300");
        launch = if declared {
            launch.options(["--bind", &format!("0.0.0.0:{port}")])
        } else {
            launch.env("PORT", port.to_string()).env("HOST", "0.0.0.0")
        };
        let ended = launch.run();
        assert!(slow.walks() > 0, "{declared}");
        assert_eq!(ended.code, Some(5), "{declared}: {ended:?}");
        assert!(ended.log.contains(&us), "{declared}: {ended:?}");
        assert!(!ended.log.contains("loop_blocked"), "{ended:?}");
    }
}

/// Queries for taken ports start one walk of `/proc`, which nobody awaits for long.
#[test]
fn many_queries_for_taken_ports_start_one_walk_of_proc() {
    let (_taken, port) = taken();
    let slow = Slow::new();
    fs::write(
        slow.path("server.js"),
        "const net = require('net');
         const say = (event, more) => require('fs').writeSync(1, JSON.stringify({ event, ...more }) + '\\n');
         net.createServer().listen(0, '127.0.0.1', () => {
           let left = 100;
           const failed = (error) => { if (--left === 0) say('all', { code: error.code }); };
           for (let i = 1; i <= 100; i++) net.createServer().listen(process.env.TAKEN, '127.0.0.' + i).on('error', failed);
         });",
    )
    .expect("an app");
    let launch = slow.launch().env("SLOW_PROC", "60000");
    let mut master = launch.env("TAKEN", port.to_string()).start();
    let told = master.wait_events("all", 2);
    assert!(told.iter().all(|t| t["code"] == "EADDRINUSE"), "{told:?}");
    assert_eq!(slow.walks(), 1);
    assert!(master.log().contains("ss -ltnp"), "{}", master.log());
    assert!(master.wait_ready(2).iter().all(|w| w.restarts == 0));
    master.stop();
}

/// A walk holds a thread, which an exec would end in the middle.
#[test]
fn an_upgrade_waits_for_a_walk_of_proc() {
    let (_taken, port) = taken();
    let slow = Slow::new();
    fs::write(
        slow.path("server.js"),
        "const http = require('http');
         const net = require('net');
         http.createServer((req, res) => {
           if (req.url === '/take') net.createServer().on('error', () => {}).listen(process.env.TAKEN, '127.0.0.1');
           res.end();
         }).listen(0, '127.0.0.1');",
    )
    .expect("an app");
    let launch = slow.launch().env("SLOW_PROC", "4000");
    let mut master = launch.env("TAKEN", port.to_string()).start();
    let before = master.wait_ready(2).remove(0);
    master.addr().get("/take");
    wait_until("a walk", BOOT, || (slow.walks() == 1).then_some(()));
    let refused = master.command(&["upgrade"]);
    assert_ne!(refused.status.code(), Some(0), "{refused:?}");
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("the owner of a taken port"), "{why}");
    wait_until("the upgrade", BOOT, || {
        master.command(&["upgrade"]).status.success().then_some(())
    });
    assert_eq!(slow.walks(), 1);
    assert_eq!(master.wait_ready(2)[0].id, before.id);
    master.stop();
}

#[test]
fn a_walk_of_proc_for_a_hung_worker_blocks_neither_the_loop_nor_the_end() {
    let slow = Slow::new();
    let spin = "require('http').createServer(() => { for (;;); }).listen(0, '127.0.0.1');";
    fs::write(slow.path("server.js"), spin).expect("an app");
    let launch = slow.launch().env("SLOW_PROC", "600000");
    let mut master = launch
        .options(["--hang-timeout", "1s", "--drain-timeout", "1s"])
        .option("--no-autopsy")
        .start();
    master.wait_ready(2);
    let mut client = Conn::open(&master.addr()).expect("a connection");
    client
        .send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("sent");
    wait_until("a walk", BOOT, || (slow.walks() > 0).then_some(()));
    master.status();
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
