//! A reload: a change of the target, and the conditions on the way to it.

mod state;

pub(super) use state::{Pending, Reload, Settling, Stage};

use super::{
    action::{Action, ReloadOutcome, Report},
    event::Ticket,
    machine::{Phase, Supervisor},
    policy::{Policy, Switch},
    worker::{Generation, Slot, State},
};

impl Supervisor {
    pub(super) fn ask_reload(
        &mut self,
        ticket: Option<Ticket>,
        rollback: bool,
        may_drop: Vec<String>,
    ) {
        match self.phase {
            Phase::FirstBoot | Phase::Checking | Phase::Serving => {}
            Phase::Stopping(_) | Phase::Over => {
                self.tell(
                    ticket.into_iter().collect(),
                    None,
                    superseded("the master is stopping"),
                );
                return;
            }
        }
        if rollback && self.previous.is_none() && self.reload.is_none() {
            let reason = "there is no previous release to go back to".to_owned();
            self.tell(
                ticket.into_iter().collect(),
                None,
                ReloadOutcome::Failed { reason },
            );
            return;
        }
        if rollback {
            // Going back must not wait for the reload that it is meant to undo.
            if let Some(reload) = self.reload.take() {
                self.restore_policy(&reload);
                let outcome = superseded("rolled back");
                self.retire_due = true;
                if let Some(pending) = self.pending.take() {
                    self.tell(pending.tickets, None, outcome.clone());
                }
                self.report_end(&reload, outcome.clone());
                self.tell(reload.tickets, Some(reload.generation), outcome);
                // Nothing of it is committed: giving it up is the way back, which
                // has been gone when none of its workers takes connections.
                self.settling.extend(ticket.map(|ticket| Settling {
                    generation: self.committed,
                    started: self.now,
                    tickets: vec![ticket],
                }));
                return;
            }
        }
        let pending = self.pending.get_or_insert(Pending {
            tickets: vec![],
            rollback,
            may_drop: vec![],
        });
        // The last word wins.
        pending.rollback = rollback;
        pending.tickets.extend(ticket);
        pending.may_drop.extend(may_drop);
    }

    pub(super) fn begin_pending_reload(&mut self) {
        if self.reload.is_some() {
            return;
        }
        let Some(pending) = self.pending.take() else {
            return;
        };
        self.newest = Generation(self.newest.0 + 1);
        let generation = self.newest;
        let from = if pending.rollback {
            self.previous
        } else {
            None
        };
        self.reload = Some(Reload {
            generation,
            stage: Stage::Preparing,
            started: self.now,
            switch: self.policy.switch,
            tickets: pending.tickets,
            admitted: 0,
            wakes: self.parked,
            restores: from.is_some(),
            brings_back: from,
            may_drop: pending.may_drop,
            before: None,
        });
        self.out
            .push(Action::Report(Report::ReloadStarted { generation }));
        self.out.push(Action::Prepare { generation, from });
    }

    /// Whether a reload waits for the release of this generation.
    pub fn awaits(&self, generation: Generation) -> bool {
        let waits = |r: &Reload| r.generation == generation && r.stage == Stage::Preparing;
        self.reload.as_ref().is_some_and(waits)
    }

    /// What workers of a generation are started with: until a reload is committed the old code keeps its own terms.
    pub(super) fn policy_of(&self, generation: Generation) -> &Policy {
        let reload = self.reload.as_ref().filter(|r| r.generation != generation);
        let before = reload.and_then(|reload| reload.before.as_ref());
        before.map_or(&self.policy, |(before, _)| before)
    }

    /// Going back is going back to what that generation ran with, but for the number of workers: its code may not know
    /// what the new options ask of it.
    fn restore_previous(&mut self, generation: Generation) {
        let restores = self
            .reload
            .as_ref()
            .is_some_and(|r| r.restores && r.before.is_none());
        if let Some(previous) = self.previous_policy.clone().filter(|_| restores) {
            let policy = Policy {
                workers: self.configured,
                ..*previous
            };
            self.configured(generation, &policy);
        }
    }

    pub(super) fn prepared(&mut self, generation: Generation) {
        self.restore_previous(generation);
        if let Some(reload) = &mut self.reload
            && reload.generation == generation
            && reload.stage == Stage::Preparing
        {
            reload.stage = Stage::Replacing;
        }
    }

    /// The configuration was read anew. The number of workers waits for the commit.
    pub(super) fn configured(&mut self, generation: Generation, policy: &Policy) {
        let Some(reload) = &mut self.reload else {
            return;
        };
        if reload.generation != generation || reload.stage != Stage::Preparing {
            return;
        }
        reload.switch = policy.switch;
        let wanted = policy.workers;
        let policy = Policy {
            workers: self.policy.workers,
            ..policy.clone()
        };
        let before = std::mem::replace(&mut self.policy, policy);
        reload.before = Some((Box::new(before), wanted));
    }

    /// A reload that came to nothing leaves the numbers as they were.
    fn restore_policy(&mut self, reload: &Reload) {
        if let Some((before, _)) = &reload.before {
            self.policy = Policy {
                workers: self.policy.workers,
                ..(**before).clone()
            };
        }
    }

    pub(super) fn advance_reload(&mut self) {
        let Some(reload) = &self.reload else {
            return;
        };
        match reload.stage {
            Stage::Preparing => {
                if reload.given_up_at() <= self.now {
                    self.fail_reload("its release was not read in time");
                }
            }
            Stage::Replacing if reload.switch == Switch::Rolling => self.roll(),
            Stage::Replacing => self.gather(),
            Stage::Switching => {
                let generation = reload.generation;
                let all = self.slots().all(|slot| {
                    let fresh = self.fleet.sound(slot, generation).filter(|w| w.is_ready());
                    let complete = fresh.and_then(|w| self.complete_at(w));
                    complete.is_some_and(|at| at <= self.now)
                });
                if all && !self.excess_serves(generation) {
                    // Held workers have shown that they boot, not yet that they serve.
                    let trial = self.policy.bake.max(self.policy.min_uptime);
                    self.set_stage(Stage::Baking(self.now + trial));
                }
            }
            Stage::Baking(until) => {
                let alone = !self.excess_serves(reload.generation);
                if until <= self.now && self.proven() >= self.policy.workers && alone {
                    self.commit();
                }
            }
        }
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(reload) = &mut self.reload {
            reload.stage = stage;
        }
    }

    /// Slot by slot: as many at a time as the surge allows.
    fn roll(&mut self) {
        let Some(reload) = &self.reload else {
            return;
        };
        let mut admitted = reload.admitted;
        let done = self.proven();
        let surge = self.policy.surge.of(self.policy.workers);
        if done >= self.policy.workers && !self.excess_serves(reload.generation) {
            self.commit();
            return;
        }
        admitted = (done + surge).min(self.policy.workers).max(admitted);
        if let Some(reload) = &mut self.reload {
            reload.admitted = admitted;
        }
    }

    /// Slots in which a worker of the new generation has proven itself.
    fn proven(&self) -> u32 {
        let Some(reload) = &self.reload else { return 0 };
        let proven = |slot: &u32| {
            self.fleet
                .sound(Slot(*slot), reload.generation)
                .is_some_and(|w| self.is_proven(w))
        };
        (0..reload.admitted).filter(proven).count() as u32
    }

    /// All at once: boot behind the gate, and open it when the last is there.
    fn gather(&mut self) {
        if let Some(reload) = &mut self.reload {
            reload.admitted = self.policy.workers;
        }
        let Some(reload) = &self.reload else {
            return;
        };
        let now = self.now;
        let all = self.slots().all(|slot| {
            self.fleet.sound(slot, reload.generation).is_some_and(|w| {
                w.state >= State::Held
                    && reload
                        .switchable_at(w, &self.policy)
                        .is_some_and(|at| at <= now)
            })
        });
        if !all {
            return;
        }
        let generation = reload.generation;
        let ready_timeout = self.policy.ready_timeout;
        self.set_stage(Stage::Switching);
        for id in self
            .fleet
            .ids(|w| w.generation == generation && w.state == State::Held && !w.spare)
        {
            if let Some(worker) = self.fleet.worker_mut(id) {
                worker.deadline = Some(now + ready_timeout);
            }
            self.open_gate(id, "the gate opened");
        }
    }

    /// The new generation is the one from now on.
    fn commit(&mut self) {
        // By the rules of the reload: it knows which addresses may be dropped.
        self.relieve();
        let Some(reload) = self.reload.take() else {
            return;
        };
        // Somebody may have scaled since: only what the configuration says anew counts.
        if let Some((_, wanted)) = &reload.before
            && let wanted = *wanted
            && wanted != self.configured
        {
            self.configured = wanted;
            self.policy.workers = wanted;
        }
        let previous = reload
            .before
            .map_or_else(|| self.policy.clone(), |(before, _)| *before);
        self.previous_policy = Some(Box::new(previous));
        self.previous = Some(self.committed);
        self.committed = reload.generation;
        self.parked &= !reload.wakes;
        // Nobody is replaced again at once.
        self.recycled_at = Some(self.now);
        self.retire_due = true;
        self.reloads_done += 1;
        self.last_reload_error = None;
        self.settling.push(Settling {
            generation: reload.generation,
            started: reload.started,
            tickets: reload.tickets,
        });
    }

    /// Tells those who wait, once the new generation alone takes connections.
    pub(super) fn settle(&mut self) {
        let committed = self.committed;
        // The next reload does not keep the answer to the last one.
        let next = self.reload.as_ref().map_or(committed, |r| r.generation);
        let accept = self.fleet.others_accept(|g| g == committed || g == next);
        let (settled, rest) = std::mem::take(&mut self.settling)
            .into_iter()
            .partition(|s| s.generation != committed || !accept);
        self.settling = rest;
        for Settling {
            generation,
            started,
            tickets,
        } in settled
        {
            let outcome = if generation == committed {
                ReloadOutcome::Done { generation }
            } else {
                superseded("a later reload replaced it")
            };
            let took_ms = self.now.0.saturating_sub(started.0);
            self.out.push(Action::Report(Report::ReloadEnded {
                generation,
                took_ms,
                outcome: outcome.clone(),
            }));
            self.tell(tickets, Some(generation), outcome);
        }
    }

    /// Gives the reload up. The target is the old generation again; `reconcile`
    /// does the rest.
    pub(super) fn fail_reload(&mut self, reason: &str) {
        let Some(reload) = self.reload.take() else {
            return;
        };
        self.restore_policy(&reload);
        self.retire_due = true;
        self.reloads_failed += 1;
        self.last_reload_error = Some(reason.to_owned());
        let outcome = ReloadOutcome::Failed {
            reason: reason.to_owned(),
        };
        self.report_end(&reload, outcome.clone());
        self.tell(reload.tickets, Some(reload.generation), outcome);
    }

    /// A stop ends every reload.
    pub(super) fn abandon_reloads(&mut self) {
        let outcome = superseded("the master is stopping");
        if let Some(reload) = self.reload.take() {
            self.report_end(&reload, outcome.clone());
            self.tell(reload.tickets, Some(reload.generation), outcome.clone());
        }
        if let Some(pending) = self.pending.take() {
            self.tell(pending.tickets, None, outcome.clone());
        }
        for settling in std::mem::take(&mut self.settling) {
            self.tell(settling.tickets, Some(settling.generation), outcome.clone());
        }
    }

    fn report_end(&mut self, reload: &Reload, outcome: ReloadOutcome) {
        self.out.push(Action::Report(Report::ReloadEnded {
            generation: reload.generation,
            took_ms: self.now.0.saturating_sub(reload.started.0),
            outcome,
        }));
    }

    fn tell(&mut self, tickets: Vec<Ticket>, of: Option<Generation>, outcome: ReloadOutcome) {
        if !tickets.is_empty() {
            self.out.push(Action::ReloadEnded {
                tickets,
                of,
                outcome,
            });
        }
    }
}

fn superseded(reason: &str) -> ReloadOutcome {
    ReloadOutcome::Superseded {
        reason: reason.to_owned(),
    }
}
