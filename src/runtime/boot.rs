//! From a configuration to a running master, and out again.

use std::{io, net::SocketAddr, net::TcpListener, path::PathBuf, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::{
    effects::World,
    listeners::Listeners,
    manager::Manager,
    master::{Inputs, Master, Verdict},
    release::{Release, ReleaseError},
    rights::Rights,
    shim_file::ShimFile,
    signals::Signals,
    watch::Watch,
};
use crate::{
    admin::{self, Api, Token, TokenError},
    config::{self, Config},
    exit_code::ExitCode,
    logs::{Logs, LogsError},
    supervisor::Supervisor,
    sys::{
        control_dir::{self, ControlError, Lock},
        guard::{self, Guard},
        identity, inherit,
        listener::BindError,
        spawn,
    },
};

/// Messages of workers that may wait for the loop; links stop reading beyond.
const INBOX: usize = 256;
/// Requests that may wait for the loop.
const REQUESTS: usize = 64;
/// How long a start waits for the orphans of a master that was killed.
const PREDECESSOR: Duration = Duration::from_secs(10);

/// Why the master could not start.
#[derive(Debug, Error)]
pub enum BootError {
    /// The script, node or the environment file.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A declared address.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// `--admin`.
    #[error("failed to listen on --admin {0}: {1}")]
    Admin(SocketAddr, #[source] io::Error),
    /// The token of `--admin`.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The pid file.
    #[error("failed to write the pid file {0}: {1}")]
    Pidfile(PathBuf, #[source] io::Error),
    /// `--watch`.
    #[error("{0}")]
    Watch(String),
    /// `--log-file`.
    #[error(transparent)]
    Logs(#[from] LogsError),
    /// The machine.
    #[error("failed to {0}: {1}")]
    System(&'static str, #[source] io::Error),
}

impl BootError {
    /// The exit code that goes with it.
    pub fn code(&self) -> ExitCode {
        match self {
            Self::Release(_)
            | Self::Token(_)
            | Self::Control(_)
            | Self::Pidfile(..)
            | Self::Watch(_)
            | Self::Logs(_) => ExitCode::Usage,
            Self::Bind(_) | Self::Admin(..) => ExitCode::BindFailed,
            Self::System(..) => ExitCode::Internal,
        }
    }
}

/// The pid file, removed with this value.
struct Pidfile(PathBuf);

impl Drop for Pidfile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Runs a master to its end; with `--watch` a first boot that fails waits for the next change.
///
/// # Errors
/// A [`BootError`] when it cannot start; what goes wrong later is in the [`Verdict`].
pub async fn run(config: Config) -> Result<Verdict, BootError> {
    loop {
        let verdict = run_once(config.clone()).await?;
        let failed = matches!(verdict.code, ExitCode::BootFailed | ExitCode::NeverReady);
        let Some(globs) = config.watch.as_deref().filter(|_| failed) else {
            return Ok(verdict);
        };
        let mut signals = Signals::install().map_err(|e| BootError::System("handle signals", e))?;
        let mut watch = Watch::start(&config.launch, globs).map_err(BootError::Watch)?;
        info!("waiting for a change");
        let changed = tokio::select! {
            path = watch.changed() => path,
            () = signals.ended() => None,
        };
        match changed {
            Some(path) => info!(path = %path.display(), "changed: starting again"),
            None => return Ok(verdict),
        }
    }
}

/// Runs a master to its end.
///
/// # Errors
/// A [`BootError`] when it cannot start; what goes wrong later is in the [`Verdict`].
async fn run_once(config: Config) -> Result<Verdict, BootError> {
    // First, so that from here on no signal has its default action.
    let signals = Signals::install().map_err(|e| BootError::System("handle signals", e))?;
    let inherited = inherit::inherited();
    spawn::reserve_channel_fd().map_err(|e| BootError::System("open /dev/null", e))?;
    identity::forbid_dumps();
    let release = Release::resolve(&config.launch)?;
    let watch = config
        .watch
        .as_deref()
        .map(|globs| Watch::start(&config.launch, globs))
        .transpose()
        .map_err(BootError::Watch)?;
    if config.control_is_default
        && let Some(folder) = config.control.parent()
    {
        control_dir::prepare_default(folder)?;
    }
    control_dir::check_path(&config.control)?;
    let lock = Lock::take(&config.control, &config.name)?;
    let guard_file = config.control.with_extension("guard");
    guard::relieve_predecessor(&guard_file, PREDECESSOR);
    let rights = Rights::new(config.strict_bind, &config.launch.cwd);
    let mut listeners = Listeners::new(rights);
    listeners.adopt(inherited);
    listeners.declare(&config.binds)?;
    let socket = control_dir::bind_socket(&config.control, &lock)?;
    let _socket_file = admin::SocketFile(config.control.clone());
    let _pidfile = match &config.pidfile {
        Some(path) => {
            std::fs::write(path, format!("{}\n", std::process::id()))
                .map_err(|e| BootError::Pidfile(path.clone(), e))?;
            Some(Pidfile(path.clone()))
        }
        None => None,
    };
    let logs = match &config.output {
        Some(plan) => {
            let careful = config.identity.is_some();
            let logs = Logs::start(plan, &config.control, config.policy.workers, careful)?;
            Some(Arc::new(logs))
        }
        None => None,
    };
    let admin = config.admin.as_ref().map(open_admin).transpose()?;
    let (shim, guard) = helpers(&config)?;
    // The master must not hold a release folder that a deploy wants to delete.
    std::env::set_current_dir("/").map_err(|e| BootError::System("change to /", e))?;

    let (requests_in, requests) = mpsc::channel(REQUESTS);
    let socket = tokio::net::UnixListener::from_std(socket)
        .map_err(|e| BootError::System("listen on the control socket", e))?;
    if let Some(mut watch) = watch {
        let changes = requests_in.clone();
        tokio::spawn(async move {
            while let Some(path) = watch.changed().await {
                if changes.send(admin::Request::Changed(path)).await.is_err() {
                    return;
                }
            }
        });
    }
    let (inbox_in, inbox) = mpsc::channel(INBOX);
    info!(
        name = config.name,
        pid = std::process::id(),
        workers = config.policy.workers,
        script = %config.launch.script.display(),
        folder = %release.folder().display(),
        control = %config.control.display(),
        "rcluster starts"
    );
    let supervisor = Supervisor::new(config.policy.clone(), fastrand::u64(..));
    let mut world = World::new(config, release, listeners, shim, guard, inbox_in);
    world.logs.clone_from(&logs);
    let api = Api {
        requests: requests_in,
        happenings: world.bus.readers(),
    };
    if let Some((listener, address, token)) = admin {
        world.admin = Some(address);
        info!(%address, changes = token.is_some(), "the API listens");
        if !address.ip().is_loopback() {
            warn!(%address, "the API can be reached from other machines: everybody there may look");
        }
        let listener = tokio::net::TcpListener::from_std(listener)
            .map_err(|e| BootError::System("listen on --admin", e))?;
        tokio::spawn(admin::serve_tcp(listener, token, api.clone()));
    }
    tokio::spawn(admin::serve(socket, api));
    let inputs = Inputs {
        signals,
        requests,
        inbox,
    };
    let verdict = Master::new(supervisor, world, Manager::of_process())
        .run(inputs)
        .await;
    match (&verdict.reason, verdict.code) {
        (_, ExitCode::Ok) => info!("rcluster stopped"),
        (Some(reason), ExitCode::Killed) => warn!(reason, "rcluster stopped"),
        (reason, code) => error!(code = code as u8, reason, "rcluster gives up"),
    }
    if let Some(logs) = logs {
        // Last: what was said above goes the same way.
        logs.finish();
        // Those who follow (`rcluster logs -f`) get the last lines from their connections' tasks.
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }
    Ok(verdict)
}

/// Tries whether a release gets ready, without its port and without a name:
/// nothing of a running master is touched.
///
/// # Errors
/// A [`BootError`] when it cannot even be tried.
pub async fn check(mut config: Config) -> Result<Verdict, BootError> {
    let signals = Signals::install().map_err(|e| BootError::System("handle signals", e))?;
    spawn::reserve_channel_fd().map_err(|e| BootError::System("open /dev/null", e))?;
    let release = Release::resolve(&config.launch)?;
    if config.control_is_default
        && let Some(folder) = config.control.parent()
    {
        control_dir::prepare_default(folder)?;
    }
    // Files of its own, beside those of a running master.
    config
        .control
        .set_extension(format!("check-{}", std::process::id()));
    let (shim, guard) = helpers(&config)?;
    let (inbox_in, inbox) = mpsc::channel(INBOX);
    // Nobody can send a request: there is no control socket.
    let (_requests_in, requests) = mpsc::channel(1);
    let supervisor = Supervisor::checking(&config.policy, fastrand::u64(..));
    let world = World::new(config, release, Listeners::default(), shim, guard, inbox_in);
    let inputs = Inputs {
        signals,
        requests,
        inbox,
    };
    Ok(Master::new(supervisor, world, Manager::default())
        .run(inputs)
        .await)
}

/// Binds `--admin` and reads its token, before anything is started that would have to be undone.
fn open_admin(
    admin: &config::Admin,
) -> Result<(TcpListener, SocketAddr, Option<Token>), BootError> {
    let token = admin.token_file.as_deref().map(Token::read).transpose()?;
    let failed = |e| BootError::Admin(admin.address, e);
    let listener = TcpListener::bind(admin.address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address, token))
}

/// The shim's files and the guard.
fn helpers(config: &Config) -> Result<(Option<ShimFile>, Guard), BootError> {
    let shim = config
        .shim
        .then(|| ShimFile::beside(&config.control, config.identity.as_ref()))
        .transpose()
        .map_err(|e| BootError::System("write the shim beside the control socket", e))?;
    let file = config.control.with_extension("guard");
    let guard = Guard::start(&file, config.policy.drain_timeout)
        .map_err(|e| BootError::System("start the guard process", e))?;
    Ok((shim, guard))
}
