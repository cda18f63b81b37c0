//! The configuration: command line and environment, parsed and validated once.

use std::{
    ffi::{OsStr, OsString},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::{
    cli::{BalanceArg, RunArgs},
    logs,
    settings::Line,
};
use rcluster_core::{
    balance::Balance,
    supervisor::{Health, Policy, Recycle},
};
use rcluster_sys::{
    control_dir, files,
    identity::{Identity, is_root},
    listener::Endpoint,
};

mod admin;
mod bind;
pub mod dotenv;
mod error;
mod output;
mod signal;

pub use admin::Admin;
pub use error::ConfigError;

/// Default of `--min-uptime`; where somebody waits at the screen it is zero.
const MIN_UPTIME: Duration = Duration::from_millis(500);
/// Longest `--bake`.
const MAX_BAKE: Duration = Duration::from_hours(24);
/// Most workers: a typing error must not fork ten thousand processes.
const MAX_WORKERS: u32 = 1024;

/// Where and what to run; resolved anew for each generation.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Launch {
    /// The script, absolute, symbolic links as given.
    pub script: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// `--node`, absolute if it holds a slash.
    pub node: Option<PathBuf>,
    /// Arguments for node itself.
    pub node_args: Vec<OsString>,
    /// Working directory, absolute, symbolic links as given.
    pub cwd: PathBuf,
    /// `--env-file`, absolute.
    pub env_file: Option<PathBuf>,
    /// Variables of the configuration file; those of `env_file` count more.
    pub env: Vec<(OsString, OsString)>,
    /// PM2's 'shutdown' message at a drain.
    pub shutdown_message: bool,
    /// The stop signal.
    #[serde(with = "signal")]
    pub stop_signal: Signal,
    /// `--health-path`.
    pub health_path: Option<String>,
    /// Whether the stack of a hung worker may be captured; see [`captures_stacks`](Self::captures_stacks).
    pub autopsy: bool,
    /// Also by a master that is root.
    #[serde(default)]
    pub autopsy_as_root: bool,
    /// How connections reach the workers.
    #[serde(default)]
    pub balance: Balance,
}

impl Launch {
    /// Whether the stack of a hung worker is captured. A master that is root opens nothing in its workers that others
    /// could try to use, unless it was told to.
    pub fn captures_stacks(&self) -> bool {
        self.autopsy && (self.autopsy_as_root || !is_root())
    }
}

/// A validated configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// The numbers.
    pub policy: Policy,
    /// What to run.
    pub launch: Launch,
    /// What to bind before the first worker starts.
    pub binds: Vec<Endpoint>,
    /// Which of the sockets that were handed to the master are declared: numbers or names.
    #[serde(default)]
    pub handed: Vec<String>,
    /// The master's name.
    pub name: String,
    /// Path of the control socket.
    pub control: PathBuf,
    /// Whether the control path is the default one, whose folder we make.
    pub control_is_default: bool,
    /// Whether workers load the shim.
    pub shim: bool,
    /// `--strict-bind`.
    pub strict_bind: bool,
    /// Connections that may wait for each listening socket.
    #[serde(default = "backlog")]
    pub backlog: i32,
    /// Where to write the pid.
    pub pidfile: Option<PathBuf>,
    /// Time to serve on after TERM.
    pub pre_stop: Duration,
    /// Globs of `--watch`; `None`: nobody watches.
    pub watch: Option<Vec<String>>,
    /// What is done with what workers print; `None`: it does not pass through the master.
    #[serde(default)]
    pub output: Option<logs::Plan>,
    /// `--admin`; `None`: the control socket is the only door.
    #[serde(default)]
    pub admin: Option<Admin>,
    /// Whether workers time their requests.
    pub request_metrics: bool,
    /// Who workers are, if not who the master is.
    pub identity: Option<Identity>,
    /// Largest core file of a worker in bytes; `None`: as the master's parent had it.
    #[serde(default)]
    pub core_limit: Option<u64>,
    /// Whether processes that an ended worker left behind are ended.
    #[serde(default)]
    pub reap_detached: bool,
    /// How much is logged, and in which form.
    pub log: (logs::Level, logs::Format),
    /// What all this was made from, for the next reload.
    pub line: Line,
}

impl Config {
    /// Validates the arguments. `pwd` is the shell's idea of the working
    /// directory, symbolic links kept.
    ///
    /// # Errors
    /// A [`ConfigError`] for the first thing that is wrong.
    pub fn new(args: &RunArgs, pwd: &Path) -> Result<Self, ConfigError> {
        let (binds, handed) = bind::binds(args, pwd)?;
        let mut config = Self {
            binds,
            handed,
            identity: Identity::find(args.host.user.as_deref(), args.host.group.as_deref())?,
            ..Self::again(args, pwd)?
        };
        if config.output.is_none() {
            config.output = output::instead_of_files(config.identity.as_ref());
        }
        let cwd = &config.launch.cwd;
        let path = cwd.clone();
        let is_folder = files::within(files::PATIENCE, move || std::fs::metadata(path))
            .flatten()
            .map(|m| m.is_dir())
            .map_err(|e| ConfigError::Cwd(cwd.clone(), e))?;
        if !is_folder {
            let error = std::io::Error::from_raw_os_error(libc::ENOTDIR);
            return Err(ConfigError::Cwd(cwd.clone(), error));
        }
        Ok(config)
    }

    /// The same for a running master, which has bound what `--bind` declares,
    /// must not wait for a name server, and looks at the paths by itself.
    ///
    /// # Errors
    /// A [`ConfigError`] for the first thing that is wrong.
    pub fn again(args: &RunArgs, pwd: &Path) -> Result<Self, ConfigError> {
        let [script, rest @ ..] = &args.target[..] else {
            return Err(ConfigError::NoScript);
        };
        let cwd = match &args.cwd {
            Some(dir) => absolute(pwd, dir),
            None => pwd.to_owned(),
        };
        let script = absolute(&cwd, Path::new(script));
        let name = name(args.name.as_deref(), &script)?;
        let (control, control_is_default) = match &args.control {
            Some(path) => (absolute(pwd, path), false),
            None => (
                control_dir::default_folder().join(format!("{name}.sock")),
                true,
            ),
        };
        if args.bake > MAX_BAKE {
            return Err(ConfigError::Bake(args.bake));
        }
        for (option, value) in [
            ("--ready-timeout", args.ready_timeout),
            ("--kill-timeout", args.kill_timeout),
            ("--health-interval", args.health.health_interval),
            ("--health-timeout", args.health.health_timeout),
        ] {
            if value.is_zero() {
                return Err(ConfigError::Zero(option));
            }
        }
        limits(args)?;
        let policy = Policy {
            workers: match &args.workers {
                None if watching(args) => 1,
                given => workers(given.as_deref())?,
            },
            readiness: args.ready.into(),
            ready_timeout: args.ready_timeout,
            drain_timeout: args.drain_timeout,
            kill_timeout: args.kill_timeout,
            min_uptime: if watching(args) && args.min_uptime == MIN_UPTIME {
                Duration::ZERO
            } else {
                args.min_uptime
            },
            bake: args.bake,
            surge: args.surge,
            switch: args.switch.into(),
            hang_timeout: args.health.hang_timeout,
            boot_hang_timeout: args.health.boot_hang_timeout,
            health: args.health.health_path.is_some().then_some(Health {
                interval: args.health.health_interval,
                timeout: args.health.health_timeout,
                threshold: args.health.health_threshold,
            }),
            recycle: Recycle {
                requests: args.health.max_requests,
                lifetime: args.health.max_lifetime,
                memory: args.health.max_rss.map(|size| size.0),
                heap: args.health.max_heap.map(|size| size.0),
            },
            spares: args.health.spares,
            may_drop: if watching(args) && args.health.allow_drop.is_empty() {
                // Whoever edits an app changes its port, too.
                vec!["all".to_owned()]
            } else {
                args.health.allow_drop.clone()
            },
            attentive: args.balance.balance != BalanceArg::Shared,
            boots: Policy::boots_on(cpus()),
        };
        let launch = Launch {
            script,
            args: rest.to_vec(),
            node: args.node.as_ref().map(|node| {
                // A bare name is looked up in PATH, as a shell would.
                if node.components().count() > 1 {
                    absolute(pwd, node)
                } else {
                    node.clone()
                }
            }),
            node_args: node_args(args),
            cwd,
            env_file: args.env_file.as_ref().map(|path| absolute(pwd, path)),
            env: args.host.env.clone(),
            shutdown_message: args.shutdown_message,
            health_path: health_path(args.health.health_path.as_deref())?,
            autopsy: !args.health.no_autopsy,
            autopsy_as_root: args.health.autopsy,
            stop_signal: signal::stop_signal(&args.stop_signal)?,
            balance: args.balance.balance.into(),
        };
        Ok(Self {
            policy,
            launch,
            binds: vec![],
            handed: vec![],
            name,
            control,
            control_is_default,
            shim: !args.no_shim,
            strict_bind: args.health.strict_bind,
            backlog: args.balance.backlog,
            pidfile: args
                .pidfile
                .as_ref()
                .filter(|path| !path.as_os_str().is_empty())
                .map(|path| absolute(pwd, path)),
            pre_stop: args.host.pre_stop,
            watch: watching(args).then(|| args.host.watch.clone()),
            output: output::output(args, pwd)?,
            admin: admin::admin(&args.admin, pwd)?,
            request_metrics: !args.admin.no_request_metrics,
            identity: None,
            core_limit: args.host.core_limit.map(|size| size.0),
            reap_detached: args.host.reap_detached,
            log: (args.logs.log_level.into(), args.logs.log_format.into()),
            line: Line::default(),
        })
    }
}

/// What masters of before `--backlog` had.
fn backlog() -> i32 {
    4096
}

/// `--watch`, or its variable, unless it says no.
fn watching(args: &RunArgs) -> bool {
    let off = |glob: &String| ["0", "false", "no"].contains(&glob.as_str());
    !args.host.watch.is_empty() && !args.host.watch.iter().all(off)
}

/// The working directory as the shell names it: `PWD` if it is true, for its
/// symbolic links; else what the kernel says.
///
/// # Errors
/// The errno of `getcwd(2)`: the directory was deleted.
pub fn logical_pwd() -> std::io::Result<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let here = std::fs::metadata(".")?;
    let pwd = std::env::var_os("PWD").map(PathBuf::from).filter(|pwd| {
        pwd.is_absolute()
            && std::fs::metadata(pwd).is_ok_and(|m| (m.dev(), m.ino()) == (here.dev(), here.ino()))
    });
    pwd.map_or_else(std::env::current_dir, Ok)
}

/// Joins without following symbolic links; `.` goes, `..` stays for the kernel.
pub fn absolute(base: &Path, path: &Path) -> PathBuf {
    base.join(path).components().collect()
}

fn workers(option: Option<&str>) -> Result<u32, ConfigError> {
    let web = std::env::var("WEB_CONCURRENCY")
        .ok()
        .filter(|v| !v.is_empty());
    let (value, wrong): (_, fn(String) -> ConfigError) = match (option, web) {
        (Some(value), _) => (value.to_owned(), ConfigError::Workers),
        (None, Some(value)) => (value, ConfigError::WebConcurrency),
        (None, None) => return Ok(cpus()),
    };
    if value == "auto" {
        return Ok(cpus());
    }
    value
        .parse()
        .ok()
        .filter(|n| (1..=MAX_WORKERS).contains(n))
        .ok_or_else(|| wrong(value))
}

/// CPUs that this process may use: the affinity mask and the quota of the
/// cgroup (v1 and v2), both of which the standard library counts.
pub fn cpus() -> u32 {
    std::thread::available_parallelism()
        .map_or(1, |n| u32::try_from(n.get()).unwrap_or(1).min(MAX_WORKERS))
}

fn health_path(path: Option<&str>) -> Result<Option<String>, ConfigError> {
    let Some(path) = path else { return Ok(None) };
    let (address, _) = path.split_once('/').unwrap_or((path, ""));
    let fine = path.len() > address.len()
        && path.bytes().all(|b| b.is_ascii_graphic())
        && (address.is_empty() || health_address(address).is_some());
    let wrong = || ConfigError::HealthPath(path.to_owned());
    fine.then(|| Some(path.to_owned())).ok_or_else(wrong)
}

/// The address before the path of `--health-path`: `:PORT`, or an IP address and a port.
pub fn health_address(text: &str) -> Option<Endpoint> {
    let (ip, port) = if let Some(port) = text.strip_prefix(':') {
        (None, port.parse().ok()?)
    } else {
        let address: SocketAddr = text.parse().ok()?;
        (Some(address.ip()), address.port())
    };
    Some(Endpoint::Tcp {
        ip,
        scope: 0,
        port,
        v6_only: false,
    })
}

/// `--allow-drop`: as status shows an address, `:PORT`, or `all`. A bare number is a port.
///
/// # Errors
/// What is wrong with it, in words.
pub fn may_drop(text: &str) -> Result<String, String> {
    if text.parse::<u16>().is_ok() {
        return Ok(format!(":{text}"));
    }
    let socket = text.strip_prefix("udp:").unwrap_or(text);
    let known = text == "all"
        || text
            .strip_prefix(':')
            .is_some_and(|port| port.parse::<u16>().is_ok())
        || socket.parse::<SocketAddr>().is_ok()
        || text
            .strip_prefix("unix:")
            .is_some_and(|path| !path.is_empty())
        || text == rcluster_core::names::OWN_SOCKET;
    known.then(|| text.to_owned()).ok_or_else(|| {
        format!("`{text}` is not an address: use :PORT, an address as `rcluster status` shows it, or all")
    })
}

/// Limits that would make a storm, and those that nobody could see reached.
fn limits(args: &RunArgs) -> Result<(), ConfigError> {
    let health = &args.health;
    if health
        .max_lifetime
        .is_some_and(|d| d < Duration::from_secs(10))
    {
        return Err(ConfigError::Limit("--max-lifetime", "at least 10s"));
    }
    for (option, limit) in [
        ("--hang-timeout", health.hang_timeout),
        ("--boot-hang-timeout", health.boot_hang_timeout),
    ] {
        if !limit.is_zero() && limit < Policy::LEAST_HANG {
            return Err(ConfigError::Limit(option, "at least 1s, or 0 for never"));
        }
    }
    let mib = |n: u64| n * 1024 * 1024;
    if health.max_rss.is_some_and(|size| size.0 < mib(16)) {
        return Err(ConfigError::Limit(
            "--max-rss",
            "an idle node takes more than 16MiB",
        ));
    }
    if health.max_heap.is_some_and(|size| size.0 < mib(4)) {
        return Err(ConfigError::Limit(
            "--max-heap",
            "an idle node's heap takes about 4MiB",
        ));
    }
    let blind = [
        ("--max-requests", health.max_requests.is_some()),
        ("--max-heap", health.max_heap.is_some()),
    ];
    match blind.into_iter().find(|(_, given)| *given) {
        Some((option, _)) if args.no_shim => Err(ConfigError::NeedsShim(option)),
        _ => Ok(()),
    }
}

fn node_args(args: &RunArgs) -> Vec<OsString> {
    if !args.node_arg.is_empty() {
        return args.node_arg.clone();
    }
    let env = std::env::var("RCLUSTER_NODE_ARG").unwrap_or_default();
    env.split_ascii_whitespace().map(OsString::from).collect()
}

fn name(given: Option<&str>, script: &Path) -> Result<String, ConfigError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match given {
        Some(name) if !name.is_empty() && !name.starts_with('.') && name.chars().all(plain) => {
            Ok(name.to_owned())
        }
        Some(name) => Err(ConfigError::Name(name.to_owned())),
        None => {
            let stem = script.file_stem().and_then(OsStr::to_str).unwrap_or("app");
            let name: String = stem
                .chars()
                .map(|c| if plain(c) { c } else { '_' })
                .collect();
            Ok(name.trim_start_matches('.').to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let path = Path::new("/srv/my app.js");
        assert_eq!(name(None, path).unwrap(), "my_app");
        assert_eq!(name(Some("shop-2"), path).unwrap(), "shop-2");
        for wrong in ["", "a/b", "..", ".x", "ü"] {
            assert!(name(Some(wrong), path).is_err(), "{wrong}");
        }
    }
}
