//! Promise: `rcluster top` shows on a terminal what goes on, asks before it changes anything, and leaves the terminal as it was.

mod common;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use common::{BOOT, Launch, Master, wait_until};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::Signal;

/// A terminal of 110 x 30 cells with a command in it.
struct Screen {
    child: Child,
    keyboard: File,
    parser: Arc<Mutex<vt100::Parser>>,
}

impl Screen {
    fn top(master: &Master) -> Self {
        let size = Winsize {
            ws_row: 30,
            ws_col: 110,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let OpenptyResult {
            master: near,
            slave,
        } = openpty(Some(&size), None).expect("a terminal");
        let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("a descriptor"));
        let child = Command::new(env!("CARGO_BIN_EXE_rcluster"))
            .args(["top", "--interval", "100ms", "--control"])
            .arg(&master.control)
            .env("TERM", "xterm-256color")
            .stdin(end(&slave))
            .stdout(end(&slave))
            .stderr(end(&slave))
            .spawn()
            .expect("rcluster top");
        let cells = |n: u16| NonZero::new(n).expect("not zero");
        let parser = vt100::Parser::new(cells(30), cells(110), 0);
        let parser = Arc::new(Mutex::new(parser));
        let seen = Arc::clone(&parser);
        let mut output = File::from(near.try_clone().expect("a descriptor"));
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            // EIO when the last process has closed the terminal.
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                seen.lock().expect("a parser").process(&buffer[..count]);
            }
        });
        Self {
            child,
            keyboard: near.into(),
            parser,
        }
    }

    fn text(&self) -> String {
        self.parser.lock().expect("a parser").screen().contents()
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("typed");
    }

    /// Waits until the screen is as wanted.
    #[track_caller]
    fn wait(&self, what: &str, probe: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(what, BOOT, || {
                last = self.text();
                probe(&last).then_some(())
            });
        }));
        assert!(found.is_ok(), "waited for {what}; the screen:\n{last}");
        last
    }

    #[track_caller]
    fn wait_for(&self, words: &str) -> String {
        self.wait(words, |text| text.contains(words))
    }

    #[track_caller]
    fn end(&mut self) {
        let status = wait_until("the end of top", BOOT, || {
            self.child.try_wait().expect("our child")
        });
        assert!(status.success(), "{status}");
        let parser = self.parser.lock().expect("a parser");
        let screen = parser.screen();
        assert!(
            !screen.alternate_screen() && !screen.hide_cursor(),
            "the terminal is as it was"
        );
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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
    let mut top = Screen::top(&master);
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
    let mut top = Screen::top(&master);
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
    let mut top = Screen::top(&master);
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
