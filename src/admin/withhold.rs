//! What nobody sees over TCP without the token: texts that an app can have put a secret into. The same
//! rule holds for every document. `/v1/logs` is refused as a whole, see `access.rs`.
//!
//! Each document is taken apart field by field, so that a new field does not compile until somebody has
//! decided about it.

use std::convert::Infallible;

use axum::{extract::FromRequestParts, http::request::Parts};

use super::types::{Happening, IncidentList, SlotStatus, Status, UpgradeView};
use rcluster_core::supervisor::{Finding, FleetView, Incident, ReloadOutcome, Report, WorkerView};

/// Stands for a text.
const WITHHELD: &str =
    "withheld: error texts need the token of --admin-token-file, or the control socket";

/// Marks a request, and its answer, of somebody who has not shown the token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stranger;

/// Whether who asks may see texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Texts(pub(super) bool);

impl<S: Sync> FromRequestParts<S> for Texts {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get::<Stranger>().is_none()))
    }
}

/// A document with texts.
pub(super) trait Withhold: Sized {
    /// Puts a fixed text in the place of each.
    fn withhold(&mut self);

    /// The document for who asks.
    fn shown(mut self, texts: Texts) -> Self {
        if !texts.0 {
            self.withhold();
        }
        self
    }
}

fn hide(text: &mut String) {
    WITHHELD.clone_into(text);
}

fn hide_some(text: &mut Option<String>) {
    if let Some(text) = text {
        hide(text);
    }
}

impl Withhold for Incident {
    fn withhold(&mut self) {
        let Self {
            at: _,
            slot: _,
            worker: _,
            pid: _,
            generation: _,
            kind: _,
            reason,
            exit: _,
            error,
            stack,
            oom_kills: _,
        } = self;
        hide(reason);
        hide_some(error);
        hide_some(stack);
    }
}

impl Withhold for WorkerView {
    fn withhold(&mut self) {
        let Self {
            slot: _,
            id: _,
            pid: _,
            generation: _,
            state: _,
            restarts: _,
            uptime_ms: _,
            condemned,
            spare: _,
            beat: _,
            silent_ms: _,
            silent: _,
            usage: _,
            complaint,
        } = self;
        hide_some(condemned);
        hide_some(complaint);
    }
}

impl Withhold for FleetView {
    fn withhold(&mut self) {
        let Self {
            state: _,
            generation: _,
            wanted: _,
            workers,
            reload: _,
            reloads_done: _,
            reloads_failed: _,
            last_reload_error,
            drained_total: _,
            cut_total: _,
            waiting: _,
            slots: _,
            incidents,
        } = self;
        workers.iter_mut().for_each(Withhold::withhold);
        hide_some(last_reload_error);
        incidents.iter_mut().for_each(Withhold::withhold);
    }
}

impl Withhold for Status {
    fn withhold(&mut self) {
        let Self {
            version: _,
            name: _,
            pid: _,
            clock_ms: _,
            program: _,
            upgrade,
            run: _,
            reload_id: _,
            admin: _,
            master: _,
            reloads: _,
            figures: _,
            balance: _,
            detached: _,
            fleet,
            listeners: _,
            unused_binds: _,
        } = self;
        let UpgradeView {
            attempts: _,
            done: _,
            answered: _,
            refused,
        } = upgrade;
        hide_some(refused);
        fleet.withhold();
    }
}

impl Withhold for IncidentList {
    fn withhold(&mut self) {
        let Self {
            clock_ms: _,
            incidents,
        } = self;
        incidents.iter_mut().for_each(Withhold::withhold);
    }
}

impl Withhold for SlotStatus {
    fn withhold(&mut self) {
        let Self {
            slot: _,
            workers,
            figures: _,
        } = self;
        workers.iter_mut().for_each(Withhold::withhold);
    }
}

impl Withhold for Happening {
    fn withhold(&mut self) {
        let Self {
            seq: _,
            at_ms: _,
            unix_ms: _,
            reload: _,
            what,
        } = self;
        match what {
            Report::Moved { reason, .. } | Report::Condemned { reason, .. } => hide(reason),
            Report::Ended { detail, .. } => hide_some(detail),
            Report::Examined { finding, .. } => match finding {
                Finding::Busy { stack: text } | Finding::Unknown(text) => hide(text),
                Finding::Stopped | Finding::Idle => {}
            },
            Report::ReloadEnded { outcome, .. } => match outcome {
                ReloadOutcome::Failed { reason } | ReloadOutcome::Superseded { reason } => {
                    hide(reason);
                }
                ReloadOutcome::Done { .. } => {}
            },
            Report::Promoted { .. }
            | Report::Scaled { .. }
            | Report::Parked
            | Report::NoHeartbeat { .. }
            | Report::ReloadStarted { .. } => {}
        }
    }
}
