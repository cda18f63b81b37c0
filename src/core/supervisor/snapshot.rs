//! What others may see of the supervisor: plain values, made on demand.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::{
    event::{Beat, Usage},
    incident::{Incident, Kind},
    machine::{Phase, Supervisor},
    reload::Stage,
    worker::{Generation, Pid, Slot, State, WorkerId},
};

/// One worker, as status shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its slot.
    pub slot: Slot,
    /// Its id.
    pub id: WorkerId,
    /// Its process, once started.
    pub pid: Option<Pid>,
    /// Its generation.
    pub generation: Generation,
    /// Where it is in its life.
    pub state: State,
    /// Workers of this slot replaced because they died or were at fault.
    pub restarts: u64,
    /// Milliseconds since it was started.
    pub uptime_ms: u64,
    /// Why it is to be replaced, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condemned: Option<String>,
    /// It waits at the gate to take the place of a worker that dies.
    #[serde(default)]
    pub spare: bool,
    /// What its event loop told last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beat: Option<Beat>,
    /// Milliseconds since the last sign of its event loop; none without the shim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_ms: Option<u64>,
    /// It serves, but its next heartbeat is overdue: its event loop does not turn, and nobody is answered. The hang timeout
    /// has not passed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub silent: bool,
    /// What the kernel counted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What was wrong with its health when it was last asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complaint: Option<String>,
}

/// One slot: what is counted over all its workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotView {
    /// Its number.
    pub slot: Slot,
    /// Workers replaced because they died or were at fault.
    pub restarts: u64,
    /// What went wrong, by kind.
    pub troubles: BTreeMap<Kind, u64>,
}

/// How far a reload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReloadStage {
    /// Its files are read.
    Preparing,
    /// Workers of the new generation start, or take slots over.
    Replacing,
    /// An atomic reload: the new workers wait for the switch.
    Switching,
    /// All slots are taken over; the old workers stay for `--bake`.
    Baking,
}

impl fmt::Display for ReloadStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Preparing => "preparing",
            Self::Replacing => "replacing",
            Self::Switching => "switching",
            Self::Baking => "baking",
        })
    }
}

/// What the master does as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FleetState {
    /// No worker has been ready yet.
    Booting,
    /// The workers serve.
    Serving,
    /// A reload is in progress; the workers serve.
    Reloading,
    /// SIGWINCH: no worker is wanted until a reload or a scale.
    Parked,
    /// The master ends.
    Stopping,
}

impl FleetState {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Booting,
        Self::Serving,
        Self::Reloading,
        Self::Parked,
        Self::Stopping,
    ];

    /// Lower-case name, as in status and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Serving => "serving",
            Self::Reloading => "reloading",
            Self::Parked => "parked",
            Self::Stopping => "stopping",
        }
    }
}

impl fmt::Display for FleetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A reload in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadView {
    /// The new generation.
    pub generation: Generation,
    /// How far it is.
    pub stage: ReloadStage,
    /// Slots that the new generation has been given.
    pub admitted: u32,
    /// Milliseconds since it began.
    pub elapsed_ms: u64,
}

/// The whole fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetView {
    /// What the master does.
    pub state: FleetState,
    /// The generation whose code serves.
    pub generation: Generation,
    /// Wanted workers.
    pub wanted: u32,
    /// The workers, by slot, then id.
    pub workers: Vec<WorkerView>,
    /// The reload in progress.
    pub reload: Option<ReloadView>,
    /// Reloads that succeeded.
    pub reloads_done: u64,
    /// Reloads that failed.
    pub reloads_failed: u64,
    /// Why the last reload failed, if it did.
    pub last_reload_error: Option<String>,
    /// Workers that drained.
    pub drained_total: u64,
    /// Connections that drains had to cut.
    pub cut_total: u64,
    /// Slots whose restarts are being spaced out: slot, deaths, milliseconds left.
    pub waiting: Vec<(Slot, u32, u64)>,
    /// What is counted for each slot.
    #[serde(default)]
    pub slots: Vec<SlotView>,
    /// What went wrong lately, oldest first.
    #[serde(default)]
    pub incidents: Vec<Incident>,
}

impl FleetView {
    /// Slots in which a worker of the reload in progress serves.
    pub fn taken_over(&self) -> u32 {
        let generation = self.reload.as_ref().map(|reload| reload.generation);
        let serves = |w: &&WorkerView| {
            w.state == State::Ready && !w.spare && generation.is_some_and(|g| w.generation >= g)
        };
        let slots: BTreeSet<_> = self.workers.iter().filter(serves).map(|w| w.slot).collect();
        slots.len() as u32
    }
}

/// The whole in a few numbers: cheap enough to be asked for after every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brief {
    /// As [`FleetView::state`].
    pub state: FleetState,
    /// The generation whose code serves.
    pub generation: Generation,
    /// The generation that a reload is on the way to.
    pub reload: Option<Generation>,
    /// Workers that are ready.
    pub ready: u32,
    /// Workers that are wanted.
    pub wanted: u32,
    /// All workers, those that leave included.
    pub workers: u32,
    /// Whether the last reload failed.
    pub failed: bool,
}

impl Supervisor {
    fn state(&self) -> FleetState {
        match self.phase {
            Phase::FirstBoot | Phase::Checking => FleetState::Booting,
            Phase::Serving if self.reload.is_some() => FleetState::Reloading,
            Phase::Serving if self.parked => FleetState::Parked,
            Phase::Serving => FleetState::Serving,
            Phase::Stopping(_) | Phase::Over => FleetState::Stopping,
        }
    }

    /// The whole in a few numbers.
    pub fn brief(&self) -> Brief {
        let count = |wanted: fn(&super::Worker) -> bool| {
            self.fleet.iter().filter(|w| wanted(w)).count() as u32
        };
        Brief {
            state: self.state(),
            generation: self.committed,
            reload: self.reload.as_ref().map(|r| r.generation),
            ready: count(super::Worker::is_ready),
            wanted: self.policy.workers,
            workers: count(|_| true),
            failed: self.last_reload_error.is_some(),
        }
    }

    /// Whether the end of a process is waited for: the master stops, or a worker was told to end.
    pub fn is_ending(&self) -> bool {
        self.is_stopping() || self.fleet.iter().any(|worker| !worker.is_seated())
    }

    /// What is to be seen at the last step's time plus `elapsed_ms`.
    pub fn view(&self, now: super::Time) -> FleetView {
        // By what each was told; a reload may have changed the policy since.
        let overdue = |w: &super::Worker| self.terms(w).beat + super::Policy::LATE;
        let mut workers: Vec<_> = self
            .fleet
            .iter()
            .map(|w| WorkerView {
                slot: w.slot,
                id: w.id,
                pid: w.pid,
                generation: w.generation,
                state: w.state,
                restarts: self.seats.get(w.slot.0 as usize).map_or(0, |s| s.restarts),
                uptime_ms: now.0.saturating_sub(w.started.0),
                condemned: w.condemned.clone(),
                spare: w.spare,
                beat: w.beat,
                silent_ms: w.heard.map(|at| now.0.saturating_sub(at.0)),
                silent: w.is_ready() && w.heard.is_some_and(|at| now.since(at) > overdue(w)),
                usage: w.usage,
                complaint: w.pulse.complaint.clone(),
            })
            .collect();
        workers.sort_by_key(|w| (w.slot, w.id));
        let reload = self.reload.as_ref().map(|r| ReloadView {
            generation: r.generation,
            stage: match r.stage {
                Stage::Preparing => ReloadStage::Preparing,
                Stage::Replacing => ReloadStage::Replacing,
                Stage::Switching => ReloadStage::Switching,
                Stage::Baking(_) => ReloadStage::Baking,
            },
            admitted: r.admitted(),
            elapsed_ms: now.0.saturating_sub(r.started.0),
        });
        let waiting = self
            .slots()
            .filter(|slot| !self.parked && self.fleet.seated(*slot).next().is_none())
            .filter_map(|slot| {
                // A slot without a death waits for others that boot.
                let seat = self.seats.get(slot.0 as usize);
                let backoff = seat.map(|s| &s.backoff).filter(|b| b.failures() > 0)?;
                let left = backoff.not_before().0.saturating_sub(now.0);
                Some((slot, backoff.failures(), left))
            })
            .collect();
        let slots = self
            .seats
            .iter()
            .zip(0..)
            .map(|(seat, slot)| SlotView {
                slot: Slot(slot),
                restarts: seat.restarts,
                troubles: seat.troubles.clone(),
            })
            .collect();
        FleetView {
            state: self.state(),
            generation: self.committed,
            wanted: self.policy.workers,
            workers,
            reload,
            reloads_done: self.reloads_done,
            reloads_failed: self.reloads_failed,
            last_reload_error: self.last_reload_error.clone(),
            drained_total: self.drained_total,
            cut_total: self.cut_total,
            waiting,
            slots,
            incidents: self.incidents.iter().cloned().collect(),
        }
    }
}
