//! Promise: commands look well on a terminal and are plain in a pipe; a reload shows how far it is; `ls` finds every
//! master of the host; nobody who stops reading makes a command fail.

use std::process::{Command, Stdio};

use crate::common::{self, Launch, Master, Node, Screen};
use nix::sys::signal::Signal;
use serde_json::Value;

fn start() -> Master {
    let master = Launch::new("http.js").node(Node::V24).workers(2).start();
    master.wait_ready(2);
    master
}

#[test]
fn status_has_colours_on_a_terminal_and_none_in_a_pipe() {
    let mut master = start();
    let mut screen = Screen::run(&master, &["status"]);
    assert!(screen.wait_exit().success());
    screen.wait("the table", |text| text.matches(" ready ").count() >= 2);
    let plain = screen.colour_of("SLOT").expect("a head");
    let ready = screen.colour_of("ready  ").expect("a state");
    assert_ne!(ready, plain);
    let piped = master.command(&["status"]);
    let text = String::from_utf8(piped.stdout).expect("text");
    assert!(!text.contains('\x1b'), "{text:?}");
    let heads = [
        "SLOT",
        "PID",
        "GENERATION",
        "STATE",
        "UPTIME",
        "RESTARTS",
        "CPU",
        "RSS",
        "HEAP",
        "DELAY P99",
        "CONNECTIONS",
        "REQ/S",
        "P50",
        "P99",
    ];
    assert!(heads.iter().all(|head| text.contains(head)), "{text}");
    master.stop();
}

#[test]
fn a_reload_on_a_terminal_shows_each_slot_on_its_way() {
    let mut master = Launch::new("http.js")
        .node(Node::V24)
        .workers(2)
        // Long enough to be seen between two looks.
        .options(["--min-uptime", "1s"])
        .start();
    master.wait_ready(2);
    let mut screen = Screen::run(&master, &["reload"]);
    screen.wait("the first slot on its way", |text| {
        text.contains("generation 2 [▒░]") && text.contains("1 booting, 1 to go")
            || text.contains("generation 2 [▓░]")
    });
    screen.wait("the second slot on its way", |text| {
        text.contains("generation 2 [█▒]")
            || text.contains("generation 2 [█▓]") && text.contains("1 drained, 1 ready")
    });
    assert!(screen.wait_exit().success());
    let text = screen.wait_for("generation 2 serves (reload ");
    assert!(!text.contains('['), "the bar is gone: {text}");

    // Without a terminal: the outcome alone.
    let reload = master.command(&["reload"]);
    let said = String::from_utf8_lossy(&reload.stdout).into_owned();
    assert!(said.starts_with("generation 3 serves"), "{said}");
    assert_eq!(String::from_utf8_lossy(&reload.stderr), "");
    let json = master.command(&["reload", "--json"]);
    let reply: Value = serde_json::from_slice(&json.stdout).expect("JSON alone");
    assert_eq!(reply["outcome"], "done");
    master.stop();
}

#[test]
fn ls_finds_every_master_of_the_host() {
    let mut one = start();
    let mut two = start();
    let listed = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rcluster"));
        let output = command
            .arg("ls")
            .args(words)
            .output()
            .expect("rcluster runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    // Others may run beside this test, and end meanwhile.
    let all: Vec<Value> = serde_json::from_str(&listed(&["--json"])).expect("JSON");
    for master in [&one, &two] {
        let control = master.control.to_str().expect("a path");
        let found = all.iter().find(|found| found["control"] == control);
        let found = found.unwrap_or_else(|| panic!("{control} in {all:?}"));
        assert_eq!(found["pid"], master.pid());
        let table = listed(&[]);
        let line = table.lines().find(|line| line.contains(control));
        let line = line.unwrap_or_else(|| panic!("{control} in {table}"));
        assert!(line.contains("serving") && line.contains("2/2"), "{line}");
    }
    // One that is stopped holds nobody up, and is said.
    common::kill(two.pid(), Signal::SIGSTOP);
    let table = listed(&[]);
    assert!(table.contains(one.control.to_str().expect("a path")));
    assert!(!table.contains(two.control.to_str().expect("a path")));
    common::kill(two.pid(), Signal::SIGCONT);
    one.stop();
    two.stop();
    let table = listed(&[]);
    assert!(
        !table.contains(one.control.to_str().expect("a path")),
        "{table}"
    );
}

#[test]
fn whoever_stops_reading_makes_no_command_fail() {
    let mut master = start();
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["incidents"],
        &["scale", "+0"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_rcluster"));
        let child = command.args(words).arg("--control").arg(&master.control);
        let output = child
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .expect("rcluster runs");
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words:?}");
    }
    master.stop();
}

#[test]
fn what_is_refused_is_said_in_the_masters_words() {
    let mut master = start();
    let refused = master.command(&["restart", "99"]);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&refused.stderr),
        "rcluster: no worker serves in slot 99, or it is being replaced already\n"
    );
    let nothing = master.command(&["rollback", "--json"]);
    assert_eq!(nothing.status.code(), Some(10));
    let reply: Value = serde_json::from_slice(&nothing.stdout).expect("JSON");
    assert_eq!(reply["outcome"], "failed");
    master.stop();
}
