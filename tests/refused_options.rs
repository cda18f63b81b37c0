//! Promise: `rcluster config` shows what a start would run with, and refuses what a start refuses; a unit holds all that it was
//! computed from.

use std::fs;
use std::process::{Command, Output, Stdio};

use crate::common::{Launch, Node, app, scratch};
use serde_json::Value;

/// The binary with nothing of the caller's variables but PATH.
fn rcluster(words: &[&str], cwd: &std::path::Path, envs: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rcluster"))
        .args(words)
        .current_dir(cwd)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").expect("a PATH"))
        .envs(envs.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("rcluster runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn config_refuses_what_a_start_refuses() {
    let site = scratch();
    let folder = site.path();
    fs::copy(app("site.js"), folder.join("site.js")).expect("copied");
    for line in [
        "workers = 0",
        "workers = -1",
        "workers = 1.5",
        "workers = 100000",
        "bind = [\":99999\"]",
        "name = \"a/b\"",
        "stop-signal = \"15\"",
        "stop-signal = \"KILL\"",
        "stop-signal = \"SIGSTOP\"",
        "bake = \"25h\"",
        "max-rss = 512",
        "ready-timeout = \"0s\"",
        "hang-timeout = \"50ms\"",
        "boot-hang-timeout = \"999ms\"",
        "health-path = \"no path\"",
        "admin = \"nowhere\"",
        "cwd = \"/nowhere\"",
        "drain-timeout = \"1s1m\"",
        "drain-timeout = 0.5",
    ] {
        fs::write(folder.join("rcluster.toml"), line).expect("written");
        let started = Launch::new(folder.join("site.js")).cwd(folder).run();
        assert_eq!(started.code, Some(2), "{line}: {started:?}");
        assert!(started.log.contains("line 1"), "{line}: {started:?}");
        for words in [&["config", "site.js"][..], &["config", "--json", "site.js"]] {
            let told = rcluster(words, folder, &[]);
            assert_eq!(told.status.code(), Some(2), "{line}: {told:?}");
            assert_eq!(text(&told.stderr), started.log, "{line}");
            assert_eq!(text(&told.stdout), "", "{line}");
        }
    }
    // Without a script it is asked for what the file says.
    fs::write(folder.join("rcluster.toml"), "workers = 2\n").expect("written");
    assert_eq!(rcluster(&["config"], folder, &[]).status.code(), Some(0));
    let told = rcluster(&["config", "--stop-signal", "KILL"], folder, &[]);
    assert_eq!(told.status.code(), Some(2), "{told:?}");
}

#[test]
fn of_two_contrary_switches_the_last_one_wins() {
    let site = scratch();
    let shown = |words: &[&str], envs: &[(&str, &str)]| {
        let told = rcluster(&[&["config", "--json"], words].concat(), site.path(), envs);
        let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
        ["autopsy", "no-autopsy"].map(|key| told["settings"][key]["values"][0] == "true")
    };
    let (yes, no) = ([true, false], [false, true]);
    assert_eq!(shown(&["--autopsy", "--no-autopsy"], &[]), no);
    assert_eq!(shown(&["--no-autopsy", "--autopsy"], &[]), yes);
    assert_eq!(shown(&["--autopsy"], &[("RCLUSTER_NO_AUTOPSY", "1")]), yes);
    assert_eq!(shown(&["--no-autopsy"], &[("RCLUSTER_AUTOPSY", "1")]), no);
    fs::write(site.path().join("rcluster.toml"), "no-autopsy = true\n").expect("written");
    assert_eq!(shown(&["--autopsy"], &[]), yes);
    assert_eq!(shown(&[], &[("RCLUSTER_AUTOPSY", "1")]), yes);
    let both = "autopsy = true\nno-autopsy = true\n";
    fs::write(site.path().join("rcluster.toml"), both).expect("written");
    assert_eq!(shown(&[], &[]), no);
}

#[test]
fn a_unit_holds_the_variables_that_it_was_computed_from() {
    let site = scratch();
    let folder = site.path();
    fs::copy(app("site.js"), folder.join("site.js")).expect("copied");
    fs::write(folder.join("a.env"), "A=1\n").expect("written");
    fs::create_dir(folder.join("conf")).expect("a folder");
    fs::write(folder.join("conf/rc.toml"), "kill-timeout = \"20s\"\n").expect("written");
    let node = Node::V24.binary();
    let node = node.to_str().expect("UTF-8");
    let variables = [
        ("RCLUSTER_CONFIG", "conf/rc.toml"),
        ("RCLUSTER_DRAIN_TIMEOUT", "2m"),
        ("RCLUSTER_BIND", ":82,unix:x.sock"),
        ("RCLUSTER_ENV_FILE", "a.env"),
        ("RCLUSTER_NODE_ARG", "--title=a$b 50%"),
        ("RCLUSTER_NO_AUTOPSY", "1"),
        ("RCLUSTER_KILL_TIMEOUT", ""),
        ("RCLUSTER_USER", "daemon"),
        ("WEB_CONCURRENCY", "3"),
    ];
    let words = ["systemd-unit", "--node", node, "site.js"];
    let out = rcluster(&words, folder, &variables);
    assert_eq!(
        (out.status.code(), text(&out.stderr)),
        (Some(0), String::new())
    );
    let unit = text(&out.stdout);
    let lines: Vec<_> = unit.lines().collect();
    let path = folder.display();
    for line in [
        "TimeoutStopSec=155s",
        &format!("Environment=RCLUSTER_CONFIG={path}/conf/rc.toml"),
        "Environment=RCLUSTER_DRAIN_TIMEOUT=2m",
        &format!("Environment=RCLUSTER_BIND=:82,unix:{path}/x.sock"),
        &format!("Environment=RCLUSTER_ENV_FILE={path}/a.env"),
        "Environment=\"RCLUSTER_NODE_ARG=--title=a$b 50%%\"",
        "Environment=RCLUSTER_NO_AUTOPSY=1",
        "Environment=WEB_CONCURRENCY=3",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
    ] {
        assert!(lines.contains(&line), "{line} in {unit}");
    }
    assert!(
        !unit.contains("RCLUSTER_KILL_TIMEOUT") && !unit.contains("RCLUSTER_USER"),
        "{unit}"
    );
    // An option counts more than its variable; a path of it is absolute, too.
    let words = [&[
        "systemd-unit",
        "--node",
        node,
        "--drain-timeout",
        "3m",
        "--env-file",
        "a.env",
        "site.js",
    ][..]]
    .concat();
    let unit = text(&rcluster(&words, folder, &variables).stdout);
    assert!(
        unit.contains(" --drain-timeout=3m ") && unit.contains("TimeoutStopSec=215s"),
        "{unit}"
    );
    assert!(
        unit.contains(&format!(" --env-file={path}/a.env ")),
        "{unit}"
    );
    assert!(!unit.contains("RCLUSTER_DRAIN_TIMEOUT"), "{unit}");
}

#[test]
fn a_unit_for_files_that_are_not_there_is_warned_of() {
    let site = scratch();
    let node = Node::V24.binary();
    let node = node.to_str().expect("UTF-8");
    let words = [
        "systemd-unit",
        "--node",
        node,
        "--env-file",
        "no.env",
        "none.js",
    ];
    let out = rcluster(&words, site.path(), &[]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert!(text(&out.stdout).contains("\n[Service]\n"), "{out:?}");
    let told = text(&out.stderr);
    for name in ["none.js", "no.env"] {
        let path = site.path().join(name);
        let path = path.to_str().expect("UTF-8");
        let warns = |line: &str| line.contains("warning: ") && line.contains(path);
        assert_eq!(told.lines().filter(|line| warns(line)).count(), 1, "{told}");
    }
}
