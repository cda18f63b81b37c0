//! Watching serving workers: silence, health, listeners that went away.

use super::{
    action::{Action, Gate, Report},
    event::{Beat, Finding},
    incident::Kind,
    machine::Supervisor,
    policy::{Policy, Readiness},
    time::Time,
    worker::{State, Worker, WorkerId},
};

/// Which way a worker's silence is limited, if it is.
fn silence_limit(policy: &Policy, worker: &Worker) -> Option<std::time::Duration> {
    let terms = worker.terms.unwrap_or_else(|| policy.terms());
    let limit = match worker.state {
        State::Starting | State::Booting => terms.boot_hang_timeout,
        State::Held | State::Ready => terms.hang_timeout,
        // Their own deadline bounds them.
        State::Draining | State::Stopping | State::Killing => return None,
    };
    (!terms.hang_timeout.is_zero() && !limit.is_zero()).then_some(limit)
}

/// Its app is ready, and only its health is not yet known.
fn waits_for_pulse(worker: &Worker) -> bool {
    worker.readiness_seen
        && worker.gate == Gate::Open
        && matches!(worker.state, State::Booting | State::Held)
}

impl Supervisor {
    /// Whether somebody waits for what this worker's beat says: if not, a beat
    /// is only noted.
    pub(super) fn beat_matters(&self, id: WorkerId) -> bool {
        self.fleet.worker(id).is_none_or(|w| {
            w.doubted.is_some() || w.hung || w.heard.is_none() || self.is_spent(w).is_some()
        })
    }

    pub(super) fn beat(&mut self, id: WorkerId, beat: Beat) {
        let now = self.now;
        if let Some(worker) = self.fleet.worker_mut(id) {
            worker.heard = Some(now);
            worker.doubted = None;
            worker.mute = false;
            // It is condemned still, but it can drain.
            worker.hung = false;
            worker.beat = Some(beat);
            // So that what it carries is known soon, also of one whose boot takes long.
            let young = worker.ready_at.is_some_and(|at| now < at + Policy::MEASURE);
            if worker.is_booting() || (worker.is_ready() && young) {
                self.out.push(Action::Measure { id });
            }
        }
    }

    pub(super) fn watch(&mut self) {
        self.doubt();
        self.end_hung_boots();
        self.take_pulses();
        self.miss_listeners();
        self.measure();
    }

    /// Who has been silent for too long.
    fn doubt(&mut self) {
        let now = self.now;
        let silent = |w: &Worker| {
            w.condemned.is_none()
                && w.heard
                    .zip(silence_limit(&self.policy, w))
                    .is_some_and(|(heard, limit)| heard + limit <= now)
        };
        // The limit is another one since it is ready.
        for id in self.fleet.ids(|w| w.doubted.is_some() && !silent(w)) {
            if let Some(worker) = self.fleet.worker_mut(id) {
                worker.doubted = None;
            }
        }
        for id in self.fleet.ids(silent) {
            let Some(worker) = self.fleet.worker_mut(id) else {
                continue;
            };
            let Some(since) = worker.doubted else {
                worker.doubted = Some(now);
                self.out.push(Action::CheckIdle { id });
                continue;
            };
            if now < since + Policy::DOUBT {
                continue;
            }
            let silence = worker.heard.map_or_else(Default::default, |h| now.since(h));
            let never = if worker.beat.is_none() {
                ", and none since its start"
            } else {
                ""
            };
            worker.hung = true;
            worker.examined_by = Some(now + Policy::EXAMINATION + Policy::ANSWER_GRACE);
            self.out.push(Action::Examine { id });
            let seconds = silence.as_secs_f64();
            self.condemn(
                id,
                Kind::Hung,
                &format!("hung: no heartbeat for {seconds:.1} s{never}"),
            );
        }
    }

    /// A silent worker whose event loop waits for events is not hung: its heartbeat does not work. It is looked at again
    /// when the limit has passed once more.
    pub(super) fn is_idle(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.fleet.worker_mut(id) else {
            return;
        };
        if worker.doubted.take().is_none() {
            return;
        }
        let silent = worker.heard.map_or_else(Default::default, |h| now.since(h));
        worker.heard = Some(now);
        if !std::mem::replace(&mut worker.mute, true) {
            let (slot, before) = (worker.slot, worker.beat.is_some());
            self.out.push(Action::Report(Report::NoHeartbeat {
                id,
                slot,
                silent,
                before,
            }));
        }
    }

    /// Whether a look into a worker is still awaited.
    pub(super) fn is_examined(&self, worker: &Worker) -> bool {
        worker.examined_by.is_some_and(|by| self.now < by)
    }

    /// One that hangs in its boot serves nobody: it goes once it has been looked into.
    fn end_hung_boots(&mut self) {
        let over = |w: &Worker| w.hung && w.state < State::Ready && !self.is_examined(w);
        for id in self.fleet.ids(over) {
            let Some(worker) = self.fleet.worker(id) else {
                continue;
            };
            let reason = worker.condemned.clone().unwrap_or_default();
            self.forfeit(id, &reason);
            self.kill(id, &reason);
        }
    }

    pub(super) fn examined(&mut self, id: WorkerId, finding: Finding) {
        let Some(worker) = self.fleet.worker_mut(id) else {
            return;
        };
        if worker.examined_by.take().is_none() {
            return;
        }
        if finding == Finding::Stopped {
            worker.trouble = Some(Kind::Stopped);
            worker.condemned = Some("stopped (SIGSTOP or a debugger)".to_owned());
        }
        if finding == Finding::Idle {
            // It can drain.
            worker.hung = false;
        }
        let slot = worker.slot;
        self.note_finding(id, &finding);
        self.out
            .push(Action::Report(Report::Examined { id, slot, finding }));
    }

    /// Whether a worker's health is asked now and then.
    fn has_pulse(&self, worker: &Worker) -> bool {
        self.terms(worker).health.is_some()
            && worker.channel_open
            && worker.condemned.is_none()
            && (worker.is_ready() || waits_for_pulse(worker))
    }

    fn take_pulses(&mut self) {
        let now = self.now;
        let late = |w: &Worker| w.pulse.answer_by.is_some_and(|by| by <= now);
        for id in self.fleet.ids(late) {
            self.probed(id, Err("no answer in time".to_owned()));
        }
        let due =
            |w: &Worker| self.has_pulse(w) && w.pulse.answer_by.is_none() && w.pulse.due <= now;
        for id in self.fleet.ids(due) {
            let health = self.fleet.worker(id).and_then(|w| self.terms(w).health);
            if let (Some(health), Some(worker)) = (health, self.fleet.worker_mut(id)) {
                // The runtime gives up at the timeout by itself.
                worker.pulse.answer_by = Some(now + health.timeout + Policy::ANSWER_GRACE);
                self.out.push(Action::Probe { id });
            }
        }
    }

    pub(super) fn probed(&mut self, id: WorkerId, answer: Result<(), String>) {
        let health = self.fleet.worker(id).and_then(|w| self.terms(w).health);
        let Some(health) = health else {
            return;
        };
        let now = self.now;
        let Some(worker) = self.fleet.worker_mut(id) else {
            return;
        };
        if worker.pulse.answer_by.take().is_none() {
            return;
        }
        let pulse = &mut worker.pulse;
        let ready = worker.state == State::Ready;
        pulse.due = now
            + if ready || answer.is_ok() {
                health.interval
            } else {
                Policy::BOOT_PROBE.min(health.interval)
            };
        match answer {
            Ok(()) => {
                pulse.well = true;
                pulse.bad = 0;
                pulse.complaint = None;
                if waits_for_pulse(worker) {
                    self.is_ready(id, "its health check is answered well");
                }
            }
            Err(complaint) => {
                pulse.bad = pulse.bad.saturating_add(1);
                pulse.complaint = Some(complaint.clone());
                if ready && pulse.bad >= health.threshold {
                    let bad = pulse.bad;
                    let reason = format!("unhealthy: {complaint} ({bad} times in a row)");
                    self.condemn(id, Kind::Unhealthy, &reason);
                }
            }
        }
    }

    /// Questions that nobody will answer any more are asked again; no answer is nobody's fault.
    pub(super) fn resumed(&mut self) {
        self.recall_served();
        let asked = self.fleet.ids(|w| w.pulse.answer_by.is_some());
        for id in asked {
            if let Some(worker) = self.fleet.worker_mut(id) {
                worker.pulse.answer_by = None;
                worker.pulse.due = self.now;
            }
        }
        for id in self.fleet.ids(|w| w.doubted.is_some()) {
            if let Some(worker) = self.fleet.worker_mut(id) {
                worker.doubted = None;
            }
        }
        for id in self.fleet.ids(|w| w.examined_by.is_some()) {
            let why = "the master was replaced in place meanwhile".to_owned();
            self.examined(id, Finding::Unknown(why));
        }
    }

    /// Whether readiness still lacks a good answer to the health check.
    pub(super) fn lacks_health(&self, worker: &Worker) -> bool {
        self.terms(worker).health.is_some() && !worker.pulse.well
    }

    /// A worker that closed its only server does no work any more.
    fn miss_listeners(&mut self) {
        let now = self.now;
        let gone = |w: &Worker| {
            self.terms(w).readiness == Readiness::Listening
                && w.is_ready()
                && !w.leaving
                && w.condemned.is_none()
                && w.unheard.is_some_and(|at| at + Policy::UNHEARD <= now)
        };
        for id in self.fleet.ids(gone) {
            self.condemn(
                id,
                Kind::NotServing,
                "not serving: it closed its last server",
            );
        }
    }

    /// All at once, so that a quiet fleet wakes the master rarely.
    fn measure(&mut self) {
        if self.measure_at > self.now {
            return;
        }
        self.measure_at = self.now + Policy::MEASURE;
        for id in self.fleet.ids(Worker::is_ready) {
            self.out.push(Action::Measure { id });
        }
    }

    /// When a worker's silence, health or listeners are to be looked at again.
    pub(super) fn watch_deadlines(&self) -> Vec<Time> {
        let mut times = vec![self.measure_at];
        for worker in self.fleet.iter() {
            if worker.condemned.is_none() {
                if let Some((heard, limit)) = worker.heard.zip(silence_limit(&self.policy, worker))
                {
                    times.push(
                        worker
                            .doubted
                            .map_or(heard + limit, |at| at + Policy::DOUBT),
                    );
                }
                times.extend(worker.unheard.map(|at| at + Policy::UNHEARD));
            }
            times.extend(worker.examined_by);
            times.extend(worker.pulse.answer_by);
            if self.has_pulse(worker) {
                times.push(worker.pulse.due);
            }
        }
        times
    }
}
