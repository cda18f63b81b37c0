//! What faults cost: a worker that hangs, workers that are killed, reloads. Every request is accounted for by the ledger.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcluster_ledger::{self, Class, Load, Mode, Running, Target};

use super::Effort;
use super::lineup;
use crate::support::contender::{Balance, Kind, Server};
use crate::support::nodes::Node;
use crate::support::procfs;
use crate::support::report::Report;

const WORKERS: usize = 4;
const THINK: Duration = Duration::from_millis(2);
const CLIENTS: u32 = 8;
/// A sixth of it is the heartbeat. What a worker was handed and has not taken waits until that worker is replaced, so this
/// must be well below [`STRANDED`].
const OPTIONS: [&str; 2] = ["--hang-timeout", "3s"];
/// One heartbeat of 500 ms, and the time by which it may be late.
const BEAT: Duration = Duration::from_millis(900);
const AFTER: Duration = Duration::from_millis(2500);
/// What is not answered until then is stranded.
const STRANDED: Duration = Duration::from_secs(5);
const BETWEEN_KILLS: Duration = Duration::from_secs(2);
/// After this an old worker is taken to stay for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a worker hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hang {
    Stopped,
    Spinning,
}

impl Hang {
    fn name(self) -> &'static str {
        match self {
            Self::Stopped => "SIGSTOP",
            Self::Spinning => "while(true)",
        }
    }
}

pub(crate) fn run(report: &mut Report, node: &Node, effort: &Effort) {
    let ours = Balance::ALL.map(Kind::Balanced);
    hangs(report, node, effort, &ours);
    let mut kinds = ours.to_vec();
    kinds.extend([Kind::ClusterRr, Kind::Pm2]);
    let kinds = lineup::present(report, &kinds);
    let kills = if effort.quick { 1 } else { 3 };
    report.section(
        "Killed workers",
        &format!(
            "{WORKERS} workers, one is killed (SIGKILL) every {} s, {kills} of them; {CLIENTS} keep-alive and {CLIENTS} short clients of the ledger with 2 ms \
             between requests. What a killed worker had accepted is lost with it; refused, or stranded (not a byte in {} s), nothing need be.",
            BETWEEN_KILLS.as_secs(),
            STRANDED.as_secs()
        ),
    );
    disturb(report, node, &kinds, "kills", |server| {
        kill_some(server, kills)
    });
    let reloads = if effort.quick { 1 } else { 2 };
    report.section(
        "Reloads",
        &format!(
            "The same load, and {reloads} reloads, each awaited until the last old worker is gone; options as by default."
        ),
    );
    disturb(report, node, &kinds, "reloads", |server| {
        reload_some(server, reloads)
    });
}

fn hangs(report: &mut Report, node: &Node, effort: &Effort, ours: &[Kind]) {
    report.section(
        "A worker hangs",
        &format!(
            "{WORKERS} workers, one of which hangs for good; {CLIENTS} clients of the ledger with short connections. Three loads, each on connections of its \
             own: one that is under way at that moment, one that begins with the hang and sends for {} ms (one heartbeat and its lateness, with {}), one that \
             begins then. Lost are requests that have no right answer in {} s; the last two columns are the longest waits of those that have.",
            BEAT.as_millis(),
            OPTIONS.join(" "),
            STRANDED.as_secs()
        ),
    );
    let mut rows = Vec::new();
    for hang in [Hang::Stopped, Hang::Spinning] {
        let mut kinds = ours.to_vec();
        if hang == Hang::Stopped {
            kinds.extend([Kind::ClusterRr, Kind::Pm2, Kind::Bare, Kind::BareReuseport]);
        } else if effort.quick {
            continue;
        } else {
            kinds.extend([Kind::ClusterRr, Kind::BareReuseport]);
        }
        for kind in lineup::present(report, &kinds) {
            eprintln!("   {}, {}", kind.name(), hang.name());
            let options: &[&str] = if kind.is_rcluster() { &OPTIONS } else { &[] };
            let Some(mut server) = lineup::start(report, kind, node, WORKERS, options) else {
                continue;
            };
            let what = format!("{}, {}", kind.name(), hang.name());
            let [before, until, after] = match one_hang(&mut server, hang) {
                Ok(loads) => loads,
                Err(error) => {
                    report.note(&format!("{what}: {error:#}"));
                    continue;
                }
            };
            rows.push(vec![
                kind.name().to_owned(),
                hang.name().to_owned(),
                losses(&before),
                losses(&until),
                losses(&after),
                wait(&until),
                wait(&after),
            ]);
            if kind.is_rcluster() {
                let zero = |what: String, load: &rcluster_ledger::Report| {
                    let got = format!("{} of {}", load.lost(), load.total);
                    (what, got, load.lost() == 0 && load.total > 0)
                };
                for (what, got, met) in [
                    zero(
                        format!("{what}: new connections lost until one heartbeat after"),
                        &until,
                    ),
                    zero(
                        format!("{what}: new connections lost from one heartbeat on"),
                        &after,
                    ),
                ] {
                    report.target(what, "0", got, met);
                }
            }
        }
    }
    report.table(
        &[
            "",
            "hang",
            "lost: under way",
            "lost: new, until one heartbeat",
            "lost: new, after it",
            "longest wait ms, until",
            "after",
        ],
        &rows,
    );
}

/// The reports of the three loads.
fn one_hang(server: &mut Server, how: Hang) -> Result<[rcluster_ledger::Report; 3]> {
    let before = load(server, Mode::Short, 0)?;
    std::thread::sleep(Duration::from_millis(500));
    let mut asked = None;
    let mut hung = server.ready[WORKERS / 2].1;
    match how {
        Hang::Stopped => {
            kill(Pid::from_raw(hung), Signal::SIGSTOP)?;
            // The signal takes effect where it is delivered, which on a busy machine is later.
            while !procfs::stopped(hung)? {
                std::thread::yield_now();
            }
        }
        Hang::Spinning => {
            let mut stream = TcpStream::connect(server.address)?;
            stream.write_all(b"GET /spin HTTP/1.1\r\nHost: bench\r\n\r\n")?;
            // Kept open: a worker that spins would not see its end, but a master might.
            asked = Some(stream);
            // It says so itself, the last thing that it does.
            server.wait_ready(1)?;
            hung = server.ready.pop().map_or(hung, |(_, pid)| pid);
        }
    }
    before.control().stop();
    let until = load(server, Mode::Short, 1000)?;
    std::thread::sleep(BEAT);
    until.control().stop();
    let after = load(server, Mode::Short, 2000)?;
    std::thread::sleep(AFTER);
    after.control().stop();
    let loads = [before.join()?, until.join()?, after.join()?];
    drop(asked);
    // Nobody but its master ends it, and not every master does.
    if is_app(hung) {
        kill(Pid::from_raw(hung), Signal::SIGKILL)?;
    }
    Ok(loads)
}

/// Whether that process still runs the bench's app.
fn is_app(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| String::from_utf8_lossy(&line).contains("share.js"))
}

fn load(server: &Server, mode: Mode, first_client: u32) -> Result<Running> {
    let mut load = Load::new(Target::Tcp(server.address));
    load.mode = mode;
    load.clients = CLIENTS;
    load.first_client = first_client;
    load.think = THINK;
    load.request_timeout = STRANDED;
    Ok(rcluster_ledger::spawn(load)?)
}

/// Runs a disturbance under both kinds of load, for all contenders.
fn disturb(
    report: &mut Report,
    node: &Node,
    kinds: &[Kind],
    name: &str,
    disturbance: impl Fn(&mut Server) -> Result<usize>,
) {
    let mut rows = Vec::new();
    for &kind in kinds {
        eprintln!("   {}, {name}", kind.name());
        let Some(mut server) = lineup::start(report, kind, node, WORKERS, &[]) else {
            continue;
        };
        let outcome = (|| {
            let loads = [
                load(&server, Mode::KeepAlive, 0)?,
                load(&server, Mode::Short, 1000)?,
            ];
            std::thread::sleep(Duration::from_millis(500));
            let done = disturbance(&mut server);
            let reports: Vec<rcluster_ledger::Report> = loads
                .into_iter()
                .map(Running::stop)
                .collect::<Result<_, _>>()?;
            anyhow::Ok((reports, done))
        })();
        let (reports, done) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                report.note(&format!("{}: {error:#}", kind.name()));
                continue;
            }
        };
        let mut trouble = String::new();
        if let Err(error) = &done {
            // A peer that does not come through is a result, not a failure of the bench.
            let text = error.to_string();
            text.lines()
                .next()
                .unwrap_or_default()
                .clone_into(&mut trouble);
            eprintln!("   {error:#}");
        }
        if kind.is_rcluster() {
            for sample in reports.iter().flat_map(|report| &report.samples) {
                let (at, class) = (sample.at_ms, sample.class);
                eprintln!(
                    "   lost: {} at {at} ms: {class}: {}",
                    sample.id, sample.seen
                );
            }
        }
        let sum = |of: fn(&rcluster_ledger::Report) -> u64| reports.iter().map(of).sum::<u64>();
        let total = sum(|load| load.total);
        let refused = sum(|load| load.count(Class::Refused));
        let stranded =
            sum(|load| load.count(Class::NeverAnswered) + load.count(Class::ConnectTimeout));
        let lost = sum(rcluster_ledger::Report::lost);
        rows.push(vec![
            kind.name().to_owned(),
            done.as_ref()
                .map_or_else(|_| "-".to_owned(), ToString::to_string),
            total.to_string(),
            losses(&reports[0]),
            losses(&reports[1]),
            refused.to_string(),
            stranded.to_string(),
            trouble,
        ]);
        if kind.is_rcluster() {
            let mut zero = |which: &str, count: u64| {
                let met = count == 0 && total > 0 && done.is_ok();
                let what = format!("{}, {name}: {which}", kind.name());
                report.target(what, "0", format!("{count} of {total}"), met);
            };
            zero("refused", refused);
            zero("stranded", stranded);
            if name == "reloads" {
                zero("lost", lost);
            }
        }
    }
    report.table(
        &[
            "",
            name,
            "requests",
            "lost, keep-alive",
            "lost, short",
            "refused",
            "stranded",
            "trouble",
        ],
        &rows,
    );
}

/// Kills the oldest worker, again and again; answers how many.
fn kill_some(server: &mut Server, kills: usize) -> Result<usize> {
    for _ in 0..kills {
        let next = Instant::now() + BETWEEN_KILLS;
        let (_, oldest) = server.ready.remove(0);
        kill(Pid::from_raw(oldest), Signal::SIGKILL)?;
        server.wait_ready(1)?;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(kills)
}

/// Reloads; answers how often.
fn reload_some(server: &mut Server, reloads: usize) -> Result<usize> {
    for _ in 0..reloads {
        let old = server.ready.split_off(0);
        let began = Instant::now();
        server.reload()?;
        server.wait_ready(WORKERS)?;
        while old
            .iter()
            .any(|(_, pid)| Path::new(&format!("/proc/{pid}")).exists())
        {
            ensure!(
                began.elapsed() < PATIENCE,
                "an old worker was still there after {PATIENCE:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(reloads)
}

/// How many were lost, of how many, and in what way.
fn losses(load: &rcluster_ledger::Report) -> String {
    let classes: Vec<String> = load
        .classes
        .iter()
        .filter(|(class, _)| class.is_loss())
        .map(|(class, count)| format!("{class}: {count}"))
        .collect();
    let mut text = format!("{} of {}", load.lost(), load.total);
    if !classes.is_empty() {
        let _ = write!(text, " ({})", classes.join(", "));
    }
    text
}

fn wait(load: &rcluster_ledger::Report) -> String {
    if load.latency.count() == 0 {
        return "-".to_owned();
    }
    format!("{:.0}", load.latency.max().as_secs_f64() * 1e3)
}
