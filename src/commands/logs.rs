//! `rcluster logs`

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    ops::ControlFlow,
};

use super::failed;
use crate::{admin::Client, cli::LogsArgs};
use rcluster_core::{escape, exit_code::ExitCode};

/// `rcluster logs`: prints what the master has; with `-f` until it ends, or whoever reads this.
pub async fn logs(args: &LogsArgs) -> ExitCode {
    let client = match Client::find(&args.which).await {
        Ok(client) => client,
        Err(error) => return failed(&error),
    };
    let mut stdout = io::stdout();
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let mut route = format!(
        "/v1/logs?follow={}&json={}&colour={}",
        args.follow,
        args.json,
        stdout.is_terminal() && !plain && !args.json
    );
    for (name, value) in [
        ("slot", args.slot.map(u64::from)),
        ("lines", args.lines.map(|n| n as u64)),
    ] {
        if let Some(value) = value {
            // Into a String: cannot fail.
            let _ = write!(route, "&{name}={value}");
        }
    }
    let mut screen = stdout.is_terminal().then(Screen::default);
    let print = |bytes: &[u8]| {
        let written = match &mut screen {
            Some(screen) => stdout.write_all(screen.take(bytes).as_bytes()),
            None => stdout.write_all(bytes),
        };
        match written.and_then(|()| stdout.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            // `rcluster logs | head`
            Err(_) => ControlFlow::Break(()),
        }
    };
    match client.stream(&route, print).await {
        Ok(()) => ExitCode::Ok,
        Err(error) => failed(&error),
    }
}

/// Longest part of a line that is shown at once, bytes.
const LONGEST: usize = 256 * 1024;

/// What workers print, on its way to a terminal: whole lines, whose colours alone pass.
#[derive(Debug, Default)]
struct Screen {
    /// A line whose end has not come yet.
    pending: Vec<u8>,
}

impl Screen {
    fn take(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let whole = match memchr::memrchr(b'\n', &self.pending) {
            Some(end) => end + 1,
            None if self.pending.len() > LONGEST => self.pending.len(),
            None => 0,
        };
        let mut shown = String::new();
        for line in self
            .pending
            .drain(..whole)
            .as_slice()
            .split_inclusive(|b| *b == b'\n')
        {
            let line = String::from_utf8_lossy(line);
            let text = line.strip_suffix('\n').unwrap_or(&line);
            shown += &escape::coloured(text.strip_suffix('\r').unwrap_or(text));
            shown += &line[text.len()..];
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_whole_lines_and_colours_only() {
        let mut screen = Screen::default();
        assert_eq!(screen.take(b"w0 | \x1b[31mred \xe2\x82"), "");
        assert_eq!(
            screen.take(b"\xac\x1b]52;c;aGk=\x07\nnext"),
            "w0 | \x1b[31mred \u{20ac}\\u{1b}]52;c;aGk=\\u{7}\x1b[0m\n"
        );
        assert_eq!(screen.take(b"\r\n"), "next\n");
        assert_eq!(screen.take(&vec![b'x'; LONGEST + 1]).len(), LONGEST + 1);
    }
}
