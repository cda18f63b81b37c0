//! Promise: text that a worker, a path or another user's program chose acts on no terminal and forges no line, wherever it
//! is printed or logged.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{self, BOOT, Launch, Master, Node, wait_until};

/// A clipboard sequence (OSC 52), an 8-bit CSI, a character that turns the reading direction, and a second line.
const ATTACK: &str =
    "\\u001b]52;c;aGk=\\u0007 \\u009b31m \\u202e after\\n2026-01-01T00:00:00Z  INFO forged";

/// An app that serves; with the file `bad` beside it, it throws the attack.
fn app(folder: &Path) -> PathBuf {
    let path = folder.join("app.js");
    let script = format!(
        "const fs = require('fs');\n\
         // What Node itself prints does not pass through the master.\n\
         if (fs.existsSync(__dirname + '/bad')) {{ fs.closeSync(2); fs.openSync('/dev/null', 'w'); throw new Error('{ATTACK}'); }}\n\
         require('http').createServer((q, r) => r.end('x')).listen(0);\n"
    );
    fs::write(&path, script).expect("an app");
    path
}

/// Nothing of the attack acts, yet the text is there.
#[track_caller]
fn is_harmless(what: &str, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
    let acts = |c: char| (c.is_control() && !"\n\t".contains(c)) || c == '\u{202e}';
    assert!(!text.contains(acts), "{what}: {text:?}");
    assert!(
        !text.lines().any(|line| line.starts_with("2026-01-01")),
        "{what}: a forged line: {text:?}"
    );
    assert!(text.contains("]52;c;aGk="), "{what}: {text}");
}

/// All that commands print and the log holds after a reload whose code throws the attack.
#[track_caller]
fn attacked(format: &str) {
    let folder = common::scratch();
    let launch = Launch::new(app(folder.path())).node(Node::V20).workers(1);
    let mut master = launch.option("--log-format").option(format).start();
    master.wait_ready(1);
    let mut events = Events::follow(&master);
    fs::write(folder.path().join("bad"), "").expect("a file");
    let reload = master.command(&["reload"]);
    assert_eq!(reload.status.code(), Some(10), "{reload:?}");
    is_harmless("reload", &reload.stderr);
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["incidents"],
        &["incidents", "--json"],
    ] {
        let output = master.command(words);
        is_harmless(&words.join(" "), &output.stdout);
    }
    is_harmless("events", &events.until("reload-ended"));
    is_harmless("the log", master.log().as_bytes());
    master.stop();
}

/// `rcluster events`, as it is followed.
struct Events(std::process::Child);

impl Events {
    #[track_caller]
    fn follow(master: &Master) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_rcluster"))
            .arg("events")
            .arg("--control")
            .arg(&master.control)
            .stdout(Stdio::piped())
            .spawn();
        let mut events = Self(child.expect("rcluster runs"));
        events.until("listening");
        events
    }

    /// What it printed up to and with this word.
    #[track_caller]
    fn until(&mut self, word: &str) -> Vec<u8> {
        let stdout = self.0.stdout.as_mut().expect("piped");
        let mut seen = vec![];
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains(word) {
            let count = stdout.read(&mut buffer).expect("read");
            assert!(count > 0, "the events ended before {word}");
            seen.extend_from_slice(&buffer[..count]);
        }
        seen
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_a_worker_throws_is_escaped_in_the_text_log_and_in_every_command() {
    attacked("text");
}

#[test]
fn what_a_worker_throws_is_escaped_in_the_json_log_and_in_every_command() {
    attacked("json");
}

#[test]
fn a_line_break_in_a_path_forges_no_log_line() {
    let outer = common::scratch();
    let folder = outer
        .path()
        .join("a\n2026-01-01T00:00:00Z  INFO forged \u{1b}]52;c;aGk=\u{7}");
    fs::create_dir(&folder).expect("a folder");
    let mut master = Launch::new(app(&folder)).workers(1).start();
    master.wait_ready(1);
    is_harmless("the log", master.log().as_bytes());
    master.stop();
    // A script that is not there: the last words before the log begins, or instead of it.
    let ended = Launch::new(folder.join("missing.js")).run();
    assert_eq!(ended.code, Some(2), "{ended:?}");
    is_harmless("the error", ended.log.as_bytes());
}

/// A program that poses as a master: a socket with a lock and a guard beside it. `answer` writes what it likes.
fn poses(
    folder: &Path,
    name: &str,
    answer: impl Fn(&mut std::os::unix::net::UnixStream) + Send + 'static,
) -> PathBuf {
    let path = folder.join(format!("{name}.sock"));
    let listener = UnixListener::bind(&path).expect("a socket");
    for beside in ["lock", "guard"] {
        fs::write(path.with_extension(beside), "").expect("a file");
    }
    // It ends with the test program, or when its folder and so its file went away: nobody finds it then.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            answer(&mut stream);
        }
    });
    path
}

fn ls(words: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rcluster"));
    command.arg("ls").args(words).stdin(Stdio::null());
    command.output().expect("rcluster runs")
}

#[test]
fn ls_bounds_and_escapes_what_a_program_that_poses_as_a_master_says() {
    let mut master = Launch::new("good.py").workers(1).start();
    master.wait_ready(1);
    let status = common::Addr::Unix(master.control.clone()).get("/v1/status");
    let folder = common::scratch();
    let document = status.body.replacen(
        &format!("\"name\":{:?}", master.status().name),
        &format!("\"name\":\"{ATTACK}\""),
        1,
    );
    assert_ne!(document, status.body);
    let speaks = poses(folder.path(), "speaks", move |stream| {
        let length = document.len();
        let _ = stream.read(&mut [0; 4096]);
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{document}"
        );
    });
    // As much as it takes, for ever.
    let floods = poses(folder.path(), "floods", |stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
        while stream.write_all(chunk.as_bytes()).is_ok() {}
    });
    // One that never answers costs the others nothing.
    let (silent, kept) = (
        poses(folder.path(), "silent", |_| {}),
        folder.path().join("kept"),
    );
    let held = std::sync::Mutex::new(vec![]);
    let holds = poses(folder.path(), "holds", move |stream| {
        held.lock().expect("a list").push(stream.try_clone());
    });
    assert!(!kept.exists());
    let text = ls(&[]);
    is_harmless("ls", &text.stdout);
    let (out, err) = (
        String::from_utf8_lossy(&text.stdout).into_owned(),
        String::from_utf8_lossy(&text.stderr).into_owned(),
    );
    for path in [&speaks, &master.control] {
        assert!(out.contains(&*path.to_string_lossy()), "{path:?}: {out}");
    }
    for path in [&floods, &silent, &holds] {
        assert!(!out.contains(&*path.to_string_lossy()), "{path:?}: {out}");
        assert!(err.contains(&*path.to_string_lossy()), "{path:?}: {err}");
    }
    let json = ls(&["--json"]);
    is_harmless("ls --json", &json.stdout);
    let list: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let own = list.as_array().expect("a list").iter();
    let own = own.filter(|one| one["control"] == *master.control.to_string_lossy());
    let foreign: Vec<_> = own.map(|one| one["foreign"].clone()).collect();
    assert_eq!(foreign, [false]);
    master.stop();
}

#[test]
fn ls_of_root_marks_masters_of_other_users() {
    if !common::can_be_somebody_else() {
        return;
    }
    let mut master = Launch::new("good.py").workers(1).uid(12_345).start();
    master.wait_ready(1);
    let json = ls(&["--json"]);
    let list: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let found = list.as_array().expect("a list").iter();
    let found = found.filter(|one| one["control"] == *master.control.to_string_lossy());
    let found: Vec<_> = found
        .map(|one| (one["foreign"].clone(), one["uid"].clone()))
        .collect();
    assert_eq!(found, [(true.into(), 12_345.into())]);
    let text = String::from_utf8_lossy(&ls(&[]).stdout).into_owned();
    let control = master.control.to_string_lossy().into_owned();
    let line = text.lines().find(|line| line.contains(&control));
    assert!(
        line.is_some_and(|line| line.contains("12345 (another user)")),
        "{text}"
    );
    master.stop();
}

#[test]
fn logs_on_a_terminal_keep_colours_only() {
    let mut master = Launch::new("prints.js")
        .workers(1)
        .option("--log-prefix")
        .start();
    master.wait_ready(1);
    let attack = "1b5b33316d7265641b5d35323b633b61476b3d070a";
    master.addr().get(&format!("/?hex={attack}")).json();
    let line = wait_until("the line", BOOT, || {
        let output = master.command(&["logs"]).stdout;
        output.windows(3).any(|w| w == b"red").then_some(output)
    });
    // Into a pipe it is as the worker wrote it.
    assert!(line.windows(4).any(|w| w == b"\x1b]52"), "{line:?}");
    // `script` gives the command a terminal.
    if common::tool("script").is_none() {
        common::skip("no script(1)");
        return master.stop();
    }
    let command = format!(
        "{} logs --control {}",
        env!("CARGO_BIN_EXE_rcluster"),
        master.control.display()
    );
    let output = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .expect("script runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("\x1b[31mred\\u{1b}]52;c;aGk=\\u{7}"),
        "{text:?}"
    );
    master.stop();
}

#[test]
fn carried_lines_on_the_masters_terminal_keep_colours_only() {
    let python = Path::new("/usr/bin/python3");
    if !python.exists() {
        common::skip("no python3 to make a pseudo-terminal with");
        return;
    }
    let launch = Launch::new("prints.js")
        .workers(1)
        .option("--log-prefix")
        .env("NO_COLOR", "1");
    let go = launch.dir.path().join("go");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let words = [text(python), text(&common::app("terminal.py")), text(&go)];
    let mut master = launch.under(words.each_ref().map(String::as_str)).start();
    let ready = wait_until("a ready worker", BOOT, || {
        master
            .try_status()
            .filter(|status| status.ready().len() == 1)
    });
    let addr = common::Addr::parse(&ready.addresses()[0]).expect("an address");
    // A colour, the clipboard (OSC 52), the start of the line again, and the end of a line as on Windows.
    let attack = "1b5b33316d7265641b5d35323b633b61476b3d070d66616b650d0a";
    for stream in ["stdout", "stderr"] {
        let query = format!("/?stream={stream}&hex={attack}");
        addr.get(&query).json();
    }
    let shown = "w0 | \x1b[31mred\\u{1b}]52;c;aGk=\\u{7}\\rfake\x1b[0m\r\n";
    wait_until("both lines", BOOT, || {
        let out = master.out();
        (out.matches("fake").count() == 2).then_some(())
    });
    let out = master.out();
    assert_eq!(out.matches(shown).count(), 2, "{out:?}");
    fs::write(go, "").expect("the sign to type Ctrl-C");
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.out());
    master.finish();
}
