//! How evenly connections and requests fall on the workers.

use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Runtime;

use super::Effort;
use super::lineup::{self, CLASSIC, LEAST, SPREAD};
use super::load::{Plan, Seen, variation};
use crate::support::client::Mode;
use crate::support::contender::Kind;
use crate::support::nodes::Node;
use crate::support::plot;
use crate::support::report::Report;
use crate::support::stats::Samples;

const WORKERS: usize = 4;
const ARRIVE: Duration = Duration::from_secs(2);
/// How long all connections go on once they are there.
const STAY: Duration = Duration::from_millis(500);
const THINK: Duration = Duration::from_millis(20);
const SHORT: Duration = Duration::from_secs(5);

/// The loads: their names, and how many connections.
const LOADS: [(&str, Mode, usize); 3] = [
    ("keep-alive, 64", Mode::KeepAlive, 64),
    ("keep-alive, 16", Mode::KeepAlive, 16),
    ("short, 64", Mode::Short, 64),
];

/// One contender: by load, what each round gave.
#[derive(Clone, Default)]
struct Row {
    connections: [Samples; 3],
    requests: [Samples; 3],
    /// Connections a worker, by round.
    divided: [Vec<Vec<u64>>; 3],
    failures: u64,
}

pub(crate) fn run(
    report: &mut Report,
    node: &Node,
    runtime: &Runtime,
    effort: &Effort,
) -> Result<()> {
    report.section(
        "Who gets what",
        &format!(
            "{WORKERS} workers. Keep-alive connections arrive one after the other over {} s, send with {} ms between requests, and stay for {} ms more; \
             short connections come 64 at a time for {} ms. The coefficient of variation over the workers: 0 is even, 1.73 is all on one. {} rounds, \
             medians (quartiles), and connections a worker in the middle round.",
            ARRIVE.as_secs(),
            THINK.as_millis(),
            STAY.as_millis(),
            SHORT.as_millis(),
            effort.rounds,
        ),
    );
    let mut kinds = lineup::everybody();
    // Counts, not speeds: the noise is in their own quartiles.
    kinds.retain(|kind| *kind != Kind::BareAgain);
    let servers = lineup::start_all(report, &kinds, node, WORKERS);
    let mut rows: Vec<(Kind, Row)> = servers.iter().map(|s| (s.kind, Row::default())).collect();
    for round in 0..effort.rounds {
        eprintln!("   round {}/{}", round + 1, effort.rounds);
        for (index, (_, mode, connections)) in LOADS.into_iter().enumerate() {
            for at in lineup::order(servers.len(), round) {
                let plan = plan(mode, connections, round);
                if let Some(seen) = lineup::load(runtime, &servers[at], plan) {
                    rows[at].1.add(index, &seen);
                }
            }
        }
    }
    let table: Vec<Vec<String>> = rows
        .iter()
        .map(|(kind, row)| {
            let mut cells = vec![kind.name().to_owned()];
            for index in 0..LOADS.len() {
                cells.push(row.connections[index].show(3));
                if index < 2 {
                    cells.push(row.requests[index].show(2));
                    cells.push(words(row.middle(index)));
                }
            }
            cells.push(row.failures.to_string());
            cells
        })
        .collect();
    report.table(
        &[
            "",
            "64 keep-alive: CV of connections",
            "of requests",
            "connections",
            "16 keep-alive: CV of connections",
            "of requests",
            "connections",
            "short: CV",
            "failed",
        ],
        &table,
    );
    for (index, (name, ..)) in LOADS.iter().enumerate() {
        let divided: Vec<_> = rows
            .iter()
            .map(|(kind, row)| (kind.name().to_owned(), row.middle(index).to_vec()))
            .collect();
        let title = format!("Connections a worker, {name} connections (middle round)");
        let file = format!("shares-{}", name.replace(", ", "-"));
        report.picture(&file, &title, plot::shares(&title, &divided)?);
    }
    judge(report, &rows);
    Ok(())
}

fn plan(mode: Mode, connections: usize, round: u64) -> Plan {
    let keep = mode == Mode::KeepAlive;
    Plan {
        mode,
        connections,
        arrive: if keep { ARRIVE } else { Duration::ZERO },
        until: if keep { ARRIVE + STAY } else { SHORT },
        think: if keep { THINK } else { Duration::ZERO },
        dear: 0,
        fast_open: false,
        seed: round,
    }
}

impl Row {
    fn add(&mut self, index: usize, seen: &Seen) {
        let connections = seen.shares(WORKERS, |share| share.connections);
        let requests = seen.shares(WORKERS, |share| share.requests);
        self.connections[index].push(variation(&connections));
        self.requests[index].push(variation(&requests));
        self.divided[index].push(connections);
        self.failures += seen.failures;
    }

    /// The division of the round whose variation is the median.
    fn middle(&self, index: usize) -> &[u64] {
        let mut rounds: Vec<&Vec<u64>> = self.divided[index].iter().collect();
        rounds.sort_by(|a, b| variation(a).total_cmp(&variation(b)));
        rounds.get(rounds.len() / 2).map_or(&[], |round| round)
    }
}

fn words(shares: &[u64]) -> String {
    let words: Vec<_> = shares.iter().map(ToString::to_string).collect();
    words.join("/")
}

fn judge(report: &mut Report, rows: &[(Kind, Row)]) {
    let mut limit = |kind: Kind, index: usize, most: f64| {
        let what = format!("{}: CV of connections, {}", kind.name(), LOADS[index].0);
        let wanted = format!("<= {most}");
        let column = lineup::column(rows, |row| &row.connections[index]);
        match lineup::of(&column, kind) {
            Some(got) => report.target(what, wanted, got.show(3), got.median() <= most),
            None => report.unmeasured(&what, &wanted, "it was left out"),
        }
    };
    limit(SPREAD, 0, 0.02);
    limit(CLASSIC, 0, 0.12);
    limit(SPREAD, 2, 0.03);
    limit(CLASSIC, 2, 0.03);
    limit(LEAST, 0, 0.03);
}
