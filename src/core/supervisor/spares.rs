//! Warm spares: booted workers at the gate, that take the place of one that dies.

use super::{
    action::{Action, Gate, Report},
    machine::Supervisor,
    reload::Reload,
    worker::{Generation, Slot, State, Worker, WorkerId},
};

/// After so many deaths in a row a slot waits its backoff even if there is a
/// spare: an app that crashes at once must not burn them.
const PATIENCE: u32 = 3;

impl Supervisor {
    /// The spare that has waited longest.
    fn readiest(&self, generation: Generation) -> Option<WorkerId> {
        let fit = |w: &&Worker| {
            w.spare && w.state == State::Held && w.is_sound() && w.generation == generation
        };
        self.fleet.iter().find(fit).map(|w| w.id)
    }

    /// Gives an empty slot to a spare. Returns whether there was one.
    pub(super) fn promote_into(&mut self, slot: Slot, generation: Generation) -> bool {
        let seat = self.seat(slot);
        if seat.backoff.failures() > PATIENCE && seat.backoff.not_before() > self.now {
            return false;
        }
        match self.readiest(generation) {
            Some(id) => {
                self.promote(id, slot);
                true
            }
            None => false,
        }
    }

    /// Whether the committed generation still serves in a slot: not any more where a reload has
    /// switched.
    fn may_serve(&self, slot: Slot) -> bool {
        self.goal(slot) == self.committed || self.reload.as_ref().is_some_and(Reload::awaits_switch)
    }

    fn promote(&mut self, id: WorkerId, slot: Slot) {
        let deadline = self.now + self.policy.ready_timeout;
        self.fleet.reseat(id, slot);
        let Some(worker) = self.fleet.worker_mut(id) else {
            return;
        };
        worker.spare = false;
        let generation = worker.generation;
        let held = worker.state == State::Held;
        worker.deadline = Some(deadline);
        self.seat(slot).occupied_by(generation);
        self.out.push(Action::Report(Report::Promoted { id, slot }));
        self.out.push(Action::Promote { id, slot });
        self.open_gate(id, if held { "promoted" } else { "needed" });
    }

    /// Lets a held worker listen.
    pub(super) fn open_gate(&mut self, id: WorkerId, reason: &str) {
        let Some(worker) = self.fleet.worker_mut(id) else {
            return;
        };
        worker.gate = Gate::Open;
        let seen = worker.readiness_seen;
        self.out.push(Action::OpenGate { id });
        if seen {
            self.is_ready(id, reason);
        }
    }

    /// Keeps the wanted number of spares of the serving generation.
    pub(super) fn keep_spares(&mut self) {
        let (committed, workers) = (self.committed, self.policy.workers);
        let is_spare = |w: &Worker| w.spare && w.is_seated();
        // The number of workers grew over them: they are what was missing.
        for id in self.fleet.ids(|w| is_spare(w) && w.slot.0 < workers) {
            let slot = self.fleet.worker(id).map(|w| w.slot);
            let Some(slot) = slot else { continue };
            let serving = self.fleet.sound(slot, committed).map(|w| w.id);
            if serving == Some(id) && self.may_serve(slot) {
                self.promote(id, slot);
            } else {
                self.retire(id, "its slot is taken");
            }
        }
        for id in self
            .fleet
            .ids(|w| is_spare(w) && (w.generation != committed || w.condemned.is_some()))
        {
            self.retire(id, "a spare of another generation");
        }
        let sound: Vec<_> = self.fleet.ids(|w| is_spare(w) && w.generation == committed);
        let wanted = if self.parked {
            0
        } else {
            self.policy.spares as usize
        };
        for id in sound.iter().skip(wanted) {
            self.retire(*id, "one spare too many");
        }
        if self.reload.is_some() {
            return;
        }
        for _ in sound.len()..wanted {
            let Some(slot) = self.free_spare_slot() else {
                return;
            };
            if !self.restart(slot, committed, Gate::Closed) {
                return;
            }
        }
    }

    /// The lowest number above the workers' that no spare has.
    fn free_spare_slot(&self) -> Option<Slot> {
        let first = self.policy.workers;
        let taken = |slot: Slot| self.fleet.seated(slot).next().is_some();
        // There are never more workers than this.
        let last =
            first.saturating_add(u32::try_from(self.policy.process_cap()).unwrap_or(u32::MAX));
        (first..=last).map(Slot).find(|slot| !taken(*slot))
    }

    /// When a missing spare may boot.
    pub(super) fn spare_deadlines(&self) -> Vec<super::Time> {
        let sound = self
            .fleet
            .iter()
            .filter(|w| w.spare && w.is_sound())
            .count();
        if self.parked || self.reload.is_some() || sound >= self.policy.spares as usize {
            return vec![];
        }
        self.free_spare_slot()
            .map(|slot| self.restart_at(slot))
            .into_iter()
            .collect()
    }
}
