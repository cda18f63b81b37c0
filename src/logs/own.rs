//! The master's own log: on stderr, through the thread that writes there while one runs.

use std::{
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

use super::sink::Sink;

static SINK: Mutex<Option<Sink>> = Mutex::new(None);

/// Where the master's own log lines go. While workers' lines pass through the master
/// they take the same way, so that lines stay whole and a blocked reader blocks nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnLog;

/// From now on through this one; `None`: straight to stderr.
pub(super) fn follow(sink: Option<Sink>) {
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = sink;
}

impl Write for OwnLog {
    /// One event, its newline included.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sink = SINK.lock().unwrap_or_else(PoisonError::into_inner);
        match &*sink {
            Some(sink) => sink.push_own(bytes),
            None => io::stderr().write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
