//! Promise: the command line does what its help says, every option also as RCLUSTER_..., and the app's words are the app's.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use crate::common::{self, Addr, BOOT, Launch, Master, Node, is_root, pid_in, wait_until};
use nix::sys::signal::Signal::SIGTERM;
use serde_json::{Value, json};

fn http() -> Launch {
    Launch::new("http.js").env("HOST", "127.0.0.1")
}

#[track_caller]
fn seen(master: &Master) -> Value {
    master.addr().get("/").json()
}

#[test]
fn words_after_the_script_are_the_apps_own() {
    let words = [
        "--",
        "-w",
        "7",
        "--",
        "--name=x",
        "--help",
        "--version",
        "-b",
        "",
        "a b",
        "--",
        "status",
    ];
    let mut master = words
        .iter()
        .fold(http().workers(1), |launch, word| launch.arg(*word))
        .start();
    master.wait_ready(1);
    assert_eq!(seen(&master)["argv"], json!(words));
    master.stop();
}

#[test]
fn a_double_dash_before_the_script_ends_the_options() {
    let dir = common::scratch();
    let script = dir.path().join("-w.js");
    fs::copy(common::app("http.js"), &script).expect("a copy");
    let launch = Launch::bare()
        .workers(1)
        .cwd(dir.path())
        .options(["--", "-w.js", "--", "x"]);
    // Node itself needs the path form: an argument that begins with a dash would be an option of Node.
    let mut master = launch.start();
    master.wait_ready(1);
    assert_eq!(seen(&master)["argv"], json!(["--", "x"]));
    master.stop();
}

#[test]
fn bind_tcp_v6_and_unix() {
    let (port, other) = (Addr::free_port(), Addr::free_port());
    let launch = Launch::new("servers.js").workers(2);
    let path = launch.dir.path().join("app.sock");
    let launch = launch
        .options([
            "-b",
            &format!("127.0.0.1:{port}"),
            "--bind",
            &format!("[::1]:{other}"),
        ])
        .options(["-b", &format!("unix:{}", path.display())])
        .arg(json!({"kind": "http", "listen": {"port": port, "host": "127.0.0.1"}}).to_string())
        .arg(json!({"kind": "http", "listen": {"port": other, "host": "::1"}}).to_string())
        .arg(json!({"kind": "http", "listen": {"path": path}}).to_string());
    let mut master = launch.start();
    master.wait_ready(2);
    wait_until("six listeners", BOOT, || {
        (master.events("listening").len() == 6).then_some(())
    });
    let addresses = master.status().addresses();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    for addr in [
        Addr::port(port),
        Addr::Tcp(([0, 0, 0, 0, 0, 0, 0, 1], other).into()),
        Addr::Unix(path.clone()),
    ] {
        master.each_answers_http(&addr);
    }
    master.stop();
    assert!(!path.exists());
}

#[test]
fn bind_without_a_host_is_what_plain_listen_uses() {
    let port = Addr::free_port();
    let launch = Launch::new("servers.js")
        .workers(2)
        .options(["-b", &format!(":{port}")]);
    let mut master = launch
        .arg(json!({"kind": "http", "listen": {"port": port}}).to_string())
        .start();
    master.wait_ready(2);
    assert_eq!(
        master.status().listeners.len(),
        1,
        "{:?}",
        master.status().addresses()
    );
    master.each_answers_http(&Addr::port(port));
    master.stop();
}

#[test]
fn a_bound_port_is_not_refused_before_the_first_worker_is_ready() {
    let port = Addr::free_port();
    let launch = Launch::new("http.js")
        .env("PORT", port.to_string())
        .options(["-b", &format!(":{port}")])
        .workers(1);
    let mut master = launch.start();
    let addr = Addr::port(port);
    // As soon as the port is open once, it stays so: the connection waits for the first worker.
    let answer = wait_until("a connection", BOOT, || addr.try_request("GET", "/").ok());
    assert_eq!(answer.status, 200);
    let bound_first = master.log();
    assert!(!bound_first.contains("panicked"));
    master.stop();
}

#[test]
fn every_option_in_its_environment_form() {
    let launch = Launch::new("http.js").without_control().without_node();
    let (dir, node, control) = (
        launch.dir.path().to_owned(),
        launch.node_path().to_owned(),
        launch.control.clone(),
    );
    let port = Addr::free_port();
    let mut master = launch
        .env("RCLUSTER_WORKERS", "2")
        .env("RCLUSTER_BIND", format!("127.0.0.1:{port}"))
        .env("HOST", "127.0.0.1")
        .env("PORT", port.to_string())
        .env("RCLUSTER_NAME", "from-the-environment")
        .env("RCLUSTER_CONTROL", &control)
        .env("RCLUSTER_NODE", &node)
        .env("RCLUSTER_NODE_ARG", "--max-old-space-size=300")
        .env("RCLUSTER_CWD", &dir)
        .env("RCLUSTER_READY", "listening")
        .env("RCLUSTER_READY_TIMEOUT", "40s")
        .env("RCLUSTER_DRAIN_TIMEOUT", "500ms")
        .env("RCLUSTER_KILL_TIMEOUT", "5s")
        .env("RCLUSTER_STOP_SIGNAL", "SIGINT")
        .env("CATCH", "SIGINT,SIGTERM")
        .env("CATCH_EXIT", "1")
        .env("HOLD", "1")
        .env("RCLUSTER_LOG_FORMAT", "json")
        .env("RCLUSTER_LOG_LEVEL", "debug")
        .env("RCLUSTER_PIDFILE", dir.join("master.pid"))
        .start();
    master.wait_ready(2);
    let status = master.status();
    assert_eq!(status.name, "from-the-environment");
    assert_eq!(status.addresses(), [format!("127.0.0.1:{port}")]);
    let seen = seen(&master);
    assert_eq!(seen["cwd"], json!(dir));
    assert_eq!(seen["execArgv"], json!(["--max-old-space-size=300"]));
    assert_eq!(
        fs::read_to_string(dir.join("master.pid"))
            .expect("a pid file")
            .trim(),
        master.pid().to_string()
    );
    master.stop();
    let signals: Vec<_> = master
        .events("signal")
        .iter()
        .map(|event| event["signal"].clone())
        .collect();
    assert_eq!(signals, ["SIGINT", "SIGINT"], "{}", master.out());
    check_json_log(&master.log());
    assert!(!dir.join("master.pid").exists(), "the pid file was left");
}

#[test]
fn every_environment_form_is_read() {
    // A wrong value in each of them must be refused: so none is ignored.
    for (name, wrong) in [
        ("RCLUSTER_WORKERS", "x"),
        ("RCLUSTER_BIND", "nowhere"),
        ("RCLUSTER_NAME", "a/b"),
        ("RCLUSTER_CONTROL", "/nowhere/c.sock"),
        ("RCLUSTER_NODE", "/nowhere/node"),
        ("RCLUSTER_CWD", "/nowhere"),
        ("RCLUSTER_READY", "soon"),
        ("RCLUSTER_READY_TIMEOUT", "x"),
        ("RCLUSTER_DRAIN_TIMEOUT", "x"),
        ("RCLUSTER_KILL_TIMEOUT", "x"),
        ("RCLUSTER_MIN_UPTIME", "x"),
        ("RCLUSTER_BAKE", "x"),
        ("RCLUSTER_SURGE", "x"),
        ("RCLUSTER_SWITCH", "x"),
        ("RCLUSTER_STOP_SIGNAL", "x"),
        ("RCLUSTER_ENV_FILE", "/nowhere/env"),
        ("RCLUSTER_PIDFILE", "/nowhere/pid"),
        ("RCLUSTER_LOG_FORMAT", "x"),
        ("RCLUSTER_LOG_LEVEL", "x"),
    ] {
        let mut launch = Launch::new("good.py").env(name, wrong);
        if name == "RCLUSTER_CONTROL" {
            launch = launch.without_control();
        }
        if name == "RCLUSTER_NODE" {
            launch = launch.without_node();
        }
        let ended = launch.run();
        assert_eq!(ended.code, Some(2), "{name}={wrong}: {ended:?}");
    }
}

#[test]
fn node_is_found_in_the_path() {
    let launch = Launch::new("http.js").without_node().workers(1);
    let folder = launch.dir.path().join("bin");
    fs::create_dir(&folder).expect("a folder");
    std::os::unix::fs::symlink(Node::V22.binary(), folder.join("node")).expect("a link");
    let mut master = launch
        .env("PATH", format!("{}:/usr/bin:/bin", folder.display()))
        .start();
    master.wait_ready(1);
    assert!(
        seen(&master)["version"]
            .as_str()
            .expect("a version")
            .starts_with("v22.")
    );
    master.stop();
}

#[test]
fn several_node_args_in_order() {
    let launch = http().workers(1).options([
        "--node-arg",
        "--max-old-space-size=300",
        "--node-arg=--no-warnings",
    ]);
    let mut master = launch.start();
    master.wait_ready(1);
    assert_eq!(
        seen(&master)["execArgv"],
        json!(["--max-old-space-size=300", "--no-warnings"])
    );
    master.stop();
}

#[test]
fn pidfile_is_written_and_removed() {
    let launch = Launch::new("good.py").workers(1);
    let file = launch.dir.path().join("rcluster.pid");
    fs::write(&file, "99999999\n").expect("a stale file");
    let mut master = launch.option("--pidfile").option(&file).start();
    master.wait_ready(1);
    assert_eq!(
        fs::read_to_string(&file).expect("a pid file").trim(),
        master.pid().to_string()
    );
    master.stop();
    assert!(!file.exists());
}

/// Every line is one JSON object with a level and a message.
#[track_caller]
fn check_json_log(log: &str) {
    assert!(log.lines().count() >= 3, "{log}");
    for line in log.lines() {
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text = value.to_string();
        assert!(
            value["level"].is_string()
                && value["timestamp"].is_string()
                && text.contains("message"),
            "{line}"
        );
    }
}

#[test]
fn log_formats_and_levels() {
    let mut master = Launch::new("good.py")
        .workers(1)
        .options(["--log-format", "json"])
        .start();
    let ready = master.wait_ready(1);
    common::kill(ready[0].process(), nix::sys::signal::Signal::SIGKILL);
    master.wait_replaced(&ready[0]);
    master.stop();
    check_json_log(&master.log());

    let mut text = Launch::new("good.py")
        .workers(1)
        .options(["--log-format", "text"])
        .start();
    text.wait_ready(1);
    text.stop();
    assert!(
        !text.log().is_empty()
            && text
                .log()
                .lines()
                .all(|line| serde_json::from_str::<Value>(line).is_err()),
        "{}",
        text.log()
    );
    assert!(
        !text.log().contains('\u{1b}'),
        "colours in a file: {}",
        text.log()
    );

    let mut quiet = Launch::new("good.py")
        .workers(1)
        .options(["--log-level", "error"])
        .start();
    quiet.wait_ready(1);
    quiet.stop();
    assert_eq!(quiet.log(), "");

    let mut loud = Launch::new("good.py")
        .workers(1)
        .options(["--log-level", "trace"])
        .start();
    loud.wait_ready(1);
    loud.stop();
    assert!(loud.log().len() > text.log().len(), "{}", loud.log());
}

/// A run of apps/signs.js with the files that it waits for.
fn signs(ready: &str) -> (Master, std::path::PathBuf, std::path::PathBuf) {
    let launch = Launch::new("signs.js")
        .workers(2)
        .options(["--ready", ready]);
    let (listen, send) = (
        launch.dir.path().join("listen"),
        launch.dir.path().join("send"),
    );
    (
        launch.env("LISTEN", &listen).env("SEND", &send).start(),
        listen,
        send,
    )
}

#[test]
fn ready_online_needs_no_listener() {
    let (mut master, _, _) = signs("online");
    master.wait_ready(2);
    assert!(master.status().listeners.is_empty());
    master.stop();
}

#[test]
fn ready_listening_waits_for_the_listener() {
    let (mut master, listen, send) = signs("listening");
    fs::write(send, "").expect("a file");
    master.wait_events("sent", 2);
    assert!(
        master.status().ready().is_empty(),
        "a message is not a listener"
    );
    fs::write(listen, "").expect("a file");
    master.wait_ready(2);
    master.stop();
}

#[test]
fn ready_message_waits_for_the_message() {
    let (mut master, listen, send) = signs("message");
    fs::write(listen, "").expect("a file");
    wait_until("both listening", BOOT, || {
        (master.events("listening").len() == 2).then_some(())
    });
    assert!(
        master.status().ready().is_empty(),
        "listening is not yet ready"
    );
    fs::write(send, "").expect("a file");
    master.wait_ready(2);
    master.stop();
}

#[test]
fn shutdown_message_is_sent_before_the_drain() {
    let launch =
        Launch::new("signs.js")
            .workers(1)
            .options(["--ready", "online", "--shutdown-message"]);
    let nowhere = launch.dir.path().join("never");
    let mut master = launch.env("LISTEN", &nowhere).env("SEND", &nowhere).start();
    master.wait_ready(1);
    // The app listens for messages from its first line on, which comes after it is online.
    master.wait_events("started", 1);
    master.signal(SIGTERM);
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    assert_eq!(master.events("shutdown").len(), 1, "{}", master.out());
    master.finish();
}

#[test]
fn without_the_shim_an_app_is_served_and_stopped_too() {
    let mut master = http().workers(2).options(["--no-shim"]).start();
    master.wait_ready(2);
    master.each_answers_http(&master.addr());
    assert_eq!(seen(&master)["execArgv"], json!([]));
    master.stop();
}

#[test]
fn a_drain_timeout_of_zero_and_odd_durations_are_understood() {
    for (good, value) in [
        (true, "250ms"),
        (true, "5s"),
        (true, "1m"),
        (true, "5"),
        (false, "-1s"),
        (false, "fast"),
        (false, "1h30"),
    ] {
        let launch = Launch::new("good.py")
            .workers(1)
            .options([&format!("--kill-timeout={value}")]);
        let mut master = launch.start();
        if good {
            master.wait_ready(1);
            master.stop();
        } else {
            assert_eq!(
                master.wait_exit().code(),
                Some(2),
                "{value}\n{}",
                master.log()
            );
            master.finish();
        }
    }
}

#[test]
fn an_unprivileged_user_can_run_it() {
    if !is_root() {
        // Then every other test here is the proof.
        return;
    }
    if !common::can_be_somebody_else() {
        return;
    }
    let mut master = http().workers(2).uid(65534).start();
    master.wait_ready(2);
    let pid = pid_in(&seen(&master));
    let owner = fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
    assert!(owner.contains("Uid:\t65534\t65534"), "{owner}");
    master.stop();
}

#[test]
fn help_and_version() {
    for (word, expected) in [("--help", "Usage: rcluster"), ("--version", "rcluster 0.")] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_rcluster"))
            .arg(word)
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(expected), "{text}");
    }
}

#[test]
fn a_script_that_cannot_be_executed_by_mode_still_runs() {
    // Node needs to read it, not to execute it.
    let launch = Launch::bare().workers(1);
    let script = launch.dir.path().join("plain.js");
    fs::copy(common::app("http.js"), &script).expect("a copy");
    fs::set_permissions(&script, Permissions::from_mode(0o400)).expect("chmod");
    let mut master = launch.option(&script).start();
    master.wait_ready(1);
    assert_eq!(master.addr().get("/").status, 200);
    master.stop();
}
