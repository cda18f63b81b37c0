//! Promise: `rcluster top` shows on a terminal what goes on, asks before it changes anything, and leaves the terminal as it was.

use crate::common::{self, Launch, Master, Screen};
use nix::sys::signal::Signal;

/// Beats come every 500 ms, so that figures move.
fn start() -> Master {
    let master = Launch::new("http.js")
        .workers(2)
        .options(["--hang-timeout", "3s"])
        .start();
    master.wait_ready(2);
    master
}

#[test]
fn it_shows_workers_and_figures_and_follows_what_happens() {
    let mut master = start();
    let mut top = Screen::run(&master, &["top", "--interval", "100ms"]);
    let text = top.wait("two ready workers", |text| {
        text.matches(" ready ").count() >= 2
    });
    for words in [
        "requests/s",
        "p99 ",
        "loop delay",
        "loop busy",
        "memory",
        "SLOT",
        "BALANCE",
        "incidents",
    ] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    assert!(text.contains("generation 1  2 of 2 ready"), "{text}");
    let addr = master.addr();
    top.wait("a rate of requests", |text| {
        for _ in 0..20 {
            addr.get("/");
        }
        let rate = text.split_once("requests/s ").map(|(_, after)| after);
        let digits = rate.and_then(|r| {
            r.split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse::<u64>()
                .ok()
        });
        digits.is_some_and(|rate| rate > 0) && text.contains('█')
    });
    let worker = master.status().ready().remove(1);
    common::kill(worker.process(), Signal::SIGKILL);
    top.wait_for(&format!("killed: slot 1, worker {}", worker.id));
    top.press("q");
    top.end();
    master.stop();
}

#[test]
fn keys_reload_scale_and_restart_after_a_question() {
    let mut master = start();
    let mut top = Screen::run(&master, &["top", "--interval", "100ms"]);
    top.wait_for("2 of 2 ready");

    top.press("r");
    top.wait_for("Reload: replace every worker");
    top.press("n");
    top.wait("the question gone", |text| {
        !text.contains("Reload: replace")
    });
    assert_eq!(master.status().generation, 1, "a no changes nothing");

    top.press("ry");
    top.wait_for("reload to generation 2");
    top.wait_for("generation 2 serves");
    assert_eq!(master.status().generation, 2);

    top.press("s3\r");
    top.wait_for("Scale to 3 workers?");
    top.press("y");
    top.wait_for("3 of 3 ready");

    let old = master.wait_ready(3).remove(1);
    // The cursor on the second row.
    top.press("\x1b[B");
    top.press("x");
    top.wait_for("Restart the worker of slot 1?");
    top.press("y");
    top.wait_for(&format!("worker {} of slot 1 is being replaced", old.id));
    master.wait_replaced(&old);

    top.press("q");
    top.end();
    master.stop();
}

#[test]
fn a_failed_order_and_a_master_that_goes_are_said() {
    let dir = common::scratch();
    let app = dir.path().join("app.js");
    std::fs::copy(common::app("http.js"), &app).expect("an app");
    let mut master = Launch::new(&app).workers(1).start();
    master.wait_ready(1);
    let mut top = Screen::run(&master, &["top", "--interval", "100ms"]);
    top.wait_for("1 of 1 ready");
    std::fs::write(&app, "throw new Error('broken on purpose')").expect("broken");
    top.press("ry");
    top.wait_for("broken on purpose");
    top.wait_for("the last reload failed");
    master.signal(Signal::SIGTERM);
    master.wait_exit();
    top.wait_for("NO ANSWER: no rcluster answers");
    top.press("q");
    top.end();
    master.finish();
}

#[test]
fn without_a_terminal_it_says_so() {
    let mut master = start();
    let asked = master.command(&["top"]);
    assert_eq!(asked.status.code(), Some(2));
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(
        said.contains("needs a terminal; use rcluster status"),
        "{said}"
    );
    master.stop();
}
