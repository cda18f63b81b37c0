//! Who takes part, and the few figures that all sections form the same way.

use anyhow::Result;
use tokio::runtime::Runtime;

use super::load::{self, Plan, Seen};

use crate::support::contender::{Balance, Kind, Server, Start};
use crate::support::nodes::Node;
use crate::support::plot::Bar;
use crate::support::report::Report;
use crate::support::stats::Samples;

pub(crate) const SPREAD: Kind = Kind::Balanced(Balance::Spread);
pub(crate) const CLASSIC: Kind = Kind::Balanced(Balance::SpreadClassic);
pub(crate) const LEAST: Kind = Kind::Balanced(Balance::LeastConn);

/// All modes of ours, then the peers, then the bare parents.
pub(crate) fn everybody() -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Balance::ALL.map(Kind::Balanced).to_vec();
    kinds.extend([
        Kind::ClusterRr,
        Kind::ClusterNone,
        Kind::Pm2,
        Kind::Watt,
        Kind::Bun,
        Kind::Bare,
        Kind::BareAgain,
        Kind::BareReuseport,
    ]);
    kinds
}

/// Those of them that can be run here and were asked for; the report says of the others why not.
pub(crate) fn present(report: &mut Report, kinds: &[Kind]) -> Vec<Kind> {
    let only = std::env::var("RCLUSTER_BENCH_ONLY").unwrap_or_default();
    let asked = |kind: &Kind| {
        only.is_empty()
            || only
                .split(',')
                .any(|word| kind.name().contains(word.trim()))
    };
    let mut present = Vec::new();
    for kind in kinds.iter().copied().filter(asked) {
        match kind.missing() {
            Some(why) => report.missing(kind.name(), &why),
            None => present.push(kind),
        }
    }
    present
}

/// Starts one; a contender that does not start is a result, and the others go on.
pub(crate) fn start(
    report: &mut Report,
    kind: Kind,
    node: &Node,
    workers: usize,
    options: &[&str],
) -> Option<Server> {
    let start = Start {
        options: options.iter().map(ToString::to_string).collect(),
        ..Start::app(kind, &node.path, workers, "apps/share.js")
    };
    match start.run() {
        Ok(server) => Some(server),
        Err(error) => {
            let error = format!("{error:#}");
            eprintln!("   {error}");
            let first = error.lines().next().unwrap_or_default().to_owned();
            if kind.is_rcluster() {
                report.target(
                    format!("{} starts {workers} workers", kind.name()),
                    "yes",
                    first,
                    false,
                );
            } else {
                report.note(&format!("{} did not start: {first}", kind.name()));
            }
            None
        }
    }
}

/// Starts those of `kinds` that can be.
pub(crate) fn start_all(
    report: &mut Report,
    kinds: &[Kind],
    node: &Node,
    workers: usize,
) -> Vec<Server> {
    let kinds = present(report, kinds);
    let started = kinds
        .into_iter()
        .map(|kind| start(report, kind, node, workers, &[]));
    // Collected first: the closure borrows the report.
    let started: Vec<_> = started.collect();
    started.into_iter().flatten().collect()
}

/// Carries out a plan; on a machine so busy that nothing was answered there is a sample less.
pub(crate) fn load(runtime: &Runtime, server: &Server, plan: Plan) -> Option<Seen> {
    match load::run(runtime, server.address, plan) {
        Ok(seen) => Some(seen),
        Err(error) => {
            eprintln!("   {}: {error:#}", server.kind.name());
            None
        }
    }
}

/// The order of a turn: forwards and backwards, so that drift of the machine cancels out.
pub(crate) fn order(count: usize, turn: u64) -> Vec<usize> {
    let forwards = 0..count;
    if turn.is_multiple_of(2) {
        forwards.collect()
    } else {
        forwards.rev().collect()
    }
}

/// The samples of one contender, if it took part.
pub(crate) fn of(rows: &[(Kind, Samples)], kind: Kind) -> Option<&Samples> {
    rows.iter()
        .find(|(other, _)| *other == kind)
        .map(|(_, samples)| samples)
}

/// One contender over the other, round by round, if both took part.
pub(crate) fn ratio(rows: &[(Kind, Samples)], kind: Kind, base: Kind) -> Option<Samples> {
    Some(of(rows, kind)?.over(of(rows, base)?))
}

/// As `Samples::show`, or a dash.
pub(crate) fn show(samples: Option<&Samples>, decimals: usize) -> String {
    samples.map_or_else(|| "-".to_owned(), |samples| samples.show(decimals))
}

/// The bench's own noise: of two contenders that are the same.
pub(crate) fn noise(report: &mut Report, rows: &[(Kind, Samples)], base: Kind, again: Kind) -> f64 {
    let Some(ratio) = ratio(rows, again, base) else {
        report.note("The bench's own noise was not measured here: one of the two equal contenders was left out.");
        return 0.0;
    };
    report.note(&format!(
        "The bench's own noise here: {} against itself gives {}, so differences under {:.1} % say nothing.",
        base.name(),
        ratio.show(3),
        ratio.noise() * 100.0
    ));
    ratio.noise()
}

/// What a ratio should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

/// Judges a ratio, or says that it was not measured. One that is farther from its limit than the noise is judged on a noisy machine too.
pub(crate) fn judge(
    report: &mut Report,
    what: &str,
    limit: Limit,
    got: Option<&Samples>,
    noise: f64,
) {
    let wanted = match limit {
        Limit::AtLeast(least) => format!(">= {least}"),
        Limit::AtMost(most) => format!("<= {most}"),
    };
    let Some(got) = got else {
        report.unmeasured(what, &wanted, "a contender was left out");
        return;
    };
    let median = got.median();
    let (met, off) = match limit {
        Limit::AtLeast(least) => (median >= least, median / least - 1.0),
        Limit::AtMost(most) => (median <= most, median / most - 1.0),
    };
    let noise = if off.abs() > noise { 0.0 } else { noise };
    report.ratio(what.to_owned(), &wanted, got, met, noise);
}

/// Bars for a picture.
pub(crate) fn bars(rows: &[(Kind, Samples)]) -> Vec<Bar> {
    rows.iter()
        .map(|(kind, samples)| Bar {
            name: kind.name().to_owned(),
            median: samples.median(),
            low: samples.quantile(0.25),
            high: samples.quantile(0.75),
            ours: kind.is_rcluster(),
        })
        .collect()
}

/// The samples that one measured figure has in all rows.
pub(crate) fn column<T>(rows: &[(Kind, T)], of: impl Fn(&T) -> &Samples) -> Vec<(Kind, Samples)> {
    rows.iter()
        .map(|(kind, row)| (*kind, of(row).clone()))
        .collect()
}

/// Seconds of a run, for what a section says of itself.
pub(crate) fn seconds(ms: u64) -> Result<String> {
    Ok(format!("{} s", f64::from(u32::try_from(ms)?) / 1000.0))
}
