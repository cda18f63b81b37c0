//! Promise: a release that does not work changes nothing. Whoever asked learns why, the old workers serve on, the same
//! processes, and the next good reload works. Reloads at the wrong moment end with their own exit codes.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use crate::common::{self, Launch, Master, Node, Worker, on_two_nodes};
use crate::deploys::{Releases, Told, document, number, pids, reload, tell, wait_settled};
use serde_json::{Value, json};

/// A fleet whose every reload is to fail until the last one.
struct Steady {
    releases: Releases,
    master: Master,
    workers: Vec<Worker>,
    failures: u64,
}

impl Steady {
    fn start(launch: Launch, releases: Releases) -> Self {
        let master = launch.workers(2).start();
        let workers = master.wait_ready(2);
        Self {
            releases,
            master,
            workers,
            failures: 0,
        }
    }

    /// A reload that must fail with all these words, and change nothing.
    #[track_caller]
    fn fails(&mut self, what: &str, words: &[&str]) -> Told {
        let told = tell(&self.master, &["reload"]);
        assert_eq!(told.code, Some(10), "{what}: {told:?}");
        let log = self.master.log();
        let last = log.lines().rfind(|line| line.contains("reload failed"));
        // The log escapes line ends; both must name the reason.
        let logged = last.unwrap_or_else(|| panic!("{what}: no word in the log: {log}"));
        for word in words {
            assert!(
                told.err.contains(word),
                "{what}: {word:?} is not in {told:?}"
            );
            assert!(logged.contains(word), "{what}: {word:?} is not in {logged}");
        }
        self.failures += 1;
        assert_eq!(
            number(&self.master, "reloads_failed"),
            self.failures,
            "{what}"
        );
        let after = wait_settled(&self.master, 2);
        assert_eq!(pids(&after), pids(&self.workers), "{what}: other workers");
        assert!(
            after.iter().all(|worker| worker.restarts == 0),
            "{what}: {after:?}"
        );
        self.serves(1);
        let document = document(&self.master);
        assert!(
            !document["last_reload_error"].is_null(),
            "{what}: {document}"
        );
        told
    }

    #[track_caller]
    fn serves(&self, release: u64) {
        let addr = self.master.addr();
        for _ in 0..4 {
            assert_eq!(addr.get("/").json()["release"], release);
        }
    }

    /// The next good release works.
    #[track_caller]
    fn ends(mut self) {
        self.releases.deploy(99, &json!({}));
        reload(&self.master);
        self.serves(99);
        assert_eq!(number(&self.master, "reloads_done"), 1);
        assert_eq!(document(&self.master)["last_reload_error"], Value::Null);
        self.master.stop();
    }
}

fn broken_code(node: Node) {
    let releases = Releases::new();
    let launch = releases.launch().node(node);
    let launch = launch.options(["--min-uptime", "2s", "--ready-timeout", "4s"]);
    let mut steady = Steady::start(launch, releases);
    let cases: [(&str, &str, &[&str]); 8] = [
        (
            "throws",
            "\nthrow new TypeError('boom at start');\n",
            &["TypeError: boom at start", "server.js:2"],
        ),
        ("syntax error", "const a = ;\n", &["SyntaxError", "ended"]),
        (
            "rejection",
            "(async () => { throw new Error('nobody catches'); })();",
            &["Error: nobody catches", "server.js:1"],
        ),
        (
            "missing module",
            "require('no-such-module');",
            &["Cannot find module 'no-such-module'", "server.js"],
        ),
        ("exit code", "process.exit(7);", &["exit code 7"]),
        ("exit 0 at once", "", &["ended"]),
        (
            "killed",
            "process.kill(process.pid, 'SIGSEGV');",
            &["SIGSEGV"],
        ),
        ("throws no error", "throw null;", &["null"]),
    ];
    for (number, (what, code, words)) in (2..).zip(cases) {
        steady.releases.make_with(number, &json!({}), code);
        steady.releases.switch(number);
        steady.fails(what, words);
    }
    steady.releases.deploy(20, &json!({"dieAfter": 50}));
    steady.fails("dies young", &["Error: died by itself", "server.js:"]);
    let never = steady.releases.path("never");
    steady
        .releases
        .deploy(21, &json!({"wait": {"file": never}}));
    steady.fails("never listens", &["not ready after 4s", "never listened"]);
    // Slot 0 is fine, slot 1 is not: what was begun is taken back.
    steady
        .releases
        .deploy(22, &json!({"wait": {"file": never, "slot": "1"}}));
    let surge = tell(&steady.master, &["reload"]);
    assert_eq!(surge.code, Some(10), "{surge:?}");
    let taken = wait_settled(&steady.master, 2);
    assert!(
        taken.iter().all(|worker| worker.generation == 1),
        "{taken:?}"
    );
    steady.serves(1);
    steady.ends();
}

fn missing_and_misplaced_things(node: Node) {
    let releases = Releases::new();
    let bin = releases.path("node");
    symlink(node.binary(), &bin).expect("a link");
    let env = releases.path("app.env");
    fs::write(&env, "COLOR=red\n").expect("written");
    let launch = releases.launch().without_node();
    let launch = launch
        .option("--node")
        .option(&bin)
        .option("--env-file")
        .option(&env);
    let mut steady = Steady::start(launch, releases);

    // The script and its folder.
    let other = steady.releases.of(2);
    steady.releases.deploy(2, &json!({}));
    fs::remove_file(other.join("server.js")).expect("removed");
    steady.fails("no script", &["server.js", "no such file"]);
    fs::create_dir(other.join("server.js")).expect("a folder");
    steady.fails("a folder as script", &["server.js", "it is a folder"]);
    steady.releases.remove(2);
    steady.fails("a dangling link", &["no such file"]);
    let link = steady.releases.path("current");
    steady.releases.point(&link);
    steady.fails("a loop of links", &["circle"]);
    fs::remove_file(&link).expect("removed");
    fs::write(&link, "a file").expect("written");
    steady.fails("a file as folder", &["not a folder"]);
    fs::remove_file(&link).expect("removed");
    steady.fails("no link at all", &["no such file"]);
    steady.releases.deploy(3, &json!({}));

    // Node.
    fs::remove_file(&bin).expect("removed");
    steady.fails("no node", &[bin.to_str().expect("UTF-8"), "no such file"]);
    fs::write(&bin, "#!/bin/sh\n").expect("written");
    steady.fails("node not executable", &["not executable"]);
    fs::set_permissions(&bin, Permissions::from_mode(0o755)).expect("own file");
    fs::write(&bin, "no program\n").expect("written");
    // As a shell does it: /bin/sh tries to read it.
    steady.fails("not a program", &["exit code 127"]);
    fs::write(&bin, "#!/no/such/interpreter\n").expect("written");
    steady.fails("no interpreter", &["node"]);
    fs::remove_file(&bin).expect("removed");
    symlink(node.binary(), &bin).expect("a link");

    // The environment file.
    let name = env.to_str().expect("UTF-8").to_owned();
    fs::remove_file(&env).expect("removed");
    steady.fails("no environment file", &[&name, "no such file"]);
    fs::create_dir(&env).expect("a folder");
    steady.fails("a folder as environment file", &[&name]);
    fs::remove_dir(&env).expect("removed");
    fs::write(&env, "COLOR=green\n").expect("written");

    // A port that another process has.
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = taken.local_addr().expect("bound").port();
    let listen =
        json!({"listen": [{"port": 0, "host": "127.0.0.1"}, {"port": port, "host": "127.0.0.1"}]});
    steady.releases.deploy(4, &listen);
    steady.fails("a port is taken", &[&port.to_string(), "in use"]);
    steady.ends();
}

#[test]
fn a_working_directory_that_was_deleted() {
    let releases = Releases::new();
    // The folder itself, no link; the script is elsewhere.
    let folder = releases.path("here");
    fs::create_dir(&folder).expect("a folder");
    fs::copy(
        releases.of(1).join("release.json"),
        folder.join("release.json"),
    )
    .expect("copied");
    let launch = Launch::new(releases.of(1).join("server.js"))
        .option("--cwd")
        .option(&folder);
    let mut steady = Steady::start(launch.env("RCLUSTER_MIN_UPTIME", "0s"), releases);
    fs::remove_dir_all(&folder).expect("removed");
    steady.fails(
        "no folder",
        &[folder.to_str().expect("UTF-8"), "no such file"],
    );
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("release.json"), r#"{"number": 99}"#).expect("written");
    steady.ends();
}

#[test]
fn a_release_that_never_says_ready() {
    let releases = Releases::new();
    let say = "process.send('ready');";
    let code = fs::read_to_string(common::app("release.js")).expect("the app");
    releases.make_with(1, &json!({}), &format!("{code}\n{say}"));
    let launch = releases.launch();
    let launch = launch.options(["--ready", "message", "--ready-timeout", "2s"]);
    let mut steady = Steady::start(launch, releases);
    steady.releases.deploy(2, &json!({}));
    steady.fails("no message", &["process.send('ready')", "2s"]);
    steady
        .releases
        .make_with(99, &json!({}), &format!("{code}\n{say}"));
    steady.releases.switch(99);
    reload(&steady.master);
    steady.serves(99);
    steady.master.stop();
}

fn an_atomic_reload_that_fails(node: Node) {
    let releases = Releases::new();
    let launch = releases.launch().node(node);
    let launch = launch.options([
        "--switch",
        "atomic",
        "--ready-timeout",
        "3s",
        "--min-uptime",
        "1s",
    ]);
    let mut steady = Steady::start(launch, releases);
    steady
        .releases
        .make_with(2, &json!({}), "throw new Error('boom behind the gate');");
    steady.releases.switch(2);
    steady.fails("throws", &["Error: boom behind the gate", "server.js:1"]);
    let never = steady.releases.path("never");
    steady
        .releases
        .deploy(3, &json!({"wait": {"file": never, "slot": "1"}}));
    steady.fails("one never listens", &["never listened"]);
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let port = taken.local_addr().expect("bound").port();
    steady
        .releases
        .deploy(4, &json!({"listen": [{"port": port, "host": "127.0.0.1"}]}));
    let told = tell(&steady.master, &["reload"]);
    assert_eq!(told.code, Some(10), "{told:?}");
    assert!(told.err.contains(&port.to_string()), "{told:?}");
    let back = wait_settled(&steady.master, 2);
    assert!(back.iter().all(|worker| worker.generation == 1));
    steady.serves(1);
    steady.ends();
}

on_two_nodes!(
    broken_code,
    missing_and_misplaced_things,
    an_atomic_reload_that_fails,
);
