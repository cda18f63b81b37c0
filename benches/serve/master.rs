//! The master at four workers: memory, what it does while requests are served, and while nothing happens.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::runtime::Runtime;

use crate::support::args::number;
use crate::support::cleanup;
use crate::support::client::{self, Mode, Until};
use crate::support::contender::{Kind, Server, Start, rcluster};
use crate::support::nodes::Node;
use crate::support::procfs::{self, Sample};
use crate::support::report::Report;

const KINDS: [Kind; 3] = [Kind::Rcluster, Kind::ClusterRr, Kind::ClusterNone];
const WORKERS: usize = 4;
const IDLE: Duration = Duration::from_secs(10);
const MIB: f64 = 1024.0;

pub(crate) fn run(report: &mut Report, nodes: &[Node], runtime: &Runtime) -> Result<()> {
    let answers = number("RCLUSTER_BENCH_ANSWERS", 20_000)?;
    report.section(
        "The master",
        &format!(
            "{WORKERS} workers. Memory after {answers} requests a mode and idle time; wake-ups are voluntary context switches of all its \
             threads over {} s without load.",
            IDLE.as_secs()
        ),
    );
    let mut memory = Vec::new();
    let mut busy = Vec::new();
    for node in nodes {
        let servers: Vec<Server> = KINDS
            .into_iter()
            .map(|kind| Start::hello(kind, node, WORKERS).run())
            .collect::<Result<_>>()?;
        for (kind, server) in KINDS.into_iter().zip(&servers) {
            for mode in [Mode::KeepAlive, Mode::Short] {
                // Connections of the warm-up are gone before the count begins.
                client::run(runtime, server.address, mode, 64, Until::Answers(2000))?;
                busy.push(under_load(
                    report, node, kind, mode, server, runtime, answers,
                )?);
            }
        }
        // What a boot or a load leaves to do (timers, lazily freed memory) is not idle.
        std::thread::sleep(Duration::from_secs(3));
        let before: Vec<Sample> = servers
            .iter()
            .map(|s| Sample::of(s.master()))
            .collect::<Result<_>>()?;
        std::thread::sleep(IDLE);
        for ((kind, server), before) in KINDS.into_iter().zip(&servers).zip(before) {
            let now = Sample::of(server.master())?;
            let wakeups = (now.wakeups - before.wakeups) as f64 / IDLE.as_secs_f64();
            let name = format!("{}, Node {}", kind.name(), node.version);
            memory.push(memory_row(name, &now, &before));
            let workers = server.workers();
            for pid in procfs::children(server.master())? {
                // What it started beside its workers belongs to its price.
                if !workers.contains(&pid) {
                    let helper = Sample::of(pid)?;
                    let mut row = memory_row("a helper process of it".to_owned(), &helper, &helper);
                    row.truncate(7);
                    row.resize(9, "-".to_owned());
                    memory.push(row);
                }
            }
            if kind == Kind::Rcluster {
                let rss = now.rss as f64 / MIB;
                let label = |what: &str| {
                    format!("Node {}, master at {WORKERS} workers: {what}", node.version)
                };
                report.target(
                    label("RSS"),
                    "<= 8 MiB",
                    format!("{rss:.1} MiB"),
                    rss <= 8.0,
                );
                report.target(
                    label("wake-ups when idle"),
                    "<= 1 a second",
                    format!("{wakeups:.1}"),
                    wakeups <= 1.0,
                );
            }
        }
    }
    report.table(
        &[
            "",
            "RSS MiB",
            "peak RSS",
            "PSS",
            "private",
            "threads",
            "fds",
            "wake-ups a second, idle",
            "CPU ms in 10 s, idle",
        ],
        &memory,
    );
    report.note(&format!(
        "The master while {answers} requests are served (counts are for all of them together):"
    ));
    report.table(
        &[
            "",
            "load",
            "wake-ups",
            "reads + writes",
            "master CPU ms",
            "system calls (strace), a second run",
            "which",
        ],
        &busy,
    );
    let size = fs::metadata(rcluster())?.len() as f64 / MIB / MIB;
    report.target(
        "release binary",
        "<= 8 MiB",
        format!("{size:.1} MiB"),
        size <= 8.0,
    );
    Ok(())
}

fn memory_row(name: String, now: &Sample, before: &Sample) -> Vec<String> {
    let mib = |kib: u64| format!("{:.1}", kib as f64 / MIB);
    vec![
        name,
        mib(now.rss),
        mib(now.peak),
        mib(now.pss),
        mib(now.private),
        now.threads.to_string(),
        now.fds.to_string(),
        format!(
            "{:.1}",
            (now.wakeups - before.wakeups) as f64 / IDLE.as_secs_f64()
        ),
        format!(
            "{:.1}",
            now.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e3
        ),
    ]
}

fn under_load(
    report: &mut Report,
    node: &Node,
    kind: Kind,
    mode: Mode,
    server: &Server,
    runtime: &Runtime,
    answers: u64,
) -> Result<Vec<String>> {
    let before = Sample::of(server.master())?;
    let load = client::run(runtime, server.address, mode, 64, Until::Answers(answers))?;
    let after = Sample::of(server.master())?;
    ensure!(load.failures == 0, "{} requests failed", load.failures);
    let wakeups = after.wakeups - before.wakeups;
    let io = (after.reads + after.writes) - (before.reads + before.writes);
    let traced = strace(server, || {
        client::run(runtime, server.address, mode, 64, Until::Answers(answers)).map(|_| ())
    });
    let (calls, which) = match &traced {
        Ok((calls, which)) => (calls.to_string(), which.clone()),
        Err(error) => ("-".to_owned(), format!("{error:#}")),
    };
    if kind == Kind::Rcluster {
        let what = format!(
            "Node {}, {}: master's system calls in {answers} requests",
            node.version,
            mode.name()
        );
        // What a timer may do in that time, at one wake-up a second and a few calls for each.
        let allowed = 10 + 5 * load.elapsed.as_secs();
        let wanted = format!("do not grow with requests (<= {allowed})");
        match &traced {
            Ok((calls, _)) => report.target(what, wanted, calls.to_string(), *calls <= allowed),
            // Without strace the wake-ups tell: a process that never wakes makes no call.
            Err(_) => report.target(
                what,
                wanted,
                format!("{wakeups} wake-ups"),
                wakeups <= allowed,
            ),
        }
    }
    Ok(vec![
        format!("{}, Node {}", kind.name(), node.version),
        mode.name().to_owned(),
        wakeups.to_string(),
        io.to_string(),
        format!(
            "{:.1}",
            after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e3
        ),
        calls,
        which,
    ])
}

/// System calls that the master makes meanwhile: their number, and the three most frequent.
fn strace(server: &Server, work: impl FnOnce() -> Result<()>) -> Result<(u64, String)> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("calls");
    let mut strace = cleanup::mark(&mut Command::new("strace"))
        .args(["-f", "-c", "-U", "calls,name", "-o"])
        .arg(&file)
        .args(["-p", &server.master().to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("no strace here")?;
    let attached = Instant::now();
    let mut worked = Ok(());
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", server.master()))?;
        if status
            .lines()
            .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
        {
            worked = worked.and_then(|()| work());
            break;
        }
        if strace.try_wait()?.is_some() || attached.elapsed() > Duration::from_secs(5) {
            worked = Err(anyhow::anyhow!("strace could not attach"));
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if strace.try_wait()?.is_none() {
        kill(Pid::from_raw(strace.id().cast_signed()), Signal::SIGINT)?;
    }
    strace.wait()?;
    worked?;
    let mut calls = Vec::new();
    for line in fs::read_to_string(&file)?.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if let [count, name] = words[..]
            && let Ok(count) = count.parse::<u64>()
            && name != "total"
        {
            calls.push((count, name.to_owned()));
        }
    }
    calls.sort_unstable_by(|a, b| b.cmp(a));
    let sum = calls.iter().map(|&(count, _)| count).sum();
    let which: Vec<_> = calls
        .iter()
        .take(3)
        .map(|(count, name)| format!("{name} {count}"))
        .collect();
    if sum == 0 && !which.is_empty() {
        bail!("strace's table was not understood");
    }
    Ok((sum, which.join(", ")))
}
