//! The master's own log: one escaped line an event, on stderr, written by a thread of its own. A
//! reader that does not read, or a disk that hangs, costs lines and never the loop.

use std::{
    borrow::Cow,
    fmt,
    io::{self, IsTerminal as _, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use tracing::{field::Field, level_filters::LevelFilter};
use tracing_subscriber::{
    field::MakeExt as _,
    fmt::format::{Writer, debug_fn},
};

use super::{files::Target, sink::Sink};
use rcluster_core::escape;
use rcluster_sys::terminal;

static SINK: Mutex<Option<Sink>> = Mutex::new(None);
/// Lines are JSON.
static JSON: AtomicBool = AtomicBool::new(false);
/// Lines that were dropped because there was no thread to write them.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Longest line, bytes. Texts from workers are cut long before; this is the last bound.
const LONGEST: usize = 128 * 1024;
/// A pipe that is ready takes so many bytes at once (`PIPE_BUF`, pipe(7)).
const PAGE: usize = 4096;

/// Where the master's own lines go: into a queue with a bound in bytes, which a thread writes to
/// stderr. A line that does not fit is dropped and counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnLog;

/// From now on through this one; `None`: through a thread of the log's own.
pub(super) fn follow(sink: Option<Sink>) {
    let mut current = SINK.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(before) = current.take() {
        before.drain();
        before.end();
    }
    *current = sink;
}

impl OwnLog {
    /// Sends all events of this process to stderr, from this level on.
    pub fn install(level: LevelFilter, json: bool) {
        Self::speak_json(json);
        let builder = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_target(false)
            .with_writer(Self::default);
        if json {
            builder.json().flatten_event(true).init();
        } else {
            builder
                .with_ansi(io::stderr().is_terminal())
                .fmt_fields(debug_fn(show).delimited(" "))
                .init();
        }
    }

    /// Whether lines are JSON from now on: for those before [`install`](Self::install).
    pub fn speak_json(json: bool) {
        JSON.store(json, Ordering::Relaxed);
    }

    /// An error beside the events, whatever the level: the last words of a master. Escaped like any other.
    pub fn say(what: &str) {
        let line = if JSON.load(Ordering::Relaxed) {
            let now = humantime::format_rfc3339_micros(SystemTime::now());
            let text = serde_json::Value::from(what).to_string();
            let text = escape::json(&text);
            format!(
                "{{\"timestamp\":\"{now}\",\"level\":\"ERROR\",\"message\":{text},\"event\":\"exit_error\"}}\n"
            )
        } else {
            format!("{}\n", escape::block(&format!("rcluster: {what}")))
        };
        push(line.as_bytes());
    }

    /// Before the end of the process: waits until the queue is written, unless the reader takes
    /// nothing for a second.
    pub fn drain() {
        let mut sink = SINK.lock().unwrap_or_else(PoisonError::into_inner);
        report_dropped(&mut sink);
        if let Some(sink) = &*sink {
            sink.drain();
        }
    }
}

impl Write for OwnLog {
    /// One event, its newline included.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        // The fields are escaped, see `show`; these are the bounds that hold whatever the formatter does.
        let line = if JSON.load(Ordering::Relaxed) {
            escape::json(text)
        } else if text.contains('\n') {
            Cow::Owned(text.replace('\n', "\\n"))
        } else {
            Cow::Borrowed(text)
        };
        let cut = line.floor_char_boundary(LONGEST);
        let mark = if cut < line.len() { " [cut]" } else { "" };
        push(format!("{}{mark}\n", &line[..cut]).as_bytes());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn push(line: &[u8]) {
    let mut sink = SINK.lock().unwrap_or_else(PoisonError::into_inner);
    if sink.is_none() {
        let stderr = Target::standard(io::stderr());
        let started = stderr.and_then(|target| Sink::start("stderr", target, Arc::default()));
        *sink = started.ok().map(|sink| sink.telling(notice));
    }
    report_dropped(&mut sink);
    match &*sink {
        Some(sink) => sink.push_own(line),
        // No thread and no descriptor can be had now. What a pipe takes at once does not block.
        None if line.len() <= PAGE && terminal::takes_bytes(io::stderr()) => {
            let _ = io::stderr().write_all(line);
        }
        None => {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn report_dropped(sink: &mut Option<Sink>) {
    if let Some(sink) = sink {
        let lines = DROPPED.swap(0, Ordering::Relaxed);
        if lines > 0 {
            sink.push_own(&notice(lines));
        }
    }
}

/// A line that says how many were dropped, in the log's format. It cannot be an event: events wait for
/// the lock under which it is made.
fn notice(lines: u64) -> Vec<u8> {
    let now = humantime::format_rfc3339_micros(SystemTime::now());
    let text = if JSON.load(Ordering::Relaxed) {
        format!(
            "{{\"timestamp\":\"{now}\",\"level\":\"WARN\",\"message\":\"log lines dropped: the reader does not read\",\"event\":\"log_lines_dropped\",\"lines\":{lines}}}\n"
        )
    } else {
        format!(
            "{now}  WARN log lines dropped: the reader does not read event=\"log_lines_dropped\" lines={lines}\n"
        )
    };
    text.into_bytes()
}

/// A field as the default format shows it, escaped: text as a Rust literal, the rest as it displays.
fn show(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = escape::Line(format_args!("{value:?}"));
    match (field.name(), writer.has_ansi_escapes()) {
        ("message", _) => write!(writer, "{value}"),
        (name, true) => write!(writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}"),
        (name, false) => write!(writer, "{name}={value}"),
    }
}
