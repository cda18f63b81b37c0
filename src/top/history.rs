//! What the status says over time: rates, and the last minutes of each figure. Pure.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    admin::Status,
    supervisor::{Slot, WorkerId},
};

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

/// What a worker had told of its requests, and when it told that.
#[derive(Clone, Copy, Debug)]
struct Told {
    at_ms: u64,
    requests: u64,
    rate: f64,
}

/// All figures.
#[derive(Debug, Default)]
pub(super) struct History {
    told: BTreeMap<WorkerId, Told>,
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
    /// Requests a second by slot: old and new worker together.
    slots: BTreeMap<Slot, f64>,
}

impl History {
    /// Takes a look in.
    pub(super) fn take(&mut self, Seen { status, p99_us }: &Seen) {
        let workers = &status.fleet.workers;
        self.told
            .retain(|id, _| workers.iter().any(|w| w.id == *id));
        self.slots.clear();
        let (mut delay, mut busy, mut beats, mut memory) = (0, 0, 0, 0);
        for worker in workers {
            memory += worker.usage.map_or(0, |usage| usage.memory);
            let Some(beat) = worker.beat else { continue };
            // A beat tells of the time since the one before: between beats the rate stays.
            let at_ms = status
                .clock_ms
                .saturating_sub(worker.silent_ms.unwrap_or(0));
            let first = Told {
                at_ms: status.clock_ms.saturating_sub(worker.uptime_ms),
                requests: 0,
                rate: 0.0,
            };
            let told = self.told.entry(worker.id).or_insert(first);
            if beat.requests < told.requests {
                *told = first;
            }
            let passed = at_ms.saturating_sub(told.at_ms);
            // The times of one beat can differ by a moment between two answers.
            if passed > 100 {
                let more = beat.requests - told.requests;
                *told = Told {
                    at_ms,
                    requests: beat.requests,
                    rate: more as f64 * 1000.0 / passed as f64,
                };
            }
            *self.slots.entry(worker.slot).or_default() += told.rate;
            delay = delay.max(beat.delay_us);
            busy += u64::from(beat.busy);
            beats += 1;
        }
        let rate: f64 = self.slots.values().sum();
        self.rate.push(whole(rate));
        self.latency.push(p99_us.unwrap_or(0));
        self.delay.push(delay);
        self.busy.push(busy / beats.max(1));
        self.memory.push(memory);
    }

    /// Requests a second that a slot answers.
    pub(super) fn rate_of(&self, slot: Slot) -> u64 {
        self.slots.get(&slot).map_or(0, |rate| whole(*rate))
    }

    /// A slot's share of all requests, percent.
    pub(super) fn share_of(&self, slot: Slot) -> u64 {
        let all: f64 = self.slots.values().sum();
        let own = self.slots.get(&slot).copied().unwrap_or(0.0);
        if all > 0.0 {
            whole(own * 100.0 / all)
        } else {
            0
        }
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
    fn rates_are_of_beats_and_go_on_over_replacements() {
        let mut history = History::default();
        history.take(&seen(1000, &[(0, 1, 0), (1, 2, 0)]));
        history.take(&seen(3000, &[(0, 1, 600), (1, 2, 200)]));
        assert_eq!(history.rate.now(), 400);
        assert_eq!(
            (history.rate_of(Slot(0)), history.share_of(Slot(0))),
            (300, 75)
        );
        assert_eq!(history.delay.now(), 3000);
        assert_eq!(history.memory.now(), 2 << 26);
        assert_eq!(history.latency.now(), 700);
        // Worker 1 is replaced: its counter starts anew, the rate is not negative.
        let mut later = seen(5000, &[(0, 3, 100), (1, 2, 200)]);
        later.status.fleet.workers[0].uptime_ms = 1000;
        history.take(&later);
        assert_eq!(
            (history.rate_of(Slot(0)), history.rate_of(Slot(1))),
            (100, 0)
        );
        assert_eq!(history.rate.last(2), [400, 100]);
    }
}
