//! The supervisor's reports as log lines: one a transition.

use tracing::{error, info, warn};

use rcluster_core::{
    supervisor::{Finding, Policy, ReloadOutcome, Report, State},
    thrown,
};

/// Whether the error of a worker that ended is in its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// It is.
    Now,
    /// The master's last words will have it.
    Later,
    /// The same, and another worker ended with it before.
    Known,
    /// A reload failed for it, and that is in the log.
    FailedReload,
}

/// The event of a worker that enters a state.
fn event_of(state: State) -> &'static str {
    match state {
        State::Starting => "worker_starting",
        State::Booting => "worker_booting",
        State::Held => "worker_held",
        State::Ready => "worker_ready",
        State::Draining => "worker_draining",
        State::Stopping => "worker_stopping",
        State::Killing => "worker_killed",
    }
}

/// Why so many workers are probably a slip, if they are more than before.
pub(super) fn excess(policy: &Policy, from: u32, to: u32) -> Option<String> {
    let sensible = policy.sensible_workers();
    (to > sensible && to > from).then(|| {
        format!("{to} workers are more than {sensible}, the most that are sensible for the CPUs of this host")
    })
}

/// Says so in the log: they are wanted all the same.
pub(super) fn warn_of_excess(policy: &Policy, from: u32) {
    let workers = policy.workers;
    if let Some(excess) = excess(policy, from, workers) {
        warn!(
            event = "many_workers",
            workers, "{excess}; they may use up its memory"
        );
    }
}

/// Writes a report to the log; `reload` is the id of the reload that it belongs to. Errors stand on one line: Node prints the
/// stack itself, and `rcluster incidents` has it.
pub(super) fn log(report: &Report, reload: Option<&str>, shown: Shown) {
    match report {
        Report::Moved {
            id,
            slot,
            pid,
            generation,
            from,
            to,
            reason,
            of_reload: _,
        } => {
            let pid = pid.map(|p| p.0);
            let event = event_of(*to);
            if *to == State::Killing {
                warn!(%slot, worker = %id, pid, %generation, %from, %to, reason, reload, event, "worker moved");
            } else {
                info!(%slot, worker = %id, pid, %generation, %from, %to, reason, reload, event, "worker moved");
            }
        }
        Report::Ended {
            id,
            slot,
            pid,
            generation,
            exit,
            unexpected,
            detail,
            retry_ms,
            of_reload: _,
        } => {
            let exit = exit.map_or_else(|| "never started".to_owned(), |e| e.to_string());
            let pid = pid.map(|p| p.0);
            let detail = match shown {
                Shown::Now => detail.as_deref().map(thrown::one_line),
                Shown::Later => None,
                Shown::Known => Some("the same error as another worker".to_owned()),
                Shown::FailedReload => Some("the error that failed the reload".to_owned()),
            };
            if *unexpected {
                warn!(%slot, worker = %id, pid, %generation, exit, detail, retry_ms, reload, event = "worker_died", "worker died");
            } else {
                info!(%slot, worker = %id, pid, %generation, exit, detail, reload, event = "worker_ended", "worker ended");
            }
        }
        Report::Condemned { id, slot, reason } => {
            let reason = thrown::one_line(reason);
            warn!(%slot, worker = %id, reason, reload, event = "worker_replaced", "worker will be replaced");
        }
        Report::NoHeartbeat {
            id,
            slot,
            silent,
            before,
        } => {
            let (silent_ms, before) = (silent.as_millis(), *before);
            warn!(
                event = "heartbeat_missing",
                %slot,
                worker = %id,
                silent_ms,
                before,
                reload,
                "the worker sends no heartbeat, but its event loop is idle, not blocked: it stays"
            );
        }
        Report::Examined { id, slot, finding } => match finding {
            Finding::Idle => {
                warn!(%slot, worker = %id, reload, event = "hang_idle", "the worker's event loop is idle, not blocked; it will drain");
            }
            Finding::Busy { stack } => {
                error!(%slot, worker = %id, stack, reload, event = "hang_stack", "the worker hangs here");
            }
            Finding::Stopped => {
                warn!(%slot, worker = %id, reload, event = "hang_process_stopped", "the worker's process is stopped (SIGSTOP or a debugger)");
            }
            Finding::Unknown(reason) => {
                warn!(%slot, worker = %id, reason, reload, event = "hang_stack_unknown", "nothing could be learnt of where the worker hangs");
            }
        },
        Report::Promoted { id, slot } => {
            info!(%slot, worker = %id, reload, event = "spare_promoted", "a spare takes the slot");
        }
        Report::Scaled { from, to } => {
            info!(
                from,
                to,
                reload,
                event = "scaled",
                "another number of workers is wanted"
            );
        }
        Report::Parked => {
            info!(
                reload,
                event = "parked",
                "all workers drain, the listeners stay; a reload or a scale brings workers back"
            );
        }
        Report::ReloadStarted { generation } => {
            info!(%generation, reload, event = "reload_started", "reload started");
        }
        Report::ReloadEnded {
            generation,
            took_ms,
            outcome,
        } => match outcome {
            ReloadOutcome::Done { .. } => {
                info!(%generation, took_ms, reload, event = "reload_done", "reload done");
            }
            ReloadOutcome::Failed { reason } => {
                let reason = thrown::one_line(reason);
                error!(%generation, took_ms, reason, reload, event = "reload_failed", "reload failed; the old workers serve on");
            }
            ReloadOutcome::Superseded { reason } => {
                warn!(%generation, took_ms, reason, reload, event = "reload_superseded", "reload given up");
            }
        },
    }
}
