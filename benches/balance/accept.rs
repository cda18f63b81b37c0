//! Whether `TCP_DEFER_ACCEPT` and `TCP_FASTOPEN` pay: a bare parent sets them on its socket. In a network namespace of its own, because
//! the kernel's switch for Fast Open is the namespace's.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use socket2::Socket;
use tokio::runtime::Runtime;

use super::Effort;
use super::lineup;
use super::load::{self, Plan};
use super::sockopt;
use crate::support::client::Mode;
use crate::support::contender::{Kind, Server, Start};
use crate::support::nodes::Node;
use crate::support::procfs;
use crate::support::report::Report;
use crate::support::stats::Samples;

const WORKERS: usize = 2;
const SLICES: u64 = 4;

/// A variant: its name, what the parent sets, and whether clients send with the SYN.
struct Variant {
    name: &'static str,
    prepare: Option<fn(&Socket) -> Result<()>>,
    fast_open: bool,
}

const VARIANTS: [Variant; 5] = [
    Variant {
        name: "plain",
        prepare: None,
        fast_open: false,
    },
    Variant {
        name: "plain, again",
        prepare: None,
        fast_open: false,
    },
    Variant {
        name: "TCP_DEFER_ACCEPT",
        prepare: Some(defer),
        fast_open: false,
    },
    Variant {
        name: "TCP_FASTOPEN, clients use it",
        prepare: Some(fast),
        fast_open: true,
    },
    Variant {
        name: "TCP_FASTOPEN, clients do not",
        prepare: Some(fast),
        fast_open: false,
    },
];

fn defer(socket: &Socket) -> Result<()> {
    sockopt::defer_accept(socket, 1).context("set TCP_DEFER_ACCEPT")
}

fn fast(socket: &Socket) -> Result<()> {
    sockopt::fast_open(socket, 256).context("set TCP_FASTOPEN")
}

/// What one variant did; the first is busy, the second calm.
#[derive(Default)]
struct Row {
    rate: Samples,
    /// Milliseconds, and microseconds of CPU a connection.
    p50: [Samples; 2],
    cpu: [Samples; 2],
    wakeups: Samples,
}

pub(crate) fn run(report: &mut Report, node: &Node, effort: &Effort) -> Result<()> {
    report.section(
        "Options of the listening socket",
        &format!(
            "A bare shared socket, {WORKERS} workers, short connections, loopback in a network namespace with `net.ipv4.tcp_fastopen=3`. Busy: 64 at a time; calm: about \
             400 a second. {} rounds in {SLICES} interleaved slices, medians (quartiles); ratios to `plain`.",
            effort.rounds
        ),
    );
    // A thread can leave its network namespace alone; what it starts goes with it.
    let measured = std::thread::scope(|scope| {
        let thread = scope.spawn(|| -> Result<Option<(Vec<Row>, u64)>> {
            if let Err(error) = enter_namespace() {
                eprintln!("   {error:#}");
                return Ok(None);
            }
            let rows = measure(node, effort)?;
            Ok(Some((rows, taken_with_syn()?)))
        });
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("the measuring thread panicked"))?
    })?;
    let Some((rows, taken)) = measured else {
        report.note("Not measured: a network namespace needs root.");
        return Ok(());
    };
    let base = &rows[0];
    let table: Vec<Vec<String>> = VARIANTS
        .iter()
        .zip(&rows)
        .map(|(variant, row)| {
            vec![
                variant.name.to_owned(),
                row.rate.show(0),
                row.rate.over(&base.rate).show(3),
                row.p50[0].over(&base.p50[0]).show(3),
                row.cpu[0].over(&base.cpu[0]).show(3),
                row.p50[1].show(2),
                row.p50[1].over(&base.p50[1]).show(3),
                row.cpu[1].over(&base.cpu[1]).show(3),
                row.wakeups.show(2),
            ]
        })
        .collect();
    report.table(
        &[
            "",
            "busy: connections/s",
            "ratio",
            "p50, ratio",
            "CPU a connection, ratio",
            "calm: p50 ms",
            "ratio",
            "CPU a connection, ratio",
            "wake-ups a connection",
        ],
        &table,
    );
    let again = &rows[1];
    report.note(&format!(
        "Noise, `plain` against itself: {:.1} % of the rate, {:.1} % of the calm p50, {:.1} % of the calm CPU. {taken} connections were \
         taken with data in their SYN.",
        again.rate.over(&base.rate).noise() * 100.0,
        again.p50[1].over(&base.p50[1]).noise() * 100.0,
        again.cpu[1].over(&base.cpu[1]).noise() * 100.0,
    ));
    Ok(())
}

fn enter_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .stdin(Stdio::null())
        .status()
        .context("run ip (iproute2)")?;
    ensure!(up.success(), "ip link set lo up: {up}");
    fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").context("switch Fast Open on")
}

/// Connections of this namespace whose SYN carried data that was taken.
fn taken_with_syn() -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/netstat")?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let names = lines.next().unwrap_or_default().split_whitespace();
    let values = lines.next().unwrap_or_default().split_whitespace();
    let value = names
        .zip(values)
        .find(|(name, _)| *name == "TCPFastOpenPassive");
    Ok(value.map_or(Ok(0), |(_, value)| value.parse())?)
}

fn measure(node: &Node, effort: &Effort) -> Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut rows: Vec<Row> = VARIANTS.iter().map(|_| Row::default()).collect();
    let servers: Vec<Server> = VARIANTS
        .iter()
        .map(|variant| {
            let start = Start {
                prepare: variant.prepare,
                ..Start::app(Kind::Bare, &node.path, WORKERS, "apps/share.js")
            };
            start.run()
        })
        .collect::<Result<_>>()?;
    for round in 0..=effort.rounds {
        eprintln!("   round {round}/{}", effort.rounds);
        for calm in [false, true] {
            let mut sums: Vec<Sum> = VARIANTS.iter().map(|_| Sum::default()).collect();
            for turn in 0..SLICES {
                for at in lineup::order(VARIANTS.len(), turn) {
                    let fast_open = VARIANTS[at].fast_open;
                    sums[at].add(&servers[at], &runtime, plan(calm, fast_open, effort))?;
                }
            }
            // The first round is the warm-up.
            if round > 0 {
                for (row, sum) in rows.iter_mut().zip(sums) {
                    sum.tell(row, calm);
                }
            }
        }
    }
    Ok(rows)
}

fn plan(calm: bool, fast_open: bool, effort: &Effort) -> Plan {
    let pause = Duration::from_millis(if calm { 40 } else { 0 });
    Plan {
        mode: Mode::Short,
        connections: if calm { 16 } else { 64 },
        arrive: pause,
        until: Duration::from_millis(effort.slice_ms),
        think: pause,
        dear: 0,
        fast_open,
        seed: 1,
    }
}

/// The slices of one variant in one round.
#[derive(Default)]
struct Sum {
    seen: Option<load::Seen>,
    time: Duration,
    cpu: Duration,
    wakeups: u64,
}

impl Sum {
    fn add(&mut self, server: &Server, runtime: &Runtime, plan: Plan) -> Result<()> {
        let wakeups = || -> Result<u64> { server.workers().into_iter().map(procfs::wakeups).sum() };
        let before = (server.cpu()?.0, wakeups()?);
        let seen = match load::run(runtime, server.address, plan) {
            Ok(seen) => seen,
            Err(error) => {
                // One slice in vain says that the machine is busy.
                eprintln!("   {error:#}");
                return Ok(());
            }
        };
        self.cpu += server.cpu()?.0.saturating_sub(before.0);
        self.wakeups += wakeups()?.saturating_sub(before.1);
        self.time += plan.until;
        match &mut self.seen {
            Some(sum) => sum.merge(&seen),
            None => self.seen = Some(seen),
        }
        Ok(())
    }

    fn tell(self, row: &mut Row, calm: bool) {
        let Some(seen) = self.seen else { return };
        let count = seen.all.len() as f64;
        let at = usize::from(calm);
        row.p50[at].push(seen.all.value_at_quantile(0.5) as f64 / 1e3);
        row.cpu[at].push(self.cpu.as_secs_f64() * 1e6 / count);
        if calm {
            row.wakeups.push(self.wakeups as f64 / count);
        } else {
            row.rate.push(count / self.time.as_secs_f64());
        }
    }
}
