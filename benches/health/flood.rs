//! A worker floods its channel: what the master still does, and what it costs.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::promotion::ms;
use crate::support::contender::{Kind, Start, bench_file};
use crate::support::control;
use crate::support::nodes::Node;
use crate::support::procfs::{self, Sample};
use crate::support::report::Report;
use crate::support::stats::Samples;

pub(crate) fn run(report: &mut Report, node: &Node, seconds: u64) -> Result<()> {
    report.section(
        "A worker floods its channel",
        &format!(
            "Two workers; the one of slot 0 sends messages. `GET /v1/status` on the control socket, one after the other with 5 ms between, for {seconds} s a \
             row; quiet is the same master before. `as fast as the channel takes it` sends until it is full, turn by turn; `for (;;)` never lets its loop \
             turn, so that only what fits into the socket comes out of it until its heap (64 MiB) is full and it dies."
        ),
    );
    let mut rows = Vec::new();
    for (how, title) in [
        ("fill", "as fast as the channel takes it"),
        ("loop", "`for (;;) process.send(x)`"),
    ] {
        let server = Start {
            kind: Kind::Rcluster,
            node: &node.path,
            workers: 2,
            script: bench_file("apps/flood.js"),
            options: vec![
                "--node-arg".to_owned(),
                "--max-old-space-size=64".to_owned(),
            ],
            prepare: None,
        }
        .run()?;
        let ask = |time: Duration| -> Result<Samples> {
            let began = Instant::now();
            let mut took = Samples::default();
            while began.elapsed() < time {
                let asked = Instant::now();
                control::status(&server.control())?;
                took.push(ms(asked.elapsed()));
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(took)
        };
        let quiet = ask(Duration::from_secs(seconds.div_ceil(3)))?;
        fs::write(server.folder().join("go"), how)?;
        // Buffers grow once; from then on nothing may.
        std::thread::sleep(Duration::from_secs(2));
        let before = Sample::of(server.master())?;
        let worker = control::serving(&control::status(&server.control())?);
        let cpu = |pid: Option<i32>| {
            pid.and_then(|pid| procfs::cpu(pid).ok())
                .unwrap_or_default()
        };
        let sender = worker
            .iter()
            .find(|(slot, _)| *slot == 0)
            .map(|(_, pid)| *pid);
        let sender_before = cpu(sender);
        let began = Instant::now();
        let flooded = ask(Duration::from_secs(seconds))?;
        let after = Sample::of(server.master())?;
        let share = |cpu: Duration| 100.0 * cpu.as_secs_f64() / began.elapsed().as_secs_f64();
        rows.push(vec![
            title.to_owned(),
            format!("{:.2} / {:.2}", quiet.median(), quiet.quantile(0.99)),
            format!("{:.2} / {:.2}", flooded.median(), flooded.quantile(0.99)),
            format!("{} / {} / {}", before.rss, after.rss, after.peak),
            format!("{:.0} %", share(after.cpu.saturating_sub(before.cpu))),
            format!("{:.0} %", share(cpu(sender).saturating_sub(sender_before))),
            format!("{}", after.reads.saturating_sub(before.reads)),
        ]);
        report.target(
            format!("{title}: status p99"),
            "< 50 ms",
            format!("{:.2} ms ({} asked)", flooded.quantile(0.99), flooded.len()),
            flooded.quantile(0.99) < 50.0,
        );
        let grown = after.rss.cast_signed() - before.rss.cast_signed();
        report.target(
            format!("{title}: RSS of the master"),
            "flat (within 512 KiB)",
            format!("{} to {} KiB", before.rss, after.rss),
            grown <= 512,
        );
    }
    report.table(
        &[
            "",
            "status p50 / p99 ms, quiet",
            "flooded",
            "RSS KiB after 2 s / at the end / peak",
            "CPU of the master",
            "of the sender",
            "its reads",
        ],
        &rows,
    );
    Ok(())
}
