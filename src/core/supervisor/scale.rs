//! More workers, fewer, none for now, and one anew.

use super::{
    action::{Action, Report},
    event::Scale,
    incident::Kind,
    machine::{Phase, Supervisor},
    policy::Policy,
    worker::{Slot, Worker},
};

impl Supervisor {
    /// How many workers would be wanted then: 1 to [`Policy::MAX_WORKERS`].
    pub fn scaled(&self, scale: Scale) -> u32 {
        match scale {
            Scale::To(n) => n,
            Scale::By(n) => self.policy.workers.saturating_add_signed(n),
        }
        .clamp(1, Policy::MAX_WORKERS)
    }

    pub(super) fn ask_scale(&mut self, scale: Scale) {
        if !matches!(self.phase, Phase::FirstBoot | Phase::Serving) {
            return;
        }
        let from = self.policy.workers;
        let to = self.scaled(scale);
        // Parked workers come back by the wish for any number of them.
        self.parked = false;
        if to != from {
            self.policy.workers = to;
            if let Some(reload) = &mut self.reload {
                reload.scaled(to);
            }
            self.out.push(Action::Report(Report::Scaled { from, to }));
        }
    }

    /// Lets those go whose slots are too many. While wanted slots have nobody who serves,
    /// as many of them stand in, the lowest ones: fewer workers are wanted, not none. One whose address no other serves yet stays
    /// until the others have had their time to open it.
    pub(super) fn dismiss(&mut self) {
        let workers = self.policy.workers;
        let serves = |w: &Worker| w.is_ready() && !w.hung;
        let empty = |slot: &Slot| !self.fleet.seated(*slot).any(serves);
        let (missing, reason) = if self.parked {
            (0, "parked")
        } else {
            (self.slots().filter(empty).count(), "scaled down")
        };
        let mut excess: Vec<_> = self
            .fleet
            .iter()
            .filter(|w| w.slot.0 >= workers && w.is_seated() && !w.spare)
            .map(|w| (!serves(w), w.condemned.is_some(), w.slot, w.id))
            .collect();
        excess.sort_unstable();
        let standing = excess.iter().take_while(|(idle, ..)| !idle).count();
        for (.., id) in excess.drain(missing.min(standing)..) {
            let stays = |w| !self.parked && self.leaves_at(w) > self.now;
            if !self.fleet.worker(id).is_some_and(stays) {
                self.retire(id, reason);
            }
        }
    }

    pub(super) fn ask_park(&mut self) {
        if self.phase != Phase::Serving {
            return;
        }
        if let Some(reload) = &mut self.reload {
            reload.wakes = false;
        }
        if !self.parked {
            self.parked = true;
            self.out.push(Action::Report(Report::Parked));
        }
    }

    pub(super) fn ask_restart(&mut self, slot: Slot, reason: &str) {
        if self.phase != Phase::Serving {
            return;
        }
        let serving = |w: &&Worker| w.is_ready() && w.is_sound() && !w.spare;
        let serving: Vec<_> = (self.fleet.of(slot).filter(serving).map(|w| w.id)).collect();
        // Where two serve a new one is taking over already: that is the restart.
        if let [id] = serving[..] {
            self.condemn(id, Kind::Restarted, reason);
        }
    }

    /// Lets all go that serve the present generation, as long as nobody wants them.
    pub(super) fn rest(&mut self) {
        if !self.parked {
            return;
        }
        let committed = self.committed;
        for id in self
            .fleet
            .ids(|w| w.is_seated() && !w.spare && w.generation == committed)
        {
            self.retire(id, "parked");
        }
    }
}
