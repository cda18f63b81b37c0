//! Waiting for a condition with a deadline. A test never sleeps and hopes.

use std::thread;
use std::time::{Duration, Instant};

/// Enough for a few Node starts on a machine whose two cores are busy with other tests.
pub(crate) const BOOT: Duration = Duration::from_secs(45);
/// The end of patience for anything else.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Asks `probe` until it answers; panics with `what` when `deadline` has passed.
#[track_caller]
pub(crate) fn wait_until<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(
            Instant::now() < end,
            "waited {deadline:?} in vain for: {what}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}
