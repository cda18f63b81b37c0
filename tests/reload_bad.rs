//! Promise: a release that does not work changes nothing. Whoever asked learns why, the old workers serve on, the same
//! processes, and the next good reload works. Reloads at the wrong moment end with their own exit codes.

mod common;
#[path = "common/reload.rs"]
mod deploys;

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::thread;
use std::time::Duration;

use common::{Launch, Master, Node, Worker, on_two_nodes, scratch};
use deploys::{
    Releases, Told, ask, count, document, hold, number, pids, reload, tell, touch, wait_settled,
};
use nix::sys::signal::Signal::{SIGHUP, SIGTERM};
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
    for (text, line) in [
        ("A=1\n\n# c\nnot a pair\n", "line 4"),
        ("1A=2\n", "line 1"),
        ("A=1\nB=\"open\n", "line 2"),
    ] {
        fs::write(&env, text).expect("written");
        steady.fails(text, &[&name, line]);
    }
    fs::write(&env, b"A=\xff\n").expect("written");
    steady.fails("no UTF-8", &[&name]);
    fs::remove_file(&env).expect("removed");
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

#[test]
fn with_no_master() {
    let folder = scratch();
    let control = folder.path().join("c.sock");
    for words in [["reload"], ["rollback"]] {
        let told = ask(&control, &words).wait();
        assert_eq!(told.code, Some(13), "{told:?}");
        assert!(told.err.contains("c.sock"), "{told:?}");
    }
    // The file of one that was killed.
    drop(std::os::unix::net::UnixListener::bind(&control).expect("bound"));
    assert_eq!(ask(&control, &["reload"]).wait().code, Some(13));
}

#[test]
fn of_a_master_that_stops() {
    let releases = Releases::new();
    let mut master = releases.launch().workers(1).start();
    master.wait_ready(1);
    let end = releases.path("end");
    let mut held = hold(&master.addr(), &end);
    master.wait_events("held", 1);
    // One that runs when the stop comes, one that is asked for later.
    let never = releases.path("never");
    releases.deploy(2, &json!({"wait": {"file": never}}));
    let running = ask(&master.control, &["reload"]);
    master.wait_events("waiting", 1);
    master.signal(SIGTERM);
    let told = running.wait();
    assert_eq!(told.code, Some(12), "{told:?}");
    assert!(told.err.contains("stopping"), "{told:?}");
    for words in [["reload"], ["rollback"]] {
        let told = tell(&master, &words);
        assert_eq!(told.code, Some(12), "{told:?}");
        assert!(told.err.contains("stopping"), "{told:?}");
    }
    master.signal(SIGHUP);
    touch(&end);
    assert_eq!(held.read().expect("an answer").status, 200);
    drop(held);
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    master.finish();
}

#[test]
fn during_boot() {
    for by_signal in [false, true] {
        let releases = Releases::new();
        let file = releases.path("listen");
        releases.deploy(1, &json!({"wait": {"file": file}}));
        let mut master = releases.launch().workers(2).start();
        master.wait_events("waiting", 2);
        let asking = (!by_signal).then(|| ask(&master.control, &["reload"]));
        if by_signal {
            master.signal(SIGHUP);
        }
        common::wait_until("the request", common::BOOT, || {
            master.log().contains("reload asked for").then_some(())
        });
        releases.deploy(2, &json!({}));
        touch(&file);
        if let Some(asking) = asking {
            let told = asking.wait();
            assert_eq!(told.code, Some(0), "{told:?}");
        }
        master.wait_status("generation 2", |status| {
            (status.generation == 2).then_some(())
        });
        wait_settled(&master, 2);
        assert_eq!(master.addr().get("/").json()["release"], 2);
        master.stop();
    }
}

#[test]
fn during_a_boot_that_fails() {
    let releases = Releases::new();
    let file = releases.path("listen");
    releases.deploy(1, &json!({"wait": {"file": file}}));
    let launch = releases.launch().workers(1);
    let mut master = launch.options(["--ready-timeout", "3s"]).start();
    master.wait_events("waiting", 1);
    let asking = ask(&master.control, &["reload"]);
    // The master ends with its own code; who waits for the reload is told.
    assert_eq!(master.wait_exit().code(), Some(4), "{}", master.log());
    let told = asking.wait();
    assert!(matches!(told.code, Some(12 | 13)), "{told:?}");
    master.finish();
}

/// HUP, then TERM after a growing time: the delay is what the test varies, nothing depends on its exactness.
fn hup_then_term(switch: &str, steps: u32, step: Duration) {
    for n in 0..steps {
        let releases = Releases::new();
        let launch = releases.launch().workers(2);
        let mut master = launch
            .options(["--switch", switch, "--surge", "100%"])
            .start();
        master.wait_ready(2);
        releases.deploy(2, &json!({}));
        master.signal(SIGHUP);
        thread::sleep(step * n);
        master.signal(SIGTERM);
        assert_eq!(
            master.wait_exit().code(),
            Some(0),
            "{n} x {step:?}\n{}",
            master.log()
        );
        master.finish();
    }
}

#[test]
fn hup_then_term_at_each_moment_of_a_rolling_reload() {
    hup_then_term(
        "rolling",
        u32::try_from(count(12, 100)).expect("small"),
        Duration::from_millis(30),
    );
}

#[test]
fn hup_then_term_at_each_moment_of_an_atomic_reload() {
    hup_then_term(
        "atomic",
        u32::try_from(count(12, 100)).expect("small"),
        Duration::from_millis(30),
    );
}

/// The steps that last, each met for certain.
#[test]
fn term_at_each_step_of_a_reload() {
    for (switch, options, state) in [
        (
            "rolling",
            json!({"wait": {"file": "/nonexistent"}}),
            "booting",
        ),
        (
            "rolling",
            json!({"wait": {"file": "/nonexistent", "slot": "1"}}),
            "ready",
        ),
        (
            "atomic",
            json!({"wait": {"file": "/nonexistent", "slot": "1"}}),
            "held",
        ),
        ("atomic", json!({}), "baking"),
    ] {
        let releases = Releases::new();
        let launch = releases.launch().workers(2);
        let mut master = launch
            .options(["--switch", switch, "--bake", "30s", "--surge", "2"])
            .start();
        master.wait_ready(2);
        releases.deploy(2, &options);
        let asking = ask(&master.control, &["reload"]);
        common::wait_until(state, common::BOOT, || {
            let document = document(&master);
            let new = |worker: &Value| worker["generation"] == 2 && worker["state"] == state;
            let workers = document["workers"].as_array().expect("workers");
            (document["reload"]["stage"] == state || workers.iter().any(new)).then_some(())
        });
        master.signal(SIGTERM);
        let told = asking.wait();
        assert_eq!(told.code, Some(12), "{state}: {told:?}");
        assert_eq!(
            master.wait_exit().code(),
            Some(0),
            "{state}\n{}",
            master.log()
        );
        master.finish();
    }
}

#[test]
fn options_that_make_no_sense() {
    for (options, word) in [
        (["--surge", "0"], "from 1"),
        (["--surge", "0%"], "1%"),
        (["--surge", "101%"], "100%"),
        (["--surge", "-1"], "-1"),
        (["--surge", "many"], "many"),
        (["--bake", "25h"], "longer than a day"),
        (["--bake", "soon"], "soon"),
        (["--switch", "sometimes"], "sometimes"),
        (
            ["--env-file", "/nonexistent/app.env"],
            "/nonexistent/app.env",
        ),
    ] {
        let ended = Launch::new("http.js").options(options).run();
        assert_eq!(ended.code, Some(2), "{options:?}: {}", ended.log);
        assert!(ended.log.contains(word), "{options:?}: {}", ended.log);
    }
    let folder = scratch();
    let told = ask(
        &folder.path().join("c.sock"),
        &["reload", "--timeout", "later"],
    )
    .wait();
    assert_eq!(told.code, Some(2), "{told:?}");
}

/// The generation of each worker in the table that people see.
fn listed(table: &str) -> Vec<String> {
    let rows = table
        .lines()
        .skip_while(|line| !line.contains("GENERATION"))
        .skip(1);
    rows.filter_map(|row| row.split_whitespace().nth(3).map(str::to_owned))
        .collect()
}

#[test]
fn a_timeout_lists_the_mixed_generations_and_the_reload_goes_on() {
    let releases = Releases::new();
    let mut master = releases.launch().workers(2).start();
    master.wait_ready(2);
    let file: &Path = &releases.path("listen");
    releases.deploy(2, &json!({"wait": {"file": file, "slot": "1"}}));
    let first = ask(&master.control, &["reload"]);
    master.wait_events("waiting", 1);
    master.wait_status("slot 0 replaced", |status| {
        status.in_slot(0).filter(|worker| worker.generation == 2)
    });
    let told = tell(&master, &["reload", "--timeout", "300ms"]);
    assert_eq!(told.code, Some(11), "{told:?}");
    let generations = listed(&told.err);
    assert!(
        ["1", "2"]
            .iter()
            .all(|generation| generations.iter().any(|g| g == generation)),
        "{told:?}"
    );
    touch(file);
    assert_eq!(first.wait().code, Some(0));
    // Who gave up waiting has not called it off.
    master.wait_status("generation 3", |status| {
        (status.generation == 3).then_some(())
    });
    wait_settled(&master, 2);
    master.stop();
}

on_two_nodes!(
    broken_code,
    missing_and_misplaced_things,
    an_atomic_reload_that_fails,
);
