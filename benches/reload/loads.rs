//! Reloads of four workers while the ledger runs: every request has a fate, and none may be lost.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rcluster_ledger::{self, Class, Load, Mode, Target};

use crate::Effort;
use crate::support::contender::{Kind, Server, Start};
use crate::support::nodes::Node;
use crate::support::peers;
use crate::support::report::Report;
use crate::support::stats::Samples;

const WORKERS: usize = 4;
const LATENCIES: [Duration; 2] = [Duration::ZERO, Duration::from_millis(20)];
const APPS: [&str; 3] = ["http", "express", "fastify"];
const THINK: Duration = Duration::from_millis(2);
const SLOW: Duration = Duration::from_millis(500);
/// After this the old workers are taken to be there for ever, and the case ends.
const PATIENCE: Duration = Duration::from_secs(60);
/// Phases of the ledger; the first is its own name for how a load begins.
const QUIET: &str = "quiet";
const RELOAD: &str = "reload";

/// The requests of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Requests {
    KeepAlive,
    Short,
    Slow,
}

impl Requests {
    const ALL: [Self; 3] = [Self::KeepAlive, Self::Short, Self::Slow];

    fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::Short => "short",
            Self::Slow => "500 ms requests",
        }
    }
}

struct Case {
    kind: Kind,
    app: &'static str,
    requests: Requests,
    latency: Duration,
}

/// What became of a case.
#[derive(Default)]
struct Outcome {
    report: Option<rcluster_ledger::Report>,
    reloads: u64,
    /// Milliseconds from the command to the last new worker serving, and to the last old one gone.
    serving: Samples,
    gone: Samples,
    trouble: Option<String>,
}

pub(crate) fn run(report: &mut Report, node: &Node, effort: &Effort) -> Result<()> {
    report.section(
        "Reloads under load",
        &format!(
            "{WORKERS} workers, Node {}. 16 ledger clients with 2 ms of think time (64 with 500 ms requests), POSTs that are echoed and checked, no \
             retry. At least {} reloads and {} s a row. One reload: from the command to the last new worker serving / to the last old one gone; \
             rcluster waits `--min-uptime` and `--drain-timeout` as by default, PM2 {} is as installed, Node's cluster forks, waits for `listening` and \
             calls `disconnect()`, worker by worker. p99: without a reload / from a reload's command until its last old worker is gone.",
            node.version,
            effort.reloads,
            effort.seconds,
            peers::version("pm2")
        ),
    );
    let mut rows = Vec::new();
    let mut ours = Sum::default();
    let mut control = Sum::default();
    for case in cases(effort) {
        eprintln!("   {}", case.title());
        let outcome = case.run(node, effort).with_context(|| case.title())?;
        if case.kind == Kind::Rcluster {
            ours.add(&outcome);
            for sample in outcome.report.iter().flat_map(|report| &report.samples) {
                let at = sample.at_ms;
                eprintln!(
                    "   lost: {} at {at} ms: {}: {}",
                    sample.id, sample.class, sample.seen
                );
            }
        } else if case.kind == Kind::RclusterNoShim {
            control.add(&outcome);
        }
        rows.push(case.row(&outcome));
    }
    report.table(
        &[
            "",
            "app",
            "requests",
            "latency",
            "sent",
            "lost",
            "never answered",
            "refused",
            "reloads",
            "one reload ms",
            "p99 ms",
            "lost by class",
        ],
        &rows,
    );
    if ours.requests > 0 {
        ours.judge(report, effort);
    }
    if control.requests > 0 {
        let got = format!("{} of {}", control.lost, control.requests);
        report.target(
            "negative control: without the shim the ledger sees losses",
            "> 0",
            got,
            control.lost > 0,
        );
    }
    Ok(())
}

/// Ours with every app; the peers and the negative control with plain http, unless all is asked for.
fn cases(effort: &Effort) -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [
        Kind::Rcluster,
        Kind::RclusterNoShim,
        Kind::Pm2,
        Kind::ClusterRr,
    ] {
        for app in APPS {
            if app != "http" && kind != Kind::Rcluster && !effort.all_peers {
                continue;
            }
            for requests in Requests::ALL {
                // Enough to see that the ledger is not blind; the others only wait for the drain timeout.
                if kind == Kind::RclusterNoShim && requests != Requests::KeepAlive {
                    continue;
                }
                for latency in LATENCIES {
                    cases.push(Case {
                        kind,
                        app,
                        requests,
                        latency,
                    });
                }
            }
        }
    }
    cases.retain(|case| effort.only.is_empty() || case.title().contains(&effort.only));
    cases
}

impl Case {
    fn title(&self) -> String {
        format!(
            "{}, {}, {}, {} ms",
            self.kind.name(),
            self.app,
            self.requests.name(),
            self.latency.as_millis()
        )
    }

    fn run(&self, node: &Node, effort: &Effort) -> Result<Outcome> {
        let script = format!("apps/echo-{}.js", self.app);
        let mut server = Start::app(self.kind, &node.path, WORKERS, &script).run()?;
        let mut load = Load::new(Target::Tcp(server.address));
        load.latency = self.latency;
        load.think = THINK;
        match self.requests {
            Requests::KeepAlive => {}
            Requests::Short => load.mode = Mode::Short,
            Requests::Slow => {
                load.clients = 64;
                load.server_delay = Some(SLOW);
            }
        }
        let running = rcluster_ledger::spawn(load)?;
        let control = running.control().clone();
        let mut outcome = Outcome::default();
        let began = Instant::now();
        let quiet = Duration::from_millis(effort.quiet_ms);
        std::thread::sleep(quiet * 2);
        while outcome.reloads < effort.reloads
            || began.elapsed() < Duration::from_secs(effort.seconds)
        {
            control.mark(RELOAD);
            let done = reload(&mut server, &mut outcome);
            control.mark(QUIET);
            if let Err(error) = done {
                // A peer that does not come through a reload is a result, not a failure of the bench.
                eprintln!("   {error:#}");
                outcome.trouble = Some(
                    format!("{error}")
                        .lines()
                        .next()
                        .unwrap_or_default()
                        .to_owned(),
                );
                break;
            }
            std::thread::sleep(quiet);
        }
        control.stop();
        outcome.report = Some(running.join()?);
        Ok(outcome)
    }

    fn row(&self, outcome: &Outcome) -> Vec<String> {
        let mut row = vec![
            self.kind.name().to_owned(),
            self.app.to_owned(),
            self.requests.name().to_owned(),
            format!("{} ms", self.latency.as_millis()),
        ];
        let Some(report) = &outcome.report else {
            return row;
        };
        let mut classes: Vec<String> = report
            .classes
            .iter()
            .filter(|(class, _)| class.is_loss())
            .map(|(class, count)| format!("{class}: {count}"))
            .collect();
        classes.extend(outcome.trouble.clone());
        row.extend([
            report.total.to_string(),
            report.lost().to_string(),
            report.count(Class::NeverAnswered).to_string(),
            report.count(Class::Refused).to_string(),
            outcome.reloads.to_string(),
            format!(
                "{:.0} / {:.0}",
                outcome.serving.median(),
                outcome.gone.median()
            ),
            format!("{:.1} / {:.1}", p99(report, QUIET), p99(report, RELOAD)),
            classes.join(", "),
        ]);
        row
    }
}

/// One reload, until all of the old workers are gone.
fn reload(server: &mut Server, outcome: &mut Outcome) -> Result<()> {
    let old = server.ready.split_off(0);
    let began = Instant::now();
    server.reload()?;
    server.wait_ready(WORKERS)?;
    let serving = server.ready.last().map_or(began, |&(at, _)| at);
    outcome.serving.push((serving - began).as_secs_f64() * 1e3);
    while old
        .iter()
        .any(|(_, pid)| Path::new(&format!("/proc/{pid}")).exists())
    {
        anyhow::ensure!(
            began.elapsed() < PATIENCE,
            "an old worker was still there after {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    outcome.gone.push(began.elapsed().as_secs_f64() * 1e3);
    outcome.reloads += 1;
    Ok(())
}

/// Milliseconds; NaN where a phase saw no request.
fn p99(report: &rcluster_ledger::Report, phase: &str) -> f64 {
    report.phase(phase).map_or(f64::NAN, |phase| {
        phase.latency.percentile(99.0).as_secs_f64() * 1e3
    })
}

/// All cases of one contender.
#[derive(Default)]
struct Sum {
    requests: u64,
    lost: u64,
    never: u64,
    refused: u64,
    reloads: u64,
    troubles: u64,
    p99: Samples,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.reloads += outcome.reloads;
        self.troubles += u64::from(outcome.trouble.is_some());
        let Some(report) = &outcome.report else {
            return;
        };
        self.requests += report.total;
        self.lost += report.lost();
        self.never += report.count(Class::NeverAnswered);
        self.refused += report.count(Class::Refused);
        self.p99.push(p99(report, RELOAD) / p99(report, QUIET));
    }

    fn judge(&self, report: &mut Report, effort: &Effort) {
        let of = format!(
            "of {} requests over {} reloads",
            self.requests, self.reloads
        );
        report.target(
            "rcluster: requests lost",
            "0",
            format!("{} {of}", self.lost),
            self.lost == 0 && self.requests > 0,
        );
        report.target(
            "rcluster: refused",
            "0",
            self.refused.to_string(),
            self.refused == 0,
        );
        report.target(
            "rcluster: never answered",
            "0",
            self.never.to_string(),
            self.never == 0,
        );
        report.target(
            "rcluster: reloads that failed or did not end",
            "0",
            self.troubles.to_string(),
            self.troubles == 0,
        );
        let worst = self.p99.quantile(1.0);
        report.target(
            "rcluster: p99 during reloads against quiet",
            "<= 2",
            format!("{} over the rows, worst {worst:.2}", self.p99.show(2)),
            worst <= 2.0,
        );
        let size = ">= 3000000 requests, >= 1000 reloads";
        if effort.nightly {
            let met = self.requests >= 3_000_000 && self.reloads >= 1000;
            report.target("rcluster: size of the run", size, of, met);
        } else {
            report.unmeasured(
                "rcluster: size of the run",
                size,
                &format!("a quick run: {of}"),
            );
        }
    }
}
