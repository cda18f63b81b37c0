//! The result: what `--json` prints, and what table and picture are made from.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    drill::{DrillError, Event, Kind},
    excuse,
    plan::Plan,
};
use rcluster_core::exit_code::ExitCode;
use rcluster_ledger::{Class, Method, Phase, Report, Sample, Slot};

/// How it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// Nothing was lost but what killed workers had accepted, and all that was planned was done.
    Clean,
    /// Requests were lost.
    Lost,
    /// A reload failed.
    ReloadFailed,
    /// Not done within `--limit`.
    TimedOut,
    /// The master failed.
    Broken,
}

/// Why the drill was not done to its end.
#[derive(Debug)]
pub(super) enum Cut {
    Limit,
    Drill(DrillError),
}

/// The result.
#[derive(Debug, Serialize)]
pub(super) struct Rehearsal {
    /// Version of this document; grows when a field changes its meaning or goes.
    version: u32,
    pub(super) verdict: Verdict,
    /// Why the drill was not done to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// The exit code of this command.
    exit_code: u8,
    /// The listener that got the load.
    pub(super) address: String,
    pub(super) workers: u32,
    pub(super) method: &'static str,
    pub(super) paths: Vec<String>,
    pub(super) clients: u32,
    pub(super) latency_ms: u64,
    pub(super) tls: bool,
    /// Number of requests sent.
    pub(super) requests: u64,
    /// Number of requests lost.
    pub(super) lost: u64,
    /// Of these, those that killed workers had accepted.
    pub(super) excused: u64,
    /// Number of requests of each class that occurred.
    pub(super) classes: BTreeMap<Class, u64>,
    pub(super) connections: u64,
    pub(super) elapsed_ms: u64,
    /// Longest time without an answer on one path and kind of connection, in microseconds.
    pub(super) longest_gap_us: u64,
    /// When that began.
    pub(super) longest_gap_at_ms: u64,
    pub(super) phases: Vec<Phase>,
    pub(super) events: Vec<Event>,
    /// Some of the losses, the first ones first.
    pub(super) samples: Vec<Sample>,
    /// Tenths of seconds since the start.
    pub(super) timeline: Vec<Slot>,
    /// The exit code of the master, stopped after the load; 6 if workers had to be killed then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stop_code: Option<i32>,
}

impl Rehearsal {
    pub(super) fn new(
        plan: &Plan,
        address: String,
        workers: u32,
        report: Report,
        events: Vec<Event>,
        cut: Option<&Cut>,
    ) -> Self {
        let lost = report.lost();
        // A kill that was cut off may have been done all the same.
        let kills = events
            .iter()
            .filter(|e| e.kind == Kind::Kill && e.pid.is_some());
        let excused = excuse::excused(&report, plan.clients, kills.count() as u64, plan.tls());
        let verdict = match cut {
            _ if lost > excused => Verdict::Lost,
            None => Verdict::Clean,
            Some(Cut::Limit) => Verdict::TimedOut,
            Some(Cut::Drill(DrillError::Reload(..))) => Verdict::ReloadFailed,
            Some(Cut::Drill(DrillError::Trial(_))) => Verdict::Broken,
        };
        let mut samples = report.samples;
        samples.sort_by_key(|s| s.at_ms);
        Self {
            version: 1,
            verdict,
            reason: cut.map(|cut| match cut {
                Cut::Limit => format!(
                    "not done within {} (--limit)",
                    humantime::format_duration(plan.limit)
                ),
                Cut::Drill(error) => error.to_string(),
            }),
            exit_code: code(verdict) as u8,
            address,
            workers,
            method: match plan.ask.method {
                Method::Get => "GET",
                Method::Post => "POST",
            },
            paths: plan.paths.clone(),
            clients: plan.clients,
            latency_ms: u64::try_from(plan.latency.as_millis()).unwrap_or(u64::MAX),
            tls: plan.tls(),
            requests: report.total,
            lost,
            excused,
            classes: report.classes,
            connections: report.connections,
            elapsed_ms: report.elapsed_ms,
            longest_gap_us: report.longest_gap_us,
            longest_gap_at_ms: report.longest_gap_at_ms,
            phases: report.phases,
            events,
            samples,
            timeline: report.timeline,
            stop_code: None,
        }
    }

    /// How it came out, in one line.
    pub(super) fn headline(&self) -> String {
        let kills = match self.excused {
            0 => String::new(),
            n => format!("; {n} that killed workers had accepted"),
        };
        match self.lost - self.excused {
            0 => format!("0 of {} requests lost{kills}", self.requests),
            n => format!("{n} of {} requests LOST{kills}", self.requests),
        }
    }

    /// The exit code.
    pub(super) fn code(&self) -> ExitCode {
        code(self.verdict)
    }
}

fn code(verdict: Verdict) -> ExitCode {
    match verdict {
        Verdict::Clean => ExitCode::Ok,
        Verdict::Lost => ExitCode::Lost,
        Verdict::ReloadFailed => ExitCode::ReloadFailed,
        Verdict::TimedOut => ExitCode::ReloadTimedOut,
        Verdict::Broken => ExitCode::Internal,
    }
}
