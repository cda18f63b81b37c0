//! From a configuration to a running master, and out again.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::{
    effects::World,
    listeners::Listeners,
    manager::Manager,
    master::{Inputs, Master},
    port_owner, prepare,
    release::{Release, ReleaseError},
    report,
    rights::Rights,
    shim_file::ShimFile,
    signals::Signals,
    socket_keeper::Keeper,
    stale,
    upgrade::{self, Hold, Resumption, Serving, Upgrade},
    verdict::Verdict,
    watch::Watch,
};
use crate::{
    admin::{self, Api, Token, TokenError},
    config::{self, Config},
    logs::{Logs, LogsError},
    settings::Line,
};
use rcluster_core::{
    exit_code::ExitCode,
    supervisor::{Generation, Supervisor},
};
use rcluster_sys::{
    control_dir::{self, ControlError, Lock},
    guard::{self, Guard},
    identity::{self, Identity},
    inherit::{self, Inherited},
    listener::BindError,
    pidfile::Pidfile,
    process,
    safe_path::Use,
    spawn,
};

/// Messages of workers that may wait for the loop; links stop reading beyond.
pub(super) const INBOX: usize = 256;
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

/// Runs a master to its end; with `--watch` a first boot that fails waits for the next change.
///
/// # Errors
/// A [`BootError`] when it cannot start; what goes wrong later is in the [`Verdict`].
pub async fn run(config: Config) -> Result<Verdict, BootError> {
    let numbers = config.handed.iter().filter_map(|text| text.parse().ok());
    let mut inherited = inherit::inherited(numbers);
    loop {
        let handed = if config.watch.is_some() {
            // It may start again.
            let again = inherited.iter().map(Inherited::again);
            again.collect::<io::Result<_>>()
        } else {
            Ok(std::mem::take(&mut inherited))
        };
        let handed = handed.map_err(|e| BootError::System("keep the sockets", e))?;
        let verdict = Box::pin(run_once(config.clone(), handed)).await?;
        let failed = matches!(verdict.code, ExitCode::BootFailed | ExitCode::NeverReady);
        if !failed {
            return Ok(verdict);
        }
        let mut signals = Signals::install().map_err(|e| BootError::System("handle signals", e))?;
        let watch = tokio::select! {
            watch = Watch::start(&config) => watch.map_err(BootError::Watch)?,
            () = signals.ended() => None,
        };
        let Some(mut watch) = watch else {
            return Ok(verdict);
        };
        info!(event = "watch_waiting", "waiting for a change");
        let changed = tokio::select! {
            path = watch.changed() => path,
            () = signals.ended() => None,
        };
        match changed {
            Some(path) => {
                info!(path = %path.display(), event = "watch_start", "changed: starting again");
            }
            None => return Ok(verdict),
        }
    }
}

/// Runs a master to its end.
///
/// # Errors
/// A [`BootError`] when it cannot start; what goes wrong later is in the [`Verdict`].
async fn run_once(config: Config, inherited: Vec<Inherited>) -> Result<Verdict, BootError> {
    // First, so that from here on no signal has its default action.
    let mut signals = Signals::install().map_err(|e| BootError::System("handle signals", e))?;
    spawn::reserve_channel_fd().map_err(|e| BootError::System("open /dev/null", e))?;
    identity::forbid_dumps();
    process::adopt_orphans();
    let Some(release) = first_release(&config, &mut signals).await? else {
        return Ok(STOPPED);
    };
    let watch = tokio::select! {
        watch = Watch::start(&config) => watch.map_err(BootError::Watch)?,
        () = signals.stopped() => return Ok(STOPPED),
    };
    if config.control_is_default
        && let Some(folder) = config.control.parent()
    {
        control_dir::prepare_default(folder)?;
    }
    control_dir::check_path(&config.control)?;
    let lock = Lock::take(&config.control, &config.name)?;
    let rights = Rights::new(
        config.strict_bind,
        &config.launch.cwd,
        config.identity.as_ref(),
    );
    let mut listeners = Listeners::new(rights, config.backlog);
    listeners.adopt(inherited);
    // Whoever has the orphans' sockets need not wait until these have closed them.
    let wait = if listeners.are_stored(&config.binds) {
        Duration::ZERO
    } else {
        PREDECESSOR
    };
    let file = config.control.with_extension("guard");
    let relieve = move || guard::relieve_predecessor(&file, wait);
    let before = tokio::task::spawn_blocking(relieve).await;
    let before =
        before.map_err(|e| BootError::System("end what a killed master left", e.into()))?;
    if before.left_workers {
        info!(
            event = "orphans_found",
            waited = !wait.is_zero(),
            unguarded = before.orphans.len(),
            "found workers left over from a killed master"
        );
    }
    listeners.declare_handed(&config.handed)?;
    if let Err(error) = listeners.declare(&config.binds) {
        return Err(port_owner::complete(error).await.into());
    }
    let (socket, socket_file) = control_dir::bind_socket(&config.control, &lock)?;
    let mut hold = Hold {
        pidfile: None,
        socket_file,
        own_folder: config.control_is_default,
        socket,
        lock,
        admin: None,
    };
    if let Some(path) = &config.pidfile {
        let pidfile = Pidfile::write(path.clone());
        let pidfile = pidfile.map_err(|e| BootError::Pidfile(path.clone(), e))?;
        hold.pidfile = Some(pidfile);
    }
    let logs = carry(&config)?;
    hold.admin = config.admin.as_ref().map(open_admin).transpose()?;
    let (shim, mut guard) = helpers(&config)?;
    for orphan in before.orphans {
        // A guard that is gone already is started anew; orphans that listen are gone, the others end by themselves.
        let _ = guard.end(orphan);
    }
    let program = started_by(&config.line);
    // The master must not hold a release folder that a deploy wants to delete.
    std::env::set_current_dir("/").map_err(|e| BootError::System("change to /", e))?;

    let (requests_in, requests) = mpsc::channel(REQUESTS);
    if let Some(watch) = watch {
        tokio::spawn(watch.pass_on(requests_in.clone()));
    }
    let (inbox_in, inbox) = mpsc::channel(INBOX);
    info!(
        name = config.name,
        pid = std::process::id(),
        workers = config.policy.workers,
        script = %config.launch.script.display(),
        folder = %release.folder().display(),
        control = %config.control.display(), event = "master_started",
        "rcluster starts"
    );
    report::warn_of_excess(&config.policy, 0);
    let folder = config.control.parent().map(Path::to_owned);
    stale::clear(folder.filter(|_| config.control_is_default));
    let supervisor = Supervisor::new(config.policy.clone(), fastrand::u64(..));
    let mut world = World::new(
        config,
        first(release),
        listeners,
        shim,
        Some(guard),
        inbox_in,
    );
    world.logs = logs;
    let api = Api {
        requests: requests_in,
        happenings: world.bus.readers(),
    };
    world.admin = admin_address(&hold);
    if let (Some(address), Some((_, token))) = (world.admin, &hold.admin) {
        info!(%address, changes = token.is_some(), event = "admin_listening", "the API listens");
        if !address.ip().is_loopback() {
            warn!(%address, event = "admin_exposed", "the API can be reached from other machines: everybody there may look");
        }
    }
    let serving = serve(&hold, &api)?;
    let view = admin::UpgradeView::default();
    let upgrade = Upgrade::new(hold, api, serving, program, view);
    let inputs = Inputs {
        signals,
        requests,
        inbox,
    };
    let master = Master::new(supervisor, world, Manager::of_process(), upgrade);
    Ok(Box::pin(conclude(master, inputs)).await)
}

/// Goes on with a master whose program was replaced by this one.
///
/// # Errors
/// A [`BootError`] when it cannot; its workers finish what they have, and the guard ends them.
pub async fn resume(resumption: Resumption) -> Result<Verdict, BootError> {
    let Resumption { mut state, back } = resumption;
    spawn::reserve_channel_fd().map_err(|e| BootError::System("open /dev/null", e))?;
    identity::forbid_dumps();
    process::adopt_orphans();
    let (requests_in, requests) = mpsc::channel(REQUESTS);
    let (inbox_in, inbox) = mpsc::channel(INBOX);
    let (hold, mut world) = upgrade::take_over(&mut state, &inbox_in)?;
    world.admin = admin_address(&hold);
    let (config, watchers) = (world.config.clone(), requests_in.clone());
    tokio::spawn(async move {
        match Watch::start(&config).await {
            Ok(Some(watch)) => watch.pass_on(watchers).await,
            Ok(None) => {}
            Err(error) => warn!(
                error,
                event = "watch_failed",
                "files are not watched any more"
            ),
        }
    });
    let api = Api {
        requests: requests_in,
        happenings: world.bus.readers(),
    };
    let serving = serve(&hold, &api)?;
    let view = upgrade::view(&state, back);
    info!(
        name = world.config.name,
        program = env!("CARGO_PKG_VERSION"),
        upgrades = view.done,
        refused = view.refused,
        event = "master_resumed",
        "rcluster goes on"
    );
    let clock = upgrade::clock(&state);
    let upgrade = Upgrade::new(hold, api, serving, state.program, view);
    let master = Master::resume(state.supervisor, world, clock, upgrade);
    // What came meanwhile is delivered now.
    let signals = Signals::install().map_err(|e| BootError::System("handle signals", e))?;
    let inputs = Inputs {
        signals,
        requests,
        inbox,
    };
    Ok(Box::pin(conclude(master, inputs)).await)
}

/// A stop was asked for before there was anything to stop.
pub(super) const STOPPED: Verdict = Verdict {
    code: ExitCode::Ok,
    reason: None,
    alike: None,
};

/// The release of the start; `None` if a stop is asked for meanwhile.
pub(super) async fn first_release(
    config: &Config,
    signals: &mut Signals,
) -> Result<Option<Release>, ReleaseError> {
    tokio::select! {
        release = prepare::first(config) => release.map(Some),
        () = signals.stopped() => Ok(None),
    }
}

fn serve(hold: &Hold, api: &Api) -> Result<Serving, BootError> {
    Serving::start(hold, api).map_err(|e| BootError::System("listen on the control socket", e))
}

fn admin_address(hold: &Hold) -> Option<SocketAddr> {
    let (listener, _) = hold.admin.as_ref()?;
    listener.local_addr().ok()
}

pub(super) fn first(release: Release) -> BTreeMap<Generation, Release> {
    BTreeMap::from([(Generation(1), release)])
}

/// The path by which this program was started: what an upgrade finds there
/// later is what was put in its place. `/proc/self/exe` would be the old file.
#[expect(clippy::disallowed_methods, reason = "before the loop")]
fn started_by(line: &Line) -> PathBuf {
    let running = std::env::current_exe().unwrap_or_default();
    let word = PathBuf::from(line.words.first().cloned().unwrap_or_default());
    let same = |path: &PathBuf| {
        let real = path.canonicalize();
        real.is_ok_and(|real| Some(real) == running.canonicalize().ok())
    };
    let named = if word.components().count() > 1 {
        Some(crate::config::absolute(&line.pwd, &word))
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|folder| crate::config::absolute(&line.pwd, &folder.join(&word)))
            .find(same)
    };
    named.filter(same).unwrap_or(running)
}

/// Runs it to its end, and says how that was.
async fn conclude(master: Master, inputs: Inputs) -> Verdict {
    let logs = master.world.logs.clone();
    let _keeper = Keeper::start(master.world.listeners.files.clone());
    let verdict = master.run(inputs).await;
    match (&verdict.reason, verdict.code) {
        (_, ExitCode::Ok) => info!(event = "master_stopped", "rcluster stopped"),
        (Some(reason), ExitCode::Killed) => {
            warn!(reason, event = "master_stopped", "rcluster stopped");
        }
        // The last words say why.
        (_, code) => error!(
            code = code as u8,
            event = "master_gave_up",
            "rcluster gives up"
        ),
    }
    if let Some(logs) = logs {
        // Last: what was said above goes the same way.
        logs.finish();
        // Those who follow (`rcluster logs -f`) get the last lines from their connections' tasks.
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }
    verdict
}

/// What carries workers' lines, if the master is to do so.
pub(super) fn carry(config: &Config) -> Result<Option<Arc<Logs>>, LogsError> {
    let Some(plan) = &config.output else {
        return Ok(None);
    };
    let worker = config.identity.as_ref().and_then(Identity::account);
    let how = Use::option(worker.as_ref());
    let logs = Logs::start(plan, &config.control, config.policy.workers, &how)?;
    Ok(Some(Arc::new(logs)))
}

/// Binds `--admin` and reads its token, before anything is started that would have to be undone.
fn open_admin(admin: &config::Admin) -> Result<(TcpListener, Option<Token>), BootError> {
    let token = admin.token_file.as_deref().map(read_token).transpose()?;
    let failed = |e| BootError::Admin(admin.address, e);
    let listener = TcpListener::bind(admin.address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((listener, token))
}

/// Reads a token where only root (and we) can put one.
fn read_token(path: &Path) -> Result<Token, TokenError> {
    let read = Use::option(None).run(path, || Ok(Token::read(path)));
    read.map_err(|error| TokenError::Read(path.to_owned(), error.into()))?
}

/// The shim's files and the guard.
pub(super) fn helpers(config: &Config) -> Result<(Option<ShimFile>, Guard), BootError> {
    let shim = config
        .shim
        .then(|| ShimFile::beside(&config.control, config.identity.as_ref()))
        .transpose()
        .map_err(|e| BootError::System("write the shim beside the control socket", e))?;
    let file = config.control.with_extension("guard");
    let guard = Guard::start(&file, config.policy.orphan_grace())
        .map_err(|e| BootError::System("start the guard process", e))?;
    Ok((shim, guard))
}
