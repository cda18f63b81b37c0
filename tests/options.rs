//! Promise: what an option takes is bounded, an empty variable is none, and what is wrong is told with the place where it
//! stands.

use std::fs;
use std::process::{Command, Output, Stdio};

use crate::common::{Launch, Node, app, scratch};
use clap::Arg;

fn rcluster(words: &[&str], envs: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rcluster"))
        .args(words)
        .env_remove("WEB_CONCURRENCY")
        .envs(envs.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("rcluster runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The master's options.
fn options() -> Vec<Arg> {
    let command = rcluster::cli::command([]);
    command.get_arguments().cloned().collect()
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let names: Vec<String> = options()
        .iter()
        .filter_map(|arg| arg.get_long())
        .map(|long| format!("RCLUSTER_{}", long.replace('-', "_").to_uppercase()))
        .collect();
    assert!(names.len() > 40, "{names:?}");
    let empty: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    let plain = rcluster(&["config", "--json"], &[]);
    assert_eq!(plain.status.code(), Some(0), "{plain:?}");
    let told = rcluster(&["config", "--json"], &empty);
    assert_eq!(text(&told.stdout), text(&plain.stdout), "{told:?}");
    // A switch of the file stays on.
    let folder = scratch();
    let file = folder.path().join("x.toml");
    fs::write(&file, "no-shim = true\n").expect("written");
    let name = file.to_str().expect("UTF-8");
    let told = rcluster(&["config", "--json", "--config", name], &empty);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).expect("JSON");
    assert_eq!(told["settings"]["no-shim"]["from"], "file", "{told}");
}

#[test]
fn no_duration_is_without_bound() {
    let mut durations = 0;
    for arg in options() {
        let is_duration = arg.get_value_names().is_some_and(|names| names[0] == "DUR");
        let Some(long) = arg.get_long().filter(|_| is_duration) else {
            continue;
        };
        durations += 1;
        for value in [
            "9300000000000000000s",
            "366d",
            "18446744073709551615",
            "99999999999999999999999",
        ] {
            let word = format!("--{long}={value}");
            let told = rcluster(&["config", &word], &[]);
            assert_eq!(told.status.code(), Some(2), "{word}: {told:?}");
            let err = text(&told.stderr);
            assert!(err.contains("365d"), "{word}: {err}");
            assert!(err.contains(&format!("--{long}")), "{word}: {err}");
        }
    }
    assert!(durations >= 11, "{durations}");
}

#[test]
fn the_longest_durations_overflow_nowhere() {
    let mut launch = Launch::new("http.js").node(Node::V24).workers(1);
    for long in [
        "ready-timeout",
        "drain-timeout",
        "kill-timeout",
        "pre-stop",
        "hang-timeout",
        "boot-hang-timeout",
        "health-interval",
        "health-timeout",
        "max-lifetime",
    ] {
        launch = launch.option(format!("--{long}=365d"));
    }
    let mut master = launch
        .options(["--health-path", "/", "--bake", "24h"])
        .start();
    let before = master.wait_ready(1);
    let told = master.command(&["reload", "--no-wait"]);
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    master.wait_status("the new worker", |status| {
        (status.ready().len() == 2).then_some(())
    });
    let told = master.command(&["rollback"]);
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    assert_eq!(master.wait_ready(1)[0].id, before[0].id);
    let told = master.command(&["stop"]);
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    master.wait_exit();
    master.finish();
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let folder = scratch();
    fs::copy(app("site.js"), folder.path().join("site.js")).expect("copied");
    let file = folder.path().join("rcluster.toml");
    fs::write(&file, "workers = 1\n").expect("written");
    let mut master = Launch::new(folder.path().join("site.js")).start();
    let before = master.wait_ready(1);
    for (line, word) in [
        ("workers = \"four\"", "`four`"),
        ("workers = 0", "`0`"),
        ("stop-signal = \"NOPE\"", "NOPE"),
        ("health-path = \"no path\"", "no path"),
        ("bake = \"25h\"", "longer than a day"),
        ("kill-timeout = 0", "--kill-timeout"),
        ("max-lifetime = \"1s\"", "--max-lifetime"),
        ("max-rss = \"1MiB\"", "--max-rss"),
        ("admin = \"nowhere\"", "nowhere"),
        ("name = \"a/b\"", "a/b"),
        ("log-file = \"{x}\"", "{x}"),
    ] {
        fs::write(&file, format!("# c\n\n{line}\n")).expect("written");
        let place = format!("{}, line 3: ", file.display());
        let told = master.command(&["reload"]);
        assert_eq!(told.status.code(), Some(10), "{line}: {told:?}");
        let err = text(&told.stderr);
        assert!(err.contains(&place) && err.contains(word), "{line}: {err}");
        let ended = Launch::new(folder.path().join("site.js")).run();
        assert_eq!(ended.code, Some(2), "{line}: {}", ended.log);
        let log = ended.log;
        assert!(log.contains(&place) && log.contains(word), "{line}: {log}");
    }
    assert_eq!(master.wait_ready(1)[0].id, before[0].id);
    master.stop();
    fs::remove_file(&file).expect("removed");
    let ended = Launch::new("http.js").env("RCLUSTER_WORKERS", "x").run();
    assert_eq!(ended.code, Some(2), "{}", ended.log);
    assert!(ended.log.contains("RCLUSTER_WORKERS"), "{}", ended.log);
}
