//! `status` from the shell, and PM2's `ls` beside it.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::support::args::number;
use crate::support::contender::{Kind, Start, bench_file, rcluster};
use crate::support::nodes::Node;
use crate::support::peers::version;
use crate::support::report::Report;
use crate::support::stats::Samples;

const WORKERS: usize = 4;

/// Milliseconds from the start of a command to its end.
fn wall(command: &mut Command) -> Result<f64> {
    let began = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    let took = began.elapsed();
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(took.as_secs_f64() * 1e3)
}

pub(crate) fn run(report: &mut Report, node: &Node) -> Result<()> {
    let rounds = number("RCLUSTER_BENCH_ROUNDS", 40)?;
    report.section(
        "A look from the shell",
        &format!(
            "{WORKERS} workers. Milliseconds from fork to exit of the command, {rounds} interleaved rounds (a quarter as many for PM2): \
             median and quartiles. `--version` asks nobody: what starting the binary costs."
        ),
    );
    let server = Start::hello(Kind::Rcluster, node, WORKERS).run()?;
    let with_pm2 = bench_file("node_modules/pm2").is_dir();
    let peer = with_pm2
        .then(|| Start::hello(Kind::Pm2, node, WORKERS).run())
        .transpose()?;
    let ours = |words: &[&str]| {
        let mut command = Command::new(rcluster());
        command.args(words);
        if words != ["--version"] {
            command.arg("--control").arg(server.control());
        }
        wall(&mut command)
    };
    let looks: [&[&str]; 3] = [&["status"], &["status", "--json"], &["--version"]];
    let mut samples: [Samples; 3] = Default::default();
    let mut theirs = Samples::default();
    for round in 0..rounds {
        for (words, samples) in looks.into_iter().zip(&mut samples) {
            samples.push(ours(words)?);
        }
        if let Some(pm2) = peer
            .as_ref()
            .and_then(|peer| peer.pm2())
            .filter(|_| round % 4 == 0)
        {
            theirs.push(wall(&mut pm2.command(&["ls"]))?);
        }
    }
    let mut rows: Vec<_> = looks
        .iter()
        .zip(&samples)
        .map(|(words, samples)| vec![format!("`rcluster {}`", words.join(" ")), samples.show(1)])
        .collect();
    if peer.is_some() {
        rows.push(vec![
            format!("`pm2 ls` (PM2 {})", version("pm2")),
            theirs.show(0),
        ]);
    }
    report.table(&["", "ms"], &rows);
    let median = samples[0].median();
    report.target(
        "`rcluster status`, wall",
        "<= 20 ms",
        format!("{median:.1} ms"),
        median <= 20.0,
    );
    Ok(())
}
