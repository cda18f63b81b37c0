//! What others may see of the master: the status document, and events as they happen.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::{
    effects::World,
    report::{self, Shown},
};
use crate::admin::{
    DetachedStatus, Happening, ListenerStatus, MasterFigures, Outcome, ReloadReply, Status,
};
use rcluster_core::{
    ipc,
    supervisor::{
        FleetState, FleetView, Generation, Pid, ReloadOutcome, Report, State, Supervisor, Time,
        WorkerId,
    },
    thrown,
};
use rcluster_sys::procfs;

/// Events that a reader may be behind before it loses some.
const BEHIND: usize = 256;

/// Milliseconds since 1970.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// Tells every reader what happens.
#[derive(Debug)]
pub(super) struct Bus {
    readers: broadcast::Sender<Arc<Happening>>,
    /// Tells this run of the master from others: part of the ids of its reloads.
    pub(super) run: String,
    started_unix_ms: u64,
    told: u64,
    /// The time of the step that is being carried out.
    pub(super) now: Time,
}

/// What of a [`Bus`] outlives the program: ids and numbers go on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BusState {
    run: String,
    started_unix_ms: u64,
    told: u64,
}

impl Bus {
    /// Written out.
    pub(super) fn state(&self) -> BusState {
        BusState {
            run: self.run.clone(),
            started_unix_ms: self.started_unix_ms,
            told: self.told,
        }
    }

    /// Read back; nobody reads it yet.
    pub(super) fn resume(state: BusState) -> Self {
        let BusState {
            run,
            started_unix_ms,
            told,
        } = state;
        Self {
            run,
            started_unix_ms,
            told,
            ..Self::new()
        }
    }

    pub(super) fn new() -> Self {
        Self {
            readers: broadcast::Sender::new(BEHIND),
            run: format!("{:08x}", fastrand::u32(..)),
            started_unix_ms: unix_ms(),
            told: 0,
            now: Time(0),
        }
    }

    pub(super) fn readers(&self) -> broadcast::Sender<Arc<Happening>> {
        self.readers.clone()
    }

    /// The id of the reload that brings a generation: never used twice, by no master.
    pub(super) fn reload_id(&self, generation: Generation) -> String {
        format!("{}-{generation}", self.run)
    }
}

/// The first boot: until it is over, the errors of workers that ended, on one line each.
#[derive(Debug, Default)]
pub(super) struct FirstBoot {
    over: bool,
    errors: Vec<String>,
}

/// Errors that are in the log already: each is told once.
#[derive(Debug, Default)]
pub(super) struct Told {
    first_boot: FirstBoot,
    /// The generation of the last reload that failed, and why, on one line.
    failed: Option<(Generation, String)>,
}

impl Told {
    /// Where the error of a worker that ended is shown.
    fn take(&mut self, what: &Report) -> Shown {
        if let Report::ReloadEnded {
            generation,
            outcome: ReloadOutcome::Failed { reason },
            ..
        } = what
        {
            self.failed = Some((*generation, thrown::one_line(reason)));
        }
        if let Report::Ended {
            generation,
            detail: Some(detail),
            ..
        } = what
            && let Some((failed, reason)) = &self.failed
            && failed == generation
            && reason.contains(&thrown::one_line(detail))
        {
            return Shown::FailedReload;
        }
        self.first_boot.take(what)
    }
}

impl FirstBoot {
    /// Once for all workers, in the last words of the master, if this boot fails.
    fn take(&mut self, what: &Report) -> Shown {
        let Report::Ended {
            detail: Some(detail),
            unexpected: true,
            ..
        } = what
        else {
            return Shown::Now;
        };
        if self.over || self.errors.len() >= MOST_ERRORS {
            return Shown::Now;
        }
        let error = thrown::one_line(detail);
        let known = self.errors.contains(&error);
        self.errors.push(error);
        if known { Shown::Known } else { Shown::Later }
    }
}

/// Errors that are kept of a first boot.
const MOST_ERRORS: usize = 1024;

impl World {
    /// How many workers ended with the error for which the first boot failed, of how many.
    pub(super) fn alike(
        &self,
        reason: Option<&str>,
        supervisor: &Supervisor,
    ) -> Option<(usize, u32)> {
        let reason = thrown::one_line(reason?);
        let errors = self.told.first_boot.errors.iter();
        let alike = errors.filter(|error| reason.contains(*error)).count();
        (!self.told.first_boot.over && alike > 0).then(|| (alike, supervisor.policy().workers))
    }

    /// A transition, for the log and for whoever reads events.
    pub(super) fn tell(&mut self, what: Report, supervisor: &Supervisor) {
        let reload = match &what {
            Report::ReloadStarted { generation } | Report::ReloadEnded { generation, .. } => {
                Some(*generation)
            }
            Report::Moved { of_reload, .. } | Report::Ended { of_reload, .. } => *of_reload,
            Report::Condemned { .. }
            | Report::NoHeartbeat { .. }
            | Report::Examined { .. }
            | Report::Promoted { .. }
            | Report::Scaled { .. }
            | Report::Parked => supervisor.brief().reload,
        };
        let reload = reload.map(|generation| self.bus.reload_id(generation));
        let brief = supervisor.brief();
        self.told.first_boot.over |=
            !matches!(brief.state, FleetState::Booting | FleetState::Stopping);
        let shown = self.told.take(&what);
        report::log(&what, reload.as_deref(), shown);
        if let (
            Report::ReloadEnded {
                took_ms, outcome, ..
            },
            Some(id),
        ) = (&what, &reload)
        {
            self.figures.reloaded(id.clone(), *took_ms, outcome);
        }
        if let Report::Moved {
            to: State::Ready,
            slot,
            ..
        } = &what
        {
            self.figures.begins(*slot, &supervisor.of_slot(*slot));
        }
        self.bus.told += 1;
        // Fails where nobody reads.
        let _ = self.bus.readers.send(Arc::new(Happening {
            seq: self.bus.told,
            at_ms: self.bus.now.0,
            unix_ms: unix_ms(),
            reload,
            what,
        }));
    }

    /// The answer to somebody who does not wait for a reload.
    pub(super) fn accepted(&self, begun: Option<Generation>) -> ReloadReply {
        let later = "it has not begun: another one goes on, or the master stops".to_owned();
        ReloadReply {
            id: begun.map(|generation| self.bus.reload_id(generation)),
            outcome: Outcome::Accepted,
            generation: begun,
            reason: begun.is_none().then_some(later),
            warnings: vec![],
        }
    }

    /// What a worker has counted.
    pub(super) fn told(&mut self, id: WorkerId, told: &ipc::Told, supervisor: &Supervisor) {
        if let Some(worker) = supervisor.worker(id) {
            let seated = supervisor.of_slot(worker.slot);
            self.figures.told(worker, told, &seated);
        }
    }

    /// The status document.
    pub(super) fn status(&self, fleet: FleetView, supervisor: &Supervisor, now: Time) -> Status {
        let figures = (fleet.slots.iter())
            .map(|seat| self.figures.of(seat.slot, &supervisor.of_slot(seat.slot)));
        let figures: Vec<_> = figures.collect();
        let usage = procfs::usage(Pid(std::process::id().cast_signed())).unwrap_or_default();
        Status {
            version: Status::VERSION,
            name: self.config.name.clone(),
            pid: std::process::id(),
            clock_ms: now.0,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            upgrade: crate::admin::UpgradeView::default(),
            run: self.bus.run.clone(),
            reload_id: fleet
                .reload
                .as_ref()
                .map(|r| self.bus.reload_id(r.generation)),
            admin: self.admin.map(|address| address.to_string()),
            master: MasterFigures {
                started_unix_ms: self.bus.started_unix_ms,
                memory: usage.memory,
                cpu_ms: usage.cpu_ms,
                fds: usage.fds,
            },
            reloads: self.figures.reloads.clone(),
            balance: self.shares(&figures, supervisor),
            detached: DetachedStatus {
                living: self.detached.count(),
                ended: self.detached.ended(),
            },
            figures,
            listeners: (self.listeners.groups())
                .map(|(_, group)| {
                    let queue = group.queue();
                    ListenerStatus {
                        address: group.local.to_string(),
                        waiting: queue.map(|(waiting, _)| waiting),
                        backlog: queue.map(|(_, backlog)| backlog),
                        seats: group.len() as u32,
                        steering: group.steering().map(str::to_owned),
                        weights: group.weights().to_vec(),
                        dropped: queue.and_then(|_| group.dropped()),
                    }
                })
                .collect(),
            unused_binds: self.listeners.unused().collect(),
            fleet,
        }
    }
}
