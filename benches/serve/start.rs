//! How long it takes to start four workers, and to put a new one in the place of one that was killed.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::args::number;
use crate::support::contender::{Kind, Server, Start};
use crate::support::control;
use crate::support::nodes::Node;
use crate::support::report::Report;
use crate::support::stats::Samples;

const WORKERS: usize = 4;
/// The plain nodes twice: their ratio to themselves is the noise.
const STARTERS: [Kind; 6] = [
    Kind::Rcluster,
    Kind::Plains,
    Kind::Plains,
    Kind::RclusterNoShim,
    Kind::Bare,
    Kind::ClusterRr,
];

pub(crate) fn run(report: &mut Report, nodes: &[Node]) -> Result<()> {
    let rounds = number("RCLUSTER_BENCH_STARTS", 15)?;
    report.section(
        "Start and replacement",
        &format!(
            "From before the first process is started to the message that the last of {WORKERS} workers writes in its `listen` callback; \
             from `kill -9` of a worker to the same message of its replacement. {rounds} interleaved rounds, medians (quartiles)."
        ),
    );
    for node in nodes {
        report.note(&format!("**Node {}**", node.version));
        starts(report, node, rounds)?;
        crashes(report, node, rounds)?;
    }
    Ok(())
}

fn starts(report: &mut Report, node: &Node, rounds: u64) -> Result<()> {
    let mut times: Vec<Samples> = STARTERS.iter().map(|_| Samples::default()).collect();
    let mut known = Samples::default();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..STARTERS.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let server = Start::hello(STARTERS[at], node, WORKERS).run()?;
            let last = server.ready.last().map_or(server.started, |&(at, _)| at);
            times[at].push(ms(last - server.started));
            if STARTERS[at] == Kind::Rcluster {
                known.push(ms(until_ready(&server)? - server.started));
            }
        }
    }
    let plain = &times[1];
    let mut rows: Vec<Vec<String>> = STARTERS
        .iter()
        .zip(&times)
        .map(|(kind, time)| {
            vec![
                kind.name().to_owned(),
                time.show(0),
                time.over(plain).show(3),
            ]
        })
        .collect();
    rows.push(vec![
        "rcluster, until its status says `ready` four times".to_owned(),
        known.show(0),
        known.over(plain).show(3),
    ]);
    report.table(&["start of four", "ms", "of four plain nodes"], &rows);
    let ratio = times[0].over(plain);
    let what = format!(
        "Node {}, start of {WORKERS} workers against {WORKERS} plain nodes",
        node.version
    );
    let noise = times[2].over(plain).noise();
    report.ratio(what, "<= 1.1", &ratio, ratio.median() <= 1.1, noise);
    Ok(())
}

fn crashes(report: &mut Report, node: &Node, rounds: u64) -> Result<()> {
    let mut replaced = Samples::default();
    let mut plain = Samples::default();
    let mut again = Samples::default();
    while (replaced.len() as u64) < rounds {
        let mut server = Start::hello(Kind::Rcluster, node, WORKERS).run()?;
        until_ready(&server)?;
        // Each slot crashes once: a second crash in a row is held back on purpose.
        for worker in server.workers() {
            let killed = Instant::now();
            kill(Pid::from_raw(worker), Signal::SIGKILL)?;
            server.wait_ready(1)?;
            let back = server.ready.last().map_or(killed, |&(at, _)| at);
            replaced.push(ms(back - killed));
            let single = Start::hello(Kind::Plain, node, 1).run()?;
            plain.push(ms(single.ready[0].0 - single.started));
            drop(single);
            let single = Start::hello(Kind::Plain, node, 1).run()?;
            again.push(ms(single.ready[0].0 - single.started));
            drop(single);
            until_ready(&server)?;
        }
    }
    let ratio = replaced.over(&plain);
    report.table(
        &["crash to replacement", "ms", "of a plain start"],
        &[
            vec![
                "rcluster, `kill -9` to serving again".to_owned(),
                replaced.show(0),
                ratio.show(3),
            ],
            vec![
                "one plain node, start to serving".to_owned(),
                plain.show(0),
                "1".to_owned(),
            ],
            vec![
                "the same again".to_owned(),
                again.show(0),
                again.over(&plain).show(3),
            ],
        ],
    );
    let what = format!(
        "Node {}, crash to replacement ready against a plain start",
        node.version
    );
    let noise = again.over(&plain).noise();
    report.ratio(what, "<= 1.1", &ratio, ratio.median() <= 1.1, noise);
    Ok(())
}

/// When the master itself says that all workers are ready.
fn until_ready(server: &Server) -> Result<Instant> {
    let began = Instant::now();
    loop {
        let status = control::status(&server.control())?;
        if control::workers_in(&status, "ready") == WORKERS
            || began.elapsed() > Duration::from_secs(20)
        {
            return Ok(Instant::now());
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
