//! `rcluster upgrade`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{WhichMaster, duration};

/// `rcluster upgrade`
#[derive(Debug, Args)]
pub struct UpgradeArgs {
    /// Which master.
    #[command(flatten)]
    pub which: WhichMaster,
    /// The new binary [default: the path by which the master was started].
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// Give up waiting after this time (exit code 11).
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
