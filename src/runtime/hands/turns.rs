//! Who has time: whose event loop turns, and who is in the middle of something long.
//!
//! A worker is asked in its queue, and what it says of a connection is an answer as well. Who does not answer for [`SLOW`] is
//! slow: what waits for it, in its queue or at its seat, goes to others until it answers.

use std::{collections::BTreeSet, os::fd::OwnedFd, sync::Arc};

use tokio::time::Instant;

use super::{SLOW, queues::Said};
use crate::runtime::{effects::World, listeners::GroupId};
use rcluster_core::supervisor::WorkerId;

impl World {
    /// Whether a worker gets a connection only right after it has said that it turns. Where the kernel gives to all there is no
    /// haste for what is moved, and the next one to turn is the best; where all pass through us, the question would cost a
    /// connection more than it saves.
    pub(super) fn is_asked_first(&self, id: WorkerId) -> bool {
        self.balancer.is_spread() && self.links.get(&id).is_some_and(|link| link.has_queues)
    }

    /// Whether it helps to ask a worker.
    pub(super) fn may_be_asked(&self, id: WorkerId) -> bool {
        let load = self.hands.load_of(id);
        self.is_asked_first(id) && load.asked.is_none() && load.untaken == 0
    }

    /// Asks all who have a server there and may have time. Returns whether an answer will come.
    pub(super) fn ask_all(&mut self, group: GroupId) -> bool {
        let takers = self.takers(group).into_iter();
        let asked: Vec<_> = takers.map(|(id, _, _)| id).collect();
        let mut awaited = false;
        for id in asked {
            if self.may_be_asked(id) {
                self.ask(id, group);
            }
            awaited |= self.hands.load_of(id).asked.is_some();
        }
        awaited
    }

    /// Asks a worker whether it turns, unless it is asked already.
    pub(in crate::runtime) fn ask(&mut self, id: WorkerId, group: GroupId) {
        let holder = (self.listeners.holders(group)).find(|(holder, _, _)| *holder == id);
        let Some(key) = holder.map(|(_, _, key)| key.to_owned()) else {
            return;
        };
        let asked = self.hands.load_of(id).asked.is_some();
        if !asked && self.queue_to((id, group), &key) && self.hands.queues.ping((id, group)) {
            let load = self.hands.loads.entry(id).or_default();
            load.asked = Some(Instant::now());
        }
    }

    /// Whether a worker is known not to turn.
    pub(in crate::runtime) fn is_slow(&self, id: WorkerId) -> bool {
        self.hands.load_of(id).slow.is_some()
    }

    /// Whether no answer of a worker is awaited.
    pub(in crate::runtime) fn has_answered(&self, id: WorkerId) -> bool {
        let load = self.hands.load_of(id);
        load.asked.is_none() && load.untaken == 0
    }

    /// Who has not answered, or not taken what it was given, for too long is slow: what it has not seen goes to others.
    /// If nobody is `idle`, nobody who only has not answered is slow: there is nobody to go to. Returns whether one has
    /// become slow.
    pub(in crate::runtime) fn relieve_hands(&mut self, idle: bool) -> bool {
        let given = self.hands.given.values();
        let given = given.filter(|(_, connection)| connection.given.elapsed() >= SLOW);
        let mut late: BTreeSet<WorkerId> = given.map(|(id, _)| *id).collect();
        let silent = self.hands.loads.iter().filter(|_| idle);
        let silent = silent.filter(|(_, load)| load.asked.is_some_and(|at| at.elapsed() >= SLOW));
        late.extend(silent.map(|(id, _)| *id));
        let idle = |id: &WorkerId| self.hands.load_of(*id).untaken == 0;
        let somebody = self.balancer.fit.iter().any(idle);
        let mut slower = false;
        for id in late {
            let Some(link) = self.links.get(&id) else {
                continue;
            };
            if link.has_queues {
                slower |= !self.is_slow(id);
                self.take_back(id);
            } else if somebody && self.hands.load_of(id).untaken > 1 {
                let theirs = self.hands.given.values().filter(|(to, _)| *to == id);
                link.withdraw(theirs.map(|(_, c)| Arc::clone(&c.socket)).collect());
            }
        }
        self.give_back();
        slower
    }

    /// Takes all that waits in a worker's queues; it gets no more until it says that it turns.
    fn take_back(&mut self, id: WorkerId) {
        let (seqs, asked) = self.hands.queues.take_back(id);
        let load = self.hands.loads.entry(id).or_default();
        if asked {
            load.asked.get_or_insert_with(Instant::now);
            load.slow.get_or_insert_with(Instant::now);
        }
        for seq in seqs {
            // It is what we put there.
            let Some((_, connection)) = self.hands.given.remove(&seq) else {
                continue;
            };
            if let Some(load) = self.hands.loads.get_mut(&id) {
                load.untaken = load.untaken.saturating_sub(1);
                load.given = load.given.saturating_sub(1);
            }
            self.hands.came_back(connection);
        }
    }

    /// A worker cannot take a handle, of whatever kind: a connection goes to somebody else.
    pub(in crate::runtime) fn undeliverable(&mut self, id: WorkerId, handle: &Arc<OwnedFd>) {
        let mut given = self.hands.given.iter();
        let seq = given.find(|(_, (to, c))| *to == id && Arc::ptr_eq(&c.socket, handle));
        if let Some(seq) = seq.map(|(seq, _)| *seq) {
            self.settle(id, seq, false);
            self.give_back();
        }
    }

    /// Workers said something in their queues.
    pub(in crate::runtime) fn hear_hands(&mut self) {
        self.hear_queues();
        self.give_back();
        if self.has_a_hand() {
            self.welcome();
        }
    }

    pub(super) fn hear_queues(&mut self) {
        let mut turn = false;
        for (id, said) in self.hands.queues.heard() {
            let load = self.hands.loads.entry(id).or_default();
            turn |= load.slow.take().is_some();
            load.asked = None;
            load.turned = Some(Instant::now());
            match said {
                Said::Connection { seq, took } => self.settle(id, seq, took),
                Said::Turns => self.hands.turned(id),
            }
        }
        if turn {
            self.follow_turns();
        }
    }
}
