//! What can be wrong with a configuration.

use std::{path::PathBuf, time::Duration};

use nix::sys::signal::Signal;
use thiserror::Error;

use super::MAX_WORKERS;
use crate::logs::PathError;
use rcluster_sys::identity::IdentityError;

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// No SCRIPT.
    #[error("no script given: rcluster [OPTIONS] SCRIPT [ARGS]... (see rcluster --help)")]
    NoScript,
    /// `-w`.
    #[error(
        "failed to read the number of workers: `{0}` is neither a number from 1 to {MAX_WORKERS} nor `auto`"
    )]
    Workers(String),
    /// The same of `WEB_CONCURRENCY`.
    #[error(
        "failed to read the number of workers from WEB_CONCURRENCY: `{0}` is neither a number from 1 to {MAX_WORKERS} nor `auto`"
    )]
    WebConcurrency(String),
    /// `-b`.
    #[error(
        "failed to read the address `{0}`: {1}; write HOST:PORT, :PORT, [::1]:PORT, udp:HOST:PORT, unix:PATH, or fd://N and fd://NAME for a socket that is handed to rcluster"
    )]
    Bind(String, String),
    /// `--stop-signal`.
    #[error("failed to read the stop signal: `{0}` is no signal; write TERM, INT or the like")]
    Signal(String),
    /// `--stop-signal` with a signal that cannot be handled.
    #[error(
        "{0} cannot be the stop signal: no process can handle it; use TERM, INT or another one that the app handles"
    )]
    Uncatchable(Signal),
    /// `--bake`.
    #[error("--bake is longer than a day ({})", humantime::format_duration(*.0))]
    Bake(Duration),
    /// A duration that must not be zero.
    #[error("{0} must be longer than 0")]
    Zero(&'static str),
    /// `--admin`.
    #[error(
        "failed to read --admin `{0}`: write IP:PORT, localhost:PORT or :PORT (127.0.0.1), as in :9464"
    )]
    Admin(String),
    /// A token without `--admin`.
    #[error("--admin-token-file is for --admin: name an address too, or leave it out")]
    LoneToken,
    /// `--health-path`.
    #[error(
        "failed to use the health path `{0}`: use a path as in /healthz, or an address and a path as in :9090/healthz, without spaces"
    )]
    HealthPath(String),
    /// `--hang-timeout`, `--boot-hang-timeout`, `--max-lifetime`, `--max-rss` or `--max-heap`.
    #[error("{0} is too small: {1}")]
    Limit(&'static str, &'static str),
    /// Options that need the shim.
    #[error("{0} needs the shim: leave --no-shim out")]
    NeedsShim(&'static str),
    /// `--name`.
    #[error(
        "failed to use the name `{0}`: it becomes a file name; use letters, digits, `.`, `-` and `_`"
    )]
    Name(String),
    /// `--log-file`.
    #[error("failed to use the log file {0}: {1}")]
    LogFile(PathBuf, #[source] PathError),
    /// `--user`, `--group`.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The working directory.
    #[error("failed to use the working directory {0}: {1}")]
    Cwd(PathBuf, #[source] std::io::Error),
}

impl ConfigError {
    /// The option that is wrong, by its name in the configuration file; `None` where it is none.
    pub fn option(&self) -> Option<&str> {
        Some(match self {
            Self::NoScript | Self::WebConcurrency(_) => return None,
            Self::Workers(_) => "workers",
            Self::Bind(..) => "bind",
            Self::Signal(_) | Self::Uncatchable(_) => "stop-signal",
            Self::Bake(_) => "bake",
            Self::Admin(_) => "admin",
            Self::LoneToken => "admin-token-file",
            Self::HealthPath(_) => "health-path",
            Self::Zero(flag) | Self::Limit(flag, _) | Self::NeedsShim(flag) => {
                flag.trim_start_matches('-')
            }
            Self::Name(_) => "name",
            Self::LogFile(..) => "log-file",
            Self::Identity(_) => "user",
            Self::Cwd(..) => "cwd",
        })
    }
}
