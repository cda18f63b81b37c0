//! Requests of mixed cost: what the others wait for when one takes long.

use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Runtime;

use super::Effort;
use super::lineup::{self, CLASSIC, Limit, SPREAD};
use super::load::{Plan, Seen, variation};
use crate::support::client::Mode;
use crate::support::contender::Kind;
use crate::support::nodes::Node;
use crate::support::plot;
use crate::support::report::Report;
use crate::support::stats::Samples;

const WORKERS: usize = 4;
const CONNECTIONS: usize = 64;
/// One request in so many takes 50 ms of CPU.
const DEAR: u32 = 50;
/// With 64 clients that leaves two cores about a third idle: a machine that is full has no choice to make.
const THINK: Duration = Duration::from_millis(50);
const MODES: [Mode; 2] = [Mode::Short, Mode::KeepAlive];

#[derive(Clone, Default)]
struct Row {
    /// Milliseconds.
    p50: Samples,
    p99: Samples,
    p999: Samples,
    /// Of the requests that are not dear.
    light: Samples,
    requests: Samples,
    answers: u64,
    failures: u64,
}

pub(crate) fn run(
    report: &mut Report,
    node: &Node,
    runtime: &Runtime,
    effort: &Effort,
) -> Result<()> {
    report.section(
        "Mixed costs",
        &format!(
            "{WORKERS} workers, {CONNECTIONS} clients with {} ms between an answer and the next request; one request in {DEAR}, at random but the same for \
             everybody, takes 50 ms of CPU. {} rounds of {} a load. The p99 of all requests lies within the dear ones; the p99 of the light ones is \
             what they wait for the dear.",
            THINK.as_millis(),
            effort.rounds,
            lineup::seconds(effort.mixed_ms)?,
        ),
    );
    let mut kinds = lineup::everybody();
    kinds.retain(|kind| !matches!(kind, Kind::BareAgain | Kind::BareReuseport));
    if let Some(at) = kinds.iter().position(|kind| *kind == Kind::ClusterRr) {
        kinds.insert(at + 1, Kind::ClusterRrAgain);
    }
    let servers = lineup::start_all(report, &kinds, node, WORKERS);
    let empty = || servers.iter().map(|s| (s.kind, Row::default())).collect();
    let mut loads: Vec<Vec<(Kind, Row)>> = MODES.iter().map(|_| empty()).collect();
    for round in 0..effort.rounds {
        eprintln!("   round {}/{}", round + 1, effort.rounds);
        for (rows, mode) in loads.iter_mut().zip(MODES) {
            for at in lineup::order(servers.len(), round) {
                let plan = Plan {
                    mode,
                    connections: CONNECTIONS,
                    arrive: THINK,
                    until: Duration::from_millis(effort.mixed_ms),
                    think: THINK,
                    dear: DEAR,
                    fast_open: false,
                    seed: round,
                };
                if let Some(seen) = lineup::load(runtime, &servers[at], plan) {
                    rows[at].1.add(&seen);
                }
            }
        }
    }
    for (rows, mode) in loads.iter().zip(MODES) {
        tell(report, mode, rows)?;
    }
    Ok(())
}

impl Row {
    fn add(&mut self, seen: &Seen) {
        let ms = |us: u64| us as f64 / 1e3;
        self.p50.push(ms(seen.all.value_at_quantile(0.5)));
        self.p99.push(ms(seen.all.value_at_quantile(0.99)));
        self.p999.push(ms(seen.all.value_at_quantile(0.999)));
        self.light.push(ms(seen.light.value_at_quantile(0.99)));
        self.requests
            .push(variation(&seen.shares(WORKERS, |share| share.requests)));
        self.answers += seen.all.len();
        self.failures += seen.failures;
    }
}

fn tell(report: &mut Report, mode: Mode, rows: &[(Kind, Row)]) -> Result<()> {
    report.note(&format!("**{}**", mode.name()));
    let p99 = lineup::column(rows, |row| &row.p99);
    let light = lineup::column(rows, |row| &row.light);
    let of_rr = |rows: &[(Kind, Samples)], kind| lineup::ratio(rows, kind, Kind::ClusterRr);
    let table: Vec<Vec<String>> = rows
        .iter()
        .map(|(kind, row)| {
            vec![
                kind.name().to_owned(),
                row.answers.to_string(),
                row.p50.show(1),
                row.p99.show(0),
                lineup::show(of_rr(&p99, *kind).as_ref(), 2),
                row.p999.show(0),
                row.light.show(0),
                lineup::show(of_rr(&light, *kind).as_ref(), 2),
                row.requests.show(2),
                row.failures.to_string(),
            ]
        })
        .collect();
    report.table(
        &[
            "",
            "answers",
            "p50 ms",
            "p99 ms",
            "of round robin",
            "p99.9 ms",
            "p99 of the light ms",
            "of round robin",
            "CV of requests",
            "failed",
        ],
        &table,
    );
    let noise = lineup::noise(report, &p99, Kind::ClusterRr, Kind::ClusterRrAgain);
    let title = format!(
        "p99 in ms of light requests beside dear ones, {} (line: Node's round robin)",
        mode.name()
    );
    let mark = lineup::of(&light, Kind::ClusterRr).map(Samples::median);
    let picture = plot::bars(&title, &lineup::bars(&light), 0, mark)?;
    report.picture(&format!("mixed-{}", mode.name()), &title, picture);
    for kind in [SPREAD, CLASSIC] {
        for (which, column) in [("p99", &p99), ("p99 of the light", &light)] {
            let what = format!(
                "mixed costs, {}: {which} of {} against Node's round robin",
                mode.name(),
                kind.name()
            );
            let ratio = of_rr(column, kind);
            lineup::judge(report, &what, Limit::AtMost(0.8), ratio.as_ref(), noise);
        }
    }
    Ok(())
}
