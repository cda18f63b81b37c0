//! `kill -9` of the master under load, with a stand-in for systemd's fd store and without.

use std::fs::{File, OpenOptions};
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use rcluster_ledger::{self, Class, Load, Target};

use super::place;
use crate::support::cleanup;
use crate::support::contender::{Kind, Start, bench_file, free_address, lines_of, rcluster};
use crate::support::nodes::Node;
use crate::support::report::Report;
use crate::support::stats::Samples;

const WORKERS: usize = 2;
const APP: &str = "apps/echo-http.js";
const SLOW: Duration = Duration::from_millis(500);
const DRAIN: Duration = Duration::from_secs(10);
/// Longest wait for a worker.
const PATIENCE: Duration = Duration::from_secs(30);

/// One name, one port, one master after the other.
struct Place {
    dir: tempfile::TempDir,
    address: SocketAddr,
    lines: Receiver<(Instant, String)>,
    pipe: File,
}

impl Place {
    fn new() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(&crate::support::cleanup::folders())
            .tempdir()?;
        let pipe = dir.path().join("ready");
        mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let pipe = OpenOptions::new().read(true).write(true).open(pipe)?;
        Ok(Self {
            lines: lines_of(pipe.try_clone()?),
            dir,
            address: free_address()?,
            pipe,
        })
    }

    /// A master, with a stored socket if there is one.
    fn start(&self, node: &Node, notify: Option<&Path>, stored: Option<OwnedFd>) -> Result<Child> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))?;
        // The shell moves the socket from 0 to 3, and knows its own number.
        let hand_over = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=rcluster-x; exec \"$0\" \"$@\"";
        let mut command = if let Some(socket) = stored {
            let mut command = Command::new("/bin/sh");
            command
                .args(["-c", hand_over])
                .arg(rcluster())
                .stdin(Stdio::from(socket));
            command
        } else {
            let mut command = Command::new(rcluster());
            command.stdin(Stdio::null());
            command
        };
        if let Some(path) = notify {
            command.env("NOTIFY_SOCKET", path);
        }
        cleanup::mark(&mut command)
            .args(["-w", &WORKERS.to_string(), "--log-level", "warn"])
            .args(["--drain-timeout", &format!("{}s", DRAIN.as_secs())])
            .arg("--node")
            .arg(&node.path)
            .arg("--control")
            .arg(self.dir.path().join("control.sock"))
            .arg(bench_file(APP))
            .env("PORT", self.address.port().to_string())
            .env("BENCH_READY", self.dir.path().join("ready"))
            .process_group(0)
            .stdout(log.try_clone()?)
            .stderr(log);
        command.spawn().context("start rcluster")
    }

    /// When so many more workers served: the first and the last moment.
    fn wait(&self, count: usize) -> Result<(Instant, Instant)> {
        let mut times = vec![];
        while times.len() < count {
            let line = self.lines.recv_timeout(PATIENCE);
            times.push(
                line.with_context(|| format!("wait for a worker; log: {}", self.log()))?
                    .0,
            );
        }
        let first = *times.first().context("no worker")?;
        Ok((first, *times.last().unwrap_or(&first)))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        use std::io::Write;
        let _ = self.pipe.write_all(b"end\n");
    }
}

fn end(mut master: Child, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(master.id().cast_signed()), signal)?;
    master.wait()?;
    Ok(())
}

/// The descriptors that the master has given to its manager so far.
fn stored(manager: &UnixDatagram) -> Result<Vec<OwnedFd>> {
    manager.set_nonblocking(true)?;
    let mut stored = vec![];
    loop {
        let mut text = [0; 4096];
        let mut parts = [IoSliceMut::new(&mut text)];
        let mut space = nix::cmsg_space!([i32; 4]);
        let message = recvmsg::<()>(
            manager.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        let Ok(message) = message else {
            return Ok(stored);
        };
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                // SAFETY: they have just come with the message, and nobody else knows of them.
                #[expect(unsafe_code)]
                stored.extend(
                    numbers
                        .into_iter()
                        .map(|n| unsafe { OwnedFd::from_raw_fd(n) }),
                );
            }
        }
    }
}

/// Milliseconds of a plain boot of the same app.
fn plain(node: &Node) -> Result<f64> {
    first_of(Start::app(Kind::Plain, &node.path, 1, APP))
}

/// Milliseconds until the first of as many plain nodes as there are workers serves.
fn plains_at_once(node: &Node) -> Result<f64> {
    first_of(Start::app(Kind::Plains, &node.path, WORKERS, APP))
}

fn first_of(start: Start<'_>) -> Result<f64> {
    let peer = start.run()?;
    let ready = peer.ready.first().context("no plain node")?.0;
    Ok((ready - peer.started).as_secs_f64() * 1e3)
}

pub(crate) fn store(report: &mut Report, node: &Node, rounds: u64) -> Result<()> {
    report.section(
        "kill -9 of the master, with an fd store",
        &format!(
            "{WORKERS} workers, 8 ledger clients (4 keep-alive, 4 with short connections). The bench keeps what the master stores, as systemd does, and \
             starts the next master at the moment at which the first one is gone. Boot: from the start of the next master until its first worker serves; \
             beside it, under the same load and right before, the boot of one plain node, and of the first of as many at once as there are workers; \
             and, without any load, the boot of one plain node and the first master's own. {rounds} rounds."
        ),
    );
    let mut boots = Samples::default();
    let (mut plains, mut again) = (Samples::default(), Samples::default());
    let mut crowds = Samples::default();
    let (mut idle, mut fresh) = (Samples::default(), Samples::default());
    let (mut sent, mut refused, mut lost) = (0, 0, 0);
    for _ in 0..rounds {
        idle.push(plain(node)?);
        let place = Place::new()?;
        let path = place.dir.path().join("notify");
        let manager = UnixDatagram::bind(&path)?;
        let began = Instant::now();
        let first = place.start(node, Some(&path), None)?;
        let (ready, _) = place.wait(WORKERS)?;
        fresh.push((ready - began).as_secs_f64() * 1e3);
        let mut sockets = stored(&manager)?;
        ensure!(sockets.len() == 1, "{} sockets stored", sockets.len());
        let running = place::loads(place.address, 8)?;
        sleep(Duration::from_millis(300));
        plains.push(plain(node)?);
        again.push(plain(node)?);
        crowds.push(plains_at_once(node)?);
        end(first, Signal::SIGKILL)?;
        let began = Instant::now();
        let next = place.start(node, Some(&path), sockets.pop())?;
        let (ready, _) = place.wait(WORKERS)?;
        boots.push((ready - began).as_secs_f64() * 1e3);
        sleep(Duration::from_millis(300));
        let seen = place::join(running)?;
        sent += seen.total;
        refused += seen.count(Class::Refused);
        lost += seen.lost();
        end(next, Signal::SIGTERM)?;
    }
    let ratio = boots.over(&plains);
    report.table(
        &[
            "boot ms",
            "plain boot ms",
            "ratio",
            "first of as many plain nodes at once ms",
            "ratio",
            "without load: plain boot ms",
            "first master's boot ms",
            "sent",
            "refused",
            "lost",
        ],
        &[vec![
            boots.show(0),
            plains.show(0),
            ratio.show(2),
            crowds.show(0),
            boots.over(&crowds).show(2),
            idle.show(0),
            fresh.show(0),
            sent.to_string(),
            refused.to_string(),
            lost.to_string(),
        ]],
    );
    report.target(
        "killed master with an fd store: refused",
        "0",
        format!("{refused} of {sent} over {rounds} kills"),
        refused == 0 && sent > 0,
    );
    let noise = again.over(&plains).noise();
    let what = "killed master with an fd store: first worker of the next one, of one boot";
    report.ratio(
        what.to_owned(),
        "<= 1.1",
        &ratio,
        ratio.median() <= 1.1,
        noise,
    );
    Ok(())
}

pub(crate) fn orphans(report: &mut Report, node: &Node, rounds: u64) -> Result<()> {
    report.section(
        "kill -9 of the master, without a store",
        &format!(
            "{WORKERS} workers, 16 ledger clients with requests of {} ms. The clients send no more from the moment of the kill on; what was in flight must be \
             answered by the orphans. The next master is started at once, on the same port. {rounds} rounds.",
            SLOW.as_millis()
        ),
    );
    let (mut boots, mut plains, mut ends) =
        (Samples::default(), Samples::default(), Samples::default());
    let (mut sent, mut lost) = (0, 0);
    for _ in 0..rounds {
        plains.push(plain(node)?);
        let place = Place::new()?;
        let first = place.start(node, None, None)?;
        place.wait(WORKERS)?;
        let load = Load {
            clients: 16,
            server_delay: Some(SLOW),
            ..Load::new(Target::Tcp(place.address))
        };
        let running = rcluster_ledger::spawn(load)?;
        sleep(Duration::from_millis(800));
        running.control().stop();
        let killed = Instant::now();
        end(first, Signal::SIGKILL)?;
        let began = Instant::now();
        let next = place.start(node, None, None)?;
        let seen = running.join()?;
        ends.push(killed.elapsed().as_secs_f64() * 1e3);
        let (ready, _) = place.wait(WORKERS)?;
        boots.push((ready - began).as_secs_f64() * 1e3);
        sent += seen.total;
        lost += seen.lost();
        end(next, Signal::SIGTERM)?;
    }
    report.table(
        &[
            "sent",
            "lost",
            "last answer of the orphans, ms after the kill",
            "next master's first worker, ms after its start",
            "plain boot ms",
        ],
        &[vec![
            sent.to_string(),
            lost.to_string(),
            ends.show(0),
            boots.show(0),
            plains.show(0),
        ]],
    );
    report.target(
        "killed master: requests in flight that were lost",
        "0",
        format!("{lost} of {sent} over {rounds} kills"),
        lost == 0 && sent > 0,
    );
    let worst = boots.quantile(1.0);
    report.target(
        "killed master: the next start binds and serves",
        "every time",
        format!("{rounds} of {rounds}, the slowest after {worst:.0} ms"),
        true,
    );
    Ok(())
}
