//! The master under trial: a child of ours, and everything that it leaves behind.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs, io,
    io::Read,
    os::unix::{ffi::OsStringExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::hand_over::WITHHELD_ENV;
use crate::{
    admin::{Client, ClientError, Status},
    cli::WhichMaster,
};
use rcluster_core::{
    exit_code::ExitCode,
    supervisor::{FleetState, Pid, State},
};
use rcluster_sys::{listener::MAX_PATH, process, tie};

/// Bytes of the log that are kept.
const TAIL: usize = 64 * 1024;
/// Between two looks at a process or at the status.
pub(super) const LOOK: Duration = Duration::from_millis(10);
/// Name of the control socket.
const SOCKET: &str = "c.sock";
/// What a master that was told to stop now may still need, and a stop in order beyond its own timeouts.
const GRACE: Duration = Duration::from_secs(10);

/// What went wrong with the master.
#[derive(Debug, Error)]
pub(super) enum TrialError {
    /// The private folder.
    #[error("failed to make a private folder in {0}: {1}")]
    Folder(PathBuf, #[source] io::Error),
    /// The process.
    #[error("failed to start the master: {0}")]
    Spawn(#[source] io::Error),
    /// It has ended.
    #[error("the master ended by itself ({0})")]
    Ended(ExitStatus),
    /// It does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl TrialError {
    /// A master that does not get up has the right exit code already.
    pub(super) fn code(&self) -> ExitCode {
        let code = match self {
            Self::Ended(status) => status.code(),
            Self::Folder(..) | Self::Spawn(_) | Self::Client(_) => None,
        };
        [
            ExitCode::Usage,
            ExitCode::BootFailed,
            ExitCode::NeverReady,
            ExitCode::BindFailed,
        ]
        .into_iter()
        .find(|known| code == Some(i32::from(*known as u8)))
        .unwrap_or(ExitCode::Internal)
    }
}

/// A folder that goes with this value.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, TrialError> {
        let name = "rcluster-rehearse-XXXXXX";
        let mut parent = std::env::temp_dir();
        // mkdtemp(3) makes it 0700, which the master insists on.
        if parent.as_os_str().len() + name.len() + SOCKET.len() + 2 > MAX_PATH {
            parent = PathBuf::from("/tmp");
        }
        nix::unistd::mkdtemp(&parent.join(name))
            .map(Self)
            .map_err(|errno| TrialError::Folder(parent, errno.into()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The last bytes of what master and app wrote.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    fn read(&self, mut pipe: io::PipeReader) {
        let mut piece = [0; 8192];
        while let Ok(n @ 1..) = pipe.read(&mut piece) {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(&piece[..n]);
            let over = kept.len().saturating_sub(TAIL);
            kept.drain(..over);
        }
    }

    /// The last lines, at most `count`.
    pub(super) fn lines(&self, count: usize) -> Vec<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = kept.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines[lines.len().saturating_sub(count)..].to_vec()
    }
}

/// The running master.
#[derive(Debug)]
pub(super) struct Trial {
    child: Child,
    client: Client,
    tail: Tail,
    patience: Duration,
    ended: Option<ExitStatus>,
    _folder: Folder,
}

impl Trial {
    /// Starts this binary as a master with these arguments. A stop in order may take `patience`.
    ///
    /// # Errors
    /// [`TrialError::Folder`] and [`TrialError::Spawn`].
    pub(super) async fn start(args: &[OsString], patience: Duration) -> Result<Self, TrialError> {
        let folder = Folder::new()?;
        let control = folder.0.join(SOCKET);
        let (reader, writer) = io::pipe().map_err(TrialError::Spawn)?;
        let mut command = Command::new(own_binary()?);
        let mut option = OsString::from("--control=").into_vec();
        option.extend(control.as_os_str().as_encoded_bytes());
        command
            .arg0("rcluster")
            .arg(OsString::from_vec(option))
            // Else one that the configuration file names would be written.
            .arg("--pidfile")
            .arg(folder.0.join("pid"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(TrialError::Spawn)?)
            .stderr(writer)
            // Ctrl-C is for us alone: we stop it in order.
            .process_group(0);
        for name in WITHHELD_ENV {
            command.env_remove(name);
        }
        let child = tie::spawn(&mut command).map_err(TrialError::Spawn)?;
        // With the command goes our copy of the pipe's writing end.
        drop(command);
        let tail = Tail::default();
        let own = tail.clone();
        thread::spawn(move || own.read(reader));
        let which = WhichMaster {
            name: None,
            control: Some(control),
        };
        Ok(Self {
            child,
            client: Client::find(&which).await?,
            tail,
            patience,
            ended: None,
            _folder: folder,
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn tail(&self) -> &Tail {
        &self.tail
    }

    /// The status of the master.
    ///
    /// # Errors
    /// [`TrialError::Ended`] and [`TrialError::Client`].
    pub(super) async fn status(&mut self) -> Result<Status, TrialError> {
        match self.client.get("/v1/status").await {
            Ok(status) => Ok(status),
            Err(error) => match self.ended() {
                Some(status) => Err(TrialError::Ended(status)),
                None => Err(error.into()),
            },
        }
    }

    /// Waits until every worker is ready.
    ///
    /// # Errors
    /// [`TrialError::Ended`]: it did not get up.
    pub(super) async fn serving(&mut self) -> Result<Status, TrialError> {
        loop {
            if let Some(status) = self.ended() {
                return Err(TrialError::Ended(status));
            }
            // Before it has its socket, it does not answer.
            if let Ok(status) = self.status().await
                && status.fleet.state == FleetState::Serving
                && ready(&status).count() == status.fleet.wanted as usize
            {
                return Ok(status);
            }
            sleep(LOOK).await;
        }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    fn signal(&self, signal: Signal) {
        process::signal(Pid(self.child.id().cast_signed()), signal);
    }

    /// Stops it in order, then at once (as soon as `hurry` says so), then by force. Returns how it ended.
    pub(super) async fn stop(mut self, hurry: impl Future<Output = ()>) -> Option<ExitStatus> {
        if self.ended().is_none() {
            self.signal(Signal::SIGTERM);
            let patience = self.patience + GRACE;
            tokio::select! {
                () = self.gone(patience) => {}
                () = hurry => {}
            }
        }
        if self.ended().is_none() {
            // The second one means now.
            self.signal(Signal::SIGINT);
            self.gone(GRACE).await;
        }
        if self.ended().is_none() {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
        self.ended
    }

    async fn gone(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        while self.ended().is_none() && Instant::now() < end {
            sleep(LOOK).await;
        }
    }
}

impl Drop for Trial {
    /// Only a panic comes here with a living child.
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::SIGTERM);
            self.signal(Signal::SIGINT);
            let end = Instant::now() + GRACE;
            while self.ended().is_none() && Instant::now() < end {
                thread::sleep(LOOK);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The ready workers, by slot.
pub(super) fn ready(
    status: &Status,
) -> impl Iterator<Item = &rcluster_core::supervisor::WorkerView> {
    let workers = status.fleet.workers.iter();
    workers.filter(|w| w.state == State::Ready)
}

fn own_binary() -> Result<PathBuf, TrialError> {
    if cfg!(target_os = "linux") {
        // Still there when the file was replaced by a newer release.
        Ok(Path::new("/proc/self/exe").to_owned())
    } else {
        std::env::current_exe().map_err(TrialError::Spawn)
    }
}
