//! `rcluster scale`.

use clap::Args;

use super::WhichMaster;

/// `rcluster scale`
#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// Which master.
    #[command(flatten)]
    pub which: WhichMaster,
    /// How many: N, +N, -N or auto.
    #[arg(value_name = "N|+N|-N|auto", allow_hyphen_values = true)]
    pub workers: String,
    /// Also more workers than are sensible on this host: 64, or 32 for each CPU if that is more.
    #[arg(long)]
    pub force: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
