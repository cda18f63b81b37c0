//! Four workers that journal, and the ledger's load on them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use rcluster_ledger::{
    self, Class, Control, Fate, Id, Load, Mode, Reconciliation, Running, Target,
};

use crate::support::contender::{Kind, Server, Start, bench_file};
use crate::support::control;
use crate::support::nodes::Node;
use crate::support::report::Report;

pub(crate) const WORKERS: usize = 4;
const CLIENTS: u32 = 16;
const THINK: Duration = Duration::from_millis(2);
/// A killed process' connections are ended before it is reaped, and it is reaped within this time (a target of its own).
const REAPED: Duration = Duration::from_millis(50);
/// In which a request must begin to be answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// The fleet, when its master knows all of it as ready.
pub(crate) fn fleet(node: &Node) -> Result<Server> {
    let server = Start {
        kind: Kind::Rcluster,
        node: &node.path,
        workers: WORKERS,
        script: bench_file("apps/journal-http.js"),
        options: Vec::new(),
        prepare: None,
    }
    .run()?;
    let began = Instant::now();
    while control::workers_in(&control::status(&server.control())?, "ready") < WORKERS {
        ensure!(
            began.elapsed() < PATIENCE,
            "not ready: {}",
            server.log_tail()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(server)
}

/// Loads that run beside each other, each in a thread of its own.
pub(crate) struct Loads(Vec<Running>);

/// What came of them.
pub(crate) struct Outcome {
    pub(crate) report: rcluster_ledger::Report,
    pub(crate) journals: Reconciliation,
}

impl Loads {
    pub(crate) fn start(server: &Server, modes: &[Mode]) -> Result<Self> {
        let mut first_client = 0;
        let running = modes.iter().map(|mode| {
            let mut load = Load::new(Target::Tcp(server.address));
            load.mode = *mode;
            load.clients = CLIENTS;
            load.first_client = first_client;
            load.think = THINK;
            load.request_timeout = PATIENCE;
            first_client += CLIENTS;
            rcluster_ledger::spawn(load).context("start a load")
        });
        Ok(Self(running.collect::<Result<_>>()?))
    }

    fn controls(&self) -> impl Iterator<Item = &Control> {
        self.0.iter().map(Running::control)
    }

    pub(crate) fn mark(&self, phase: &str) {
        self.controls().for_each(|control| control.mark(phase));
    }

    pub(crate) fn stop(self, server: &Server) -> Result<Outcome> {
        self.controls().for_each(Control::stop);
        let mut reports = self.0.into_iter().map(Running::join);
        let mut report = reports.next().context("no load")??;
        for other in reports {
            report.absorb(&other?);
        }
        let journals = rcluster_ledger::reconcile(&server.folder().join("journal"), &report)?;
        Ok(Outcome { report, journals })
    }
}

impl Outcome {
    /// Requests that a worker lost which is none of these: it had them, or their connection. And those that no worker
    /// knows of, unless their connection was ended, which only an accepted one is, within [`REAPED`] of a death: the worker
    /// died before it could say that it had accepted it.
    pub(crate) fn unexplained(&self, dead: &BTreeMap<i32, SystemTime>) -> Vec<String> {
        let is_dead = |name: &str| name.parse().is_ok_and(|pid| dead.contains_key(&pid));
        let at_a_death = |id: &Id| {
            let ended = self.report.lines.get(id).map(|line| line.failed);
            let since = |died: &SystemTime| ended?.duration_since(*died).ok();
            dead.values().filter_map(since).any(|time| time < REAPED)
        };
        let mut found = Vec::new();
        for (id, class, fate) in &self.journals.failures {
            let explained = match fate {
                Fate::Accepted(worker) | Fate::Received(worker) | Fate::Answered(worker) => {
                    is_dead(worker)
                }
                Fate::NeverSeen => {
                    matches!(class, Class::FinBeforeByte | Class::RstBeforeByte) && at_a_death(id)
                }
            };
            if !explained {
                found.push(format!("{id}: {class}, {fate:?}"));
            }
        }
        found
    }

    /// The lines of the report that all runs share.
    pub(crate) fn tell(&self, report: &mut Report, phase: &str) {
        let classes: Vec<_> = self
            .report
            .classes
            .iter()
            .map(|(class, count)| format!("{class}: {count}"))
            .collect();
        let (unseen, accepted, received, answered) = self.journals.fates();
        let p99 = |name: &str| {
            let phase = self.report.phase(name);
            phase.map_or(f64::NAN, |p| p.latency.percentile(99.0).as_secs_f64() * 1e3)
        };
        report.note(&format!(
            "{} requests: {}. By the journals the lost ones had been received: {received}, answered: {answered}, neither, but their connection accepted: \
             {accepted}, nothing known: {unseen}. \
             p99 before / meanwhile: {:.1} / {:.1} ms; longest time without an answer: {:.0} ms.",
            self.report.total,
            classes.join(", "),
            p99("quiet"),
            p99(phase),
            self.report.longest_gap().as_secs_f64() * 1e3,
        ));
    }
}
