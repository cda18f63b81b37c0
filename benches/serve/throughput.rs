//! Throughput of all contenders at two workers, short and keep-alive connections.

use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Runtime;

use crate::support::args::number;
use crate::support::client::{self, Load, Mode, Until};
use crate::support::contender::{Kind, Server, Start};
use crate::support::nodes::Node;
use crate::support::report::Report;
use crate::support::stats::Samples;

const KINDS: [Kind; 7] = [
    Kind::Rcluster,
    Kind::Bare,
    Kind::BareAgain,
    Kind::RclusterNoShim,
    Kind::ClusterNone,
    Kind::ClusterRr,
    Kind::Plain,
];
const WORKERS: usize = 2;
const CONNECTIONS: usize = 64;
/// A round measures each contender in so many slices, forwards and backwards in turn: drift of the machine within a
/// round cancels out as well.
const SLICES: u32 = 4;

/// What one contender did in all rounds, one sample a round.
#[derive(Default)]
struct Row {
    rate: Samples,
    p50: Samples,
    p99: Samples,
    /// Server CPU a request in microseconds, and the master's part of it.
    cpu: Samples,
    master: Samples,
    failures: u64,
}

pub(crate) fn run(report: &mut Report, nodes: &[Node], runtime: &Runtime) -> Result<()> {
    let rounds = number("RCLUSTER_BENCH_ROUNDS", 7)?;
    let slice = Duration::from_millis(number("RCLUSTER_BENCH_SLICE_MS", 500)?);
    report.section(
        "Throughput",
        &format!(
            "{WORKERS} workers, {CONNECTIONS} connections, a trivial http app; the client shares the cores. {rounds} rounds; in each \
             every contender is started anew, warmed up and measured for {:?} a mode in {SLICES} interleaved slices. Medians \
             (quartiles); ratios are formed round by round.",
            slice * SLICES
        ),
    );
    for node in nodes {
        let mut rows: Vec<[Row; 2]> = KINDS.iter().map(|_| <[Row; 2]>::default()).collect();
        for round in 0..rounds {
            eprintln!("   Node {} round {}/{rounds}", node.version, round + 1);
            one_round(node, runtime, slice, &mut rows)?;
        }
        for (index, mode) in MODES.into_iter().enumerate() {
            tell(
                report,
                node,
                mode,
                &rows.iter().map(|row| &row[index]).collect::<Vec<_>>(),
            );
        }
    }
    Ok(())
}

const MODES: [Mode; 2] = [Mode::Short, Mode::KeepAlive];

fn one_round(node: &Node, runtime: &Runtime, slice: Duration, rows: &mut [[Row; 2]]) -> Result<()> {
    let mut servers = Vec::new();
    for kind in KINDS {
        servers.push(Start::hello(kind, node, WORKERS).run()?);
    }
    for server in &servers {
        for mode in MODES {
            // A machine so busy that a warm-up is in vain will say so in the measured time.
            let _ = client::run(
                runtime,
                server.address,
                mode,
                CONNECTIONS,
                Until::Elapsed(Duration::from_millis(600)),
            );
        }
    }
    for (index, mode) in MODES.into_iter().enumerate() {
        let mut sums = vec![(Load::new(), Duration::ZERO, Duration::ZERO); KINDS.len()];
        for turn in 0..SLICES {
            let forwards: Vec<usize> = (0..KINDS.len()).collect();
            let order: Vec<usize> = if turn % 2 == 0 {
                forwards
            } else {
                forwards.into_iter().rev().collect()
            };
            for at in order {
                let server: &Server = &servers[at];
                let before = server.cpu()?;
                let load = client::run(
                    runtime,
                    server.address,
                    mode,
                    CONNECTIONS,
                    Until::Elapsed(slice),
                )?;
                let after = server.cpu()?;
                let sum = &mut sums[at];
                sum.0.append(&load);
                sum.1 += after.0.saturating_sub(before.0);
                sum.2 += after.1.saturating_sub(before.1);
            }
        }
        for (row, (load, cpu, master)) in rows.iter_mut().zip(sums) {
            let row = &mut row[index];
            let per_answer = |time: Duration| time.as_secs_f64() * 1e6 / load.answers as f64;
            row.rate.push(load.rate());
            row.p50.push(load.quantile_ms(0.5));
            row.p99.push(load.quantile_ms(0.99));
            row.cpu.push(per_answer(cpu));
            row.master.push(per_answer(master));
            row.failures += load.failures;
        }
    }
    Ok(())
}

fn tell(report: &mut Report, node: &Node, mode: Mode, rows: &[&Row]) {
    let row = |kind: Kind| rows[KINDS.iter().position(|&k| k == kind).unwrap_or_default()];
    let (bare, rr) = (row(Kind::Bare), row(Kind::ClusterRr));
    report.note(&format!("**Node {}, {}**", node.version, mode.name()));
    let table: Vec<Vec<String>> = KINDS
        .iter()
        .zip(rows)
        .map(|(kind, row)| {
            vec![
                kind.name().to_owned(),
                row.rate.show(0),
                row.rate.over(&bare.rate).show(3),
                row.rate.over(&rr.rate).show(2),
                format!("{:.1} / {:.1}", row.p50.median(), row.p99.median()),
                format!("{:.0} ({:.0})", row.cpu.median(), row.master.median()),
                row.failures.to_string(),
            ]
        })
        .collect();
    report.table(
        &[
            "",
            "answers/s",
            "of the limit",
            "of round robin",
            "p50 / p99 ms",
            "server CPU µs a request (master's part)",
            "failed",
        ],
        &table,
    );
    let again = row(Kind::BareAgain).rate.over(&bare.rate);
    let noise = again.noise();
    report.note(&format!(
        "The bench's own noise here: the limit against itself gives {}, so differences under {:.1} % say nothing.",
        again.show(3),
        noise * 100.0
    ));
    let ours = row(Kind::Rcluster);
    let of_limit = ours.rate.over(&bare.rate);
    let label = |what: &str| format!("Node {}, {}: {what}", node.version, mode.name());
    let mut judge = |what: &str, wanted: &str, ratio: Samples, least: f64| {
        let met = ratio.median() >= least;
        report.ratio(label(what), wanted, &ratio, met, noise);
    };
    match mode {
        Mode::Short => {
            judge("share of the limit", ">= 0.97", of_limit, 0.97);
            let of_rr = ours.rate.over(&rr.rate);
            judge("against round robin", ">= 1.5", of_rr, 1.5);
        }
        Mode::KeepAlive => {
            let wanted = format!("within noise (>= {:.3})", 1.0 - noise);
            judge("share of the limit", &wanted, of_limit, 1.0 - noise);
        }
    }
    let shim = ours.rate.over(&row(Kind::RclusterNoShim).rate);
    judge("with the shim against without", ">= 0.99", shim, 0.99);
}
