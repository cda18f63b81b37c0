//! Those who connect and do nothing, and what it all costs in memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::support::contender::{Kind, Server, Start};
use crate::support::control;
use crate::support::nodes::Node;
use crate::support::procfs::Sample;
use crate::support::report::Report;
use crate::support::stats::Samples;
use crate::support::stub;
use crate::{door, get};

const MIB: f64 = 1024.0;
const IDLE: usize = 1000;
const DEAF: usize = 64;
const RELOADS: usize = 100;

fn rss(server: &Server) -> Result<f64> {
    Ok(Sample::of(server.master())?.rss as f64 / MIB)
}

/// Four stub workers, or none without a C compiler.
fn stubs(folder: &std::path::Path) -> Result<Option<Server>> {
    let Some(stub) = stub::compile(folder)? else {
        return Ok(None);
    };
    let mut start = Start::app(Kind::Rcluster, &stub, 4, "apps/hello.js");
    start.options = [
        "--admin",
        "127.0.0.1:0",
        "--hang-timeout",
        "0s",
        "--min-uptime",
        "0s",
    ]
    .map(str::to_owned)
    .to_vec();
    start.run().map(Some)
}

/// Idle connections on the control socket.
pub(crate) fn idle(report: &mut Report) -> Result<()> {
    report.section(
        "Idle connections",
        &format!("{IDLE} connections to the control socket: half of them never say anything, half asked once and stay. Milliseconds of `GET /v1/status` on one more."),
    );
    let folder = tempfile::tempdir()?;
    let Some(server) = stubs(folder.path())? else {
        report.unmeasured("idle connections", "usable", "no C compiler");
        return Ok(());
    };
    let look = || -> Result<Samples> {
        let mut samples = Samples::default();
        for _ in 0..100 {
            let began = Instant::now();
            control::status(&server.control())?;
            samples.push(began.elapsed().as_secs_f64() * 1e3);
        }
        Ok(samples)
    };
    let before = (look()?, rss(&server)?);
    let mut held = Vec::new();
    for index in 0..IDLE {
        let mut stream = UnixStream::connect(server.control())?;
        if index % 2 == 0 {
            stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
            let mut buffer = [0; 1024];
            ensure!(
                stream.read(&mut buffer)? > 0,
                "connection {index} was not answered"
            );
        }
        held.push(stream);
    }
    let during = (look()?, rss(&server)?);
    drop(held);
    report.table(
        &["", "ms", "RSS MiB"],
        &[
            vec![
                "alone".to_owned(),
                before.0.show(2),
                format!("{:.1}", before.1),
            ],
            vec![
                format!("with {IDLE} idle"),
                during.0.show(2),
                format!("{:.1}", during.1),
            ],
        ],
    );
    let median = during.0.median();
    report.target(
        format!("{IDLE} idle connections: a status"),
        "usable (<= 20 ms)",
        format!("{median:.2} ms"),
        median <= 20.0,
    );
    Ok(())
}

/// Readers of events that never read.
pub(crate) fn deaf(report: &mut Report) -> Result<()> {
    report.section(
        "Readers that never read",
        &format!("{DEAF} connections ask for `/v1/events?status_ms=200` and read nothing, while {RELOADS} reloads of 4 stub workers are told, each some 30 events."),
    );
    let folder = tempfile::tempdir()?;
    let Some(server) = stubs(folder.path())? else {
        report.unmeasured("readers that never read", "bounded", "no C compiler");
        return Ok(());
    };
    let reload = || -> Result<()> {
        for _ in 0..RELOADS {
            control::request(&server.control(), "POST", "/v1/reload")?;
        }
        Ok(())
    };
    reload()?;
    let before = rss(&server)?;
    let door = door(&server)?;
    let deaf: Vec<_> = (0..DEAF)
        .map(|_| {
            let mut stream = TcpStream::connect(door)?;
            stream
                .write_all(b"GET /v1/events?status_ms=200 HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    let mut rows = vec![vec!["before".to_owned(), format!("{before:.1}")]];
    let mut after = Vec::new();
    for round in 1..=3 {
        reload()?;
        std::thread::sleep(Duration::from_secs(2));
        after.push(rss(&server)?);
        rows.push(vec![
            format!("after {} reloads more", round * RELOADS),
            format!("{:.1}", after[round - 1]),
        ]);
    }
    let began = Instant::now();
    control::status(&server.control())?;
    let answered = began.elapsed().as_secs_f64() * 1e3;
    drop(deaf);
    report.table(&["", "RSS MiB"], &rows);
    report.note(&format!("A status meanwhile took {answered:.1} ms."));
    let each = (after[2] - before) * MIB / DEAF as f64;
    report.target(
        "a reader that never reads",
        "bounded (<= 256 KiB)",
        format!("{each:.0} KiB each"),
        each <= 256.0,
    );
    let grown = after[2] - after[1];
    report.target(
        "their growth over the last 100 reloads",
        "<= 0.5 MiB",
        format!("{grown:.1} MiB"),
        grown <= 0.5,
    );
    Ok(())
}

/// The master with all of it on.
pub(crate) fn memory(report: &mut Report, node: &Node) -> Result<()> {
    report.section(
        "Memory",
        "4 Node workers, `--admin`; then 200 scrapes, 200 looks at the status, the dashboard's page and 8 readers of events for 5 s.",
    );
    let mut start = Start::hello(Kind::Rcluster, node, 4);
    start.options = vec!["--admin".to_owned(), "127.0.0.1:0".to_owned()];
    let server = start.run()?;
    let door = door(&server)?;
    let before = Sample::of(server.master())?;
    for _ in 0..200 {
        get(door, "/metrics")?;
        get(door, "/v1/status")?;
    }
    get(door, "/")?;
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(door)?;
            stream
                .write_all(b"GET /v1/events?status_ms=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
            std::thread::spawn(move || stream.read_to_end(&mut Vec::new()));
            Ok(())
        })
        .collect::<Result<Vec<_>>>()?;
    std::thread::sleep(Duration::from_secs(5));
    let after = Sample::of(server.master())?;
    drop(readers);
    let row = |what: &str, sample: &Sample| {
        let mib = |kib: u64| format!("{:.1}", kib as f64 / MIB);
        vec![
            what.to_owned(),
            mib(sample.rss),
            mib(sample.private),
            mib(sample.peak),
            sample.threads.to_string(),
        ]
    };
    report.table(
        &["", "RSS MiB", "private MiB", "peak RSS MiB", "threads"],
        &[row("at rest", &before), row("after all that", &after)],
    );
    let rss = after.rss as f64 / MIB;
    report.target(
        "master at 4 workers with --admin: RSS",
        "<= 10 MiB",
        format!("{rss:.1} MiB"),
        rss <= 10.0,
    );
    Ok(())
}
