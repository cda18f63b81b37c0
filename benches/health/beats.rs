//! What the heartbeats of many workers cost the master.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::contender::{Kind, Start, bench_file};
use crate::support::procfs::Sample;
use crate::support::report::Report;

const WORKERS: usize = 64;

pub(crate) fn run(report: &mut Report, seconds: u64) -> Result<()> {
    report.section(
        "Heartbeats of 64 workers",
        &format!(
            "Workers are a small C program that becomes ready by the protocol and then beats as the shim does, as often as it was asked to (every 5 s by \
             default) and with as many figures; beside it the same without beats. The master over {seconds} s. It looks at what the kernel counts for \
             each worker every 10 s in both."
        ),
    );
    let folder = tempfile::tempdir()?;
    let compile = |name: &str, flags: &[&str]| -> Result<_> {
        let stub = folder.path().join(name);
        let compiled = Command::new("cc")
            .args(["-O2", "-Wall"])
            .args(flags)
            .arg("-o")
            .arg(&stub)
            .arg(bench_file("apps/stub.c"))
            .status()
            .context("run cc")?;
        ensure!(compiled.success(), "apps/stub.c does not compile");
        Ok(stub)
    };
    // Whoever is silent would be taken to hang.
    let stubs: [(_, &[&str]); 2] = [
        (compile("beats", &["-DBEATS"])?, &[]),
        (compile("silent", &[])?, &["--hang-timeout", "0s"]),
    ];
    let servers: Vec<_> = stubs
        .iter()
        .map(|(stub, options)| {
            let start = Start {
                kind: Kind::Rcluster,
                node: stub,
                workers: WORKERS,
                script: bench_file("apps/hello.js"),
                options: options.iter().map(|o| (*o).to_owned()).collect(),
                prepare: None,
            };
            start
                .run()
                .with_context(|| format!("start {WORKERS} stubs"))
        })
        .collect::<Result<_>>()?;
    std::thread::sleep(Duration::from_secs(3));
    let look = || {
        let samples = servers.iter().map(|server| Sample::of(server.master()));
        samples.collect::<Result<Vec<_>>>()
    };
    let before = look()?;
    std::thread::sleep(Duration::from_secs(seconds));
    let after = look()?;
    let share = |at: usize| {
        let cpu = after[at].cpu.saturating_sub(before[at].cpu);
        100.0 * cpu.as_secs_f64() / seconds as f64
    };
    let row = |what: &str, at: usize| {
        vec![
            what.to_owned(),
            format!("{:.3} %", share(at)),
            format!(
                "{:.1}",
                (after[at].wakeups - before[at].wakeups) as f64 / seconds as f64
            ),
            format!("{} / {}", before[at].rss, after[at].rss),
        ]
    };
    report.table(
        &[
            "",
            "CPU of the master",
            "wake-ups a second",
            "RSS KiB before / after",
        ],
        &[row("with beats", 0), row("without", 1)],
    );
    report.target(
        format!("heartbeats of {WORKERS} workers: CPU of the master"),
        "< 0.2 % of a core",
        format!(
            "{:.3} % in all, of which {:.3} % are the beats",
            share(0),
            share(0) - share(1)
        ),
        share(0) < 0.2,
    );
    Ok(())
}
