//! PM2 with a home of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::cleanup;
use super::contender::bench_file;

/// A PM2 daemon that belongs to one bench.
#[derive(Clone, Debug)]
pub(crate) struct Pm2 {
    /// Runs the daemon and with it the workers.
    pub(crate) node: PathBuf,
    /// `PM2_HOME`: sockets, logs, pid files.
    pub(crate) home: PathBuf,
}

impl Pm2 {
    /// Starts the app in cluster mode under the name `bench`; all else as PM2 has it by default.
    pub(crate) fn start(
        &self,
        script: &Path,
        workers: usize,
        port: u16,
        ready: &Path,
    ) -> Result<()> {
        let mut command = self.command(&["start"]);
        command
            .arg(script)
            .args(["--name", "bench", "-i", &workers.to_string()]);
        finish(
            command
                .env("PORT", port.to_string())
                .env("BENCH_READY", ready),
        )
    }

    /// Runs one of its commands to the end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<()> {
        finish(&mut self.command(arguments))
    }

    /// Pid of its daemon.
    pub(crate) fn daemon(&self) -> Result<i32> {
        let text = std::fs::read_to_string(self.home.join("pm2.pid")).context("read pm2.pid")?;
        text.trim().parse().context("read a pid from pm2.pid")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.node);
        cleanup::mark(&mut command)
            .arg(bench_file("node_modules/pm2/bin/pm2"))
            .args(arguments);
        command
            .env("PM2_HOME", &self.home)
            .env("PM2_DISABLE_VERSION_CHECK", "true");
        // Its daemon inherits these: anything else would keep a pipe of ours open.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }
}

fn finish(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .context("run pm2 (`npm ci` in benches/ installs it)")?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
