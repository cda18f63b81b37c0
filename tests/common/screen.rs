//! A command in a terminal, and what the terminal shows.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{OpenptyResult, Winsize, openpty};

use super::{BOOT, Master, wait_until};

/// A terminal of 110 x 30 cells with a command in it.
pub(crate) struct Screen {
    child: Child,
    keyboard: File,
    parser: Arc<Mutex<vt100::Parser>>,
}

impl Screen {
    /// Runs `rcluster WORDS...` for this master.
    pub(crate) fn run(master: &Master, words: &[&str]) -> Self {
        Self::run_in(110, master, words)
    }

    /// In a terminal of so many columns.
    pub(crate) fn run_in(columns: u16, master: &Master, words: &[&str]) -> Self {
        let size = Winsize {
            ws_row: 30,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let OpenptyResult {
            master: near,
            slave,
        } = openpty(Some(&size), None).expect("a terminal");
        // Or every child of the other tests would hold them; one that starts in this moment does no harm.
        for fd in [&near, &slave] {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a flag");
        }
        let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("a descriptor"));
        let child = Command::new(env!("CARGO_BIN_EXE_rcluster"))
            .args(words)
            .arg("--control")
            .arg(&master.control)
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(end(&slave))
            .stdout(end(&slave))
            .stderr(end(&slave))
            .spawn()
            .expect("rcluster top");
        let cells = |n: u16| NonZero::new(n).expect("not zero");
        let parser = vt100::Parser::new(cells(30), cells(columns), 0);
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

    /// What it shows.
    pub(crate) fn text(&self) -> String {
        self.parser.lock().expect("a parser").screen().contents()
    }

    /// The colour of the first cell of these words.
    pub(crate) fn colour_of(&self, words: &str) -> Option<vt100::Color> {
        let parser = self.parser.lock().expect("a parser");
        let screen = parser.screen();
        let rows = screen.rows(0, screen.size().1.into()).zip(0..);
        let mut found = rows.filter_map(|(text, row)| {
            let at = text[..text.find(words)?].chars().count();
            Some((row, u16::try_from(at).ok()?))
        });
        let (row, column) = found.next()?;
        Some(screen.cell(row, column)?.fgcolor())
    }

    /// Waits for the end of the command.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        wait_until("the end of the command", BOOT, || {
            self.child.try_wait().expect("our child")
        })
    }

    /// Types.
    pub(crate) fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("typed");
    }

    /// Waits until the screen is as wanted.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, probe: impl Fn(&str) -> bool) -> String {
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

    /// Waits until these words are on it.
    #[track_caller]
    pub(crate) fn wait_for(&self, words: &str) -> String {
        self.wait(words, |text| text.contains(words))
    }

    /// Waits for the end of the command: a success, and the terminal as it was.
    #[track_caller]
    pub(crate) fn end(&mut self) {
        let status = self.wait_exit();
        assert!(status.success(), "{status}");
        // Its last words may not have been read yet.
        wait_until("the terminal as it was", BOOT, || {
            let parser = self.parser.lock().expect("a parser");
            let screen = parser.screen();
            (!screen.alternate_screen() && !screen.hide_cursor()).then_some(())
        });
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
