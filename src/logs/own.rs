//! The master's own log: on stderr. A reader that takes nothing must not stop the loop.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use super::{files::Target, sink::Sink};
use crate::sys::terminal;

static SINK: Mutex<Option<Sink>> = Mutex::new(None);

/// Where the master's own log lines go: straight to stderr as long as it takes them. When it does not, and
/// while workers' lines pass through the master, they go through a thread that may block.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnLog;

/// From now on through this one; `None`: straight to stderr.
pub(super) fn follow(sink: Option<Sink>) {
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = sink;
}

impl OwnLog {
    /// Before the end of the process: what waits is written, unless nobody takes it.
    pub fn drain() {
        let sink = SINK.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sink) = &*sink {
            sink.drain();
        }
    }
}

impl Write for OwnLog {
    /// One event, its newline included.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sink = SINK.lock().unwrap_or_else(PoisonError::into_inner);
        // It said that it takes a page; only if a worker fills it in this very moment does a write still block.
        if sink.is_none() && !terminal::takes_bytes(io::stderr()) {
            let stderr = Target::standard(io::stderr());
            let started = stderr.and_then(|target| Sink::start("stderr", target, Arc::default()));
            *sink = started.ok().map(Sink::telling);
        }
        match &*sink {
            Some(sink) => sink.push_own(bytes),
            // Nobody is there to be told of an error, as after the terminal was closed. And whoever got it would say so on stderr, and panic.
            None => drop(io::stderr().write_all(bytes)),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
