//! Options and commands for the host that rcluster lives on.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

use super::RunArgs;

/// Options of the master that concern the host.
#[derive(Clone, Debug, Args)]
pub struct HostArgs {
    /// The configuration file [default: rcluster.toml beside SCRIPT, or in the working directory if no SCRIPT is given].
    #[arg(long, value_name = "PATH", env = "RCLUSTER_CONFIG")]
    pub config: Option<PathBuf>,

    /// Workers run as this user (name or number), for good; the master stays root and binds.
    #[arg(long, value_name = "USER", env = "RCLUSTER_USER")]
    pub user: Option<String>,

    /// Workers run with this group [default: that of --user].
    #[arg(long, value_name = "GROUP", env = "RCLUSTER_GROUP")]
    pub group: Option<String>,

    /// Largest core file of a worker, 0 for none [default: as the master was started with].
    #[arg(long, value_name = "SIZE", env = "RCLUSTER_CORE_LIMIT")]
    pub core_limit: Option<ByteSize>,

    /// End detached processes that an ended worker leaves behind; else they are reported and live on.
    #[arg(long, env = "RCLUSTER_REAP_DETACHED", value_parser = clap::builder::FalseyValueParser::new())]
    pub reap_detached: bool,

    /// After TERM, serve on for this long before the stop begins, not ready for new traffic (/readyz says 503): a load balancer needs time to notice. Another TERM one second later or more begins the stop.
    #[arg(long, value_name = "DUR", default_value = "0s", value_parser = super::duration, env = "RCLUSTER_PRE_STOP")]
    pub pre_stop: Duration,

    /// For development: reload when a file changes that git does not ignore (JavaScript, TypeScript, JSON, .env), or one that matches a GLOB; repeatable. One worker unless -w says otherwise; a broken first start waits for the next change.
    #[arg(long, value_name = "GLOB", num_args = 0..=1, require_equals = true, default_missing_value = "", env = "RCLUSTER_WATCH")]
    pub watch: Vec<String>,

    /// The table `[env]` of the configuration file.
    #[arg(skip)]
    pub env: Vec<(OsString, OsString)>,
}

/// `rcluster config`
#[derive(Debug, Args)]
#[command(
    after_help = "Values come from flags, then RCLUSTER_... variables, then the file, then the defaults. Values of [env] are not shown."
)]
pub struct ConfigArgs {
    /// Print JSON.
    #[arg(long, conflicts_with = "schema")]
    pub json: bool,
    /// Print the JSON Schema of rcluster.toml, for editors.
    #[arg(long)]
    pub schema: bool,
    /// The master's own options count here too.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `rcluster import`
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// ecosystem.config.js, .cjs, .mjs, .json, .yaml or .yml
    pub file: PathBuf,
    /// Which app, if the file has several.
    #[arg(long, value_name = "NAME")]
    pub app: Option<String>,
    /// Merge this one of its env_NAME tables into env.
    #[arg(long, value_name = "NAME")]
    pub env: Option<String>,
    /// Write there instead of to stdout; a file that exists is left alone.
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// The node binary that reads a JavaScript file.
    #[arg(long, value_name = "PATH", default_value = "node")]
    pub node: PathBuf,
}

/// `rcluster completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell.
    pub shell: Shell,
}

/// A shell that completions are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell.
    Fish,
}

/// `rcluster man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write rcluster.1 and a page for each command into this folder, instead of rcluster.1 to stdout.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `rcluster systemd-unit`
#[derive(Debug, Args)]
pub struct UnitArgs {
    /// Print the socket unit that goes with it: systemd listens where --bind says.
    #[arg(long)]
    pub socket: bool,
    /// The version of systemd that will read it; before 253 the unit has ExecReload= [default: this host's; without systemctl, any].
    #[arg(long, value_name = "N")]
    pub systemd: Option<u32>,
    /// The master's own options, as it is to be started.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `rcluster doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// The master's own options count here too.
    #[command(flatten)]
    pub run: RunArgs,
}
