//! What a reload remembers: its stage, who waits for it, and what it may leave out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::supervisor::{
    action::Gate,
    event::Ticket,
    policy::{Policy, Switch},
    time::Time,
    worker::{Generation, Slot, Worker},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::supervisor) enum Stage {
    /// The release is being resolved.
    Preparing,
    /// New workers boot; `rolling` replaces as it goes, `atomic` holds them at the gate.
    Replacing,
    /// Atomic only: the gates are open, the new workers are about to listen on all that the old ones serve.
    Switching,
    /// Atomic only: switched; the new generation must stay healthy until then.
    Baking(Time),
}

/// The reload in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::supervisor) struct Reload {
    pub(in crate::supervisor) generation: Generation,
    pub(in crate::supervisor) stage: Stage,
    pub(in crate::supervisor) started: Time,
    pub(super) switch: Switch,
    pub(super) tickets: Vec<Ticket>,
    /// Slots below this number run the new generation.
    pub(super) admitted: u32,
    /// Workers were parked when it began, and nobody has parked them since.
    pub(in crate::supervisor) wakes: bool,
    /// It brings the previous release back.
    #[serde(default)]
    pub(super) restores: bool,
    /// Whose release it brings back, if it is a rollback.
    #[serde(default)]
    pub(in crate::supervisor) brings_back: Option<Generation>,
    /// Addresses that it need not listen on.
    #[serde(default)]
    pub(in crate::supervisor) may_drop: Vec<String>,
    /// What was wanted before the configuration was read anew, and how many workers it asks for.
    pub(super) before: Option<(Box<Policy>, u32)>,
}

/// Requests that came while a reload ran, as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::supervisor) struct Pending {
    pub(super) tickets: Vec<Ticket>,
    pub(super) rollback: bool,
    #[serde(default)]
    pub(super) may_drop: Vec<String>,
}

/// A reload that succeeded, while old workers still close their listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::supervisor) struct Settling {
    pub(super) generation: Generation,
    pub(super) started: Time,
    pub(super) tickets: Vec<Ticket>,
}

impl Reload {
    pub(in crate::supervisor) fn admits(&self, slot: Slot) -> bool {
        self.stage != Stage::Preparing && slot.0 < self.admitted
    }

    pub(in crate::supervisor) fn admitted(&self) -> u32 {
        self.admitted
    }

    /// Slot by slot: its surge says how many of it boot at the same time.
    pub(in crate::supervisor) fn rolls(&self) -> bool {
        self.switch == Switch::Rolling
    }

    pub(in crate::supervisor) fn gate(&self) -> Gate {
        match (self.switch, self.stage) {
            (Switch::Atomic, Stage::Preparing | Stage::Replacing) => Gate::Closed,
            // After the switch a slot may be missing that was added meanwhile.
            (Switch::Atomic, Stage::Switching | Stage::Baking(_)) | (Switch::Rolling, _) => {
                Gate::Open
            }
        }
    }

    /// Another number of workers is wanted.
    pub(in crate::supervisor) fn scaled(&mut self, workers: u32) {
        // Rolling goes on from where it is; atomic moves all slots or none.
        if self.admitted > workers || (self.switch == Switch::Atomic && self.admitted > 0) {
            self.admitted = workers;
        }
    }

    /// Whether old workers must stay although new ones are ready.
    pub(in crate::supervisor) fn holds_relief(&self) -> bool {
        self.switch == Switch::Atomic && !matches!(self.stage, Stage::Baking(_))
    }

    /// Whether the old generation alone serves, although slots have new workers.
    pub(in crate::supervisor) fn awaits_switch(&self) -> bool {
        self.switch == Switch::Atomic && matches!(self.stage, Stage::Preparing | Stage::Replacing)
    }

    /// In a rolling reload the old worker of a slot stays for the bake, so that
    /// going back is free.
    pub(in crate::supervisor) fn bake_before_relief(&self, policy: &Policy) -> Duration {
        match self.switch {
            Switch::Rolling => policy.bake,
            Switch::Atomic => Duration::ZERO,
        }
    }

    /// When a held worker has lived long enough for the switch.
    pub(super) fn switchable_at(&self, worker: &Worker, policy: &Policy) -> Option<Time> {
        let at = worker.held_at.or(worker.ready_at)?;
        (worker.generation == self.generation).then(|| at + policy.min_uptime)
    }

    pub(in crate::supervisor) fn deadlines<'a>(
        &'a self,
        policy: &'a Policy,
        workers: impl Iterator<Item = &'a Worker> + 'a,
    ) -> impl Iterator<Item = Time> + 'a {
        let stage = match self.stage {
            Stage::Preparing => Some(self.given_up_at()),
            Stage::Baking(until) => Some(until),
            Stage::Replacing | Stage::Switching => None,
        };
        workers
            .filter_map(|w| self.switchable_at(w, policy))
            .chain(stage)
    }

    /// When nobody will say any more whether its release can be had. The runtime gives up before, and says why.
    pub(super) fn given_up_at(&self) -> Time {
        self.started + Policy::PREPARATION + Policy::ANSWER_GRACE
    }
}
