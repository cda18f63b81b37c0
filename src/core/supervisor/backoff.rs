//! When a slot may be filled again after its worker died.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::Time;

/// Who ended a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The app, in whatever way: it is held back more and more.
    Own,
    /// A SIGKILL that neither the master sent nor, as far as is known, the kernel for memory.
    /// Who sent it is not to be had: it may have been the app itself or, without a memory
    /// cgroup (which counts the host's kills for memory, too), the kernel. So it is spaced, too.
    Outside,
}

/// Spacing of restarts of one slot: at once after a healthy run, then 100 ms
/// doubling to 30 s with jitter; forgotten after 60 s of health. Service makes
/// up sooner for deaths from outside, down to the first delay: who kills
/// workers now and then must not empty the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    failures: u32,
    /// How many of them came from outside and are not made up for.
    #[serde(default)]
    outside: u32,
    not_before: Time,
}

impl Backoff {
    /// First delay.
    pub const BASE: Duration = Duration::from_millis(100);
    /// Longest delay.
    pub const CAP: Duration = Duration::from_secs(30);
    /// A worker that was ready for this long clears the slot's record.
    pub const RESET: Duration = Duration::from_mins(1);
    /// So long a service makes up for one death from outside. As short as the first
    /// delay: when any of four workers is killed every 300 ms, many have not served
    /// for longer, and half as much again lets the fleet run dry (a test kills so).
    /// What only looks like a death from outside costs one boot each 200 ms a slot.
    pub const FORGIVES: Duration = Self::BASE;

    /// Notes a death. `ready_for` is how long the worker had been ready, if it
    /// ever was; `jitter` is uniform in 0..=255. Returns the delay.
    pub fn died(
        &mut self,
        now: Time,
        ready_for: Option<Duration>,
        death: Death,
        jitter: u8,
    ) -> Duration {
        let served = ready_for.unwrap_or_default();
        if served >= Self::RESET {
            (self.failures, self.outside) = (0, 0);
        } else {
            let made_up = served.as_millis() / Self::FORGIVES.as_millis();
            let made_up = u32::try_from(made_up).unwrap_or(u32::MAX).min(self.outside);
            self.outside -= made_up;
            // A slot that empties again and again within the minute never goes without spacing.
            let least = self.failures.min(1);
            self.failures = self.failures.saturating_sub(made_up).max(least);
        }
        let delay = if self.failures == 0 && ready_for.is_some() {
            Duration::ZERO
        } else {
            let doublings = self.failures.saturating_sub(1).min(16);
            let full = (Self::BASE * 2u32.pow(doublings)).min(Self::CAP);
            // 75 % to 100 %: slots that die together do not come back together,
            // and the cap stays the cap.
            full * (768 + u32::from(jitter)) / 1023
        };
        self.failures = self.failures.saturating_add(1);
        if death == Death::Outside {
            self.outside = self.outside.saturating_add(1);
        }
        self.not_before = now + delay;
        delay
    }

    /// The earliest time at which the slot may be filled.
    pub fn not_before(&self) -> Time {
        self.not_before
    }

    /// Deaths since the record was last clear, without those that are made up for.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// A bound on restarts of all slots together: a token bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnBudget {
    thousandths: u64,
    filled_at: Time,
}

impl SpawnBudget {
    /// A full bucket for a fleet of `workers`.
    pub fn new(workers: u32) -> Self {
        Self {
            thousandths: Self::burst(workers) * 1000,
            filled_at: Time::default(),
        }
    }

    /// Most restarts at once: every slot twice, and a few.
    pub fn burst(workers: u32) -> u64 {
        u64::from(workers) * 2 + 8
    }

    /// Restarts a second in the long run: every slot each two seconds. In a small fleet at
    /// least 4, so that one kill each 300 ms is kept up with; there an app's own deaths are
    /// held back by the slots' backoff, which allows ten a minute and slot, then two.
    pub fn per_second(workers: u32) -> u64 {
        u64::from(workers / 2).max(4)
    }

    fn fill(&mut self, now: Time, workers: u32) {
        let elapsed = now.0.saturating_sub(self.filled_at.0);
        // Tokens a second are thousandths of a token a millisecond.
        self.thousandths = (self.thousandths + elapsed.saturating_mul(Self::per_second(workers)))
            .min(Self::burst(workers) * 1000);
        self.filled_at = self.filled_at.max(now);
    }

    /// Takes one restart; `false` when none is left.
    pub fn take(&mut self, now: Time, workers: u32) -> bool {
        self.fill(now, workers);
        let has = self.thousandths >= 1000;
        if has {
            self.thousandths -= 1000;
        }
        has
    }

    /// When the next restart is to be had.
    pub fn available_at(&self, workers: u32) -> Time {
        let missing = 1000u64.saturating_sub(self.thousandths);
        Time(self.filled_at.0 + missing.div_ceil(Self::per_second(workers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOUBLING: [u128; 12] = [
        0, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000,
    ];

    /// The delays of deaths after so much service each.
    fn delays<const N: usize>(backoff: &mut Backoff, death: Death, served: [u64; N]) -> [u128; N] {
        served.map(|ms| {
            let served = Some(Duration::from_millis(ms));
            backoff.died(Time(0), served, death, 255).as_millis()
        })
    }

    #[test]
    fn first_death_after_a_healthy_run_is_replaced_at_once_then_doubles() {
        for served in [0, 499, 600, 10_000, 59_999] {
            let mut backoff = Backoff::default();
            let told = delays(&mut backoff, Death::Own, [served; 12]);
            assert_eq!(told, DOUBLING, "{served} ms of service each");
            assert_eq!(delays(&mut backoff, Death::Own, [60_000]), [0]);
        }
        let mut backoff = Backoff::default();
        assert_eq!(delays(&mut backoff, Death::Outside, [99; 12]), DOUBLING);
    }

    #[test]
    fn service_makes_up_for_deaths_from_outside() {
        let mut backoff = Backoff::default();
        delays(&mut backoff, Death::Outside, [0; 5]);
        let told = delays(
            &mut backoff,
            Death::Outside,
            [0, 100, 320, 200, 60_000, 600],
        );
        assert_eq!(told, [1600, 1600, 400, 200, 0, 100]);
        // Killed every second or so, a slot is filled soon for ever, but not at once.
        assert_eq!(delays(&mut backoff, Death::Outside, [1100; 20]), [100; 20]);
    }

    /// Kills any of four serving workers every 300 ms, 100 times. Returns how often nobody served.
    fn times_dry(boot: Duration, seed: u64) -> usize {
        const N: u32 = 4;
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut budget = SpawnBudget::new(N);
        let mut slots = vec![(Backoff::default(), Time(0)); N as usize];
        let mut dry = 0;
        for now in (1..=100).map(|k| Time(k * 300)) {
            let mut serving: Vec<_> = slots.iter_mut().filter(|(_, at)| *at <= now).collect();
            if serving.is_empty() {
                dry += 1;
                continue;
            }
            let victim = rng.usize(..serving.len());
            let (backoff, ready_at) = &mut *serving[victim];
            let delay = backoff.died(now, Some(now.since(*ready_at)), Death::Outside, rng.u8(..));
            let mut due = now + delay;
            while !budget.take(due, N) {
                due = budget.available_at(N);
            }
            *ready_at = due + boot;
        }
        dry
    }

    #[test]
    fn who_kills_at_random_does_not_empty_the_fleet() {
        for boot in [100, 200, 400].map(Duration::from_millis) {
            for seed in 0..200 {
                assert_eq!(times_dry(boot, seed), 0, "boot {boot:?}, seed {seed}");
            }
        }
    }

    #[test]
    fn service_does_not_make_up_for_the_apps_own_deaths() {
        let mut backoff = Backoff::default();
        delays(&mut backoff, Death::Own, [0; 5]);
        assert_eq!(delays(&mut backoff, Death::Outside, [5000]), [1600]);
        assert_eq!(delays(&mut backoff, Death::Own, [5000; 2]), [1600, 3200]);
    }

    #[test]
    fn a_worker_that_never_was_ready_waits_from_the_start() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.died(Time(7), None, Death::Own, 255), Backoff::BASE);
        assert_eq!(backoff.not_before(), Time(107));
        assert_eq!(
            backoff.died(Time(7), None, Death::Own, 0),
            Duration::from_nanos(75_073_313)
        );
    }

    #[test]
    fn the_budget_bounds_every_window() {
        for (workers, burst, per_second) in [(4, 16, 4), (64, 136, 32)] {
            let mut budget = SpawnBudget::new(workers);
            let mut spawned = 0;
            for ms in 0..10_000 {
                while budget.take(Time(ms), workers) {
                    spawned += 1;
                }
                assert!(budget.available_at(workers) > Time(ms));
            }
            let bound = burst + 10 * per_second;
            assert!(spawned <= bound && spawned > bound - 2, "{spawned}");
        }
    }
}
