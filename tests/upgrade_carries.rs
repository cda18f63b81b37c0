//! Promise: what a master has counted, its incidents, its ids, its doors and what workers are just printing go on in the
//! program that takes its place.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};

use crate::common::{self, Addr, BOOT, Conn, Launch, Master, kill, wait_until};
use crate::deploys::{count, document, reload};
use nix::sys::signal::Signal::SIGKILL;
use serde_json::Value;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[track_caller]
fn upgrade(master: &Master) {
    let output = master.command(&["upgrade"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", master.log());
}

fn requests(status: &Value) -> u64 {
    let slots = status["figures"].as_array().expect("figures");
    slots.iter().filter_map(|s| s["requests"].as_u64()).sum()
}

#[test]
fn counters_incidents_and_ids_go_on() {
    let launch = Launch::new("http.js").workers(2);
    // Beats bring the counts.
    let mut master = launch.env("RCLUSTER_HANG_TIMEOUT", "1s").start();
    let workers = master.wait_ready(2);
    for _ in 0..20 {
        assert_eq!(master.addr().get("/").status, 200);
    }
    wait_until("the counts", BOOT, || {
        (requests(&document(&master)) == 20).then_some(())
    });
    // Some of them are a dead worker's, whose slot keeps them.
    kill(workers[0].process(), SIGKILL);
    master.wait_replaced(&workers[0]);
    reload(&master);
    let before = document(&master);
    assert_eq!(requests(&before), 20, "{before}");
    upgrade(&master);
    let after = document(&master);
    assert_eq!(requests(&after), 20, "{after}");
    for kept in ["run", "reloads", "incidents", "restarts"] {
        assert_eq!(after[kept], before[kept], "{kept}");
    }
    assert_eq!(after["reloads"]["done"], 1, "{after}");
    assert!(!after["incidents"].as_array().expect("a list").is_empty());
    let started = |status: &Value| status["master"]["started_unix_ms"].clone();
    assert_eq!(started(&after), started(&before));
    assert_eq!(after["upgrade"]["done"], 1);
    assert_eq!(master.addr().get("/").status, 200);
    wait_until("one more", BOOT, || {
        (requests(&document(&master)) == 21).then_some(())
    });
    master.stop();
}

/// One request to `--admin`.
fn ask(door: &Addr, method: &str, path: &str, head: &str) -> u16 {
    let mut conn = Conn::open(door).expect("not refused");
    conn.send(&format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}Connection: close\r\nContent-Length: 0\r\n\r\n"
    ))
    .expect("sent");
    conn.read().expect("an answer").status
}

#[test]
fn the_admin_port_and_its_token_go_on() {
    let launch = Launch::new("site.js").workers(1);
    let file = launch.dir.path().join("token");
    fs::write(&file, TOKEN).expect("written");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("chmod");
    let mut master = launch
        .env("RCLUSTER_ADMIN_TOKEN_FILE", &file)
        .options(["--admin", "127.0.0.1:0"])
        .start();
    master.wait_ready(1);
    let before = document(&master)["admin"].clone();
    let door = Addr::parse(before.as_str().expect("--admin is shown")).expect("an address");
    // What is read at the start is not needed again.
    fs::remove_file(&file).expect("removed");
    let mut kept = Conn::open(&door).expect("a connection");
    for round in 0..count(5, 50) {
        kept.send("GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            .expect("sent");
        assert_eq!(kept.read().expect("an answer").status, 200);
        upgrade(&master);
        // An idle connection is closed in order, so that its client opens another one.
        assert_eq!(kept.read_to_end().expect("its end"), "", "{round}");
        kept = Conn::open(&door).expect("not refused");
    }
    assert_eq!(document(&master)["admin"], before);
    assert_eq!(ask(&door, "POST", "/v1/reload", ""), 401);
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(ask(&door, "POST", "/v1/reload", &token), 200);
    assert!(!master.log().contains(TOKEN));
    master.stop();
}

/// Lines as `line N end`, by slot: all of them, in order, whole.
#[track_caller]
fn assert_whole(text: &str, word: &str, lasts: &BTreeMap<u64, u64>) {
    for (slot, last) in lasts {
        let mark = format!("w{slot} | {word} ");
        let mut next = 1;
        for line in text.lines().filter(|line| line.starts_with(&mark)) {
            assert_eq!(line, format!("{mark}{next} end"));
            next += 1;
        }
        assert_eq!(next - 1, *last, "slot {slot}, {word}");
    }
}

/// Upgrades while two workers print; returns how many lines each printed.
fn upgrades_amid_lines(master: &Master) -> BTreeMap<u64, u64> {
    master.wait_ready(2);
    for _ in 0..count(10, 200) {
        upgrade(master);
    }
    let addr = master.addr();
    let mut lasts = BTreeMap::new();
    master.each_answers(|| {
        let answer = addr.get("/").json();
        let (slot, last) = (&answer["slot"], &answer["last"]);
        lasts.insert(
            slot.as_u64().expect("a slot"),
            last.as_u64().expect("a number"),
        );
        common::pid_in(&answer)
    });
    assert_eq!(lasts.len(), 2);
    assert!(lasts.values().all(|last| *last > 100), "{lasts:?}");
    lasts
}

#[track_caller]
fn wait_lines(what: &str, count: u64, read: impl Fn() -> String) -> String {
    wait_until(what, BOOT, || {
        let text = read();
        (text.matches(" end\n").count() as u64 >= count).then_some(text)
    })
}

#[test]
fn no_printed_line_is_lost_or_torn_with_a_prefix() {
    let launch = Launch::new("counts.js").workers(2);
    let mut master = launch.option("--log-prefix").start();
    let lasts = upgrades_amid_lines(&master);
    let all = lasts.values().sum();
    let out = wait_lines("all of stdout", all, || master.out());
    assert_whole(&out, "line", &lasts);
    let log = wait_lines("all of stderr", all, || master.log());
    assert_whole(&log, "error", &lasts);
    master.stop();
}

#[test]
fn no_printed_line_is_lost_or_torn_in_files() {
    let launch = Launch::new("counts.js").workers(2);
    let file = launch.dir.path().join("{stream}.log");
    let mut master = launch
        .option("--log-prefix")
        .option("--log-file")
        .option(file)
        .start();
    let lasts = upgrades_amid_lines(&master);
    for (stream, word) in [("stdout", "line"), ("stderr", "error")] {
        let path = master.dir.path().join(format!("{stream}.log"));
        let read = || fs::read_to_string(&path).expect("UTF-8");
        let text = wait_lines(stream, lasts.values().sum(), read);
        assert_whole(&text, word, &lasts);
    }
    master.stop();
}

fn hex(text: &str) -> String {
    let digit = |n: u8| char::from_digit(n.into(), 16).expect("a digit");
    let both = |byte: u8| [digit(byte >> 4), digit(byte & 15)];
    text.bytes().flat_map(both).collect()
}

#[test]
fn half_a_line_is_carried_and_so_are_the_last_lines() {
    let launch = Launch::new("prints.js").workers(1);
    let mut master = launch.option("--log-prefix").start();
    master.wait_ready(1);
    let addr = master.addr();
    let print = |query: &str, text: &str| addr.get(&format!("/?{query}&hex={}", hex(text))).json();
    // More than a quiet stream's buffer, and no line end yet.
    print("fill=9000", "half");
    let shown = || String::from_utf8_lossy(&master.command(&["logs"]).stdout).into_owned();
    assert_eq!(shown(), "w0 | booted\n");
    upgrade(&master);
    assert_eq!(shown(), "w0 | booted\n", "what was printed before");
    assert!(!master.out().contains("half"), "it has no end yet");
    print("", " whole\n");
    let line = format!("w0 | {}half whole\n", "x".repeat(9000));
    wait_until("the line", BOOT, || {
        master.out().contains(&line).then_some(())
    });
    assert_eq!(shown(), format!("w0 | booted\n{line}"));
    master.stop();
}

#[test]
fn while_nobody_takes_the_log_it_is_refused_and_no_line_is_lost() {
    let launch = Launch::new("prints.js").workers(1);
    let path = launch.dir.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let mut reader: File = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)
        .expect("the FIFO");
    let mut master = launch.option("--log-file").option(&path).start();
    master.wait_ready(1);
    let pid = master.status().ready()[0].process();
    // 200 kB: more than the FIFO holds, less than may wait.
    let query = format!("/?times=2000&fill=99&hex={}", hex("\n"));
    assert_eq!(master.addr().get(&query).status, 200);
    let output = master.command(&["upgrade"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(16), "{said}");
    assert!(said.contains("is not taken by its reader"), "{said}");
    let mut text = String::new();
    wait_until("all lines", BOOT, || {
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        (text.lines().count() == 2001 && text.ends_with('\n')).then_some(())
    });
    upgrade(&master);
    assert_eq!(master.status().ready()[0].process(), pid);
    master.stop();
}
