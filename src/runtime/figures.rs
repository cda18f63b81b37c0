//! What workers count, kept for their slots: a replacement goes on where the
//! dead worker stopped.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::admin::{Durations, LastReload, Outcome, ReloadFigures, SlotFigures};
use rcluster_core::{
    ipc::Told,
    supervisor::{ReloadOutcome, Slot, Usage, Worker, WorkerId},
};

/// Rates and percentiles are of so long.
const WINDOW: Duration = Duration::from_secs(30);
/// One remembered moment in so long.
const STEP: Duration = Duration::from_secs(4);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Totals {
    requests: u64,
    accepted: u64,
    responses: [u64; 5],
    duration_us: u64,
    durations: Durations,
    cpu_ms: u64,
}

impl Totals {
    fn raise(&mut self, told: &Told) {
        self.requests = self.requests.max(told.requests);
        self.accepted = self.accepted.max(told.accepted);
        for (ours, told) in self.responses.iter_mut().zip(&told.classes) {
            *ours = (*ours).max(*told);
        }
        self.duration_us = self.duration_us.max(told.duration_us);
        self.durations.raise(&told.durations);
    }

    fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.accepted = self.accepted.saturating_add(other.accepted);
        for (ours, theirs) in self.responses.iter_mut().zip(other.responses) {
            *ours = ours.saturating_add(theirs);
        }
        self.duration_us = self.duration_us.saturating_add(other.duration_us);
        self.durations.add(&other.durations);
        self.cpu_ms = self.cpu_ms.saturating_add(other.cpu_ms);
    }
}

#[derive(Debug, Default)]
struct Living {
    totals: Totals,
    measured: Option<Instant>,
    cpus: Option<f64>,
}

#[derive(Debug, Default)]
struct Kept {
    dead: Totals,
    /// The slot's totals at some moments of the window, oldest first. The first one is of before its first heartbeat.
    recent: VecDeque<(Instant, Totals)>,
    /// A worker of it has told something: nothing is known before, which is not 0.
    told: bool,
}

/// All that is counted.
#[derive(Debug, Default)]
pub(super) struct Figures {
    living: HashMap<WorkerId, Living>,
    kept: BTreeMap<Slot, Kept>,
    pub(super) reloads: ReloadFigures,
}

/// [`Figures`] written out. Rates and percentiles begin anew: they are of a window of this program's clock.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct FiguresState {
    living: Vec<(WorkerId, Totals)>,
    dead: Vec<(Slot, Totals)>,
    reloads: ReloadFigures,
}

impl Figures {
    /// Written out.
    pub(super) fn state(&self) -> FiguresState {
        let living = self.living.iter().map(|(id, l)| (*id, l.totals.clone()));
        let dead = self.kept.iter().map(|(slot, k)| (*slot, k.dead.clone()));
        FiguresState {
            living: living.collect(),
            dead: dead.collect(),
            reloads: self.reloads.clone(),
        }
    }

    /// Read back.
    pub(super) fn resume(state: FiguresState) -> Self {
        let living = state.living.into_iter().map(|(id, totals)| {
            let living = Living {
                totals,
                ..Living::default()
            };
            (id, living)
        });
        let kept = state.dead.into_iter().map(|(slot, dead)| {
            let kept = Kept {
                dead,
                ..Kept::default()
            };
            (slot, kept)
        });
        Self {
            living: living.collect(),
            kept: kept.collect(),
            reloads: state.reloads,
        }
    }

    /// What a worker has counted since its start.
    pub(super) fn told(&mut self, worker: &Worker, told: &Told, others: &[WorkerId]) {
        self.living.entry(worker.id).or_default().totals.raise(told);
        // A spare has no slot of its own yet.
        if !worker.spare {
            self.remember(worker.slot, others);
        }
    }

    /// A worker begins to serve in a slot: what its first heartbeat tells was counted since now.
    pub(super) fn begins(&mut self, slot: Slot, seated: &[WorkerId]) {
        let totals = self.totals(slot, seated);
        let recent = &mut self.kept.entry(slot).or_default().recent;
        if recent.is_empty() {
            recent.push_back((Instant::now(), totals));
        }
    }

    fn remember(&mut self, slot: Slot, seated: &[WorkerId]) {
        let now = Instant::now();
        let totals = self.totals(slot, seated);
        let kept = self.kept.entry(slot).or_default();
        kept.told = true;
        let recent = &mut kept.recent;
        // The oldest stays until the next one is old enough to stand for the window.
        while recent.get(1).is_some_and(|(at, _)| *at + WINDOW <= now) {
            recent.pop_front();
        }
        if recent.back().is_none_or(|(at, _)| *at + STEP <= now) {
            recent.push_back((now, totals));
        }
    }

    /// What the kernel has counted for it.
    pub(super) fn measured(&mut self, id: WorkerId, usage: &Usage) {
        let now = Instant::now();
        let living = self.living.entry(id).or_default();
        let before = living.totals.cpu_ms;
        if let Some(at) = living.measured.replace(now) {
            let wall = now.duration_since(at).as_secs_f64();
            let used = usage.cpu_ms.saturating_sub(before) as f64 / 1000.0;
            living.cpus = (wall > 0.0).then(|| used / wall);
        }
        living.totals.cpu_ms = before.max(usage.cpu_ms);
    }

    /// A worker is gone; what it counted stays with its slot.
    pub(super) fn ended(&mut self, id: WorkerId, slot: Option<Slot>) {
        if let (Some(living), Some(slot)) = (self.living.remove(&id), slot) {
            self.kept.entry(slot).or_default().dead.add(&living.totals);
        }
    }

    /// A reload ended.
    pub(super) fn reloaded(&mut self, id: String, took_ms: u64, outcome: &ReloadOutcome) {
        let (count, outcome) = match outcome {
            ReloadOutcome::Done { .. } => (&mut self.reloads.done, Outcome::Done),
            ReloadOutcome::Failed { .. } => (&mut self.reloads.failed, Outcome::Failed),
            ReloadOutcome::Superseded { .. } => (&mut self.reloads.superseded, Outcome::Superseded),
        };
        *count += 1;
        self.reloads.took_ms = self.reloads.took_ms.saturating_add(took_ms);
        self.reloads.last = Some(LastReload {
            id,
            outcome,
            took_ms,
        });
    }

    fn totals(&self, slot: Slot, seated: &[WorkerId]) -> Totals {
        let mut totals = self
            .kept
            .get(&slot)
            .map_or_else(Totals::default, |kept| kept.dead.clone());
        for living in seated.iter().filter_map(|id| self.living.get(id)) {
            totals.add(&living.totals);
        }
        totals
    }

    /// A slot's, with the workers that sit in it now.
    pub(super) fn of(&self, slot: Slot, seated: &[WorkerId]) -> SlotFigures {
        let totals = self.totals(slot, seated);
        let now = Instant::now();
        let kept = self.kept.get(&slot).filter(|kept| kept.told);
        let before = kept.and_then(|kept| kept.recent.front());
        let seconds = before.map(|(at, _)| now.duration_since(*at).as_secs_f64());
        let since = before.map(|(_, before)| totals.durations.since(&before.durations));
        let percentile = |share| since.as_ref()?.percentile_us(share);
        let rate = before.zip(seconds).filter(|(_, seconds)| *seconds >= 1.0);
        let classes = rate.map(|((_, before), seconds)| {
            let per_s = |(now, then): (u64, u64)| now.saturating_sub(then) as f64 / seconds;
            let mut pairs = totals.responses.into_iter().zip(before.responses);
            [(); 5].map(|()| pairs.next().map_or(0.0, per_s))
        });
        // Nobody counts them with --no-request-metrics.
        let counted = totals.requests == 0 || totals.responses != [0; 5];
        let cpus: Vec<_> = seated
            .iter()
            .filter_map(|id| self.living.get(id)?.cpus)
            .collect();
        SlotFigures {
            slot,
            requests: totals.requests,
            accepted: totals.accepted,
            responses: totals.responses,
            duration_us: totals.duration_us,
            durations: totals.durations.coarse(),
            cpu_ms: totals.cpu_ms,
            requests_per_s: rate.map(|((_, before), seconds)| {
                totals.requests.saturating_sub(before.requests) as f64 / seconds
            }),
            responses_per_s: classes.filter(|_| counted),
            p50_us: percentile(0.5),
            p99_us: percentile(0.99),
            cpus: (!cpus.is_empty()).then(|| cpus.iter().sum()),
        }
    }
}
