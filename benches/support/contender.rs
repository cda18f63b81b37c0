//! Starts one contender, tells when each of its workers serves, and ends it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::cleanup;
pub(crate) use super::kind::{Balance, Kind};
use super::nodes::Node;
use super::peers;
use super::pm2::Pm2;

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
    pub(crate) kind: Kind,
    children: Vec<Child>,
    pm2: Option<Pm2>,
    lines: Receiver<(Instant, String)>,
    /// Our own writing end of the pipe `ready`: the reader never sees its end, and is told by a line.
    pipe: File,
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
    /// What a bare parent does with a socket before it listens.
    pub(crate) prepare: Option<fn(&Socket) -> Result<()>>,
}

impl<'a> Start<'a> {
    /// The small app under that contender.
    pub(crate) fn hello(kind: Kind, node: &'a Node, workers: usize) -> Self {
        Self::app(kind, &node.path, workers, "apps/hello.js")
    }

    /// A script of the benches under that contender.
    pub(crate) fn app(kind: Kind, node: &'a Path, workers: usize, script: &str) -> Self {
        Self {
            kind,
            node,
            workers,
            script: bench_file(script),
            options: Vec::new(),
            prepare: None,
        }
    }

    /// Starts it and waits until all of its workers serve.
    pub(crate) fn run(self) -> Result<Server> {
        let home = tempfile::Builder::new()
            .prefix(&cleanup::folders())
            .tempdir()?;
        let pipe = home.path().join("ready");
        mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR)?;
        // Opened for both, a named pipe neither blocks here nor ends when its last writer goes (fifo(7)).
        let pipe = OpenOptions::new().read(true).write(true).open(pipe)?;
        let mut server = Server {
            kind: self.kind,
            children: Vec::new(),
            pm2: None,
            lines: lines_of(pipe.try_clone()?),
            pipe,
            home,
            address: free_address()?,
            started: Instant::now(),
            ready: Vec::new(),
        };
        let count = self.spawn(&mut server)?;
        server.wait_ready(count)?;
        Ok(server)
    }

    /// Starts the processes; answers how many workers will say that they serve.
    fn spawn(&self, server: &mut Server) -> Result<usize> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(server.home.path().join("log"))?;
        let pipe = server.home.path().join("ready");
        let mut children = Vec::new();
        let mut start = |mut command: Command, port: u16| -> Result<()> {
            cleanup::mark(&mut command)
                .env("PORT", port.to_string())
                .env("BENCH_READY", &pipe)
                .process_group(0);
            command.stdout(log.try_clone()?).stderr(log.try_clone()?);
            let child = command
                .spawn()
                .with_context(|| format!("start {command:?}"))?;
            children.push(child);
            Ok(())
        };
        let port = server.address.port();
        let mut count = self.workers;
        match self.kind {
            Kind::Rcluster | Kind::RclusterNoShim | Kind::Balanced(_) => {
                let mut command = Command::new(rcluster());
                command
                    .arg("-w")
                    .arg(self.workers.to_string())
                    .arg("--node")
                    .arg(self.node);
                command.arg("--control").arg(server.control());
                if self.kind == Kind::RclusterNoShim {
                    command.arg("--no-shim");
                }
                if let Kind::Balanced(mode) = self.kind {
                    command.args(["--balance", mode.word()]);
                    if mode == Balance::SpreadClassic {
                        command.env("RCLUSTER_BALANCE_KERNEL", "classic");
                    }
                }
                command
                    .args(&self.options)
                    .arg(&self.script)
                    .stdin(Stdio::null());
                start(command, port)?;
            }
            Kind::ClusterRr | Kind::ClusterRrAgain | Kind::ClusterNone => {
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
            }
            Kind::Plain | Kind::Plains => {
                count = if self.kind == Kind::Plain {
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
            }
            Kind::Pm2 => {
                let pm2 = Pm2 {
                    node: self.node.to_owned(),
                    home: server.home.path().join("pm2"),
                };
                server.pm2 = Some(pm2.clone());
                pm2.start(&self.script, self.workers, port, &pipe)?;
            }
            Kind::Watt => {
                let folder = server.home.path().join("watt");
                let mut command = peers::watt(self.node, &folder, &self.script, self.workers)?;
                command.stdin(Stdio::null());
                start(command, port)?;
            }
            Kind::Bun => {
                for _ in 0..self.workers {
                    let mut command = peers::bun();
                    command.stdin(Stdio::null());
                    start(command, port)?;
                }
            }
            Kind::Bare | Kind::BareAgain | Kind::BareReuseport => {
                let own = self.kind == Kind::BareReuseport;
                let mut socket = self.listen(server.address, own)?;
                for index in 0..self.workers {
                    if own && index > 0 {
                        socket = self.listen(server.address, own)?;
                    }
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
            }
        }
        server.children = children;
        Ok(count)
    }

    /// A listening socket for a bare parent.
    fn listen(&self, address: SocketAddr, reuse_port: bool) -> Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(reuse_port)?;
        socket.bind(&address.into())?;
        if let Some(prepare) = self.prepare {
            prepare(&socket)?;
        }
        socket.listen(511)?;
        Ok(socket)
    }
}

impl Server {
    /// The process that owns the workers, where there is one that was started here.
    pub(crate) fn master(&self) -> i32 {
        self.children
            .first()
            .map_or(0, |child| child.id().cast_signed())
    }

    /// PM2, if it serves here.
    pub(crate) fn pm2(&self) -> Option<&Pm2> {
        self.pm2.as_ref()
    }

    /// The control socket of a master that was started here.
    pub(crate) fn control(&self) -> PathBuf {
        self.home.path().join("control.sock")
    }

    /// A folder of this contender alone, with the pipe that its workers write to.
    pub(crate) fn folder(&self) -> &Path {
        self.home.path()
    }

    /// Waits until `count` workers more have said that they serve.
    pub(crate) fn wait_ready(&mut self, count: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        for _ in 0..count {
            let (at, line) = self.wait_line(deadline)?;
            let pid = line
                .trim_start_matches("ready ")
                .parse()
                .with_context(|| format!("read a pid from {line:?}"))?;
            self.ready.push((at, pid));
        }
        Ok(())
    }

    fn wait_line(&mut self, deadline: Instant) -> Result<(Instant, String)> {
        loop {
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the reader of the pipe ended"),
            }
            for child in &mut self.children {
                if let Some(status) = child.try_wait()? {
                    bail!(
                        "{} ended: {status}; log: {}",
                        self.kind.name(),
                        self.log_tail()
                    );
                }
            }
            ensure!(
                Instant::now() < deadline,
                "{}: a worker did not become ready; log: {}",
                self.kind.name(),
                self.log_tail()
            );
        }
    }

    /// Pids of the workers that ever became ready. One, if they are threads.
    pub(crate) fn workers(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self.ready.iter().map(|&(_, pid)| pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// The process that stands between kernel and workers, where there is one that is not a worker itself.
    pub(crate) fn primary(&self) -> Result<Option<i32>> {
        Ok(match self.kind {
            Kind::Rcluster
            | Kind::RclusterNoShim
            | Kind::Balanced(_)
            | Kind::ClusterRr
            | Kind::ClusterRrAgain
            | Kind::ClusterNone => Some(self.master()),
            Kind::Pm2 => self.pm2.as_ref().map(Pm2::daemon).transpose()?,
            Kind::Plain
            | Kind::Plains
            | Kind::Watt
            | Kind::Bun
            | Kind::Bare
            | Kind::BareAgain
            | Kind::BareReuseport => None,
        })
    }

    /// Asks for a reload, as its operator would; returns when the command does.
    pub(crate) fn reload(&self) -> Result<()> {
        match (self.kind, &self.pm2) {
            (kind, _) if kind.is_rcluster() => {
                let output = Command::new(rcluster())
                    .args(["reload", "--control"])
                    .arg(self.control())
                    .output()?;
                ensure!(
                    output.status.success(),
                    "rcluster reload failed: {output:?}; log: {}",
                    self.log_tail()
                );
            }
            (_, Some(pm2)) => pm2.run(&["reload", "bench"])?,
            _ => kill(Pid::from_raw(self.master()), Signal::SIGHUP)?,
        }
        Ok(())
    }

    /// CPU time so far: of all processes, and of the master alone (zero where there is none).
    pub(crate) fn cpu(&self) -> Result<(Duration, Duration)> {
        let mut sum = Duration::ZERO;
        for pid in self.workers() {
            sum += super::procfs::cpu(pid)?;
        }
        let master = match self.primary()? {
            Some(pid) => super::procfs::cpu(pid)?,
            None => Duration::ZERO,
        };
        Ok((sum + master, master))
    }

    /// The end of what its processes wrote.
    pub(crate) fn log_tail(&self) -> String {
        let mut text = Vec::new();
        // Without a log there is nothing to show; the error that leads here is told all the same.
        let _ = File::open(self.home.path().join("log"))
            .and_then(|mut file| file.read_to_end(&mut text));
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Asks it to end, and waits; kills it after 40 seconds, which is longer than the default drain.
    fn stop(&mut self) -> Result<()> {
        let began = Instant::now();
        if let Some(pm2) = &self.pm2 {
            pm2.run(&["kill"])?;
        }
        for child in &mut self.children {
            if child.try_wait()?.is_none() {
                kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
            }
        }
        for child in &mut self.children {
            while child.try_wait()?.is_none() {
                if began.elapsed() > Duration::from_secs(40) {
                    eprintln!("   {} did not stop: killed", self.kind.name());
                    killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL)?;
                    child.wait()?;
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("could not stop {}: {error:#}", self.kind.name());
        }
        let _ = self.pipe.write_all(b"end\n");
    }
}

/// A free port of 127.0.0.1 below the ephemeral range, so that no client's port takes it.
pub(crate) fn free_address() -> Result<SocketAddr> {
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

/// Lines of a pipe with the time at which each came, up to the line `end`.
pub(crate) fn lines_of(pipe: File) -> Receiver<(Instant, String)> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if line == "end" || send.send((Instant::now(), line)).is_err() {
                break;
            }
        }
    });
    lines
}
