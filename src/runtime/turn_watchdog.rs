//! Notices a blocking call on the loop's thread. Debug builds only: every test of the real program runs under it.
//!
//! A turn is what the thread does between two waits of tokio's. Its time on a processor or in a run queue does not
//! count, so a busy machine raises no alarm.

use std::{cell::RefCell, time::Duration};

use tokio::runtime::Builder;
use tracing::warn;

use rcluster_sys::blocked::{Sample, ThreadTimes};

/// How long a turn may be blocked without being logged.
const LIMIT: Duration = Duration::from_millis(50);

thread_local! {
    static TURN: RefCell<Option<(ThreadTimes, Option<Sample>)>> = const { RefCell::new(None) };
}

/// Has every turn of the runtime's thread watched. A blocked one is logged as `event=loop_blocked`.
pub fn watch(builder: &mut Builder) {
    if !cfg!(debug_assertions) {
        return;
    }
    builder.on_thread_unpark(begin).on_thread_park(end);
}

fn begin() {
    TURN.with_borrow_mut(|turn| {
        if turn.is_none() {
            *turn = ThreadTimes::of_this_thread()
                .ok()
                .map(|times| (times, None));
        }
        if let Some((times, began)) = turn {
            *began = times.sample();
        }
    });
}

fn end() {
    let blocked = TURN.with_borrow_mut(|turn| {
        let (times, began) = turn.as_mut()?;
        let began = began.take()?;
        Some(times.sample()?.blocked_since(&began))
    });
    if let Some(blocked) = blocked.filter(|blocked| *blocked > LIMIT) {
        let blocked_ms = blocked.as_millis() as u64;
        warn!(
            event = "loop_blocked",
            blocked_ms, "a call blocked the loop"
        );
    }
}
