//! The trial from its start to its end, on every way out.

use std::{path::Path, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, timeout_at},
};

use super::{
    aim::{AimError, aim},
    drill::Drill,
    hand_over::master_args,
    loading::Loading,
    picture,
    plan::Plan,
    rehearsal::{Cut, Rehearsal, Verdict},
    table,
    trial::{Tail, Trial, TrialError},
};
use crate::{cli::RehearseArgs, say};
use rcluster_core::exit_code::ExitCode;
use rcluster_ledger::LedgerError;
use rcluster_sys::process;

/// Lines of the log that are shown when something went wrong.
const LOG_LINES: usize = 40;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("failed to rehearse: {0}")]
    Trial(#[from] TrialError),
    #[error("failed to rehearse: {0}")]
    Aim(#[from] AimError),
    #[error("failed to rehearse: {0}")]
    Ledger(#[from] LedgerError),
    #[error("the app was not ready within {} (--limit)", humantime::format_duration(*.0))]
    Limit(Duration),
    #[error("interrupted; the app is stopped")]
    Interrupted,
}

impl Failure {
    fn code(&self) -> ExitCode {
        match self {
            Self::Trial(error) => error.code(),
            Self::Aim(_) => ExitCode::Usage,
            Self::Ledger(_) => ExitCode::Internal,
            Self::Limit(_) => ExitCode::ReloadTimedOut,
            Self::Interrupted => ExitCode::Interrupted,
        }
    }
}

/// The signals that end it.
struct Ends([Signal; 3]);

impl Ends {
    /// Installs the handlers, then lets through what was blocked since `main`.
    fn install() -> std::io::Result<Self> {
        let ends = Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]);
        process::unblock_signals();
        Ok(ends)
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// `rcluster rehearse`
pub async fn run(args: &RehearseArgs) -> ExitCode {
    let mut ends = match Ends::install() {
        Ok(ends) => ends,
        Err(error) => {
            say::error(format_args!("failed to watch for signals: {error}"));
            return ExitCode::Internal;
        }
    };
    let plan = match Plan::new(args) {
        Ok(plan) => plan,
        Err(error) => {
            say::error(error);
            return ExitCode::Usage;
        }
    };
    let patience = args.run.drain_timeout + args.run.kill_timeout;
    let mut trial = match Trial::start(&master_args(std::env::args_os()), patience).await {
        Ok(trial) => trial,
        Err(error) => {
            say::error(format_args!("failed to rehearse: {error}"));
            return error.code();
        }
    };
    let tail = trial.tail().clone();
    let result = tokio::select! {
        result = rehearse(&plan, &mut trial) => result,
        () = ends.next() => Err(Failure::Interrupted),
    };
    if matches!(result, Err(Failure::Interrupted)) {
        say::note(format_args!("rehearse: stopping the app"));
    }
    let stopped = trial.stop(ends.next()).await;
    match result {
        Ok(mut result) => {
            result.stop_code = stopped.and_then(|status| status.code());
            show(&plan, &result, &tail)
        }
        Err(failure) => {
            if matches!(failure, Failure::Trial(_) | Failure::Limit(_)) {
                show_log(&tail);
            }
            say::error(&failure);
            failure.code()
        }
    }
}

async fn rehearse(plan: &Plan, trial: &mut Trial) -> Result<Rehearsal, Failure> {
    let limit = Instant::now() + plan.limit;
    let status = timeout_at(limit, trial.serving())
        .await
        .map_err(|_| Failure::Limit(plan.limit))??;
    let (address, target) = aim(&status, plan.at.as_deref())?;
    let workers = status.fleet.wanted;
    say::note(format_args!(
        "rehearse: {workers} workers listen on {address}"
    ));
    let loading = Loading::start(plan.loads(&target))?;
    let control = loading.control().clone();
    let mut drill = Drill::new(plan, &control, loading.began());
    let cut = match timeout_at(limit, drill.run(trial)).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(Cut::Drill(error)),
        Err(_) => Some(Cut::Limit),
    };
    let events = drill.events;
    let report = loading.finish().await?;
    let cut = cut.as_ref();
    Ok(Rehearsal::new(plan, address, workers, report, events, cut))
}

fn show(plan: &Plan, result: &Rehearsal, tail: &Tail) -> ExitCode {
    if result.verdict != Verdict::Clean {
        show_log(tail);
    }
    if plan.json {
        match serde_json::to_string_pretty(result) {
            Ok(text) => say::out(&rcluster_core::escape::json(&text)),
            Err(error) => say::error(format_args!("failed to write JSON: {error}")),
        }
    } else {
        say::out(table::render(result).trim_end());
    }
    match plan
        .svg
        .as_deref()
        .map_or(Ok(()), |path| draw(result, path))
    {
        Ok(()) => result.code(),
        Err(error) => {
            say::error(error);
            ExitCode::Internal
        }
    }
}

fn draw(result: &Rehearsal, path: &Path) -> Result<(), String> {
    let failed = |why: &dyn std::fmt::Display| format!("failed to draw {}: {why}", path.display());
    let picture = picture::draw(result).map_err(|e| failed(&e))?;
    std::fs::write(path, picture).map_err(|e| failed(&e))
}

fn show_log(tail: &Tail) {
    let lines = tail.lines(LOG_LINES);
    if !lines.is_empty() {
        say::note(format_args!("---- the last lines of app and master"));
        for line in lines {
            say::note(format_args!("{line}"));
        }
        say::note(format_args!("----"));
    }
}
