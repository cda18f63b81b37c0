//! Promise: a reload that changes options finds no old worker guilty of what it was never told: none is taken to hang, none
//! is cut short, and no request is lost, in whichever direction an option changes.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crate::common::{Addr, BOOT, Launch, Master, Node, scratch, wait_until};
use serde_json::{Value, json};

const APP: &str = "const answer = (res) => res.end(JSON.stringify({ pid: process.pid }));
require('http').createServer((req, res) => {
  if (req.url !== '/slow') return answer(res);
  require('fs').appendFileSync(__dirname + '/begun', '.');
  setTimeout(answer, 2500, res);
}).listen(Number(process.env.PORT), '127.0.0.1', () => { if (process.env.SAYS) process.send('ready'); });";

/// An app under load, with a configuration file.
struct Site {
    folder: tempfile::TempDir,
    master: Master,
    addr: Addr,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    load: JoinHandle<()>,
}

const BASE: &str = "workers = 2\n";
const BRIEF: &str = "min-uptime = \"100ms\"";

/// The configuration: quick reloads, unless the options say otherwise.
fn file(options: &str) -> String {
    let brief = if options.contains("min-uptime") {
        ""
    } else {
        BRIEF
    };
    format!("{BASE}{brief}\n{options}\n")
}

impl Site {
    fn start(options: &str) -> Self {
        let folder = scratch();
        fs::write(folder.path().join("app.js"), APP).expect("written");
        fs::write(folder.path().join("rcluster.toml"), file(options)).expect("written");
        let port = Addr::free_port();
        let launch = Launch::new(folder.path().join("app.js")).node(Node::V24);
        let master = launch
            .options(["-b", &format!("127.0.0.1:{port}")])
            .env("PORT", port.to_string())
            .start();
        master.wait_ready(2);
        let addr = Addr::port(port);
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let load = {
            let (stop, answered, addr) = (stop.clone(), answered.clone(), addr.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(addr.get("/").status, 200);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        Self {
            folder,
            master,
            addr,
            stop,
            answered,
            load,
        }
    }

    #[track_caller]
    fn reload(&self, options: &str) {
        let path = self.folder.path().join("rcluster.toml");
        fs::write(path, file(options)).expect("written");
        self.done(&["reload", "--drained"], options);
    }

    /// A command that succeeds, leaves no incident, and under which requests are answered.
    #[track_caller]
    fn done(&self, words: &[&str], what: &str) {
        let told = self.master.command(words);
        assert_eq!(told.status.code(), Some(0), "{what}: {told:?}");
        let control = Addr::Unix(self.master.control.clone());
        let status: Value = control.get("/v1/status").json();
        assert_eq!(status["incidents"], json!([]), "{what}");
        let before = self.answered.load(Ordering::Relaxed);
        wait_until("answers", BOOT, || {
            (self.answered.load(Ordering::Relaxed) > before).then_some(())
        });
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.load.join().expect("every request was answered");
        self.master.stop();
    }
}

#[test]
fn a_changed_hang_timeout_finds_no_old_worker_hung() {
    let site = Site::start("hang-timeout = \"30s\"");
    // Old workers beat every 5 s, and serve on for the bake.
    site.reload("hang-timeout = \"1s\"\nbake = \"2s\"");
    site.reload("hang-timeout = \"30s\"\nbake = \"2s\"");
    site.reload("hang-timeout = \"1s\"\nbake = \"2s\"\nbalance = \"spread\"");
    site.end();
}

#[test]
fn a_changed_drain_timeout_cuts_no_request_of_an_old_worker() {
    let site = Site::start("drain-timeout = \"30s\"");
    for options in [
        "drain-timeout = \"200ms\"\nkill-timeout = \"100ms\"",
        "drain-timeout = \"30s\"",
    ] {
        let slow: Vec<_> = (0..4)
            .map(|_| {
                let addr = site.addr.clone();
                thread::spawn(move || addr.get("/slow").status)
            })
            .collect();
        // They are with the old workers when these drain.
        wait_until("slow requests", BOOT, || {
            let begun = fs::read_to_string(site.folder.path().join("begun")).unwrap_or_default();
            (begun.len() == 4).then_some(())
        });
        fs::remove_file(site.folder.path().join("begun")).expect("removed");
        site.reload(options);
        for slow in slow {
            assert_eq!(slow.join().expect("an answer"), 200, "{options}");
        }
    }
    site.end();
}

#[test]
fn every_option_can_change_under_load_in_both_directions() {
    let site = Site::start("");
    for option in [
        "ready = \"online\"",
        "ready-timeout = \"5s\"",
        "drain-timeout = \"1s\"",
        "kill-timeout = \"1s\"",
        "bake = \"300ms\"",
        "min-uptime = \"1s\"",
        "min-uptime = 0",
        "surge = 2",
        "switch = \"atomic\"",
        "stop-signal = \"INT\"",
        "shutdown-message = true",
        "hang-timeout = \"1s\"",
        "hang-timeout = 0",
        "boot-hang-timeout = \"1s\"",
        "no-autopsy = true",
        "health-path = \"/\"\nhealth-interval = \"100ms\"\nhealth-timeout = \"5s\"\nhealth-threshold = 5",
        "max-requests = 100000000",
        "max-lifetime = \"1h\"",
        "max-rss = \"4GiB\"",
        "max-heap = \"4GiB\"",
        "spares = 1",
        "balance = \"spread\"",
        "[env]\nCOLOR = \"red\"",
        "node-arg = [\"--title=x\"]",
        "cwd = \"/\"",
    ] {
        site.reload(option);
        site.reload("");
    }
    site.end();
}

#[test]
fn a_rollback_brings_the_options_back_that_its_code_knows() {
    for options in [
        // The old code has no such path, and is not ready by message.
        "health-path = \"/\"\nhealth-interval = \"100ms\"\nready-timeout = \"5s\"",
        "ready = \"message\"\nready-timeout = \"5s\"\n[env]\nSAYS = \"1\"",
    ] {
        let site = Site::start("");
        site.reload(options);
        site.done(&["rollback", "--drained"], options);
        assert_eq!(site.master.wait_ready(2).len(), 2);
        site.end();
    }
}
