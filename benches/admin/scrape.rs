//! A scrape of 64 workers: how long it takes, and how long it keeps the loop from anything else.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::support::contender::{Kind, Start};
use crate::support::report::Report;
use crate::support::stats::Samples;
use crate::support::stub;
use crate::{door, get};

const WORKERS: usize = 64;
const SCRAPES: u32 = 200;

/// Time that the master's first thread, which runs the loop, has spent on a CPU.
fn loop_time(pid: i32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat"))?;
    let nanos = text.split_whitespace().next().context("read schedstat")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.section(
        "A scrape",
        &format!(
            "{WORKERS} stub workers, each with all its figures filled. {SCRAPES} scrapes one after the other, each on a connection of its own. \
             The loop's time is what its thread spent on a CPU, the connection included, divided by the scrapes: an upper bound for what it does at once."
        ),
    );
    let folder = tempfile::tempdir()?;
    let Some(stub) = stub::compile(folder.path())? else {
        report.unmeasured("a scrape of 64 workers", "<= 10 ms", "no C compiler");
        return Ok(());
    };
    let variables = folder.path().join("variables");
    fs::write(&variables, "BENCH_BEAT=1\n")?;
    let mut start = Start::app(Kind::Rcluster, &stub, WORKERS, "apps/hello.js");
    start.options = vec![
        "--admin".to_owned(),
        "127.0.0.1:0".to_owned(),
        "--hang-timeout".to_owned(),
        "0s".to_owned(),
        "--env-file".to_owned(),
        variables.display().to_string(),
    ];
    let server = start.run()?;
    let door = door(&server)?;
    // The first count of memory and CPU comes some seconds after the start.
    std::thread::sleep(Duration::from_secs(11));
    let mut rows = Vec::new();
    for path in ["/metrics", "/v1/status"] {
        for _ in 0..20 {
            get(door, path)?;
        }
        let before = loop_time(server.master())?;
        let mut walls = Samples::default();
        let mut bytes = 0;
        for _ in 0..SCRAPES {
            let began = Instant::now();
            bytes = get(door, path)?.len();
            walls.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let spent = loop_time(server.master())?
            .saturating_sub(before)
            .as_secs_f64()
            * 1e3
            / f64::from(SCRAPES);
        rows.push(vec![
            format!("`{path}`"),
            format!("{}", bytes / 1024),
            walls.show(2),
            format!("{:.2}", walls.quantile(0.99)),
            format!("{spent:.3}"),
        ]);
        if path == "/metrics" {
            let median = walls.median();
            report.target(
                format!("a scrape of {WORKERS} workers"),
                "<= 10 ms",
                format!("{median:.1} ms"),
                median <= 10.0,
            );
            report.target(
                format!("the loop's time for a scrape of {WORKERS} workers"),
                "<= 1 ms",
                format!("{spent:.2} ms"),
                spent <= 1.0,
            );
        }
    }
    report.table(&["", "KiB", "ms", "p99 ms", "the loop's time, ms"], &rows);
    Ok(())
}
