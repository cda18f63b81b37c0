//! The clock behind [`Time`]: monotonic, less the master's own pauses.

use std::time::Duration;

use tokio::time::Instant;

use crate::supervisor::Time;

/// Being this late means that the master itself stood still (SIGSTOP, suspend,
/// a starved machine), not that a worker was slow.
const PAUSE: Duration = Duration::from_secs(1);

/// Counts the master's running time.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    /// What it counted before `start`.
    base: Duration,
    paused: Duration,
    planned: Option<Instant>,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            start: Instant::now(),
            base: Duration::ZERO,
            paused: Duration::ZERO,
            planned: None,
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
        let elapsed = self.base + self.start.elapsed().saturating_sub(self.paused);
        Time(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }

    /// When a deadline comes, and notes that the loop means to wake by then.
    pub(super) fn plan(&mut self, deadline: Option<Time>) -> Option<Instant> {
        self.planned = deadline.map(|d| {
            let left = Duration::from_millis(d.0).saturating_sub(self.base);
            self.start + self.paused + left
        });
        self.planned
    }

    /// To be called at each wake-up. Time by which the loop overslept does not
    /// count: nobody is late because the master was. Returns the pause.
    pub(super) fn woke(&mut self) -> Option<Duration> {
        let late = Instant::now().saturating_duration_since(self.planned?);
        (late > PAUSE).then(|| {
            self.paused += late;
            late
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
}
