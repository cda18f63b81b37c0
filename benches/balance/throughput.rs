//! How much is served, how fast, and for how much CPU.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::runtime::Runtime;

use super::Effort;
use super::lineup::{self, CLASSIC, LEAST, Limit, SPREAD};
use crate::support::client::{self, Load, Mode, Until};
use crate::support::contender::{Kind, Server};
use crate::support::nodes::Node;
use crate::support::plot;
use crate::support::report::Report;
use crate::support::stats::Samples;

const WORKERS: usize = 2;
const LOADS: [(Mode, usize); 3] = [
    (Mode::Short, 64),
    (Mode::KeepAlive, 64),
    (Mode::KeepAlive, 16),
];
/// A round measures each contender in so many slices.
const SLICES: u64 = 3;

/// What one contender did in all rounds, one sample a round.
#[derive(Clone, Default)]
struct Row {
    rate: Samples,
    p50: Samples,
    p99: Samples,
    p999: Samples,
    /// Server CPU a request in microseconds, and the master's part of it.
    cpu: Samples,
    master: Samples,
    failures: u64,
}

pub(crate) fn run(
    report: &mut Report,
    node: &Node,
    runtime: &Runtime,
    effort: &Effort,
) -> Result<()> {
    report.section(
        "Throughput",
        &format!(
            "{WORKERS} workers. {} rounds; in each every contender is started anew, warmed up and measured in {SLICES} interleaved slices of {} ms a \
             load. Medians (quartiles); ratios are formed round by round.",
            effort.rounds, effort.slice_ms
        ),
    );
    let kinds = lineup::present(report, &lineup::everybody());
    let mut loads: Vec<Vec<(Kind, Row)>> = LOADS.iter().map(|_| Vec::new()).collect();
    for round in 0..effort.rounds {
        eprintln!("   round {}/{}", round + 1, effort.rounds);
        let started = kinds
            .iter()
            .map(|&kind| lineup::start(report, kind, node, WORKERS, &[]));
        let servers: Vec<_> = started.collect::<Vec<_>>().into_iter().flatten().collect();
        for (rows, load) in loads.iter_mut().zip(LOADS) {
            one_round(&servers, rows, load, runtime, effort)?;
        }
    }
    for (rows, load) in loads.iter().zip(LOADS) {
        tell(report, load, rows)?;
    }
    Ok(())
}

fn one_round(
    servers: &[Server],
    rows: &mut Vec<(Kind, Row)>,
    (mode, connections): (Mode, usize),
    runtime: &Runtime,
    effort: &Effort,
) -> Result<()> {
    let slice = Duration::from_millis(effort.slice_ms);
    for server in servers {
        // A machine so busy that a warm-up is in vain will say so in the measured time.
        let _ = client::run(
            runtime,
            server.address,
            mode,
            connections,
            Until::Elapsed(slice),
        );
    }
    let mut sums = vec![(Load::new(), Duration::ZERO, Duration::ZERO); servers.len()];
    for turn in 0..SLICES {
        for at in lineup::order(servers.len(), turn) {
            let server = &servers[at];
            let before = server.cpu()?;
            let load = client::run(
                runtime,
                server.address,
                mode,
                connections,
                Until::Elapsed(slice),
            );
            // One slice in vain says that the machine is busy; all of them would say more.
            let load = load.unwrap_or_else(|error| {
                eprintln!("   {}: {error:#}", server.kind.name());
                Load::new()
            });
            let after = server.cpu()?;
            let sum = &mut sums[at];
            sum.0.append(&load);
            sum.1 += after.0.saturating_sub(before.0);
            sum.2 += after.1.saturating_sub(before.1);
        }
    }
    for (server, (load, cpu, master)) in servers.iter().zip(sums) {
        ensure!(load.answers > 0, "{} answered nothing", server.kind.name());
        let at = rows.iter().position(|(kind, _)| *kind == server.kind);
        let at = at.unwrap_or_else(|| {
            rows.push((server.kind, Row::default()));
            rows.len() - 1
        });
        let row = &mut rows[at].1;
        let per_answer = |time: Duration| time.as_secs_f64() * 1e6 / load.answers as f64;
        row.rate.push(load.rate());
        row.p50.push(load.quantile_ms(0.5));
        row.p99.push(load.quantile_ms(0.99));
        row.p999.push(load.quantile_ms(0.999));
        row.cpu.push(per_answer(cpu));
        row.master.push(per_answer(master));
        row.failures += load.failures;
    }
    Ok(())
}

fn tell(
    report: &mut Report,
    (mode, connections): (Mode, usize),
    rows: &[(Kind, Row)],
) -> Result<()> {
    let what = format!("{}, {connections} connections", mode.name());
    report.note(&format!("**{what}**"));
    let rates = lineup::column(rows, |row| &row.rate);
    let table: Vec<Vec<String>> = rows
        .iter()
        .map(|(kind, row)| {
            vec![
                kind.name().to_owned(),
                row.rate.show(0),
                lineup::show(lineup::ratio(&rates, *kind, Kind::Bare).as_ref(), 3),
                lineup::show(lineup::ratio(&rates, *kind, Kind::ClusterRr).as_ref(), 2),
                format!(
                    "{:.1} / {:.1} / {:.1}",
                    row.p50.median(),
                    row.p99.median(),
                    row.p999.median()
                ),
                format!("{:.0} ({:.0})", row.cpu.median(), row.master.median()),
                row.failures.to_string(),
            ]
        })
        .collect();
    report.table(
        &[
            "",
            "answers/s",
            "of the bare shared socket",
            "of round robin",
            "p50 / p99 / p99.9 ms",
            "server CPU µs a request (master's part)",
            "failed",
        ],
        &table,
    );
    let noise = lineup::noise(report, &rates, Kind::Bare, Kind::BareAgain);
    let name = format!("{}-{connections}", mode.name());
    let title =
        format!("Answers a second over {what}, {WORKERS} workers (line: bare shared socket)");
    let limit = lineup::of(&rates, Kind::Bare).map(Samples::median);
    report.picture(
        &name,
        &title,
        plot::bars(&title, &lineup::bars(&rates), 0, limit)?,
    );
    if mode != Mode::Short {
        return Ok(());
    }
    for kind in [SPREAD, CLASSIC] {
        for base in [Kind::Bare, Kind::BareReuseport] {
            let what = format!("short: {} of {}", kind.name(), base.name());
            let ratio = lineup::ratio(&rates, kind, base);
            lineup::judge(report, &what, Limit::AtLeast(0.97), ratio.as_ref(), noise);
        }
    }
    let what = format!("short: {} of Node's round robin", LEAST.name());
    let ratio = lineup::ratio(&rates, LEAST, Kind::ClusterRr);
    lineup::judge(report, &what, Limit::AtLeast(1.3), ratio.as_ref(), noise);
    Ok(())
}
