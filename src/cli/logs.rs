//! Options and commands about what workers print.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{WhichMaster, duration};
use crate::logs::{Format, Level};

/// Options of the master that concern logs.
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// Form of the log on stderr.
    #[arg(long, value_enum, default_value = "text", env = "RCLUSTER_LOG_FORMAT")]
    pub log_format: FormatArg,

    /// How much to log.
    #[arg(long, value_enum, default_value = "info", env = "RCLUSTER_LOG_LEVEL")]
    pub log_level: LevelArg,

    /// Carry what workers print and mark each line with its slot (`w2 |`; with --log-format json as an object). Without it workers write to the master's own stdout and stderr, and the master sees no byte.
    #[arg(long, env = "RCLUSTER_LOG_PREFIX", value_parser = clap::builder::FalseyValueParser::new())]
    pub log_prefix: bool,

    /// Carry what workers print into this file; {slot} and {stream} make it several. USR1 opens them anew.
    #[arg(long, value_name = "PATH", env = "RCLUSTER_LOG_FILE")]
    pub log_file: Option<PathBuf>,
}

/// `--log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `--log-level`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LevelArg {
    /// Nothing.
    Off,
    /// Failures of the master itself.
    Error,
    /// What an operator should look at.
    Warn,
    /// One line a transition.
    Info,
    /// Decisions.
    Debug,
    /// The wire.
    Trace,
}

impl From<FormatArg> for Format {
    fn from(arg: FormatArg) -> Self {
        match arg {
            FormatArg::Text => Self::Text,
            FormatArg::Json => Self::Json,
        }
    }
}

impl From<LevelArg> for Level {
    fn from(arg: LevelArg) -> Self {
        match arg {
            LevelArg::Off => Self::Off,
            LevelArg::Error => Self::Error,
            LevelArg::Warn => Self::Warn,
            LevelArg::Info => Self::Info,
            LevelArg::Debug => Self::Debug,
            LevelArg::Trace => Self::Trace,
        }
    }
}

/// `rcluster logs`
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Which master.
    #[command(flatten)]
    pub which: WhichMaster,
    /// Only this slot.
    #[arg(value_name = "SLOT")]
    pub slot: Option<u32>,
    /// Go on with what comes, until Ctrl-C or the end of the master.
    #[arg(short, long)]
    pub follow: bool,
    /// At most so many of the lines that are kept (the last 64 KiB of each slot).
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
    /// Print one JSON object a line.
    #[arg(long)]
    pub json: bool,
}

/// `rcluster top`
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Which master.
    #[command(flatten)]
    pub which: WhichMaster,
    /// Time between two looks.
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = duration)]
    pub interval: Duration,
}
