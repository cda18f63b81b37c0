//! Starts one contender, tells when each of its workers serves, and ends it.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Seek};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::nodes::Node;

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Rcluster,
    RclusterNoShim,
    ClusterRr,
    ClusterNone,
    /// Plain `node`, one process, whatever number of workers is asked for.
    Plain,
    /// So many plain `node`, each on its own port: what starting them costs.
    Plains,
    /// This process binds and listens; its workers inherit the socket. The limit for one shared socket.
    Bare,
    /// The same once more: its ratio to `Bare` is the bench's own noise.
    BareAgain,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rcluster => "rcluster",
            Self::RclusterNoShim => "rcluster --no-shim",
            Self::ClusterRr => "Node cluster, round robin",
            Self::ClusterNone => "Node cluster, SCHED_NONE",
            Self::Plain => "one plain node",
            Self::Plains => "plain nodes at once",
            Self::Bare => "bare shared socket (the limit)",
            Self::BareAgain => "bare shared socket, again",
        }
    }
}

/// A file beside the benches.
pub(crate) fn bench_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("benches")
        .join(name)
}

/// The release binary under test.
pub(crate) fn rcluster() -> PathBuf {
    std::env::var_os("RCLUSTER_BENCH_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_rcluster").into(), PathBuf::from)
}

/// A running contender. Dropping it ends its processes.
#[derive(Debug)]
pub(crate) struct Server {
    children: Vec<Child>,
    lines: Receiver<(Instant, String)>,
    errors: File,
    home: TempDir,
    /// Where it serves.
    pub(crate) address: SocketAddr,
    /// Just before its first process was started.
    pub(crate) started: Instant,
    /// Workers that said that they serve, and when, in order.
    pub(crate) ready: Vec<(Instant, i32)>,
}

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Start<'a> {
    pub(crate) kind: Kind,
    /// The binary that workers run.
    pub(crate) node: &'a Path,
    pub(crate) workers: usize,
    pub(crate) script: PathBuf,
    /// Further options for rcluster.
    pub(crate) options: Vec<String>,
}

impl<'a> Start<'a> {
    /// The small app under that contender.
    pub(crate) fn hello(kind: Kind, node: &'a Node, workers: usize) -> Self {
        Self {
            kind,
            node: &node.path,
            workers,
            script: bench_file("apps/hello.js"),
            options: Vec::new(),
        }
    }

    /// Starts it and waits until all of its workers serve.
    pub(crate) fn run(self) -> Result<Server> {
        let home = tempfile::Builder::new()
            .prefix("rcluster-bench")
            .tempdir()?;
        let errors = File::create_new(home.path().join("stderr"))?;
        let address = free_address()?;
        let (reader, out) = std::io::pipe()?;
        let lines = lines_of(reader);
        let mut server = Server {
            children: Vec::new(),
            lines,
            errors: errors.try_clone()?,
            home,
            address,
            started: Instant::now(),
            ready: Vec::new(),
        };
        let count = self.spawn(&mut server, &out, &errors)?;
        drop(out);
        server.wait_ready(count)?;
        Ok(server)
    }

    /// Starts the processes; answers how many workers will say that they serve.
    fn spawn(&self, server: &mut Server, out: &PipeWriter, errors: &File) -> Result<usize> {
        let mut start = |mut command: Command, port: u16| -> Result<()> {
            command
                .env("PORT", port.to_string())
                .stdout(out.try_clone()?)
                .stderr(errors.try_clone()?)
                .process_group(0);
            server.children.push(
                command
                    .spawn()
                    .with_context(|| format!("start {command:?}"))?,
            );
            Ok(())
        };
        let port = server.address.port();
        match self.kind {
            Kind::Rcluster | Kind::RclusterNoShim => {
                let mut command = Command::new(rcluster());
                command
                    .arg("-w")
                    .arg(self.workers.to_string())
                    .arg("--node")
                    .arg(self.node);
                command
                    .arg("--control")
                    .arg(server.home.path().join("control.sock"));
                if self.kind == Kind::RclusterNoShim {
                    command.arg("--no-shim");
                }
                command
                    .args(&self.options)
                    .arg(&self.script)
                    .stdin(Stdio::null());
                start(command, port)?;
                Ok(self.workers)
            }
            Kind::ClusterRr | Kind::ClusterNone => {
                let mut command = Command::new(self.node);
                command
                    .arg(bench_file("apps/cluster.js"))
                    .arg(&self.script)
                    .stdin(Stdio::null());
                command.env(
                    "BENCH_POLICY",
                    if self.kind == Kind::ClusterNone {
                        "none"
                    } else {
                        "rr"
                    },
                );
                command.env("BENCH_WORKERS", self.workers.to_string());
                start(command, port)?;
                Ok(self.workers)
            }
            Kind::Plain | Kind::Plains => {
                let count = if self.kind == Kind::Plain {
                    1
                } else {
                    self.workers
                };
                for index in 0..count {
                    let port = if index == 0 {
                        port
                    } else {
                        free_address()?.port()
                    };
                    let mut command = Command::new(self.node);
                    command.arg(&self.script).stdin(Stdio::null());
                    start(command, port)?;
                }
                Ok(count)
            }
            Kind::Bare | Kind::BareAgain => {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                socket.bind(&server.address.into())?;
                socket.listen(511)?;
                for _ in 0..self.workers {
                    // The shell moves the socket from 0 to 3: Node would treat descriptors 0 to 2 as its
                    // terminal, and std has no safe way to pass another one.
                    let mut command = Command::new("/bin/sh");
                    command
                        .args(["-c", "exec 3<&0 0</dev/null; exec \"$0\" \"$@\""])
                        .arg(self.node)
                        .arg(&self.script);
                    command
                        .stdin(Stdio::from(OwnedFd::from(socket.try_clone()?)))
                        .env("BENCH_FD", "3");
                    start(command, port)?;
                }
                Ok(self.workers)
            }
        }
    }
}

impl Server {
    /// The process that owns the workers, where there is one.
    pub(crate) fn master(&self) -> i32 {
        self.children[0].id().cast_signed()
    }

    /// The control socket of a master that was started here.
    pub(crate) fn control(&self) -> PathBuf {
        self.home.path().join("control.sock")
    }

    /// Waits until `count` workers more have said that they serve.
    pub(crate) fn wait_ready(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            let (at, line) = self.wait_line("ready ", Duration::from_secs(30))?;
            let pid = line
                .trim_start_matches("ready ")
                .parse()
                .with_context(|| format!("read a pid from {line:?}"))?;
            self.ready.push((at, pid));
        }
        Ok(())
    }

    /// The next line of stdout that starts so, and when it came.
    pub(crate) fn wait_line(
        &mut self,
        start: &str,
        patience: Duration,
    ) -> Result<(Instant, String)> {
        let deadline = Instant::now() + patience;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok((at, line)) if line.starts_with(start) => return Ok((at, line)),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!(
                    "no {start:?} in {patience:?}; stderr: {}",
                    self.stderr_tail()
                ),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("ended before {start:?}; stderr: {}", self.stderr_tail())
                }
            }
        }
    }

    /// Pids of the workers of the first boot.
    pub(crate) fn workers(&self) -> Vec<i32> {
        self.ready.iter().map(|&(_, pid)| pid).collect()
    }

    /// CPU time so far: of all processes, and of the master alone (zero where there is none).
    pub(crate) fn cpu(&self, kind: Kind) -> Result<(Duration, Duration)> {
        let mut sum = Duration::ZERO;
        for pid in self.workers() {
            sum += super::procfs::cpu(pid)?;
        }
        let master = match kind {
            Kind::Rcluster | Kind::RclusterNoShim | Kind::ClusterRr | Kind::ClusterNone => {
                super::procfs::cpu(self.master())?
            }
            Kind::Plain | Kind::Plains | Kind::Bare | Kind::BareAgain => Duration::ZERO,
        };
        Ok((sum + master, master))
    }

    /// The end of what its processes wrote on stderr.
    pub(crate) fn stderr_tail(&self) -> String {
        let mut text = String::new();
        let mut file = &self.errors;
        if file.rewind().is_ok() {
            let _ = File::open(self.home.path().join("stderr"))
                .and_then(|mut f| f.read_to_string(&mut text));
        }
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Asks it to end, and answers how long that took; kills it after ten seconds.
    pub(crate) fn stop(&mut self) -> Result<Duration> {
        let began = Instant::now();
        for child in &mut self.children {
            if child.try_wait()?.is_none() {
                kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
            }
        }
        for child in &mut self.children {
            while child.try_wait()?.is_none() {
                if began.elapsed() > Duration::from_secs(10) {
                    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
                    child.wait()?;
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(began.elapsed())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("could not stop a contender: {error:#}");
        }
    }
}

/// A free port of 127.0.0.1 below the ephemeral range, so that no client's port takes it.
fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 12_000 + (std::process::id() % 180) as u16 * 100;
    for _ in 0..1000 {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 2000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port from {base} on")
}

/// Lines of a pipe with the time at which each came.
fn lines_of(reader: PipeReader) -> Receiver<(Instant, String)> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            if send.send((Instant::now(), line)).is_err() {
                break;
            }
        }
    });
    lines
}
