//! Promise: each line of the master's own is true and told once: a drain has the id of the reload that caused it, an error stands
//! in one line, and with `--log-format json` every line is JSON.

use std::fs;

use crate::common::{self, Launch, Master, app, scratch, wait_until};
use nix::sys::signal::Signal::SIGHUP;
use serde_json::Value;

/// The JSON lines of a log.
fn lines(log: &str) -> Vec<Value> {
    let lines = log.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// The reload's number in the id of each of these lines: `None` without an id.
fn reload(line: &Value) -> Option<&str> {
    Some(line["reload"].as_str()?.rsplit_once('-')?.1)
}

/// Which reload each move and the end of a worker of this generation belongs to, from its drain on.
fn ends(master: &Master, generation: &str) -> Vec<(String, Option<String>)> {
    let all = lines(&master.log());
    let of = all.iter().filter(|line| line["generation"] == generation);
    let end = |line: &&Value| {
        let moved = ["draining", "stopping"].iter().any(|to| line["to"] == *to);
        moved || line["message"] == "worker ended"
    };
    let what = |line: &Value| {
        let to = line["to"].as_str().unwrap_or("ended").to_owned();
        (to, reload(line).map(str::to_owned))
    };
    of.filter(end).map(what).collect()
}

#[test]
fn a_drain_has_the_id_of_the_reload_that_caused_it() {
    let mut master = Launch::new("http.js")
        .workers(1)
        .options(["--log-format", "json"])
        .start();
    master.wait_ready(1);
    master.signal(SIGHUP);
    wait_until("the first reload", common::BOOT, || {
        let asked = |line: &Value| line["message"] == "reload started";
        lines(&master.log()).iter().any(asked).then_some(())
    });
    // It waits for the first one.
    let told = master.command(&["reload", "--drained"]);
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    for (generation, id) in [("1", "2"), ("2", "3")] {
        let ends = ends(&master, generation);
        assert!(ends.len() >= 2, "{ends:?} of {generation}");
        let all = ends.iter().all(|(_, of)| of.as_deref() == Some(id));
        assert!(all, "{ends:?} of {generation}: {}", master.log());
    }
    // The new ones' way to readiness is the reload's, too.
    let ready = |line: &&Value| line["to"] == "ready" && line["generation"] == "3";
    let log = lines(&master.log());
    assert_eq!(log.iter().find(ready).and_then(reload), Some("3"));
    let told = master.command(&["restart", "0"]);
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    wait_until("the end of the restarted worker", common::BOOT, || {
        let ends = ends(&master, "3");
        ends.iter().any(|(to, _)| to == "ended").then_some(())
    });
    // No reload's doing.
    let ends = ends(&master, "3");
    assert!(ends.iter().all(|(_, of)| of.is_none()), "{ends:?}");
    master.stop();
}

#[test]
fn the_error_that_failed_a_reload_is_told_once() {
    for format in ["text", "json"] {
        let site = scratch();
        let script = site.path().join("app.js");
        fs::copy(app("site.js"), &script).expect("copied");
        let mut master = Launch::new(&script)
            .workers(2)
            .options(["--log-format", format, "--surge", "2"])
            .start();
        master.wait_ready(2);
        fs::write(&script, "throw new TypeError('no database today')\n").expect("written");
        let told = master.command(&["reload"]);
        assert_eq!(told.status.code(), Some(10), "{told:?}");
        let dead = || {
            let log = master.log();
            let died = log.lines().filter(|line| line.contains("worker died"));
            (died.count() >= 1).then_some(log.clone())
        };
        let log = wait_until("its worker's end", common::BOOT, dead);
        let own = |line: &&str| line.starts_with("20") || line.starts_with('{');
        let tell = log.lines().filter(own);
        let tell = tell.filter(|line| line.contains("no database today"));
        let tell: Vec<_> = tell.collect();
        assert_eq!(tell.len(), 1, "{log}");
        assert!(tell[0].contains("reload failed"), "{log}");
        assert!(tell[0].contains("app.js:1:7"), "{log}");
        master.stop();
    }
}

#[test]
fn with_json_every_line_of_the_masters_own_is_json() {
    let site = scratch();
    let bad = site.path().join("bad.js");
    // Node prints the error of the app itself.
    let quiet = "process.stderr.write = () => true; require('fs').closeSync(2); throw new TypeError('no database today')\n";
    fs::write(&bad, quiet).expect("written");
    let good = app("site.js");
    let cases: [(&std::path::Path, &[&str], i32, &str); 5] = [
        (&bad, &[], 3, "no database today"),
        (&good, &["--stop-signal", "KILL"], 2, "SIGKILL"),
        (&good, &["--cwd", "/nowhere"], 2, "/nowhere"),
        (&good, &["--pidfile", "/nowhere/pid"], 2, "/nowhere/pid"),
        (&site.path().join("none.js"), &[], 2, "none.js"),
    ];
    for (script, words, code, why) in cases {
        let mut launch = Launch::new(script)
            .workers(2)
            .options(["--log-format", "json"]);
        for word in words {
            launch = launch.option(*word);
        }
        let ended = launch.run();
        assert_eq!(ended.code, Some(code), "{ended:?}");
        let lines: Vec<Value> = ended
            .log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
            .collect();
        let last = lines.last().expect("a line");
        assert_eq!(
            (&last["level"], &last["event"]),
            (&"ERROR".into(), &"exit_error".into())
        );
        // The first line of a start names the script.
        let told =
            |line: &&Value| line["message"] != "rcluster starts" && line.to_string().contains(why);
        let told: Vec<_> = lines.iter().filter(told).collect();
        assert_eq!(told, [last], "{}", ended.log);
    }
}
