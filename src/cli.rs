//! The command line: clap types only.

// The comments are what `--help` prints: plain text.
#![expect(clippy::doc_markdown)]

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use rcluster_core::supervisor::{Readiness, Surge, Switch};

mod admin;
mod balance;
mod duration;
mod health;
mod help;
mod host;
mod logs;
mod scale;
mod upgrade;

pub use admin::{AdminArgs, EventsArgs, LsArgs};
pub use balance::{BalanceArg, BalanceArgs};
use duration::duration;
pub use health::HealthArgs;
pub use help::command;
pub use host::{
    CompletionsArgs, ConfigArgs, DoctorArgs, HostArgs, ImportArgs, ManArgs, Shell, UnitArgs,
};
pub use logs::{FormatArg, LevelArg, LogArgs, LogsArgs, TopArgs};
pub use scale::ScaleArgs;
pub use upgrade::UpgradeArgs;

/// A small, fast process master for Node.js.
///
/// Binds once, runs SCRIPT on N workers, replaces what dies, and reloads
/// without losing a request (SIGHUP). The app is not changed.
#[derive(Debug, Parser)]
#[command(
    name = "rcluster",
    version,
    args_conflicts_with_subcommands = true,
    override_usage = "rcluster [OPTIONS] SCRIPT [ARGS]...\n       rcluster <COMMAND> [--name NAME | --control PATH]",
    after_help = "Every option can also be given as RCLUSTER_..., as in RCLUSTER_DRAIN_TIMEOUT=10s; options win, and an empty variable counts as unset.\nA duration (DUR) is written 250ms, 5s or 1m30s; the largest unit first; a plain number is seconds. At most 365d.\nA script that is named like a command is given with its path: ./status"
)]
pub struct Cli {
    /// A command to a running master.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Running a script.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Options of the master.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Number of workers, or `auto`: the CPUs that this process may use, the cgroup's quota counted [default: $WEB_CONCURRENCY or auto].
    #[arg(short, long, value_name = "N|auto", env = "RCLUSTER_WORKERS")]
    pub workers: Option<String>,

    /// Bind before the first worker starts; repeatable. HOST:PORT, :PORT, [::1]:PORT, udp:HOST:PORT, unix:PATH, or fd://N or fd://NAME for a socket that was handed over; RCLUSTER_BIND takes several, comma-separated. Without it the app's own listen() says where.
    #[arg(short, long, value_name = "ADDR")]
    pub bind: Vec<String>,

    /// Name of this master, for `rcluster status --name` and the like [default: the script's name].
    #[arg(long, env = "RCLUSTER_NAME")]
    pub name: Option<String>,

    /// Path of the control socket [default: NAME.sock in $XDG_RUNTIME_DIR/rcluster, or /run/rcluster for root].
    #[arg(long, value_name = "PATH", env = "RCLUSTER_CONTROL")]
    pub control: Option<PathBuf>,

    /// The node binary [default: node in PATH].
    #[arg(long, value_name = "PATH", env = "RCLUSTER_NODE")]
    pub node: Option<PathBuf>,

    /// Argument for node itself; repeatable. RCLUSTER_NODE_ARG takes several, separated by spaces.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub node_arg: Vec<OsString>,

    /// Working directory of the workers; SCRIPT is relative to it.
    #[arg(long, value_name = "DIR", env = "RCLUSTER_CWD")]
    pub cwd: Option<PathBuf>,

    /// What makes a worker ready.
    #[arg(long, value_enum, default_value = "listening", env = "RCLUSTER_READY")]
    pub ready: ReadyArg,

    /// A worker that is not ready after this time is replaced.
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = duration, env = "RCLUSTER_READY_TIMEOUT")]
    pub ready_timeout: Duration,

    /// A draining worker has this long to finish its connections.
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = duration, env = "RCLUSTER_DRAIN_TIMEOUT")]
    pub drain_timeout: Duration,

    /// Time between the stop signal and SIGKILL.
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = duration, env = "RCLUSTER_KILL_TIMEOUT")]
    pub kill_timeout: Duration,

    /// A replacement must live this long, ready, before the old worker drains.
    #[arg(long, value_name = "DUR", default_value = "500ms", value_parser = duration, env = "RCLUSTER_MIN_UPTIME")]
    pub min_uptime: Duration,

    /// In a reload: a new worker must stay healthy this much longer before the next slot goes; a failure rolls back. At most 24h.
    #[arg(long, value_name = "DUR", default_value = "0s", value_parser = duration, env = "RCLUSTER_BAKE")]
    pub bake: Duration,

    /// Extra workers at a time in a reload: a number or a percentage.
    #[arg(long, value_name = "N|N%", default_value = "1", env = "RCLUSTER_SURGE")]
    pub surge: Surge,

    /// How a reload switches: slot by slot, or the whole generation at one moment.
    #[arg(long, value_enum, default_value = "rolling", env = "RCLUSTER_SWITCH")]
    pub switch: SwitchArg,

    /// The signal that asks a worker to end, after its drain.
    #[arg(
        long,
        value_name = "SIG",
        default_value = "TERM",
        env = "RCLUSTER_STOP_SIGNAL"
    )]
    pub stop_signal: String,

    /// Variables for the workers, in the dialect of `node --env-file`; read anew at each reload.
    #[arg(long, value_name = "PATH", env = "RCLUSTER_ENV_FILE")]
    pub env_file: Option<PathBuf>,

    /// At a drain, give the app PM2's 'shutdown' message.
    #[arg(long, env = "RCLUSTER_SHUTDOWN_MESSAGE", value_parser = clap::builder::FalseyValueParser::new())]
    pub shutdown_message: bool,

    /// Do not load rcluster's shim into the workers: reloads fall back to Node's own disconnect, which can lose requests.
    #[arg(long, env = "RCLUSTER_NO_SHIM", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_shim: bool,

    /// Write the master's pid there.
    #[arg(long, value_name = "PATH", env = "RCLUSTER_PIDFILE")]
    pub pidfile: Option<PathBuf>,

    /// Connections.
    #[command(flatten)]
    pub balance: BalanceArgs,

    /// Logs.
    #[command(flatten)]
    pub logs: LogArgs,

    /// The API and the figures.
    #[command(flatten)]
    pub admin: AdminArgs,

    /// When a worker is unhealthy, or old enough.
    #[command(flatten)]
    pub health: HealthArgs,

    /// The host.
    #[command(flatten)]
    pub host: HostArgs,

    /// The app and its arguments, passed on untouched.
    #[arg(value_name = "SCRIPT [ARGS]", trailing_var_arg = true)]
    pub target: Vec<OsString>,
}

/// Commands to a running master.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the workers of a running master.
    Status(StatusArgs),
    /// Stop a running master and wait until it is gone.
    Stop(StopArgs),
    /// Replace every worker with new code, without losing a request.
    Reload(ReloadArgs),
    /// Go back to the release that ran before the last reload.
    Rollback(ReloadArgs),
    /// Show what went wrong lately: the last 20 incidents, with errors and the stacks of workers that hung.
    Incidents(StatusArgs),
    /// Show what workers printed lately, and with -f what they print, if the master carries it (--log-prefix or --log-file).
    Logs(LogsArgs),
    /// Watch a master live in the terminal: workers, requests, event loops, memory, incidents; keys to reload, scale and restart.
    Top(TopArgs),
    /// Print what happens as it happens, one line a transition.
    Events(EventsArgs),
    /// List the masters of this host: this user's, for root everybody's.
    Ls(LsArgs),
    /// Run more workers, or fewer: N, +1, -1, or auto for as many as there are CPUs.
    Scale(ScaleArgs),
    /// Replace the worker of one slot: the new one first, then the old one drains.
    Restart(RestartArgs),
    /// Replace the master's own program in place: same pid, same workers, nothing is lost.
    Upgrade(UpgradeArgs),
    /// Start one worker of SCRIPT without its port and say whether it gets ready: `nginx -t` for Node.
    Check(Box<CheckArgs>),
    /// Try SCRIPT before production: load, reloads, killed and paused workers, and an account of every request.
    Rehearse(Box<RehearseArgs>),
    /// Print the options that are in force, and where each one came from.
    Config(Box<ConfigArgs>),
    /// Write an rcluster.toml from a PM2 ecosystem file.
    Import(ImportArgs),
    /// Print a systemd unit for this app.
    SystemdUnit(Box<UnitArgs>),
    /// Look at limits, permissions, node and units, and say what to change.
    Doctor(Box<DoctorArgs>),
    /// Print completions for a shell.
    Completions(CompletionsArgs),
    /// Print the man page.
    Man(ManArgs),
    /// The process that ends orphans if the master dies.
    #[command(name = rcluster_sys::guard::COMMAND, hide = true)]
    Guard {
        /// Its file.
        path: PathBuf,
        /// The drain timeout in milliseconds.
        grace_ms: u64,
    },
}

/// Which master is meant.
#[derive(Debug, Args)]
pub struct WhichMaster {
    /// The master of this name; with only one running it need not be named.
    #[arg(long, env = "RCLUSTER_NAME")]
    pub name: Option<String>,
    /// The master with this control socket; counts more than a name.
    #[arg(long, value_name = "PATH", env = "RCLUSTER_CONTROL")]
    pub control: Option<PathBuf>,
}

/// `rcluster status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Which master.
    #[command(flatten)]
    pub which: WhichMaster,
    /// Print nothing but whether new traffic should come; exit code 0 if so, 15 if not. For readiness probes.
    #[arg(long)]
    pub ready: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `rcluster stop`
#[derive(Debug, Args)]
pub struct StopArgs {
    /// Which master.
    #[command(flatten)]
    pub which: WhichMaster,
    /// Do not drain: SIGKILL at once.
    #[arg(long)]
    pub now: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `rcluster reload` and `rcluster rollback`
#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// Which master.
    #[command(flatten)]
    pub which: WhichMaster,
    /// The new code need not listen on this address although the old code does: :PORT, an address as status shows it, or `all`; repeatable.
    #[arg(long, value_name = "ADDR", value_parser = crate::config::may_drop)]
    pub allow_drop: Vec<String>,
    /// Wait until the last old worker is gone, too; the answer then tells of those that died in their drain.
    #[arg(long)]
    pub drained: bool,
    /// Do not wait for the end; `rcluster events` and status have it under the id that is printed.
    #[arg(long, conflicts_with_all = ["drained", "timeout"])]
    pub no_wait: bool,
    /// Give up waiting after this time (exit code 11); the reload goes on.
    #[arg(long, value_name = "DUR", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `rcluster restart`
#[derive(Debug, Args)]
pub struct RestartArgs {
    /// Which master.
    #[command(flatten)]
    pub which: WhichMaster,
    /// The slot, as `rcluster status` shows it.
    #[arg(value_name = "SLOT")]
    pub slot: u32,
    /// Give up waiting for the new worker after this time (exit code 11); the replacement goes on.
    #[arg(long, value_name = "DUR", default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `rcluster check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The master's own options count here too.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `rcluster rehearse`
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 nothing was lost but what killed workers had accepted; 14 requests were lost; 10 a reload failed; 11 not done within --limit;\n2 to 5 as for a master: the app did not start. Load is sent to loopback addresses and unix sockets only."
)]
pub struct RehearseArgs {
    /// Path to ask for; repeatable [default: /].
    #[arg(long, value_name = "PATH")]
    pub path: Vec<String>,

    /// Method of the requests. Any complete answer with a status below 500 is right.
    #[arg(long, value_enum, ignore_case = true, default_value = "get")]
    pub method: MethodArg,

    /// Body of a POST.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub body: String,

    /// Header of each request; repeatable.
    #[arg(long, value_name = "NAME: VALUE")]
    pub header: Vec<String>,

    /// Connections: kept over many requests, a new one for each, or half of the clients so and half so.
    #[arg(long, value_enum, default_value = "mixed")]
    pub connections: ConnectionsArg,

    /// The app speaks HTTPS; any certificate will do.
    #[arg(long)]
    pub tls: bool,

    /// Which listener gets the load, if the app has several: an address as `rcluster status` shows it.
    #[arg(long, value_name = "ADDR")]
    pub at: Option<String>,

    /// Clients, each with one request at a time.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub clients: u32,

    /// Simulated round trip between clients and app; at 0ms the races of a closing server hide. At most 2s.
    #[arg(long, value_name = "DUR", default_value = "5ms", value_parser = duration)]
    pub latency: Duration,

    /// Mean pause of a client between an answer and its next request. At most 10s.
    #[arg(long, value_name = "DUR", default_value = "5ms", value_parser = duration)]
    pub think: Duration,

    /// A request that is not answered after this time is lost.
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = duration)]
    pub timeout: Duration,

    /// Undisturbed load, all in all: a quarter before, a quarter after, the rest between; reloads, kills and pauses take their time on top. At most 1h.
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = duration)]
    pub duration: Duration,

    /// Give up after this time. At most 24h.
    #[arg(long, value_name = "DUR", default_value = "10m", value_parser = duration)]
    pub limit: Duration,

    /// Reloads.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub reloads: u32,

    /// Workers to stop for a second (SIGSTOP, SIGCONT), one after the other.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub pauses: u32,

    /// Workers to kill (SIGKILL), one after the other.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub kills: u32,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,

    /// Draw the timeline into this file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,

    /// The master's own options count here too, but for --control and --pidfile.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `--method`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MethodArg {
    /// Without a body.
    Get,
    /// With --body.
    Post,
}

/// `--connections`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConnectionsArg {
    /// Half of the clients so, half so.
    Mixed,
    /// One connection a client, for as long as the app keeps it.
    KeepAlive,
    /// A new connection for each request.
    Short,
}

/// `--ready`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReadyArg {
    /// One of its servers listens.
    Listening,
    /// The app called process.send('ready').
    Message,
    /// Node has started; proves nothing about the app.
    Online,
}

impl From<ReadyArg> for Readiness {
    fn from(arg: ReadyArg) -> Self {
        match arg {
            ReadyArg::Listening => Self::Listening,
            ReadyArg::Message => Self::Message,
            ReadyArg::Online => Self::Online,
        }
    }
}

/// `--switch`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SwitchArg {
    /// Slot by slot.
    Rolling,
    /// The whole new generation at one moment.
    Atomic,
}

impl From<SwitchArg> for Switch {
    fn from(arg: SwitchArg) -> Self {
        match arg {
            SwitchArg::Rolling => Self::Rolling,
            SwitchArg::Atomic => Self::Atomic,
        }
    }
}

/// An error of clap's in one line: what is wrong, and the tip.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let parts: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| {
            ["error: ", "tip: ", "[possible"]
                .iter()
                .any(|p| line.starts_with(p))
        })
        .map(|line| line.trim_start_matches("error: "))
        .collect();
    parts.join("; ")
}
