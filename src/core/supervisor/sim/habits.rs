//! What is drawn from a seed: the policy, how wild the schedule is, and how
//! each worker behaves.

use std::time::Duration;

use fastrand::Rng;

use super::super::{Health, Policy, Readiness, Recycle, Surge, Switch};

/// How wild a schedule is. Chances are in a thousand.
#[derive(Clone, Debug)]
pub(super) struct Chaos {
    /// A worker misbehaves in one of many ways.
    pub(super) bad_worker: u32,
    /// All workers of a generation do.
    pub(super) bad_generation: u32,
    /// Every worker fails as soon as it serves.
    pub(super) storm: bool,
    /// A process cannot be started.
    pub(super) spawn_fails: u32,
    /// A release cannot be prepared.
    pub(super) prepare_fails: u32,
    /// A fact is told twice.
    pub(super) duplicates: u32,
    /// An event about a worker that is gone.
    pub(super) dead: u32,
    /// The master sleeps for a while.
    pub(super) pauses: u32,
    /// A request is a stop.
    pub(super) stops: u32,
    /// Longest pause between requests, milliseconds.
    pub(super) request_gap: u64,
    /// An operator's wish is another number of workers, a rest, or one worker anew.
    pub(super) scales: u32,
    /// Longest way of an event to the master, milliseconds.
    pub(super) delay: u64,
    /// Facts of one worker may overtake each other.
    pub(super) odd_order: bool,
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

fn pick_ms(rng: &mut Rng, from: &[u64]) -> Duration {
    Duration::from_millis(pick(rng, from))
}

/// Happens so many times in a thousand.
pub(super) fn chance(rng: &mut Rng, thousandths: u32) -> bool {
    rng.u32(..1000) < thousandths
}

pub(super) fn policy(rng: &mut Rng) -> Policy {
    let workers = rng.u32(1..=6);
    Policy {
        workers,
        readiness: pick(
            rng,
            &[
                Readiness::Listening,
                Readiness::Listening,
                Readiness::Message,
                Readiness::Online,
            ],
        ),
        ready_timeout: pick_ms(rng, &[300, 1000, 5000]),
        drain_timeout: pick_ms(rng, &[0, 200, 2000, 30_000]),
        kill_timeout: pick_ms(rng, &[0, 100, 2000]),
        min_uptime: pick_ms(rng, &[0, 0, 500, 2000]),
        bake: pick_ms(rng, &[0, 0, 1000, 5000]),
        surge: if rng.bool() {
            Surge::Count(rng.u32(1..=workers + 2))
        } else {
            Surge::Percent(rng.u32(1..=100))
        },
        switch: pick(rng, &[Switch::Rolling, Switch::Rolling, Switch::Atomic]),
        hang_timeout: pick_ms(rng, &[0, 0, 600, 3000]),
        boot_hang_timeout: pick_ms(rng, &[0, 600, 10_000]),
        health: (rng.u8(..3) == 0).then(|| Health {
            interval: pick_ms(rng, &[100, 1000]),
            timeout: pick_ms(rng, &[50, 500]),
            threshold: rng.u32(1..=3),
        }),
        recycle: Recycle {
            requests: (rng.u8(..3) == 0).then(|| rng.u64(10..2000)),
            lifetime: (rng.u8(..4) == 0).then(|| pick_ms(rng, &[10_000, 60_000])),
            ..Recycle::default()
        },
        spares: pick(rng, &[0, 0, 1, 2]),
        may_drop: vec![],
        attentive: false,
        boots: Policy::MAX_WORKERS,
    }
}

impl Chaos {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        Self {
            bad_worker: pick(rng, &[0, 50, 200, 600]),
            bad_generation: pick(rng, &[0, 100, 400]),
            storm: chance(rng, 50),
            spawn_fails: pick(rng, &[0, 0, 50, 300]),
            prepare_fails: pick(rng, &[0, 0, 200]),
            duplicates: pick(rng, &[0, 0, 100]),
            dead: pick(rng, &[0, 20, 100]),
            pauses: pick(rng, &[0, 0, 20]),
            stops: pick(rng, &[0, 0, 20, 150]),
            scales: pick(rng, &[0, 100, 400]),
            request_gap: pick(rng, &[5, 300, 3000, 60_000]),
            delay: pick(rng, &[0, 2, 50]),
            odd_order: chance(rng, 200),
        }
    }
}

/// What a worker does from its start to the end of its boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boot {
    /// Opens its servers.
    Serves,
    /// Ends.
    Crashes,
    /// Lives, but opens nothing and says nothing.
    Hangs,
    /// Cannot have its address.
    CannotBind,
    /// Closes its channel before it is ready.
    Disconnects,
    /// Floods the channel.
    Misbehaves,
}

/// What happens to it once it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing.
    None,
    /// It ends, with code 0 or not.
    Crashes,
    /// The app calls `worker.disconnect()`.
    Leaves,
    /// Its channel closes, it serves on.
    Disconnects,
    /// It floods the channel.
    Misbehaves,
    /// It closes a server, and opens it again.
    Reopens,
    /// It closes all its servers, for good.
    Closes,
    /// Its event loop does not turn any more; it hears nothing.
    Hangs,
    /// The same for a while.
    Pauses(u64),
    /// Its health check is answered badly, or not at all.
    Sickens { silent: bool },
}

/// What it does when it is told to drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drains {
    /// Finishes after so many milliseconds and ends.
    In(u64),
    /// Finishes, but lives on.
    LivesOn(u64),
    /// Ends in the middle.
    Crashes(u64),
    /// Closes its channel and lives on.
    Disconnects(u64),
    /// Does nothing.
    Ignores,
}

/// How one worker behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habit {
    pub(super) boot: Boot,
    /// From its start to the end of its boot, milliseconds.
    pub(super) boot_ms: u64,
    /// Servers it opens.
    pub(super) keys: u8,
    /// Between one server and the next, milliseconds.
    pub(super) key_gap: u64,
    pub(super) fate: Fate,
    /// From the end of the boot to its fate, milliseconds.
    pub(super) fate_ms: u64,
    pub(super) drains: Drains,
    /// How long it takes to end after the stop signal; `None` ignores it.
    pub(super) term: Option<u64>,
}

impl Habit {
    /// One that does all it should, in at most 400 ms.
    pub(super) fn good(rng: &mut Rng, keys: u8) -> Self {
        Self {
            boot: Boot::Serves,
            boot_ms: rng.u64(1..=200),
            keys,
            key_gap: rng.u64(0..=50),
            fate: Fate::None,
            fate_ms: 0,
            drains: Drains::In(rng.u64(0..=3000)),
            term: Some(rng.u64(0..=100)),
        }
    }

    /// One that serves and fails at once.
    pub(super) fn short(rng: &mut Rng, keys: u8) -> Self {
        let mut habit = Self::good(rng, keys);
        habit.boot_ms = rng.u64(1..=20);
        habit.fate = pick(rng, &[Fate::Crashes, Fate::Misbehaves]);
        habit.fate_ms = rng.u64(0..=100);
        habit
    }

    /// One that does something wrong, sooner or later.
    pub(super) fn bad(rng: &mut Rng, keys: u8) -> Self {
        let mut habit = Self::good(rng, keys);
        match rng.u8(..5) {
            0 => {
                habit.boot = pick(
                    rng,
                    &[
                        Boot::Crashes,
                        Boot::Crashes,
                        Boot::Hangs,
                        Boot::CannotBind,
                        Boot::Disconnects,
                        Boot::Misbehaves,
                    ],
                );
            }
            1 => {
                habit.boot_ms = rng.u64(1..=6000);
                habit.key_gap = pick(rng, &[0, 500, 3000]);
            }
            2 => {
                habit.fate = pick(
                    rng,
                    &[
                        Fate::Crashes,
                        Fate::Crashes,
                        Fate::Leaves,
                        Fate::Disconnects,
                        Fate::Misbehaves,
                        Fate::Reopens,
                        Fate::Closes,
                        Fate::Hangs,
                        Fate::Hangs,
                        Fate::Pauses(rng.clone().u64(100..5000)),
                        Fate::Sickens { silent: false },
                        Fate::Sickens { silent: true },
                    ],
                );
                habit.fate_ms = pick(rng, &[0, 10, 300, 1500, 10_000, 90_000]);
            }
            3 => {
                let ms = rng.u64(0..=4000);
                habit.drains = pick(
                    rng,
                    &[
                        Drains::LivesOn(ms),
                        Drains::Crashes(ms),
                        Drains::Disconnects(ms),
                        Drains::Ignores,
                        Drains::In(ms * 10),
                    ],
                );
            }
            _ => {
                habit.drains = Drains::Ignores;
                habit.term = None;
            }
        }
        if rng.u8(..4) == 0 {
            habit.term = None;
        }
        habit
    }
}
