//! A bench that is interrupted leaves no contender behind.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

/// Processes that end, with their workers, by SIGTERM.
static RUNNING: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// From now on this process is ended with the bench.
pub(crate) fn add(pid: i32) {
    RUNNING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(pid);
}

/// This process has been reaped: its number may soon be another's.
pub(crate) fn remove(pid: i32) {
    RUNNING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|&other| other != pid);
}

/// Watches for SIGINT and SIGTERM in a thread of its own. Handlers, not a blocked mask: children would inherit that.
pub(crate) fn on_interrupt() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let guard = runtime.enter();
    let mut int = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let mut term = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    drop(guard);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
            }
        });
        // Held to the end, so that no contender is added behind our back.
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        for &pid in running.iter() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        std::process::exit(130);
    });
    Ok(())
}
