//! Many reloads one after the other: what the master holds must not grow.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::Effort;
use crate::support::contender::{Kind, Server, Start, bench_file};
use crate::support::nodes::Node;
use crate::support::procfs::{self, Sample};
use crate::support::report::Report;

const WORKERS: usize = 4;
/// Growth of the resident set that still counts as flat, KiB: allocator and page cache noise.
const FLAT: u64 = 512;

pub(crate) fn run(report: &mut Report, node: &Node, effort: &Effort) -> Result<()> {
    report.section(
        "Soak",
        &format!(
            "Reloads of {WORKERS} workers in a row, each awaited until the last old worker is gone; the master after the first tenth and at the end. \
             The stub is a C program that speaks the protocol and sleeps, so that many reloads fit into a short time."
        ),
    );
    let folder = tempfile::tempdir()?;
    let stub = folder.path().join("stub");
    let compiled = Command::new("cc")
        .args(["-O2", "-o"])
        .arg(&stub)
        .arg(bench_file("apps/stub.c"))
        .status();
    let mut runs: Vec<(&str, PathBuf, u64)> =
        vec![("Node, hello.js", node.path.clone(), effort.soak_node)];
    if compiled.is_ok_and(|status| status.success()) {
        runs.push(("stub", stub, effort.soak_stub));
    }
    let mut rows = Vec::new();
    for (name, path, reloads) in runs {
        let mut server = Start {
            options: [
                "--surge",
                "100%",
                "--min-uptime",
                "0s",
                "--log-level",
                "warn",
            ]
            .map(String::from)
            .to_vec(),
            ..Start::app(Kind::Rcluster, &path, WORKERS, "apps/hello.js")
        }
        .run()?;
        let early = (reloads / 10).max(1);
        repeat(&mut server, early)?;
        let before = Sample::of(server.master())?;
        let held = procfs::children(server.master())?.len();
        let began = Instant::now();
        repeat(&mut server, reloads - early)?;
        let time = began.elapsed();
        let after = Sample::of(server.master())?;
        let children = (held, procfs::children(server.master())?.len());
        rows.push(vec![
            name.to_owned(),
            reloads.to_string(),
            format!(
                "{:.1}",
                time.as_secs_f64() * 1e3 / (reloads - early).max(1) as f64
            ),
            format!("{} / {}", before.fds, after.fds),
            format!("{} / {}", before.threads, after.threads),
            format!("{} / {}", before.rss, after.rss),
            after.peak.to_string(),
            format!("{} / {}", children.0, children.1),
        ]);
        let flat = after.fds <= before.fds
            && after.threads <= before.threads
            && after.rss <= before.rss + FLAT
            && children.1 <= children.0;
        report.target(
            format!("{reloads} reloads ({name}): fds, threads, RSS, children"),
            format!("flat (RSS within {FLAT} KiB)"),
            format!(
                "fds {} to {}, threads {} to {}, RSS {} to {} KiB, children {} to {}",
                before.fds,
                after.fds,
                before.threads,
                after.threads,
                before.rss,
                after.rss,
                children.0,
                children.1
            ),
            flat,
        );
    }
    report.table(
        &[
            "workers",
            "reloads",
            "ms a reload",
            "fds before / after",
            "threads",
            "RSS KiB",
            "peak RSS KiB",
            "children",
        ],
        &rows,
    );
    Ok(())
}

fn repeat(server: &mut Server, reloads: u64) -> Result<()> {
    for done in 0..reloads {
        let old = server.ready.split_off(0);
        server.reload().with_context(|| format!("reload {done}"))?;
        server.wait_ready(WORKERS)?;
        let began = Instant::now();
        while old
            .iter()
            .any(|(_, pid)| Path::new(&format!("/proc/{pid}")).exists())
        {
            ensure!(
                began.elapsed() < Duration::from_secs(60),
                "reload {done}: an old worker does not go; log: {}",
                server.log_tail()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}
