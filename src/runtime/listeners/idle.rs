//! Listeners that nobody holds: kept for those who will come, closed when nobody will.
//!
//! A worker that drains or dies leaves its listeners to its successor. What the app itself closes is closed, as Node's own
//! primary does when the last worker has closed it.

use std::time::Duration;

use super::{Listener, Listeners, Source, port_of};
use rcluster_core::{
    ipc::Query,
    supervisor::{Slot, State, Supervisor, Time, WorkerId},
};
use rcluster_sys::listener::Endpoint;

/// A listener whose port the app named is closed this long after the app has closed it: an app may open it again. It is more than
/// `Policy::UNHEARD`, after which a worker that closed its last server is replaced.
const LINGER: Duration = Duration::from_secs(3);
/// Most listeners that nobody holds.
const MAX_UNHELD: usize = super::MAX_LISTENERS;

impl Listeners {
    /// The app of a worker is about to close its servers and to leave: that is no wish to close them for all.
    pub(in crate::runtime) fn leaves(&mut self, worker: WorkerId) {
        self.leaving.insert(worker);
    }

    /// A worker closed its handle: it may ask for the key again. Returns the address.
    pub(in crate::runtime) fn release(
        &mut self,
        worker: WorkerId,
        key: &str,
        supervisor: &Supervisor,
    ) -> Option<String> {
        let by_app = !self.leaving.contains(&worker)
            && supervisor
                .worker(worker)
                .is_some_and(|w| w.state <= State::Ready && !w.leaving);
        let listener = self.by_key.get_mut(key)?;
        listener.lose(worker, by_app);
        Some(self.groups.get(&listener.group)?.local.to_string())
    }

    /// A worker is gone.
    pub(in crate::runtime) fn forget(&mut self, worker: WorkerId) {
        self.leaving.remove(&worker);
        for listener in self.by_key.values_mut() {
            listener.lose(worker, false);
        }
    }

    /// Closes what nobody holds or awaits. Returns the addresses.
    pub(in crate::runtime) fn sweep(
        &mut self,
        supervisor: &Supervisor,
        now: Time,
        withheld: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        self.due = None;
        let mut gone = vec![];
        let mut due: Vec<Time> = vec![];
        for (key, listener) in &mut self.by_key {
            let declared = |from| from == Source::Bind || from == Source::Unit;
            let mut declared = self.declared.iter().filter(|d| declared(d.from));
            if !listener.holders.is_empty() || declared.any(|d| d.group == listener.group) {
                listener.idle_since = None;
                continue;
            }
            due.extend(listener.settle(supervisor, now));
            if !listener.awaited.is_empty() || withheld(key) {
                listener.idle_since = None;
                continue;
            }
            let since = *listener.idle_since.get_or_insert(now);
            let closes_at = if listener.query.port == 0 {
                now
            } else {
                since + LINGER
            };
            if closes_at <= now {
                gone.push(key.clone());
            } else {
                due.push(closes_at);
            }
        }
        self.due = due.into_iter().min();
        self.close(&gone)
    }

    /// When [`sweep`](Self::sweep) has something to do.
    pub(in crate::runtime) fn due(&self) -> Option<Time> {
        self.due
    }

    /// Closes what only lingers where a query wants to bind, and the oldest where too many are kept. Returns the addresses.
    pub(in crate::runtime) fn make_way(&mut self, query: &Query) -> Vec<String> {
        let mut gone = if self.by_key.contains_key(&query.key()) {
            vec![]
        } else {
            self.in_the_way(query)
        };
        let unheld = self.by_key.iter().filter(|(_, l)| l.holders.is_empty());
        if unheld.clone().count() >= MAX_UNHELD {
            let declared = |l: &Listener| self.declared.iter().any(|d| d.group == l.group);
            let oldest = unheld
                .filter(|(_, l)| !declared(l))
                .min_by_key(|(_, l)| l.opened);
            gone.extend(oldest.map(|(key, _)| key.clone()));
        }
        self.close(&gone)
    }

    /// Those that only linger at the port that a query wants to bind.
    fn in_the_way(&self, query: &Query) -> Vec<String> {
        let Ok(wanted) = super::asked::endpoint(query) else {
            return vec![];
        };
        let is_udp = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Udp { .. });
        let port = port_of(&wanted).filter(|port| *port > 0);
        let in_the_way = |l: &Listener| {
            let local = self.groups.get(&l.group).map(|group| &group.local);
            let same = |local| port_of(local) == port && is_udp(local) == is_udp(&wanted);
            l.idle_since.is_some() && port.is_some() && local.is_some_and(same)
        };
        let lingering = self.by_key.iter().filter(|(_, l)| in_the_way(l));
        lingering.map(|(key, _)| key.clone()).collect()
    }

    fn close(&mut self, keys: &[String]) -> Vec<String> {
        for key in keys {
            self.by_key.remove(key);
        }
        if keys.is_empty() {
            vec![]
        } else {
            self.drop_unused_groups()
        }
    }
}

impl Listener {
    /// A worker does not hold it any more.
    fn lose(&mut self, worker: WorkerId, by_app: bool) {
        let held = self.holders.remove(&worker).map(|holder| holder.slot);
        if by_app {
            if let Some(slot) = held {
                self.awaited.remove(&slot);
                self.closed_by.insert(slot, worker);
            }
            return;
        }
        // One that closed it a moment ago may have been about to leave.
        let closed = self.closed_by.iter().find(|(_, by)| **by == worker);
        let Some(slot) = held.or(closed.map(|(slot, _)| *slot)) else {
            return;
        };
        let successor = self.holders.values().any(|holder| holder.slot == slot)
            || self.closed_by.get(&slot).is_some_and(|by| *by != worker);
        self.closed_by.retain(|_, by| *by != worker);
        if !successor {
            self.awaited.insert(slot);
        }
    }

    /// Notes who will not come any more, and who will after all. Returns when that may change by itself.
    fn settle(&mut self, supervisor: &Supervisor, now: Time) -> Vec<Time> {
        let policy = supervisor.policy();
        // Whoever is replaced has not decided for its successor.
        let goes = |by: &WorkerId| {
            let worker = supervisor.worker(*by);
            worker.is_none_or(|w| w.state > State::Ready || w.condemned.is_some() || w.leaving)
        };
        let left = self.closed_by.extract_if(.., |_, by| goes(by));
        let left: Vec<_> = left.map(|(slot, _)| slot).collect();
        self.awaited.extend(left);
        let mut times = vec![];
        self.awaited.retain(|slot| {
            if slot.0 >= policy.workers {
                return !supervisor.of_slot(*slot).is_empty();
            }
            let serving = supervisor
                .serving(*slot)
                .and_then(|id| supervisor.worker(id));
            // It has its time to open what its predecessor had.
            let until = serving
                .and_then(|w| w.ready_at)
                .map(|at| at + policy.ready_timeout);
            times.extend(until.filter(|until| *until > now));
            until.is_none_or(|until| until > now)
        });
        times
    }

    /// What a state says that knew nothing of slots.
    pub(super) fn await_all(&mut self) {
        if self.holders.is_empty() {
            self.awaited.insert(Slot(0));
        }
    }
}
