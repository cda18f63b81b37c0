//! How the cost of a connection grows with the number of workers: a socket that all of them watch wakes all of them.

use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Runtime;

use super::Effort;
use super::lineup::{self, LEAST, SPREAD};
use super::load::Plan;
use crate::support::client::Mode;
use crate::support::contender::{Balance, Kind, Server};
use crate::support::nodes::Node;
use crate::support::plot;
use crate::support::procfs;
use crate::support::report::Report;
use crate::support::stats::Samples;

const KINDS: [Kind; 6] = [
    Kind::Balanced(Balance::Shared),
    SPREAD,
    LEAST,
    Kind::ClusterRr,
    Kind::Bare,
    Kind::BareReuseport,
];
/// Up to so many workers all contenders run side by side; more of them would crowd the machine.
const TOGETHER: usize = 8;
/// Counts of wake-ups hardly differ between rounds.
const ROUNDS: u64 = 2;
const LOOK: Duration = Duration::from_millis(800);

/// One contender at one number of workers.
#[derive(Clone, Default)]
struct Row {
    /// Connections that come now and then: CPU in microseconds, the master's part, and wake-ups, each a connection.
    calm_cpu: Samples,
    calm_master: Samples,
    calm_wakeups: Samples,
    /// Milliseconds.
    calm_p50: Samples,
    /// As many as it takes.
    busy_rate: Samples,
    busy_cpu: Samples,
    busy_wakeups: Samples,
}

pub(crate) fn run(
    report: &mut Report,
    node: &Node,
    runtime: &Runtime,
    effort: &Effort,
) -> Result<()> {
    report.section(
        "More workers",
        &format!(
            "Short connections, workers {:?}. Calm: about 400 connections a second, each finds most workers asleep; the idle time before it is subtracted. Busy: 64 \
             at a time. A wake-up is a voluntary context switch of any thread of workers or master. {} rounds; medians \
             (quartiles).",
            effort.growth,
            effort.rounds.min(ROUNDS)
        ),
    );
    let kinds = lineup::present(report, &KINDS);
    let mut all: Vec<(Kind, Vec<Row>)> = kinds.iter().map(|&kind| (kind, Vec::new())).collect();
    for &workers in &effort.growth {
        eprintln!("   {workers} workers");
        let rounds = effort.rounds.min(ROUNDS);
        let groups = kinds.chunks(if workers > TOGETHER {
            1
        } else {
            kinds.len().max(1)
        });
        for group in groups {
            let started = group
                .iter()
                .map(|&kind| lineup::start(report, kind, node, workers, &[]));
            let servers: Vec<Option<Server>> = started.collect();
            let mut rows = vec![Row::default(); group.len()];
            // What a boot leaves to do is over.
            std::thread::sleep(Duration::from_millis(500));
            for round in 0..rounds {
                for at in lineup::order(group.len(), round) {
                    if let Some(server) = &servers[at] {
                        rows[at].measure(server, runtime, round)?;
                    }
                }
            }
            for (kind, row) in group.iter().zip(rows) {
                if let Some((_, of_kind)) = all.iter_mut().find(|(other, _)| other == kind) {
                    of_kind.push(row);
                }
            }
        }
    }
    tell(report, effort, &all)
}

/// One of a row's figures.
type Column = fn(&Row) -> &Samples;

/// CPU of all, CPU of the master, wake-ups of all.
type Counters = (Duration, Duration, u64);

fn counters(server: &Server) -> Result<Counters> {
    let (cpu, master) = server.cpu()?;
    let mut wakeups = 0;
    for pid in server.workers().into_iter().chain(server.primary()?) {
        wakeups += procfs::wakeups(pid)?;
    }
    Ok((cpu, master, wakeups))
}

fn since(server: &Server, before: Counters) -> Result<Counters> {
    let now = counters(server)?;
    Ok((
        now.0.saturating_sub(before.0),
        now.1.saturating_sub(before.1),
        now.2.saturating_sub(before.2),
    ))
}

impl Row {
    fn measure(&mut self, server: &Server, runtime: &Runtime, round: u64) -> Result<()> {
        let before = counters(server)?;
        std::thread::sleep(LOOK);
        let idle = since(server, before)?;
        let mut plan = Plan {
            mode: Mode::Short,
            connections: 16,
            arrive: Duration::from_millis(40),
            until: LOOK,
            think: Duration::from_millis(40),
            dear: 0,
            fast_open: false,
            seed: round,
        };
        let before = counters(server)?;
        let Some(seen) = lineup::load(runtime, server, plan) else {
            return Ok(());
        };
        let calm = since(server, before)?;
        let each = |time: Duration, idle: Duration, count: u64| {
            time.saturating_sub(idle).as_secs_f64() * 1e6 / count as f64
        };
        let count = seen.all.len();
        self.calm_cpu.push(each(calm.0, idle.0, count));
        self.calm_master.push(each(calm.1, idle.1, count));
        self.calm_wakeups
            .push(calm.2.saturating_sub(idle.2) as f64 / count as f64);
        self.calm_p50
            .push(seen.all.value_at_quantile(0.5) as f64 / 1e3);
        plan.connections = 64;
        plan.think = Duration::ZERO;
        plan.until = LOOK / 2;
        let before = counters(server)?;
        let Some(seen) = lineup::load(runtime, server, plan) else {
            return Ok(());
        };
        let busy = since(server, before)?;
        let count = seen.all.len();
        self.busy_rate.push(count as f64 / plan.until.as_secs_f64());
        self.busy_cpu.push(each(busy.0, Duration::ZERO, count));
        self.busy_wakeups.push(busy.2 as f64 / count as f64);
        Ok(())
    }
}

fn tell(report: &mut Report, effort: &Effort, all: &[(Kind, Vec<Row>)]) -> Result<()> {
    let mut table = Vec::new();
    for (kind, rows) in all {
        for (workers, row) in effort.growth.iter().zip(rows) {
            table.push(vec![
                kind.name().to_owned(),
                workers.to_string(),
                row.calm_wakeups.show(1),
                row.calm_cpu.show(0),
                format!("{:.0}", row.calm_master.median()),
                row.calm_p50.show(2),
                row.busy_rate.show(0),
                row.busy_cpu.show(0),
                row.busy_wakeups.show(2),
            ]);
        }
    }
    report.table(
        &[
            "",
            "workers",
            "calm: wake-ups a connection",
            "CPU µs a connection",
            "master's part",
            "p50 ms",
            "busy: connections/s",
            "CPU µs a connection",
            "wake-ups a connection",
        ],
        &table,
    );
    let pictures: [(&str, &str, &str, Column); 2] = [
        (
            "growth-wakeups",
            "Wake-ups that a connection costs, calm",
            "wake-ups",
            |row| &row.calm_wakeups,
        ),
        (
            "growth-cpu",
            "CPU that a connection costs, calm",
            "µs",
            |row| &row.calm_cpu,
        ),
    ];
    for (name, title, unit, of) in pictures {
        let lines: Vec<(String, Vec<f64>)> = all
            .iter()
            .map(|(kind, rows)| {
                let values = rows.iter().map(|row| of(row).median()).collect();
                (kind.name().to_owned(), values)
            })
            .collect();
        let picture = plot::lines(title, unit, &effort.growth, &lines)?;
        report.picture(name, title, picture);
    }
    Ok(())
}
