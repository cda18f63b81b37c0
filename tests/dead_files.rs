//! Promise: files on a file system that does not answer cost a reload, not the master: it answers, ends when it is asked
//! to, and the next good reload works.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::{self, Dead, Launch, Master, Node, app, scratch, wait_until};
use nix::sys::signal::Signal;

/// Files that are reached by links, each of which can be pointed elsewhere.
struct Site {
    folder: tempfile::TempDir,
}

const LINKS: [&str; 5] = ["current", "cwd", "env", "config", "bin"];

impl Site {
    fn new() -> Self {
        let folder = scratch();
        let site = Self { folder };
        let good = site.path("good");
        fs::create_dir(&good).expect("a folder");
        fs::copy(app("site.js"), good.join("site.js")).expect("copied");
        fs::write(good.join("app.env"), "COLOR=red\n").expect("written");
        fs::write(good.join("app.toml"), "workers = 2\n").expect("written");
        symlink(Node::V24.binary(), good.join("node")).expect("a link");
        for link in LINKS {
            site.point(link, &good);
        }
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn point(&self, link: &str, to: &Path) {
        let fresh = self.path("fresh");
        symlink(to, &fresh).expect("a link");
        fs::rename(fresh, self.path(link)).expect("switched");
    }

    fn launch(&self) -> Launch {
        let launch = Launch::new(self.path("current/site.js")).without_node();
        [
            ("--node", "bin/node"),
            ("--cwd", "cwd"),
            ("--env-file", "env/app.env"),
            ("--config", "config/app.toml"),
        ]
        .into_iter()
        .fold(launch, |launch, (option, path)| {
            launch.option(option).option(self.path(path))
        })
    }
}

fn reload(master: &Master) -> Child {
    Command::new(env!("CARGO_BIN_EXE_rcluster"))
        .args(["reload", "--control"])
        .arg(&master.control)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rcluster runs")
}

/// Waits until a reload reads its files.
#[track_caller]
fn wait_reading(master: &Master) {
    master.wait_status("a reload", |status| {
        (status.state == "reloading").then_some(())
    });
}

#[test]
fn a_dead_file_system_fails_the_reload_and_stops_nobody() {
    let mounts = scratch();
    let Some(dead) = Dead::mount(mounts.path().join("dead")) else {
        return;
    };
    let running: Vec<_> = LINKS
        .iter()
        .map(|link| {
            let site = Site::new();
            let master = site.launch().start();
            let before = master.wait_ready(2);
            site.point(link, dead.path());
            let told = reload(&master);
            (*link, site, master, before, told)
        })
        .collect();
    for (_, _, master, ..) in &running {
        wait_reading(master);
        common::pid_in(&master.addr().get("/").json());
        assert_eq!(master.status().state, "reloading");
    }
    for (link, site, mut master, before, told) in running {
        let out = told.wait_with_output().expect("it ends");
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(10), "{link}: {err}");
        let named = format!("{}/", site.path(link).display());
        let named = if link == "cwd" {
            named.trim_end_matches('/')
        } else {
            &named
        };
        assert!(err.contains(named), "{link}: {err}");
        assert!(err.contains("does not answer"), "{link}: {err}");
        let after = master.wait_ready(2);
        assert!(before.iter().zip(&after).all(|(a, b)| a.id == b.id));
        // The next good one works, although a thread still waits.
        site.point(link, &site.path("good"));
        let told = master.command(&["reload"]);
        assert_eq!(told.status.code(), Some(0), "{link}: {told:?}");
        // Its thread would have to end first.
        let told = master.command(&["upgrade"]);
        assert_ne!(told.status.code(), Some(0), "{link}: {told:?}");
        master.stop();
    }
}

#[test]
fn a_stop_does_not_wait_for_a_reload_that_reads() {
    let mounts = scratch();
    let Some(dead) = Dead::mount(mounts.path().join("dead")) else {
        return;
    };
    let site = Site::new();
    let mut master = site.launch().start();
    master.wait_ready(2);
    site.point("current", dead.path());
    let told = reload(&master);
    wait_reading(&master);
    master.stop();
    let out = told.wait_with_output().expect("it ends");
    assert_eq!(out.status.code(), Some(12), "{out:?}");
    // It was not the limit that ended the reload.
    assert!(
        !master.log().contains("does not answer"),
        "{}",
        master.log()
    );
}

#[test]
fn a_start_from_a_dead_file_system_fails_or_can_be_stopped() {
    let mounts = scratch();
    let Some(dead) = Dead::mount(mounts.path().join("dead")) else {
        return;
    };
    for link in ["current", "config"] {
        let site = Site::new();
        site.point(link, dead.path());
        let ended = site.launch().run();
        assert_eq!(ended.code, Some(2), "{link}: {}", ended.log);
        assert!(ended.log.contains("does not answer"), "{}", ended.log);
    }
    let site = Site::new();
    site.point("env", dead.path());
    let mut master = site.launch().start();
    // When it reads, its thread is there.
    wait_until("the thread that reads", common::BOOT, || {
        let tasks = fs::read_dir(format!("/proc/{}/task", master.pid())).ok()?;
        let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
        tasks
            .flatten()
            .filter_map(name)
            .any(|name| name.trim() == "release")
            .then_some(())
    });
    master.signal(Signal::SIGTERM);
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    master.finish();
}
