//! What can be learnt of a worker whose event loop is silent. Its stack it tells by itself: SIGUSR1 makes Node interrupt
//! the JavaScript that runs, and the shim, which Node calls then, reads it (`stack.cjs`). What is here is what the kernel
//! knows, for one that does not run JavaScript, or runs well.

use std::time::Duration;

use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use rcluster_core::supervisor::{Finding, Pid, Policy};
use rcluster_sys::{procfs, spawn::CHANNEL_FD};

/// How long a worker is looked at whose stack is not asked for.
pub(super) const GLANCE: Duration = Duration::from_millis(500);
/// Clock ticks (hundredths of a second) during a look that sleeping does not explain.
const BUSY: u64 = 10;
/// What a limit is made of.
const STEP: Duration = Duration::from_millis(100);
/// How often to look whether an event loop is idle.
const LOOK: Duration = Duration::from_millis(20);

/// Waits. However long the master (and with it perhaps the machine) stands still, at most one step of the limit passes, so
/// that an answer which has come meanwhile is heard.
pub(super) async fn pass(limit: Duration) {
    let end = Instant::now() + limit + STEP;
    for _ in 0..limit.as_millis().div_ceil(STEP.as_millis()) {
        sleep(STEP).await;
    }
    if Instant::now() > end {
        sleep(STEP).await; // what came during a pause is read first
    }
}

/// Whether an event loop is seen idle at any of some looks, within [`Policy::DOUBT`].
pub(super) async fn is_idle_soon(pid: Pid) -> bool {
    let end = Instant::now() + Policy::DOUBT - STEP;
    loop {
        // Off the loop: the kernel may let a reader of `/proc` wait.
        if spawn_blocking(move || is_idle(pid)).await.unwrap_or(false) {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        sleep(LOOK).await;
    }
}

/// Whether the event loop waits for events now.
fn is_idle(pid: Pid) -> bool {
    // A process that was stopped in the call is still in it.
    let sleeps = || procfs::loop_state(pid) == Some('S');
    let waits = procfs::waits_for_events_of(pid, CHANNEL_FD)
        // A child waited for (`execSync`) has an event loop of its own.
        .unwrap_or_else(|| procfs::sleeps_in_epoll(pid) && procfs::children(pid).is_empty());
    waits && sleeps()
}

/// What the first thread of a silent process does. `before` is [`procfs::loop_ticks`] of when the look began, `why` says
/// why its stack was not asked for; where it was, it does not run JavaScript: the debugger cannot interrupt a long call of
/// native code.
pub(super) async fn native(pid: Pid, before: Option<u64>, why: Option<String>) -> Finding {
    let look = spawn_blocking(move || look(pid, before, why.as_deref())).await;
    look.unwrap_or_else(|error| Finding::Unknown(error.to_string()))
}

fn look(pid: Pid, before: Option<u64>, why: Option<&str>) -> Finding {
    if !procfs::is_alive(pid) {
        return Finding::Unknown("it ended while it was looked into".to_owned());
    }
    if is_idle(pid) {
        return Finding::Idle;
    }
    let now = procfs::loop_ticks(pid);
    let busy = procfs::loop_state(pid) == Some('R')
        || now
            .zip(before)
            .is_some_and(|(now, before)| now >= before + BUSY);
    let children = procfs::children(pid).join(", ");
    let what = match (why, busy) {
        (None, true) => {
            "one long call of native code uses the processor (JSON.parse, crypto, an addon)"
                .to_owned()
        }
        (None, false) if children.is_empty() => {
            "one long call of native code waits for the kernel (a file, a lock)".to_owned()
        }
        (None, false) => {
            format!(
                "one long call of native code waits, perhaps for its child (execSync): {children}"
            )
        }
        (Some(why), true) => format!("{why}; its event loop uses the processor"),
        (Some(why), false) if children.is_empty() => {
            format!("{why}; its event loop waits for the kernel (a file, a lock)")
        }
        (Some(why), false) => {
            format!("{why}; its event loop waits, perhaps for its child (execSync): {children}")
        }
    };
    Finding::Unknown(what)
}
