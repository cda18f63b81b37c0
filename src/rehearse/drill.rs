//! The events of the trial, one after the other, and how long each took.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde::Serialize;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::{
    plan::Plan,
    trial::{LOOK, Trial, TrialError, ready},
};
use crate::admin::{ReloadReply, ReloadWish};
use rcluster_core::supervisor::{Generation, Pid, Slot, WorkerId};
use rcluster_ledger::Control;
use rcluster_sys::process;

/// Name of the ledger's phase after the last event.
pub(super) const AFTER: &str = "after";
/// Name of the ledger's phase at the start and between events.
pub(super) const QUIET: &str = "quiet";

/// What is done to the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Reload,
    Pause,
    Kill,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Reload, Self::Pause, Self::Kill];

    /// Also the name of the ledger's phase.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Pause => "pause",
            Self::Kill => "kill",
        }
    }
}

/// One event. Times are in milliseconds since the load began; what did not come to pass is missing.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Event {
    pub(super) kind: Kind,
    /// 1 up, of its kind.
    pub(super) number: u32,
    pub(super) at_ms: u64,
    /// When the phase was over for every request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) until_ms: Option<u64>,
    /// Reload: time until the new generation served alone. Kill: until the slot had a ready worker again. Pause: its length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) took_ms: Option<u64>,
    /// Reload: time until the last old worker was gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) drained_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) generation: Option<Generation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) slot: Option<Slot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pid: Option<Pid>,
}

/// Why the drill was broken off.
#[derive(Debug, Error)]
pub(super) enum DrillError {
    /// A reload failed.
    #[error("reload {0} failed: {1}")]
    Reload(u32, String),
    /// The master failed.
    #[error(transparent)]
    Trial(#[from] TrialError),
}

/// The drill, and what it has done so far.
#[derive(Debug)]
pub(super) struct Drill<'a> {
    plan: &'a Plan,
    control: &'a Control,
    began: Instant,
    pub(super) events: Vec<Event>,
}

/// A worker that stands still as long as this lives.
struct Paused(Pid);

impl Paused {
    fn new(pid: Pid) -> Self {
        process::signal(pid, Signal::SIGSTOP);
        Self(pid)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        process::signal(self.0, Signal::SIGCONT);
    }
}

impl<'a> Drill<'a> {
    pub(super) fn new(plan: &'a Plan, control: &'a Control, began: Instant) -> Self {
        Self {
            plan,
            control,
            began,
            events: vec![],
        }
    }

    /// Everything that is planned.
    ///
    /// # Errors
    /// A [`DrillError`]; what was done until then is in [`Drill::events`].
    pub(super) async fn run(&mut self, trial: &mut Trial) -> Result<(), DrillError> {
        let plan = self.plan;
        sleep(plan.margin()).await;
        // An app that is slow at first: each client has been answered once before anything happens.
        self.control.mark(QUIET);
        self.settle().await;
        let all = [plan.reloads, plan.pauses, plan.kills];
        let schedule = Kind::ALL
            .into_iter()
            .zip(all)
            .flat_map(|(kind, count)| (1..=count).map(move |number| (kind, number)));
        let total = all.iter().sum::<u32>() as usize;
        for (kind, number) in schedule {
            if !self.events.is_empty() {
                sleep(plan.between()).await;
            }
            self.begin(kind, number);
            match kind {
                Kind::Reload => self.reload(trial, number).await?,
                Kind::Pause => self.pause(trial, number).await?,
                Kind::Kill => self.kill(trial, number).await?,
            }
            let next = if self.events.len() == total {
                AFTER
            } else {
                QUIET
            };
            self.calm(kind, next).await;
            self.tell(number, all[kind as usize]);
        }
        sleep(plan.margin()).await;
        Ok(())
    }

    fn ms(&self) -> u64 {
        millis(self.began.elapsed())
    }

    /// From here on what happens to requests is this event's.
    fn begin(&mut self, kind: Kind, number: u32) {
        self.control.mark(kind.name());
        self.events.push(Event {
            kind,
            number,
            at_ms: self.ms(),
            until_ms: None,
            took_ms: None,
            drained_ms: None,
            generation: None,
            slot: None,
            pid: None,
        });
    }

    fn event(&mut self) -> &mut Event {
        self.events.last_mut().expect("an event has begun")
    }

    /// Waits until the event can touch no further request; see the module's documentation.
    async fn calm(&mut self, kind: Kind, next: &str) {
        sleep(self.plan.round()).await;
        self.control.mark(kind.name());
        self.settle().await;
        self.control.mark(next);
        let now = self.ms();
        self.event().until_ms = Some(now);
        self.settle().await;
    }

    async fn settle(&self) {
        while !self.control.settled() {
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn reload(&mut self, trial: &mut Trial, number: u32) -> Result<(), DrillError> {
        let start = Instant::now();
        let wish = ReloadWish::default();
        let reply = trial.client().post::<ReloadReply>("/v1/reload", &wish);
        let reply = reply.await.map_err(TrialError::Client)?;
        let took = start.elapsed();
        let Some(generation) = reply.generation else {
            let reason = reply.reason.unwrap_or_else(|| reply.outcome.to_string());
            return Err(DrillError::Reload(number, reason));
        };
        self.event().took_ms = Some(millis(took));
        self.event().generation = Some(generation);
        loop {
            let status = trial.status().await?;
            let mut workers = status.fleet.workers.iter();
            if workers.all(|w| w.generation >= generation) {
                break;
            }
            sleep(LOOK).await;
        }
        self.event().drained_ms = Some(millis(start.elapsed()));
        Ok(())
    }

    async fn pause(&mut self, trial: &mut Trial, number: u32) -> Result<(), DrillError> {
        let (pid, ..) = self.victim(trial, number).await?;
        let start = Instant::now();
        let paused = Paused::new(pid);
        sleep(self.plan.pause()).await;
        drop(paused);
        self.event().took_ms = Some(millis(start.elapsed()));
        Ok(())
    }

    async fn kill(&mut self, trial: &mut Trial, number: u32) -> Result<(), DrillError> {
        let (pid, slot, id) = self.victim(trial, number).await?;
        let start = Instant::now();
        process::signal(pid, Signal::SIGKILL);
        loop {
            let status = trial.status().await?;
            if ready(&status).any(|w| w.slot == slot && w.id != id) {
                break;
            }
            sleep(LOOK).await;
        }
        self.event().took_ms = Some(millis(start.elapsed()));
        Ok(())
    }

    /// A ready worker: each time that of another slot.
    async fn victim(
        &mut self,
        trial: &mut Trial,
        number: u32,
    ) -> Result<(Pid, Slot, WorkerId), DrillError> {
        let status = trial.serving().await?;
        let all: Vec<_> = ready(&status)
            .filter_map(|w| Some((w.pid?, w.slot, w.id)))
            .collect();
        let (pid, slot, id) = all[number as usize % all.len()];
        let event = self.event();
        event.pid = Some(pid);
        event.slot = Some(slot);
        Ok((pid, slot, id))
    }

    /// Progress, for who watches.
    fn tell(&mut self, number: u32, of: u32) {
        let event = self.event();
        let name = event.kind.name();
        let took = event.took_ms.unwrap_or_default();
        let what = match event.kind {
            Kind::Reload => format!("{took}ms until the new workers served alone"),
            Kind::Pause => format!("{took}ms"),
            Kind::Kill => format!("{took}ms until a new worker was ready"),
        };
        crate::say::note(format_args!("rehearse: {name} {number} of {of}: {what}"));
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
