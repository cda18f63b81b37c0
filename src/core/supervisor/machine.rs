//! The state machine: `step` takes one event and returns the orders.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    action::{Action, Gate, Report, StopSignal},
    backoff::{Backoff, SpawnBudget},
    event::{Event, Fact, Urgency},
    fleet::Fleet,
    incident::{Incidents, Kind},
    policy::{Policy, Terms},
    reload::{Pending, Reload, Settling, Stage},
    time::Time,
    worker::{Generation, Slot, State, Worker, WorkerId},
};
use crate::exit_code::ExitCode;

/// Where the master as a whole is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// No worker has been ready yet; a failure ends the master.
    FirstBoot,
    /// One worker boots behind the gate, to see whether it gets ready.
    Checking,
    /// At least one worker has been ready once; it never gives up again.
    Serving,
    /// On the way out.
    Stopping(Urgency),
    /// `Action::Exit` has been given.
    Over,
}

/// What is kept of a slot while its workers come and go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seat {
    pub(super) backoff: Backoff,
    /// Workers replaced because they died or were at fault.
    pub(super) restarts: u64,
    /// The newest generation that was spawned here: a reload's plan has one worker
    /// for each slot, and whatever follows is a restart. A stand-in of the old
    /// code in between is no reason to plan another.
    pub(super) spawned: Option<Generation>,
    /// What went wrong here, over all workers.
    pub(super) troubles: BTreeMap<Kind, u64>,
}

impl Seat {
    pub(super) fn occupied_by(&mut self, generation: Generation) {
        self.spawned = self.spawned.max(Some(generation));
    }
}

/// Decides. All fields are plain data; see the module documentation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supervisor {
    pub(super) policy: Policy,
    /// Workers that the configuration asks for; `policy` has what is wanted now.
    pub(super) configured: u32,
    pub(super) phase: Phase,
    pub(super) fleet: Fleet,
    pub(super) seats: Vec<Seat>,
    pub(super) committed: Generation,
    pub(super) previous: Option<Generation>,
    /// What the previous generation ran with.
    #[serde(default)]
    pub(super) previous_policy: Option<Box<Policy>>,
    pub(super) newest: Generation,
    pub(super) reload: Option<Reload>,
    pub(super) pending: Option<Pending>,
    pub(super) settling: Vec<Settling>,
    pub(super) budget: SpawnBudget,
    pub(super) verdict: Option<(ExitCode, String)>,
    pub(super) boot_error: Option<(ExitCode, String)>,
    /// A reload ended since generations were last retired.
    pub(super) retire_due: bool,
    pub(super) killed: u64,
    pub(super) drained_total: u64,
    pub(super) cut_total: u64,
    pub(super) reloads_done: u64,
    pub(super) reloads_failed: u64,
    pub(super) last_reload_error: Option<String>,
    pub(super) incidents: Incidents,
    /// What workers of a generation have listened on; of the generations that are still of use.
    #[serde(default)]
    pub(super) served: BTreeMap<Generation, BTreeSet<String>>,
    /// No workers are wanted for now.
    pub(super) parked: bool,
    /// When all workers are measured next.
    pub(super) measure_at: Time,
    /// When a worker was last recycled, or all were by a reload.
    pub(super) recycled_at: Option<Time>,
    next_id: u64,
    rng: u64,
    pub(super) now: Time,
    #[serde(skip)]
    pub(super) out: Vec<Action>,
}

impl Supervisor {
    /// A supervisor before its first step. `seed` drives the jitter.
    pub fn new(policy: Policy, seed: u64) -> Self {
        let seats = vec![Seat::default(); policy.workers as usize];
        let budget = SpawnBudget::new(policy.workers);
        Self {
            configured: policy.workers,
            policy,
            phase: Phase::FirstBoot,
            fleet: Fleet::default(),
            seats,
            committed: Generation(1),
            previous: None,
            previous_policy: None,
            newest: Generation(1),
            reload: None,
            pending: None,
            settling: vec![],
            budget,
            verdict: None,
            boot_error: None,
            retire_due: false,
            killed: 0,
            drained_total: 0,
            cut_total: 0,
            reloads_done: 0,
            reloads_failed: 0,
            last_reload_error: None,
            incidents: Incidents::default(),
            served: BTreeMap::new(),
            parked: false,
            measure_at: Time::default(),
            recycled_at: None,
            next_id: 1,
            rng: seed,
            now: Time::default(),
            out: vec![],
        }
    }

    /// Takes one event at `now` and returns the orders, in the order in which
    /// they must be carried out. Never fails; an event about a worker that is
    /// gone changes nothing.
    pub fn step(&mut self, now: Time, event: Event) -> Vec<Action> {
        // Most events are beats, and nothing follows from most beats.
        let idle = if let Event::Worker {
            id,
            fact: Fact::Beat(_),
        } = &event
        {
            !self.beat_matters(*id) && self.deadline().is_none_or(|due| due > now)
        } else {
            false
        };
        self.now = self.now.max(now);
        self.apply(event);
        if idle && self.fleet.iter().all(|w| self.is_spent(w).is_none()) {
            return std::mem::take(&mut self.out);
        }
        // One pass may make room for the next; a pass without progress is the end.
        loop {
            let before = self.progress();
            self.reconcile();
            if self.progress() == before {
                break;
            }
        }
        std::mem::take(&mut self.out)
    }

    /// Changes with every pass that did something: orders, and moves of the
    /// target that order nothing by themselves.
    fn progress(&self) -> (usize, Phase, Option<(Generation, Stage)>) {
        let reload = self.reload.as_ref().map(|r| (r.generation, r.stage));
        (self.out.len(), self.phase, reload)
    }

    /// The operator's wishes as they are in force.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The generation whose code serves.
    pub fn generation(&self) -> Generation {
        self.committed
    }

    /// Whether a worker of an older generation is still there.
    pub fn has_older_than(&self, generation: Generation) -> bool {
        self.fleet.iter().any(|w| w.generation < generation)
    }

    /// One worker, if it was ordered and not yet reaped.
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.fleet.worker(id)
    }

    /// All workers that were ordered and not yet reaped, by id.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.fleet.iter()
    }

    /// The workers of a slot, whatever they do, a drain too: what is counted for the slot must not fall. No spares.
    pub fn of_slot(&self, slot: Slot) -> Vec<WorkerId> {
        let all = self.fleet.of(slot).filter(|w| !w.spare);
        all.map(|w| w.id).collect()
    }

    /// The worker that serves in a slot, if nobody wants it replaced already.
    pub fn serving(&self, slot: Slot) -> Option<WorkerId> {
        self.fleet
            .seated(slot)
            .find(|w| w.is_ready() && w.is_sound() && !w.spare)
            .map(|w| w.id)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.policy.workers).map(Slot)
    }

    pub(super) fn seat(&mut self, slot: Slot) -> &mut Seat {
        let index = slot.0 as usize;
        if self.seats.len() <= index {
            self.seats.resize(index + 1, Seat::default());
        }
        &mut self.seats[index]
    }

    pub(super) fn jitter(&mut self) -> u8 {
        // splitmix64: small, and its whole state is one serialisable number.
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 56) as u8
    }

    /// What a worker was started with.
    pub fn terms(&self, worker: &Worker) -> Terms {
        worker.terms.unwrap_or_else(|| self.policy.terms())
    }

    /// By which times a worker leaves. A reload that changes them takes from nobody what it was told; a stop takes the
    /// times that are configured now.
    pub fn way_out(&self, worker: &Worker) -> Policy {
        let mut policy = self.policy.clone();
        if !self.is_stopping() {
            let terms = self.terms(worker);
            policy.drain_timeout = policy.drain_timeout.max(terms.drain_timeout);
            policy.kill_timeout = policy.kill_timeout.max(terms.kill_timeout);
        }
        policy
    }

    pub(super) fn spawn(&mut self, slot: Slot, generation: Generation, gate: Gate) {
        let id = WorkerId(self.next_id);
        self.next_id += 1;
        let boot = self.policy.ready_timeout;
        let mut worker = Worker::new(id, slot, generation, gate, self.now, boot);
        worker.jitter = self.jitter();
        worker.terms = Some(self.policy_of(generation).terms());
        worker.spare = slot.0 >= self.policy.workers;
        self.fleet.insert(worker);
        self.begin_served(generation);
        self.seat(slot).occupied_by(generation);
        self.out.push(Action::Spawn {
            id,
            slot,
            generation,
            gate,
        });
    }

    /// Moves a worker to the right. The one place where states change.
    pub(super) fn enter(
        &mut self,
        id: WorkerId,
        to: State,
        limit: Option<Duration>,
        reason: impl Into<String>,
    ) {
        let now = self.now;
        let of_reload = self.fleet.worker(id).and_then(|w| self.reload_of(w));
        let Some(worker) = self.fleet.worker_mut(id) else {
            return;
        };
        debug_assert!(worker.state < to, "{} -> {to}", worker.state);
        let from = std::mem::replace(&mut worker.state, to);
        let before = std::mem::replace(&mut worker.deadline, limit.map(|limit| now + limit));
        match to {
            State::Held => {
                worker.held_at.get_or_insert(now);
            }
            State::Ready => {
                worker.ready_at = Some(now);
                worker.refused = None;
                // What else it has to open has the same time, and a moment at least.
                worker.complete_by = before.map(|by| by.max(now + Policy::KEY_GRACE));
            }
            State::Starting | State::Booting | State::Draining => {}
            State::Stopping | State::Killing => worker.listening.clear(),
        }
        let report = Report::Moved {
            id,
            slot: worker.slot,
            pid: worker.pid,
            generation: worker.generation,
            from,
            to,
            reason: reason.into(),
            of_reload,
        };
        let (started, stopping) = (worker.pid.is_some(), worker.stopping);
        self.out.push(Action::Report(report));
        match to {
            State::Draining => self.out.push(Action::Drain { id }),
            State::Stopping if started && !stopping => self.signal(id, StopSignal::Stop),
            State::Killing if started => self.force(id),
            State::Starting
            | State::Booting
            | State::Held
            | State::Ready
            | State::Stopping
            | State::Killing => {}
        }
    }

    pub(super) fn signal(&mut self, id: WorkerId, signal: StopSignal) {
        self.out.push(Action::Signal { id, signal });
    }

    /// The first SIGKILL; those that are repeated do not count.
    pub(super) fn force(&mut self, id: WorkerId) {
        self.killed += 1;
        self.signal(id, StopSignal::Kill);
    }

    /// The generation whose reload brings or replaces a worker, if one does. Not the reload that goes on now: by the time
    /// of a drain the next one may have begun.
    pub(super) fn reload_of(&self, worker: &Worker) -> Option<Generation> {
        let own = Some(worker.generation).filter(|own| *own > self.committed);
        worker.replaced_by.or(own)
    }

    /// Asks a worker to leave, by the gentlest way that its state allows.
    pub(super) fn retire(&mut self, id: WorkerId, reason: &str) {
        let (committed, stopping) = (self.committed, self.is_stopping());
        let Some(worker) = self.fleet.worker_mut(id) else {
            return;
        };
        if worker.generation < committed && !stopping {
            worker.replaced_by.get_or_insert(committed);
        }
        let Some(worker) = self.fleet.worker(id) else {
            return;
        };
        match worker.state {
            // It hears nothing. What it was asked by a look into it is worth a moment.
            State::Ready if worker.hung && self.phase == Phase::Serving => {
                if !self.is_examined(worker) {
                    self.kill(id, reason);
                }
            }
            State::Ready if worker.channel_open => self.drain(id, reason),
            State::Starting | State::Booting | State::Held | State::Ready => self.halt(id, reason),
            State::Draining | State::Stopping | State::Killing => {}
        }
    }

    /// Begins a drain. With a shim the worker closes what it cuts after the drain timeout, not before.
    pub(super) fn drain(&mut self, id: WorkerId, reason: &str) {
        let Some(policy) = self.fleet.worker(id).map(|w| self.way_out(w)) else {
            return;
        };
        let (limit, closing) = (policy.drain_timeout, policy.closing());
        let due = self.now + limit;
        let Some(worker) = self.fleet.worker_mut(id) else {
            return;
        };
        worker.drain_due = Some(due);
        let closing = worker.heard.map_or(Duration::ZERO, |_| closing);
        self.enter(id, State::Draining, Some(limit + closing), reason);
    }

    /// Sends the stop signal, unless the worker has had it. The kill timeout counts from here, or from the drain timeout.
    pub(super) fn halt(&mut self, id: WorkerId, reason: &str) {
        let now = self.now;
        let Some(worker) = self.fleet.worker(id) else {
            return;
        };
        let (due, policy) = (worker.drain_due, self.way_out(worker));
        let spent = due.map_or(Duration::ZERO, |due| now.since(due));
        let limit = policy.kill_timeout.saturating_sub(spent);
        self.enter(id, State::Stopping, Some(limit), reason);
    }

    /// Sends SIGKILL.
    pub(super) fn kill(&mut self, id: WorkerId, reason: &str) {
        self.enter(id, State::Killing, Some(Policy::KILL_REPEAT), reason);
    }

    /// When `step` must be called again if no event comes before.
    pub fn deadline(&self) -> Option<Time> {
        let workers = self.fleet.iter().filter_map(|w| w.deadline);
        let phase = match self.phase {
            Phase::Serving => self.serving_deadlines(),
            Phase::Checking => self.checking_deadlines(),
            Phase::FirstBoot => self.watch_deadlines(),
            Phase::Stopping(_) | Phase::Over => vec![],
        };
        // What was due has been done in the last step; what it could not do
        // waits for an event, not for the clock.
        workers.chain(phase).filter(|t| *t > self.now).min()
    }
}
