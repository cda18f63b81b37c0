//! `rcluster upgrade` under the ledger: what a client sees of it, and what a thousand of them leave behind.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rcluster_ledger::{self, Load, Mode, Running, Target};

use crate::support::contender::{Kind, Server, Start, rcluster};
use crate::support::control;
use crate::support::nodes::Node;
use crate::support::procfs::Sample;
use crate::support::report::Report;
use crate::support::stats::Samples;

const WORKERS: usize = 4;
/// A window of the gap's measurement; the upgrade comes in its middle.
const WINDOW: Duration = Duration::from_millis(1000);
/// Longest time without any answer that is wanted over an upgrade, milliseconds.
const GAP: f64 = 5.0;
/// Growth of the resident set that still counts as none, KiB.
const FLAT: u64 = 512;

fn serve(node: &Node) -> Result<Server> {
    let start = Start {
        options: ["--log-level", "warn"].map(String::from).to_vec(),
        ..Start::app(Kind::Rcluster, &node.path, WORKERS, "apps/echo-http.js")
    };
    start.run()
}

/// Half of the clients keep their connections, half open one for each request.
pub(crate) fn loads(server: std::net::SocketAddr, clients: u32) -> Result<[Running; 2]> {
    let kept = Load {
        clients: clients / 2,
        think: Duration::from_millis(2),
        ..Load::new(Target::Tcp(server))
    };
    let short = Load {
        mode: Mode::Short,
        first_client: clients / 2,
        ..kept.clone()
    };
    Ok([
        rcluster_ledger::spawn(kept)?,
        rcluster_ledger::spawn(short)?,
    ])
}

/// Ends loads; their reports as one.
pub(crate) fn join(loads: [Running; 2]) -> Result<rcluster_ledger::Report> {
    let [kept, short] = loads;
    kept.control().stop();
    let mut report = short.stop()?;
    report.absorb(&kept.join()?);
    Ok(report)
}

fn upgrade(server: &Server) -> Result<()> {
    let output = Command::new(rcluster())
        .args(["upgrade", "--control"])
        .arg(server.control())
        .output()?;
    ensure!(
        output.status.success(),
        "rcluster upgrade failed: {output:?}; log: {}",
        server.log_tail()
    );
    Ok(())
}

/// The longest time without an answer, with and without an upgrade.
pub(crate) fn gap(report: &mut Report, node: &Node, rounds: u64) -> Result<()> {
    report.section(
        "What a client sees of an upgrade",
        &format!(
            "{WORKERS} workers, 16 ledger clients with 2 ms of think time (8 keep-alive, 8 with short connections), windows of {} ms; every second \
             window has an upgrade in its middle. Longest time without any answer in a window, over {rounds} pairs: the machine's own pauses are in both.",
            WINDOW.as_millis()
        ),
    );
    let server = serve(node)?;
    let (mut quiet, mut upgraded) = (Samples::default(), Samples::default());
    let (mut sent, mut lost) = (0, 0);
    let mut took = Samples::default();
    for _ in 0..rounds {
        for with in [false, true] {
            let running = loads(server.address, 16)?;
            sleep(WINDOW / 2);
            if with {
                let began = Instant::now();
                upgrade(&server)?;
                took.push(began.elapsed().as_secs_f64() * 1e3);
            }
            sleep(WINDOW / 2);
            let seen = join(running)?;
            sent += seen.total;
            lost += seen.lost();
            let longest = seen.longest_gap_us as f64 / 1e3;
            if with { &mut upgraded } else { &mut quiet }.push(longest);
        }
    }
    let more = upgraded.over(&quiet);
    report.table(
        &[
            "",
            "longest gap ms",
            "of the quiet one",
            "command ms",
            "sent",
            "lost",
        ],
        &[
            vec![
                "quiet".to_owned(),
                quiet.show(1),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
            ],
            vec![
                "with an upgrade".to_owned(),
                upgraded.show(1),
                more.show(2),
                took.show(0),
                sent.to_string(),
                lost.to_string(),
            ],
        ],
    );
    let what = "longest gap over an upgrade";
    let wanted = format!("<= {GAP} ms");
    if quiet.median() > GAP {
        let why = format!(
            "the machine is too busy: {} ms without an upgrade, {} ms with one, ratio {}",
            quiet.show(1),
            upgraded.show(1),
            more.show(2)
        );
        report.unmeasured(what, &wanted, &why);
    } else {
        let got = format!("{} ms (quiet: {} ms)", upgraded.show(1), quiet.show(1));
        report.target(what, wanted, got, upgraded.median() <= GAP);
    }
    report.target(
        "requests lost over upgrades",
        "0",
        format!("{lost} of {sent} over {rounds}"),
        lost == 0 && sent > 0,
    );
    Ok(())
}

/// Many upgrades in a row.
pub(crate) fn many(report: &mut Report, node: &Node, upgrades: u64) -> Result<()> {
    report.section(
        "Many upgrades",
        &format!("{upgrades} upgrades in a row under the same load, 8 clients; the master after the first tenth and at the end."),
    );
    let server = serve(node)?;
    let workers = server.workers();
    let running = loads(server.address, 8)?;
    let early = (upgrades / 10).max(1);
    for _ in 0..early {
        upgrade(&server)?;
    }
    let before = Sample::of(server.master())?;
    let began = Instant::now();
    for _ in early..upgrades {
        upgrade(&server)?;
    }
    let each = began.elapsed().as_secs_f64() * 1e3 / (upgrades - early).max(1) as f64;
    let after = Sample::of(server.master())?;
    let seen = join(running)?;
    for sample in &seen.samples {
        eprintln!(
            "   lost: {} at {} ms: {}",
            sample.id, sample.at_ms, sample.class
        );
    }
    let status = control::status(&server.control())?;
    let done = status["upgrade"]["done"].as_u64().unwrap_or(0);
    let mut now: Vec<i32> = status["workers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|worker| i32::try_from(worker["pid"].as_i64()?).ok())
        .collect();
    now.sort_unstable();
    let mut then = workers;
    then.sort_unstable();
    report.table(
        &[
            "upgrades",
            "ms each",
            "sent",
            "lost",
            "fds before / after",
            "threads",
            "RSS KiB",
            "private KiB",
            "same workers",
        ],
        &[vec![
            done.to_string(),
            format!("{each:.1}"),
            seen.total.to_string(),
            seen.lost().to_string(),
            format!("{} / {}", before.fds, after.fds),
            format!("{} / {}", before.threads, after.threads),
            format!("{} / {}", before.rss, after.rss),
            format!("{} / {}", before.private, after.private),
            (now == then).to_string(),
        ]],
    );
    report.target(
        format!("{upgrades} upgrades under load: lost"),
        "0",
        format!("{} of {}", seen.lost(), seen.total),
        seen.lost() == 0 && seen.total > 0 && done == upgrades && now == then,
    );
    let flat = after.fds <= before.fds
        && after.threads <= before.threads
        && after.private <= before.private + FLAT;
    report.target(
        format!("{upgrades} upgrades: fds, threads, memory of the master"),
        format!("flat (private memory within {FLAT} KiB)"),
        format!(
            "fds {} to {}, threads {} to {}, private {} to {} KiB, RSS {} to {} KiB",
            before.fds,
            after.fds,
            before.threads,
            after.threads,
            before.private,
            after.private,
            before.rss,
            after.rss
        ),
        flat,
    );
    Ok(())
}
