//! Reconciling: compares what is wanted with what is, and orders the difference.

use super::{
    action::{Action, Gate},
    machine::{Phase, Supervisor},
    reload::Reload,
    time::Time,
    worker::{Generation, Slot, State, Worker},
};
use crate::exit_code::ExitCode;

impl Supervisor {
    pub(super) fn reconcile(&mut self) {
        self.expire();
        match self.phase {
            Phase::FirstBoot => {
                self.watch();
                self.first_boot();
            }
            Phase::Checking => self.check(),
            Phase::Serving => {
                self.watch();
                self.await_addresses();
                self.begin_pending_reload();
                self.advance_reload();
                self.recycle();
                self.fill();
                self.keep_spares();
                self.relieve();
                self.rest();
                self.cap_draining();
                self.settle();
                self.retire_generations();
            }
            Phase::Stopping(_) => self.wind_down(),
            Phase::Over => {}
        }
    }

    fn first_boot(&mut self) {
        for slot in self.slots() {
            // Where one failed, those that boot already show whether any gets ready.
            let may = self.boot_error.is_none() && self.may_boot(self.committed);
            if may && self.seat(slot).spawned.is_none() {
                self.spawn(slot, self.committed, Gate::Open);
            }
        }
        if self.fleet.any_ready() {
            self.phase = Phase::Serving;
            self.boot_error = None;
        } else if !self.fleet.any_seated() {
            self.give_up();
        }
    }

    /// Whether a failure to boot ends the master.
    pub(super) fn is_first_boot(&self) -> bool {
        matches!(self.phase, Phase::FirstBoot | Phase::Checking)
    }

    /// No worker got ready: the master ends with the first cause.
    pub(super) fn give_up(&mut self) {
        let verdict = self.boot_error.take().unwrap_or_else(|| {
            let reason = "every worker ended before one was ready".to_owned();
            (ExitCode::BootFailed, reason)
        });
        self.verdict = Some(verdict);
        self.begin_stop(super::Urgency::Graceful);
    }

    /// The generation that a slot should run.
    pub(super) fn goal(&self, slot: Slot) -> Generation {
        match &self.reload {
            Some(reload) if reload.admits(slot) => reload.generation,
            Some(_) | None => self.committed,
        }
    }

    /// When a ready worker has proven itself; `None` while it does not listen on what its predecessor serves.
    pub(super) fn proven_at(&self, worker: &Worker) -> Option<Time> {
        let ready_at = worker.ready_at?;
        // Time at the gate counts: an atomic switch must not wait once it has begun.
        let mut at = (worker.held_at.unwrap_or(ready_at) + self.policy.min_uptime).max(ready_at);
        if let Some(reload) = &self.reload
            && reload.generation == worker.generation
        {
            at = at + reload.bake_before_relief(&self.policy);
        }
        Some(at.max(self.complete_at(worker)?))
    }

    pub(super) fn is_proven(&self, worker: &Worker) -> bool {
        worker.is_ready() && self.proven_at(worker).is_some_and(|at| at <= self.now)
    }

    /// Slots whose serving worker waits for its successor.
    fn replacing(&self) -> usize {
        self.slots()
            .filter(|slot| {
                let goal = self.goal(*slot);
                self.fleet.sound(*slot, goal).is_some_and(|fresh| {
                    !self.is_proven(fresh)
                        && self
                            .fleet
                            .seated(*slot)
                            .any(|w| w.id != fresh.id && w.is_ready())
                })
            })
            .count()
    }

    /// Fills seats that have no sound worker of the wanted generation.
    fn fill(&mut self) {
        let surge = self.policy.surge.of(self.policy.workers) as usize;
        for slot in self.slots() {
            let goal = self.goal(slot);
            if self.parked && goal == self.committed {
                continue;
            }
            if self.fleet.sound(slot, goal).is_none() {
                let for_reload = goal != self.committed && self.seat(slot).spawned != Some(goal);
                let occupied = self.fleet.seated(slot).any(Worker::is_ready);
                let gate = match &self.reload {
                    Some(reload) if reload.generation == goal => reload.gate(),
                    Some(_) | None => Gate::Open,
                };
                if for_reload && self.has_room() && self.may_boot(goal) {
                    // The new code owes nothing for the old code's crashes.
                    self.spawn(slot, goal, gate);
                } else if !for_reload
                    && (!occupied || self.awaits_switch(slot) || self.replacing() < surge)
                    && !self.promote_into(slot, goal)
                {
                    // Of a new generation only where a slot went and came back meanwhile.
                    self.restart(slot, goal, gate);
                }
            }
            if self.lacks_stand_in(slot) && !self.promote_into(slot, self.committed) {
                self.restart(slot, self.committed, Gate::Open);
            }
        }
    }

    /// Spawns outside of a reload's plan: spaced by the slot's backoff, bounded by the budget and by those that boot. The
    /// first worker of a slot restarts nothing: it costs the budget nothing.
    pub(super) fn restart(&mut self, slot: Slot, generation: Generation, gate: Gate) -> bool {
        let due = self.seat(slot).backoff.not_before() <= self.now;
        let first = self.seat(slot).spawned.is_none();
        let may = due
            && self.has_room()
            && self.may_boot(generation)
            && (first || self.budget.take(self.now, self.policy.workers));
        if may {
            self.spawn(slot, generation, gate);
        }
        may
    }

    /// Whether one more worker of a generation may boot. Each generation has a bound of its own: old code that does not get
    /// ready must not hold up the code that repairs it. For one that a rolling reload brings the surge counts where it is larger. It
    /// is looked at again here: fewer workers may be wanted, and so a smaller surge, than when a slot was admitted.
    pub(super) fn may_boot(&self, generation: Generation) -> bool {
        let rolls = |r: &Reload| r.generation == generation && r.rolls();
        let surge = match &self.reload {
            Some(reload) if rolls(reload) => self.policy.surge.of(self.policy.workers),
            Some(_) | None => 0,
        };
        let boots = |w: &&Worker| w.generation == generation && w.is_booting();
        self.fleet.iter().filter(boots).count() < self.policy.boots.max(surge) as usize
    }

    fn has_room(&self) -> bool {
        self.fleet.len() < self.policy.process_cap()
    }

    /// While new workers are held at the gate nobody but the old generation
    /// serves: what dies of it is replaced, although its days are numbered.
    fn lacks_stand_in(&self, slot: Slot) -> bool {
        let committed = self.committed;
        self.awaits_switch(slot)
            && !self.parked
            && !self.fleet.seated(slot).any(|w| w.generation == committed)
    }

    /// A new worker waits at the gate here until all slots have one: its surge is the whole fleet.
    fn awaits_switch(&self, slot: Slot) -> bool {
        let reload = self.reload.as_ref();
        reload.is_some_and(|r| r.admits(slot) && r.awaits_switch())
    }

    /// Lets the others of a slot go once a worker of the wanted generation has proven itself.
    pub(super) fn relieve(&mut self) {
        self.send_home();
        for slot in self.slots() {
            let goal = self.goal(slot);
            if self
                .reload
                .as_ref()
                .is_some_and(|r| r.admits(slot) && r.holds_relief())
            {
                continue;
            }
            let Some(fresh) = self.fleet.sound(slot, goal).filter(|w| self.is_proven(w)) else {
                continue;
            };
            let (fresh, generation) = (fresh.id, fresh.generation);
            let reason = format!("replaced by worker {fresh}");
            let others = self.fleet.seated(slot).map(|w| w.id);
            let others: Vec<_> = others.filter(|id| *id != fresh).collect();
            for id in others {
                if let Some(old) = self
                    .fleet
                    .worker_mut(id)
                    .filter(|w| w.generation < generation)
                {
                    old.replaced_by.get_or_insert(generation);
                }
                self.retire(id, &reason);
            }
        }
        self.dismiss();
    }

    /// Lets go the workers that nobody wants: of generations that were given up,
    /// or condemned. Those that boot or are held must not come to serve; of
    /// those that do serve one a slot stands in until a successor has proven itself.
    fn send_home(&mut self) {
        let wanted = self.reload.as_ref().map(|r| r.generation);
        let committed = self.committed;
        let given_up =
            |w: &Worker| w.generation > committed && Some(w.generation) != wanted && w.is_seated();
        for id in self.fleet.ids(|w| given_up(w) && !w.is_ready()) {
            self.retire(id, "its generation was given up");
        }
        for slot in self.slots() {
            let unwanted = |w: &&Worker| w.is_ready() && (given_up(w) || w.condemned.is_some());
            let mut ready: Vec<_> = self.fleet.seated(slot).filter(unwanted).collect();
            // One that serves all that the others serve stays, the oldest that nobody has anything against, or else
            // the oldest of the code that is wanted here.
            let goal = self.goal(slot);
            let goes = |w: &Worker, stays: &Worker| w.hung || self.covers(stays, w);
            let short = |w: &Worker| !ready.iter().all(|other| goes(other, w));
            let rank = |w: &&Worker| {
                (
                    w.hung,
                    short(w),
                    w.condemned.is_some(),
                    w.generation != goal,
                    w.id,
                )
            };
            let Some(stays) = ready.iter().copied().min_by_key(rank) else {
                continue;
            };
            ready.retain(|w| w.id != stays.id && goes(w, stays));
            let others: Vec<_> = ready.iter().map(|w| w.id).collect();
            for id in others {
                self.retire(id, "is not wanted, and another stands in");
            }
        }
    }

    /// Bounds the workers that drain in the background: the oldest is cut.
    fn cap_draining(&mut self) {
        // Fewer wanted workers are no reason to cut those that leave.
        let cap = self.policy.draining_cap().max(self.seats.len() * 2);
        // Those that were cut before are on their way: they are no reason to cut another.
        let draining = self.fleet.ids(|w| w.state == State::Draining);
        let excess = draining.len().saturating_sub(cap);
        for id in draining.into_iter().take(excess) {
            self.halt(id, "too many workers drain at once; the oldest is cut");
        }
    }

    /// Forgets generations that nobody runs any more.
    fn retire_generations(&mut self) {
        let committed = self.committed;
        if self.reload.is_none()
            && self.retire_due
            && self.fleet.iter().all(|w| w.generation == committed)
        {
            self.retire_due = false;
            let keep: Vec<_> = self.previous.into_iter().chain([committed]).collect();
            self.served
                .retain(|generation, _| keep.contains(generation));
            self.out.push(Action::Retire { keep });
        }
    }

    pub(super) fn restart_at(&self, slot: Slot) -> Time {
        let seat = self.seats.get(slot.0 as usize);
        let due = seat.map_or(self.now, |s| s.backoff.not_before());
        due.max(self.budget.available_at(self.policy.workers))
    }

    /// When an empty slot may be filled: by a spare after its backoff, by a
    /// restart when the budget has one, too.
    fn filled_at(&self, slot: Slot) -> impl Iterator<Item = Time> + use<> {
        let seat = self.seats.get(slot.0 as usize);
        let spared = seat.filter(|_| self.policy.spares > 0);
        let spared = spared.map(|s| s.backoff.not_before());
        spared.into_iter().chain([self.restart_at(slot)])
    }

    /// Times at which reconciling may have something new to do while serving.
    pub(super) fn serving_deadlines(&self) -> Vec<Time> {
        let mut times = self.watch_deadlines();
        times.extend(self.recycle_deadlines());
        times.extend(self.spare_deadlines());
        times.extend(self.coverage_deadlines());
        for slot in self.slots() {
            let goal = self.goal(slot);
            match self.fleet.sound(slot, goal) {
                Some(worker) => times.extend(self.proven_at(worker)),
                None => times.extend(self.filled_at(slot)),
            }
            if self.lacks_stand_in(slot) {
                times.extend(self.filled_at(slot));
            }
        }
        times.extend(
            self.reload
                .iter()
                .flat_map(|r| r.deadlines(&self.policy, self.fleet.iter())),
        );
        times
    }
}
