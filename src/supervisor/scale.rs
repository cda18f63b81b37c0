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
    pub(super) fn ask_scale(&mut self, scale: Scale) {
        if !matches!(self.phase, Phase::FirstBoot | Phase::Serving) {
            return;
        }
        let from = self.policy.workers;
        let to = match scale {
            Scale::To(n) => n,
            Scale::By(n) => from.saturating_add_signed(n),
        }
        .clamp(1, Policy::MAX_WORKERS);
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
        let serving = |w: &Worker| w.slot == slot && w.is_ready() && w.is_sound() && !w.spare;
        // Where two serve a new one is taking over already: that is the restart.
        if let [id] = self.fleet.ids(serving)[..] {
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
