//! What the status says over time: rates, and the last minutes of each figure. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::admin::Status;
use rcluster_core::supervisor::{Slot, State, WorkerId, WorkerView};

/// Samples that are kept of each figure.
pub(super) const KEPT: usize = 240;

/// A figure over time, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Series(VecDeque<u64>);

impl Series {
    fn push(&mut self, value: u64) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(value);
    }

    /// The last `count`, oldest first.
    pub(super) fn last(&self, count: usize) -> Vec<u64> {
        let skip = self.0.len().saturating_sub(count);
        self.0.iter().skip(skip).copied().collect()
    }

    /// The newest.
    pub(super) fn now(&self) -> u64 {
        self.0.back().copied().unwrap_or(0)
    }
}

/// One look at the master.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) status: Status,
    /// 99 of 100 requests took up to so long, microseconds, in the slowest slot; none without requests.
    pub(super) p99_us: Option<u64>,
}

/// What is known of a worker's requests while it serves, or while it does not.
#[derive(Clone, Copy, Debug)]
struct Known {
    serves: bool,
    /// When that was first seen.
    since_ms: u64,
    /// When it told last of its requests, and how many there had been.
    told: Option<(u64, u64)>,
    /// Requests a second between its last two heartbeats.
    rate: Option<f64>,
}

/// What is known of a slot, over all the workers that it has had.
#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    rate: Option<f64>,
    memory: Option<f64>,
}

/// All figures.
#[derive(Debug, Default)]
pub(super) struct History {
    workers: BTreeMap<WorkerId, Known>,
    slots: BTreeMap<Slot, Seat>,
    /// Requests a second, all workers.
    pub(super) rate: Series,
    /// How long 99 of 100 requests took at most, microseconds.
    pub(super) latency: Series,
    /// The worst delay of an event loop, microseconds.
    pub(super) delay: Series,
    /// The mean share of time in which the loops are busy, thousandths.
    pub(super) busy: Series,
    /// Resident memory of all workers, bytes.
    pub(super) memory: Series,
}

impl History {
    /// Takes a look in.
    pub(super) fn take(&mut self, Seen { status, p99_us }: &Seen) {
        let workers = &status.fleet.workers;
        self.workers
            .retain(|id, _| workers.iter().any(|w| w.id == *id));
        let (mut delay, mut busy, mut beats) = (0, 0, 0);
        for worker in workers {
            self.know(worker, status.clock_ms);
            let Some(beat) = worker.beat else { continue };
            delay = delay.max(beat.delay_us);
            busy += u64::from(beat.busy);
            beats += 1;
        }
        let before = std::mem::take(&mut self.slots);
        let slots: BTreeSet<_> = workers.iter().map(|worker| worker.slot).collect();
        for slot in slots {
            let before = before.get(&slot).copied().unwrap_or_default();
            let here = || workers.iter().filter(|worker| worker.slot == slot);
            let rates = here().map(|w| (serves(w), self.workers.get(&w.id).and_then(|k| k.rate)));
            let memory = here().map(|w| (serves(w), w.usage.map(|usage| usage.memory as f64)));
            let seat = Seat {
                rate: sum(rates, before.rate),
                memory: sum(memory, before.memory),
            };
            self.slots.insert(slot, seat);
        }
        self.rate.push(whole(self.all()));
        self.latency.push(p99_us.unwrap_or(0));
        // Without a heartbeat nothing is known: not a change.
        if let Some(busy) = busy.checked_div(beats) {
            self.delay.push(delay);
            self.busy.push(busy);
        }
        let memory = self.slots.values().filter_map(|seat| seat.memory);
        self.memory.push(whole(memory.sum()));
    }

    /// A heartbeat tells of the time since the one before it: the rate stays until the next one.
    fn know(&mut self, worker: &WorkerView, now_ms: u64) {
        let serves = serves(worker);
        let begins = Known {
            serves,
            since_ms: now_ms,
            told: None,
            rate: None,
        };
        // Before the first look it has served since its start, as far as is known.
        let first = self.rate.0.is_empty().then(|| {
            let since_ms = now_ms.saturating_sub(worker.uptime_ms);
            Known {
                since_ms,
                told: Some((since_ms, 0)),
                ..begins
            }
        });
        let known = self.workers.entry(worker.id);
        let known = known.or_insert(first.unwrap_or(begins));
        if known.serves != serves {
            *known = begins;
        }
        if worker.silent {
            // Its event loop stands still: it answers nobody.
            known.rate = Some(0.0);
            return;
        }
        let told_ms = now_ms.saturating_sub(worker.silent_ms.unwrap_or(0));
        let Some(beat) = worker.beat.filter(|_| told_ms >= known.since_ms) else {
            return;
        };
        match known.told {
            None => known.told = Some((told_ms, beat.requests)),
            // The times of one heartbeat can differ by a moment between two answers.
            Some((at_ms, requests)) if told_ms > at_ms + 100 => {
                let more = beat.requests.saturating_sub(requests) as f64;
                known.rate = Some(more * 1000.0 / (told_ms - at_ms) as f64);
                known.told = Some((told_ms, beat.requests));
            }
            Some(_) => {}
        }
    }

    fn all(&self) -> f64 {
        self.slots.values().filter_map(|seat| seat.rate).sum()
    }

    /// Requests a second that a slot answers; none while nothing is known.
    pub(super) fn rate_of(&self, slot: Slot) -> Option<u64> {
        self.slots.get(&slot)?.rate.map(whole)
    }

    /// A slot's share of all requests, percent.
    pub(super) fn share_of(&self, slot: Slot) -> u64 {
        let all = self.all();
        let own = self.slots.get(&slot).and_then(|seat| seat.rate);
        if all > 0.0 {
            whole(own.unwrap_or(0.0) * 100.0 / all)
        } else {
            0
        }
    }
}

fn serves(worker: &WorkerView) -> bool {
    worker.state == State::Ready && !worker.spare
}

/// The sum over a slot's workers: whether each serves, and what it has told. While one that serves has told
/// nothing yet the slot goes on as it was, or a replacement would look like an outage.
fn sum(workers: impl Iterator<Item = (bool, Option<f64>)>, before: Option<f64>) -> Option<f64> {
    let (mut sum, mut waits) = (None, false);
    for (serves, told) in workers {
        match told {
            Some(told) => sum = Some(sum.unwrap_or(0.0) + told),
            None => waits |= serves,
        }
    }
    match (sum, before.filter(|_| waits)) {
        (Some(sum), Some(before)) => Some(sum.max(before)),
        (sum, before) => sum.or(before),
    }
}

/// The nearest whole number; never negative here.
#[expect(clippy::cast_sign_loss, reason = "rates are not negative")]
fn whole(value: f64) -> u64 {
    value.max(0.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(clock_ms: u64, workers: &[(u32, u64, u64)]) -> Seen {
        let workers: Vec<_> = workers
            .iter()
            .map(|(slot, id, requests)| {
                serde_json::json!({
                    "slot": slot, "id": id, "pid": 100 + id, "generation": 1, "state": "ready",
                    "restarts": 0, "uptime_ms": clock_ms, "silent_ms": 0,
                    "beat": {"requests": requests, "connections": 3, "heap_used": 1 << 24,
                        "heap_limit": 1u64 << 31, "delay_us": 1500 * id, "busy": 250},
                    "usage": {"memory": 1 << 26, "cpu_ms": 5, "fds": 20, "fd_limit": 1024},
                })
            })
            .collect();
        let status = serde_json::from_value(serde_json::json!({
            "version": 1, "name": "shop", "pid": 42, "clock_ms": clock_ms, "state": "serving",
            "generation": 1, "wanted": 2, "workers": workers, "reload": null, "reloads_done": 0,
            "reloads_failed": 0, "last_reload_error": null, "drained_total": 0, "cut_total": 0,
            "waiting": [], "slots": [], "incidents": [], "listeners": [], "unused_binds": [],
        }))
        .expect("a status");
        Seen {
            status,
            p99_us: Some(700),
        }
    }

    #[test]
    fn rates_are_of_beats() {
        let mut history = History::default();
        history.take(&seen(1000, &[(0, 1, 0), (1, 2, 0)]));
        history.take(&seen(3000, &[(0, 1, 600), (1, 2, 200)]));
        assert_eq!(history.rate.now(), 400);
        assert_eq!(
            (history.rate_of(Slot(0)), history.share_of(Slot(0))),
            (Some(300), 75)
        );
        assert_eq!(history.delay.now(), 3000);
        assert_eq!(history.memory.now(), 2 << 26);
        assert_eq!(history.latency.now(), 700);
    }

    #[test]
    fn a_slot_goes_on_while_its_new_worker_has_told_nothing() {
        let mut history = History::default();
        history.take(&seen(1000, &[(0, 1, 0), (1, 2, 0)]));
        history.take(&seen(3000, &[(0, 1, 600), (1, 2, 200)]));
        // Worker 3 takes the place of worker 1: it serves, and nothing is known of it.
        let unknown = |clock_ms| {
            let mut seen = seen(clock_ms, &[(0, 3, 0), (1, 2, 200)]);
            let new = &mut seen.status.fleet.workers[0];
            (new.beat, new.usage, new.silent_ms) = (None, None, None);
            seen.status.fleet.workers[1].silent_ms = Some(clock_ms - 3000);
            seen
        };
        for clock_ms in [3500, 4000, 4500] {
            history.take(&unknown(clock_ms));
            assert_eq!((history.rate.now(), history.memory.now()), (400, 2 << 26));
            assert_eq!(history.rate_of(Slot(0)), Some(300));
        }
        // Its first heartbeat is where its requests begin to be counted, its second tells of a time.
        history.take(&seen(5000, &[(0, 3, 100), (1, 2, 400)]));
        assert_eq!(history.rate.now(), 400);
        history.take(&seen(7000, &[(0, 3, 200), (1, 2, 600)]));
        assert_eq!(
            (history.rate.now(), history.rate_of(Slot(0))),
            (150, Some(50))
        );
        // One whose event loop stands still answers nobody.
        let mut silent = seen(7500, &[(0, 3, 200), (1, 2, 625)]);
        silent.status.fleet.workers[0].silent = true;
        history.take(&silent);
        assert_eq!(
            (history.rate.now(), history.rate_of(Slot(0))),
            (50, Some(0))
        );
        // An outage is one: nobody serves.
        let mut down = seen(8000, &[(0, 3, 200)]);
        down.status.fleet.workers[0].state = State::Booting;
        down.status.fleet.workers[0].beat = None;
        history.take(&down);
        assert_eq!((history.rate.now(), history.rate_of(Slot(0))), (0, None));
    }
}
