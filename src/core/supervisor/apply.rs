//! Applying an event: notes the fact and its direct consequences.
//! What follows from the new whole is `reconcile`'s.

use super::{
    action::{Action, Gate, Report, StopSignal},
    backoff::Death,
    event::{Event, Exit, Fact, Urgency},
    incident::Kind,
    machine::{Phase, Supervisor},
    policy::{Policy, Readiness},
    worker::{Pid, State, WorkerId},
};
use crate::exit_code::ExitCode;

impl Supervisor {
    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::Tick => {}
            Event::Resumed => self.resumed(),
            Event::Spawned { id, pid } => self.spawned(id, pid),
            Event::SpawnFailed { id, reason } => self.spawn_failed(id, &reason),
            Event::Worker { id, fact } => self.fact(id, fact),
            Event::Exited { id, exit } => self.exited(id, exit),
            Event::Reload { ticket, may_drop } => self.ask_reload(ticket, false, may_drop),
            Event::Rollback { ticket, may_drop } => self.ask_reload(ticket, true, may_drop),
            Event::Prepared { generation } => self.prepared(generation),
            Event::Configured { generation, policy } => self.configured(generation, &policy),
            Event::PrepareFailed { generation, reason } => {
                if self
                    .reload
                    .as_ref()
                    .is_some_and(|r| r.generation == generation)
                {
                    self.fail_reload(&reason);
                }
            }
            Event::Stop(urgency) => self.ask_stop(urgency),
            Event::Scale(scale) => self.ask_scale(scale),
            Event::Park => self.ask_park(),
            Event::Restart { slot, reason } => self.ask_restart(slot, &reason),
        }
    }

    fn spawned(&mut self, id: WorkerId, pid: Pid) {
        let Some(worker) = self.fleet.worker_mut(id).filter(|w| w.pid.is_none()) else {
            return;
        };
        worker.pid = Some(pid);
        match worker.state {
            State::Starting => {
                // The ready timeout runs from the order on.
                let deadline = worker.deadline;
                self.enter(id, State::Booting, None, "process started");
                if let Some(worker) = self.fleet.worker_mut(id) {
                    worker.deadline = deadline;
                }
                self.catch_up(id);
            }
            State::Stopping => self.signal(id, StopSignal::Stop),
            State::Killing => self.force(id),
            State::Booting | State::Held | State::Ready | State::Draining => {}
        }
    }

    /// What it said before its start was told.
    fn catch_up(&mut self, id: WorkerId) {
        let Some(worker) = self.fleet.worker(id) else {
            return;
        };
        if worker.readiness_seen {
            self.is_ready(id, "was ready before its start was told");
        } else if worker.held_at.is_some() && worker.gate == Gate::Closed {
            self.enter(id, State::Held, None, "asks for its listener");
        }
    }

    fn spawn_failed(&mut self, id: WorkerId, reason: &str) {
        let Some(mut worker) = self.fleet.remove(id) else {
            return;
        };
        let of_reload = self.reload_of(&worker);
        worker.last_error = Some(reason.to_owned());
        if worker.is_seated() {
            self.note(&worker, Kind::NotStarted, reason);
        }
        let retry_ms = worker
            .is_seated()
            .then(|| self.lost_seat(&worker, reason, Death::Own))
            .flatten();
        self.out.push(Action::Report(Report::Ended {
            id,
            slot: worker.slot,
            pid: None,
            generation: worker.generation,
            exit: None,
            unexpected: true,
            detail: Some(reason.to_owned()),
            retry_ms,
            of_reload,
        }));
    }

    fn exited(&mut self, id: WorkerId, exit: Exit) {
        let Some(mut worker) = self.fleet.remove(id) else {
            return;
        };
        let unexpected = worker.is_seated();
        let of_reload = self.reload_of(&worker);
        worker.last_error = worker.error(self.now).cloned();
        let why = Self::why(&worker, exit);
        // One that had to be ended in the middle of its drain cannot tell any more what that cut.
        let cut = worker.drained.unwrap_or(worker.left);
        let told = worker.drained.map_or(worker.left, |_| 0);
        self.cut_total = self.cut_total.saturating_add(told);
        // Without a shim an end is the only sign that a drain is over.
        let undrained = worker.state == State::Draining
            && worker.drained.is_none()
            && (exit != Exit::Code(0) || cut > 0);
        if undrained {
            let reason = format!("died in its drain: {why}; {cut} connections cut");
            self.note(&worker, Kind::Undrained, &reason);
        }
        if unexpected && worker.condemned.is_none() {
            let kind = match exit {
                _ if worker.leaving => Kind::Left,
                Exit::Signal { signal: 9, .. } => Kind::Killed,
                Exit::Code(_) | Exit::Signal { .. } => Kind::Crashed,
            };
            self.note(&worker, kind, &why);
        }
        self.note_exit(&worker, exit);
        if unexpected && worker.last_error.is_none() && exit.is_kill() {
            worker.last_error = Some(why.clone());
        }
        let outside = exit.is_kill() && worker.oom_kills.is_none() && worker.condemned.is_none();
        let death = if outside { Death::Outside } else { Death::Own };
        let retry_ms = unexpected
            .then(|| {
                let why = worker
                    .last_error
                    .as_ref()
                    .filter(|e| **e != why)
                    .map_or_else(|| why.clone(), |e| format!("{exit}: {e}"));
                self.lost_seat(&worker, &why, death)
            })
            .flatten();
        let lost = (cut > 0 || undrained).then(|| format!("{cut} connections cut"));
        let detail = match (worker.last_error, lost) {
            (Some(error), Some(lost)) if undrained => Some(format!("{lost}: {error}")),
            (error, lost) => error.or(lost),
        };
        self.out.push(Action::Report(Report::Ended {
            id,
            slot: worker.slot,
            pid: worker.pid,
            generation: worker.generation,
            exit: Some(exit),
            unexpected: unexpected || undrained,
            detail,
            retry_ms,
            of_reload,
        }));
    }

    /// How a worker ended, in words: SIGKILL that we did not send has one usual cause.
    fn why(worker: &super::Worker, exit: Exit) -> String {
        match (exit.is_kill(), worker.oom_kills) {
            (true, Some(kills)) => {
                format!("{exit}: out of memory (the cgroup's oom_kill counter rose by {kills})")
            }
            (true, None) if worker.state < State::Killing => {
                format!("{exit}, which the master did not send: perhaps out of memory")
            }
            (false, _) if exit == Exit::Code(0) && worker.state < State::Ready => format!(
                "{exit} before it was ready: the app had nothing left to do (code under cluster.isPrimary never runs here), or called process.exit() or process.disconnect()"
            ),
            (true, None) | (false, _) => exit.to_string(),
        }
    }

    /// A seat became empty without the master's doing. Returns the milliseconds
    /// until it is filled again, where that is decided by the backoff.
    fn lost_seat(&mut self, worker: &super::Worker, why: &str, death: Death) -> Option<u64> {
        if self.is_first_boot() {
            // The first cause is the one worth telling; a failed bind beats what it led to.
            self.boot_error.get_or_insert_with(|| {
                (
                    ExitCode::BootFailed,
                    format!("worker of slot {} ended: {why}", worker.slot),
                )
            });
            return None;
        }
        if self
            .reload
            .as_ref()
            .is_some_and(|r| r.generation == worker.generation)
        {
            self.fail_reload(&format!("worker of slot {} ended: {why}", worker.slot));
            return None;
        }
        let jitter = self.jitter();
        let (now, ready_for) = (self.now, worker.ready_for(self.now));
        let seat = self.seat(worker.slot);
        seat.restarts += 1;
        let delay = seat.backoff.died(now, ready_for, death, jitter);
        Some(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
    }

    /// As `lost_seat`, for a worker whose process still lives.
    pub(super) fn forfeit(&mut self, id: WorkerId, why: &str) {
        if let Some(worker) = self.fleet.worker(id).cloned() {
            self.lost_seat(&worker, why, Death::Own);
        }
    }

    fn fact(&mut self, id: WorkerId, fact: Fact) {
        let policy = self.policy.readiness;
        let Some(worker) = self.fleet.worker_mut(id) else {
            return;
        };
        let readiness = worker.terms.map_or(policy, |terms| terms.readiness);
        match fact {
            Fact::Online => {
                if readiness == Readiness::Online {
                    self.is_ready(id, "node is online");
                }
            }
            Fact::AtGate => {
                if worker.gate == Gate::Closed {
                    match worker.state {
                        State::Starting => worker.held_at = Some(self.now),
                        State::Booting => {
                            self.enter(id, State::Held, None, "asks for its listener");
                        }
                        State::Held
                        | State::Ready
                        | State::Draining
                        | State::Stopping
                        | State::Killing => {}
                    }
                }
            }
            Fact::Listening(what) => self.listens(id, what),
            Fact::Closed(address) => self.closes(id, &address),
            Fact::SaidReady => {
                if readiness == Readiness::Message {
                    self.is_ready(id, "the app said ready");
                }
            }
            Fact::Left(connections) => {
                if worker.state == State::Draining && worker.drained.is_none() {
                    worker.left = connections;
                }
            }
            Fact::Drained { cut, stopping } => {
                if worker.state == State::Draining && worker.drained.is_none() {
                    worker.drained = Some(cut);
                    worker.stopping = stopping;
                    worker.listening.clear();
                    // Never later than the drain timeout would have ended it.
                    let linger = self.now + Policy::LINGER;
                    worker.deadline = Some(worker.deadline.map_or(linger, |d| d.min(linger)));
                    self.drained_total += 1;
                    self.cut_total = self.cut_total.saturating_add(cut);
                    if stopping {
                        self.halt(id, "drained; the app's handlers of the stop signal run");
                    }
                }
            }
            Fact::Leaving => worker.leaving = true,
            Fact::ChannelClosed => self.channel_closed(id),
            Fact::Failed(error) => worker.last_error = Some(error),
            Fact::BindFailed(reason) => {
                let generation = worker.generation;
                worker.refused = Some((self.now, reason.clone()));
                if self.is_first_boot() {
                    self.boot_error = Some((ExitCode::BindFailed, reason));
                } else if self
                    .reload
                    .as_ref()
                    .is_some_and(|r| r.generation == generation)
                {
                    self.fail_reload(&reason);
                }
            }
            Fact::Misbehaves(reason) => self.condemn(id, Kind::Misbehaved, &reason),
            Fact::Hello => {
                worker.heard = Some(self.now);
                worker.doubted = None;
            }
            Fact::Beat(beat) => self.beat(id, beat),
            Fact::Measured(usage) => self.measured(id, usage),
            Fact::Probed(answer) => self.probed(id, answer),
            Fact::Idle => self.is_idle(id),
            Fact::Examined(finding) => self.examined(id, finding),
            Fact::OutOfMemory { kills } => worker.oom_kills = Some(kills),
        }
    }

    pub(super) fn is_ready(&mut self, id: WorkerId, reason: &str) {
        let Some(worker) = self.fleet.worker_mut(id) else {
            return;
        };
        worker.readiness_seen = true;
        let held = worker.gate == Gate::Closed;
        let state = worker.state;
        if !held && self.fleet.worker(id).is_some_and(|w| self.lacks_health(w)) {
            // `watch` asks it at once.
            return;
        }
        match state {
            // An app that says ready without ever asking for a listener waits at the gate too.
            State::Booting if held => self.enter(id, State::Held, None, reason),
            State::Booting => self.enter(id, State::Ready, None, reason),
            State::Held if !held => self.enter(id, State::Ready, None, reason),
            State::Starting
            | State::Held
            | State::Ready
            | State::Draining
            | State::Stopping
            | State::Killing => {}
        }
    }

    fn channel_closed(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.fleet.worker_mut(id) else {
            return;
        };
        worker.channel_open = false;
        let leaving = worker.leaving;
        match worker.state {
            State::Starting | State::Booting | State::Held if !leaving => {
                self.condemn(id, Kind::Left, "closed its channel while booting");
            }
            State::Starting | State::Booting | State::Held | State::Ready if leaving => {
                // It finishes by itself; its seat is free from now on.
                self.forfeit(id, "the app called worker.disconnect()");
                self.halt_later(id);
            }
            State::Starting | State::Booting | State::Held | State::Ready => {
                self.condemn(id, Kind::Left, "closed its channel but serves on");
            }
            State::Draining => {
                let linger = now + Policy::LINGER;
                worker.deadline = Some(worker.deadline.map_or(linger, |d| d.min(linger)));
            }
            State::Stopping | State::Killing => {}
        }
    }

    /// A worker that leaves by itself: it drains without being told.
    fn halt_later(&mut self, id: WorkerId) {
        self.drain(id, "the app called worker.disconnect()");
        // It drains already: the order would have no channel to go through.
        self.out
            .retain(|a| !matches!(a, Action::Drain { id: d } if *d == id));
    }

    /// To be replaced: behind a replacement where it serves, at once where it only boots.
    pub(super) fn condemn(&mut self, id: WorkerId, kind: Kind, reason: &str) {
        let Some(worker) = self.fleet.worker_mut(id) else {
            return;
        };
        if worker.condemned.is_some() || !worker.is_seated() {
            return;
        }
        worker.condemned = Some(reason.to_owned());
        worker.trouble = Some(kind);
        let (slot, ready, generation) = (worker.slot, worker.is_ready(), worker.generation);
        let hung = worker.hung;
        let of = worker.clone();
        let detail = match worker.error(self.now) {
            Some(error) => format!("{reason}: {error}"),
            None => reason.to_owned(),
        };
        self.out.push(Action::Report(Report::Condemned {
            id,
            slot,
            reason: detail.clone(),
        }));
        self.note(&of, kind, reason);
        let new = self
            .reload
            .as_ref()
            .is_some_and(|r| r.generation == generation);
        if !ready && !hung {
            self.forfeit(id, &detail);
            self.halt(id, reason);
        } else if !ready && !new {
            // It goes when it has been looked into.
        } else if kind.is_planned() {
            // Nobody's fault.
        } else if new {
            self.fail_reload(&format!("worker of slot {slot}: {detail}"));
        } else {
            self.seat(slot).restarts += 1;
        }
    }

    /// Deadlines that have passed.
    pub(super) fn expire(&mut self) {
        let now = self.now;
        for id in self.fleet.ids(|w| w.deadline.is_some_and(|d| d <= now)) {
            let Some(worker) = self.fleet.worker(id) else {
                continue;
            };
            match worker.state {
                State::Starting | State::Booting | State::Held => {
                    let reason = self.never_ready(worker);
                    if self.is_first_boot() {
                        self.boot_error
                            .get_or_insert((ExitCode::NeverReady, reason.clone()));
                    }
                    let starting = worker.state == State::Starting;
                    let of = worker.clone();
                    self.note(&of, Kind::NeverReady, &reason);
                    self.forfeit(id, &reason);
                    if starting {
                        self.kill(id, "did not start in time");
                    } else {
                        self.halt(id, &reason);
                    }
                }
                State::Ready => {}
                State::Draining => {
                    let reason = if worker.drained.is_some() || !worker.channel_open {
                        "drained, but lives on"
                    } else {
                        "drain timeout"
                    };
                    self.halt(id, reason);
                }
                State::Stopping => self.kill(id, "still there after the stop signal"),
                State::Killing => {
                    // Without a process there is nothing to kill yet; it gets its signal when it has one.
                    if worker.pid.is_some() {
                        self.signal(id, StopSignal::Kill);
                    }
                    if let Some(worker) = self.fleet.worker_mut(id) {
                        worker.deadline = Some(now + Policy::KILL_REPEAT);
                    }
                }
            }
        }
    }

    fn never_ready(&self, worker: &super::Worker) -> String {
        let what = match (self.terms(worker).readiness, &worker.instead_of) {
            _ if worker.readiness_seen && self.lacks_health(worker) => {
                "its health check was never answered well".to_owned()
            }
            (Readiness::Listening, Some(declared)) => {
                let listens: Vec<_> = worker.listening.iter().map(String::as_str).collect();
                let listens = listens.join(" and ");
                format!(
                    "it listens on {listens}, but --bind declares {declared} (the app's own configuration or PORT names another port)"
                )
            }
            (Readiness::Listening, None) => {
                "it never listened (an app without a server needs --ready online or --ready message)".to_owned()
            }
            (Readiness::Message, _) => "the app never called process.send('ready')".to_owned(),
            (Readiness::Online, _) => "node never came online".to_owned(),
        };
        let timeout = crate::names::duration(self.policy.ready_timeout);
        let error = worker.error(self.now).or(worker.pulse.complaint.as_ref());
        match error {
            Some(error) => format!("not ready after {timeout}: {what}; its last error: {error}"),
            None => format!("not ready after {timeout}: {what}"),
        }
    }

    fn ask_stop(&mut self, urgency: Urgency) {
        let urgency = match self.phase {
            Phase::Stopping(before) => before.max(urgency),
            Phase::FirstBoot | Phase::Checking | Phase::Serving => urgency,
            Phase::Over => return,
        };
        self.begin_stop(urgency);
    }
}
