//! The clock behind [`Time`]: monotonic, less the master's own pauses.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

use rcluster_core::supervisor::Time;

/// A sleep that is over so much too late means that the master itself stood
/// still (SIGSTOP, suspend, a starved machine), not that a worker was slow.
const LATE: Duration = Duration::from_millis(100);
/// So long after that nothing becomes due: what came meanwhile is heard first.
const CATCH_UP: Duration = Duration::from_millis(50);
/// A pause that is worth a word, and the longest that a replacement of the program may take without being one.
const PAUSE: Duration = Duration::from_secs(1);

/// Counts the master's running time.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    /// What it counted before `start`.
    base: Duration,
    paused: Duration,
    planned: Option<Instant>,
    /// The latest time that it told: it never goes back.
    told: Cell<Time>,
}

/// The master stood still.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pause {
    /// By so much the sleep was too long.
    pub(super) late: Duration,
    /// By so much all deadlines have moved.
    pub(super) moved: Duration,
}

impl Pause {
    pub(super) fn is_long(&self) -> bool {
        self.late > PAUSE
    }
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            start: Instant::now(),
            base: Duration::ZERO,
            paused: Duration::ZERO,
            planned: None,
            told: Cell::new(Time(0)),
        }
    }

    /// Goes on after the program was replaced: it said `at` when `CLOCK_MONOTONIC` said `then`. A replacement that
    /// took long is a pause like any other.
    pub(super) fn resume(at: Time, then: Duration, now: Duration) -> Self {
        let between = now.saturating_sub(then).min(PAUSE);
        Self {
            base: Duration::from_millis(at.0) + between,
            ..Self::start()
        }
    }

    pub(super) fn now(&self) -> Time {
        let elapsed = (self.base + self.start.elapsed()).saturating_sub(self.paused);
        let now = Time(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        self.told.set(self.told.get().max(now));
        self.told.get()
    }

    /// When a deadline comes.
    pub(super) fn at(&self, deadline: Time) -> Instant {
        let left = Duration::from_millis(deadline.0).saturating_sub(self.base);
        self.start + self.paused + left
    }

    /// Notes when the loop means to wake.
    pub(super) fn plan(&mut self, wake: Option<Instant>) {
        self.planned = wake;
    }

    /// To be called at each wake-up. Time by which the loop overslept does not
    /// count: nobody is late because the master was. What was due when it ended
    /// is due a moment later, once what waits in the channels has been read: a
    /// worker may have said in time what is missed.
    pub(super) fn woke(&mut self) -> Option<Pause> {
        let late = Instant::now().saturating_duration_since(self.planned.take()?);
        (late > LATE).then(|| {
            let moved = late + CATCH_UP;
            self.paused += moved;
            Pause { late, moved }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_goes_on_in_the_next_program_and_does_not_count_its_pause() {
        let second = Duration::from_secs(1);
        let clock = Clock::resume(Time(5000), 100 * second, 100 * second + second / 10);
        let now = clock.now().0;
        assert!((5100..6000).contains(&now), "{now}");
        let slept = Clock::resume(Time(5000), 100 * second, 900 * second)
            .now()
            .0;
        assert!((6000..7000).contains(&slept), "{slept}");
    }

    #[test]
    fn what_was_due_in_a_pause_is_due_a_moment_after_it() {
        let mut clock = Clock::start();
        let planned = clock.at(Time(10));
        clock.plan(Some(planned));
        std::thread::sleep(Duration::from_millis(400));
        let pause = clock.woke().expect("it was late");
        assert!(pause.late >= Duration::from_millis(300));
        assert_eq!(pause.moved, pause.late + CATCH_UP);
        assert_eq!(clock.at(Time(10)), planned + pause.moved);
        assert_eq!(clock.woke(), None, "each pause is told once");
    }

    #[test]
    fn it_never_goes_back() {
        let second = Duration::from_secs(1);
        let mut clock = Clock::resume(Time(5000), 100 * second, 100 * second);
        let before = clock.now();
        clock.plan(Instant::now().checked_sub(2 * LATE));
        assert!(clock.woke().is_some());
        assert!(clock.now() >= before);
    }
}
