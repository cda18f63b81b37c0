//! What a worker costs the master: many workers that do nothing, made of a stub instead of Node.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::support::contender::{Kind, Start};
use crate::support::procfs::Sample;
use crate::support::report::Report;
use crate::support::stub;

const COUNTS: [usize; 4] = [1, 4, 16, 64];
const IDLE: Duration = Duration::from_secs(10);

pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.section(
        "Idle stub workers",
        "Workers are a small C program that becomes ready by the protocol and then sleeps: what is left is the master's own cost. \
         CPU and wake-ups over 10 s without load.",
    );
    let folder = tempfile::tempdir()?;
    let Some(stub) = stub::compile(folder.path())? else {
        report.note("Not measured: no C compiler.");
        return Ok(());
    };
    let servers: Vec<_> = COUNTS
        .into_iter()
        .map(|workers| {
            let start = Start::app(Kind::Rcluster, &stub, workers, "apps/hello.js");
            start
                .run()
                .with_context(|| format!("start {workers} stub workers"))
        })
        .collect::<Result<_>>()?;
    std::thread::sleep(Duration::from_secs(3));
    let look = || {
        servers
            .iter()
            .map(|server| Sample::of(server.master()))
            .collect::<Result<Vec<_>>>()
    };
    let before = look()?;
    std::thread::sleep(IDLE);
    let after = look()?;
    let base = after[0];
    let mut rows = Vec::new();
    for (index, (workers, now)) in COUNTS.into_iter().zip(&after).enumerate() {
        let server = &servers[index];
        let last = server.ready.last().map_or(server.started, |&(at, _)| at);
        let more = (workers - 1).max(1) as f64;
        let a_worker = |value: u64, base: u64| {
            if workers == 1 {
                "-".to_owned()
            } else {
                format!("{:.1}", (value as f64 - base as f64) / more)
            }
        };
        let idle_cpu = now.cpu.saturating_sub(before[index].cpu).as_secs_f64() * 1e6;
        rows.push(vec![
            workers.to_string(),
            format!("{:.0}", (last - server.started).as_secs_f64() * 1e3),
            format!("{:.1}", before[index].cpu.as_secs_f64() * 1e3),
            now.rss.to_string(),
            a_worker(now.rss, base.rss),
            now.pss.to_string(),
            a_worker(now.private, base.private),
            now.fds.to_string(),
            now.threads.to_string(),
            format!(
                "{:.1}",
                (now.wakeups - before[index].wakeups) as f64 / IDLE.as_secs_f64()
            ),
            format!("{:.1}", idle_cpu / IDLE.as_secs_f64() / workers as f64),
        ]);
    }
    report.table(
        &[
            "workers",
            "start ms",
            "CPU ms until ready + 3 s",
            "RSS KiB",
            "RSS KiB a further worker",
            "PSS KiB",
            "private KiB a further worker",
            "fds",
            "threads",
            "wake-ups a second, idle",
            "CPU µs a second and worker, idle",
        ],
        &rows,
    );
    Ok(())
}
