//! Which addresses a worker has to listen on before it may take another one's place.
//!
//! An old worker drains only when its replacement covers what it serves. Exempt is
//!
//! - what the wanted code is known not to open: of a rollback, what the release that comes back never opened; of
//!   a replacement within a generation, what only a generation that was given up had opened;
//! - a Unix path that holds the worker's pid: it is of that process alone;
//! - a port that the kernel chose for a server that the app opened later than [`Policy::KEY_GRACE`] after it was ready: nobody can know
//!   it beforehand (FTP's passive mode);
//! - what the operator lets go (`--allow-drop`).

use std::collections::BTreeSet;

use super::{
    backoff::Death,
    event::Listened,
    incident::Kind,
    machine::Supervisor,
    policy::{Policy, Readiness},
    time::Time,
    worker::{Generation, Slot, State, Worker, WorkerId},
};

/// Addresses that are remembered of a generation.
const MAX_SERVED: usize = 1024;
/// As a pattern of `--allow-drop`: every address, after [`Policy::KEY_GRACE`].
const ALL: &str = "all";

/// Whether `--allow-drop PATTERN` means this address: as status shows it, or `:PORT`.
fn is_meant(pattern: &str, address: &str) -> bool {
    let port = pattern.starts_with(':') && !address.starts_with("unix:");
    pattern == address || (port && address.ends_with(pattern))
}

impl Supervisor {
    /// A server of a worker listens.
    pub(super) fn listens(&mut self, id: WorkerId, what: Listened) {
        let now = self.now;
        let Some(readiness) = self.fleet.worker(id).map(|w| self.terms(w).readiness) else {
            return;
        };
        let Some(worker) = self.fleet.worker_mut(id) else {
            return;
        };
        let Listened {
            address,
            chosen,
            private,
            front,
            instead_of,
        } = what;
        let declared = instead_of.is_none();
        let reason = format!("listens on {address}");
        let late = (worker.ready_at).is_some_and(|at| at + Policy::KEY_GRACE <= now);
        let passes = private || (chosen && late);
        if !passes {
            // What a worker tells while it is stopped is known of its code all the same: news may arrive late.
            let served = self.served.entry(worker.generation).or_default();
            if served.len() < MAX_SERVED {
                served.insert(address.clone());
            }
        }
        if worker.state <= State::Draining {
            if passes {
                worker.passing.insert(address.clone());
            }
            if front && worker.state < State::Draining {
                worker.fronts.insert(address.clone());
            }
            worker.listening.insert(address);
            worker.unheard = None;
            worker.instead_of = worker.instead_of.take().or(instead_of);
        }
        if readiness == Readiness::Listening && declared {
            self.is_ready(id, &reason);
        }
    }

    /// A worker closed the listener at an address.
    pub(super) fn closes(&mut self, id: WorkerId, address: &str) {
        let now = self.now;
        if let Some(worker) = self.fleet.worker_mut(id) {
            worker.passing.remove(address);
            if worker.state < State::Draining {
                worker.fronts.remove(address);
            }
            if worker.listening.remove(address) && worker.listening.is_empty() {
                worker.unheard = Some(now);
            }
        }
    }

    /// What is known of the addresses of a generation's code begins with its first worker.
    pub(super) fn begin_served(&mut self, generation: Generation) {
        self.served.entry(generation).or_default();
    }

    /// As a master knows it that was written out by one which did not remember.
    pub(super) fn recall_served(&mut self) {
        for worker in self.fleet.iter() {
            let served = self.served.entry(worker.generation).or_default();
            served.extend(worker.listening.iter().cloned());
        }
    }

    /// What the code that is wanted in a slot is known to open; `None`: nothing is known of it.
    fn known_of(&self, slot: Slot) -> Option<&BTreeSet<String>> {
        let goal = self.goal(slot);
        let code = match &self.reload {
            Some(reload) if reload.generation == goal => reload.brings_back?,
            Some(_) | None => goal,
        };
        self.served.get(&code)
    }

    /// Whether the operator lets an address go.
    fn may_drop(&self, address: &str) -> bool {
        let reload = self.reload.iter().flat_map(|r| &r.may_drop);
        (self.policy.may_drop.iter().chain(reload)).any(|pattern| is_meant(pattern, address))
    }

    /// Whether everything may be let go, after a moment.
    fn may_drop_all(&self) -> bool {
        let reload = self.reload.iter().flat_map(|r| &r.may_drop);
        (self.policy.may_drop.iter().chain(reload)).any(|pattern| pattern == ALL)
    }

    /// Addresses of `old` that `fresh` would have to serve, and does not.
    fn lacks<'a>(
        &'a self,
        fresh: &'a Worker,
        old: &'a Worker,
    ) -> impl Iterator<Item = &'a String> + 'a {
        let known = self.known_of(old.slot);
        old.listening.difference(&fresh.listening).filter(move |a| {
            !old.passing.contains(*a)
                && known.is_none_or(|known| known.contains(*a))
                && !self.may_drop(a)
        })
    }

    /// Whether `fresh` serves all that `old` serves and the wanted code opens.
    pub(super) fn covers(&self, fresh: &Worker, old: &Worker) -> bool {
        self.lacks(fresh, old).next().is_none()
    }

    /// The others of a worker's slot that serve.
    fn predecessors<'a>(&'a self, fresh: &'a Worker) -> impl Iterator<Item = &'a Worker> + 'a {
        let others = self.fleet.seated(fresh.slot);
        others.filter(|old| old.id != fresh.id && old.is_ready())
    }

    /// From when on nothing that its predecessors serve is lacking; `None`: as long as it is as it is, never.
    pub(super) fn complete_at(&self, fresh: &Worker) -> Option<Time> {
        let mut at = Time::default();
        for old in self.predecessors(fresh) {
            if self.covers(fresh, old) {
                continue;
            }
            at = at.max(if old.hung {
                // It serves nobody; it may come to itself while there is time.
                fresh.complete_by?
            } else if self.may_drop_all() {
                fresh.ready_at? + self.policy.min_uptime + Policy::KEY_GRACE
            } else {
                return None;
            });
        }
        Some(at)
    }

    /// Replacements that lack an address have their time, and are given up after it.
    pub(super) fn await_addresses(&mut self) {
        for slot in self.slots() {
            let goal = self.goal(slot);
            let Some(fresh) = self.fleet.sound(slot, goal).filter(|w| w.is_ready()) else {
                continue;
            };
            let id = fresh.id;
            let covers = self.predecessors(fresh).all(|old| self.covers(fresh, old));
            let by = match fresh.complete_by {
                _ if covers => None,
                // It has closed one that it served: it has a moment at least here, too.
                None => Some(self.now + self.policy.ready_timeout.max(Policy::KEY_GRACE)),
                by => by,
            };
            let over = by.is_some_and(|by| by <= self.now) && self.complete_at(fresh).is_none();
            let reason = over.then(|| self.incomplete(fresh));
            if let Some(fresh) = self.fleet.worker_mut(id) {
                fresh.complete_by = by;
            }
            if let Some(reason) = reason {
                self.give_up_on(id, &reason);
            }
        }
    }

    fn give_up_on(&mut self, id: WorkerId, reason: &str) {
        let Some(worker) = self.fleet.worker(id) else {
            return;
        };
        let (slot, ready_for) = (worker.slot, worker.ready_for(self.now));
        let new = (self.reload.as_ref()).is_some_and(|r| r.generation == worker.generation);
        self.condemn(id, Kind::NeverReady, reason);
        if !new {
            let (now, jitter) = (self.now, self.jitter());
            let backoff = &mut self.seat(slot).backoff;
            backoff.died(now, ready_for, Death::Own, jitter);
        }
    }

    fn incomplete(&self, fresh: &Worker) -> String {
        let timeout = crate::names::duration(self.policy.ready_timeout);
        let old = self
            .predecessors(fresh)
            .find(|old| !old.hung && !self.covers(fresh, old));
        let (of, missing) = old.map_or_else(Default::default, |old| {
            (
                old.id.to_string(),
                self.lacks(fresh, old).collect::<Vec<_>>(),
            )
        });
        let list = missing.iter().map(|a| a.as_str()).collect::<Vec<_>>();
        let allow: Vec<_> = list.iter().map(|a| format!("--allow-drop {a}")).collect();
        format!(
            "not ready after {timeout}: it does not listen on {}, which worker {of} serves; if that is intended: rcluster reload {}",
            list.join(" and "),
            allow.join(" "),
        )
    }

    /// Until when a worker of a slot that is not wanted stays, because those that stay are young and do not yet listen on all
    /// that it serves. Addresses that none of them opens in its time are of that slot alone.
    pub(super) fn leaves_at(&self, excess: &Worker) -> Time {
        let stays =
            |w: &&Worker| w.slot.0 < self.policy.workers && w.is_ready() && !w.hung && !w.spare;
        let staying = || self.fleet.iter().filter(stays);
        let served = |address: &String| {
            excess.passing.contains(address)
                || self.may_drop(address)
                || staying().any(|w| w.listening.contains(address))
        };
        if excess.hung || !excess.is_ready() || excess.listening.iter().all(served) {
            return Time::default();
        }
        let grown = staying().filter_map(|w| w.ready_at);
        let grown = grown.map(|at| at + self.policy.ready_timeout);
        grown.max().unwrap_or_default()
    }

    /// Whether a worker of other code serves on in a slot that is not wanted, because of its addresses. The reload's code
    /// does not take over before: it would not be alone.
    pub(super) fn excess_serves(&self, generation: Generation) -> bool {
        let excess = |w: &Worker| w.slot.0 >= self.policy.workers && !w.spare;
        let serves = |w: &Worker| w.is_ready() && w.generation != generation;
        (self.fleet.iter()).any(|w| excess(w) && serves(w) && self.leaves_at(w) > self.now)
    }

    /// When [`await_addresses`](Self::await_addresses) and those who wait for it have something to do.
    pub(super) fn coverage_deadlines(&self) -> impl Iterator<Item = Time> + '_ {
        let fresh = self
            .slots()
            .filter_map(|s| self.fleet.sound(s, self.goal(s)));
        let fresh = fresh.filter(|w| w.is_ready());
        let fresh = fresh.flat_map(|w| w.complete_by.into_iter().chain(self.complete_at(w)));
        let excess = self
            .fleet
            .iter()
            .filter(|w| w.slot.0 >= self.policy.workers && !w.spare);
        fresh.chain(excess.map(|w| self.leaves_at(w)))
    }
}
