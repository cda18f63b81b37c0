//! Options about who may look at the master, and at what.

use std::path::PathBuf;

use clap::Args;

use super::WhichMaster;

/// Options of the master that concern its API and its figures.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// Serve the API and /metrics over TCP too: IP:PORT, localhost:PORT, or :PORT on 127.0.0.1. Everybody who reaches it may look; changes need --admin-token-file.
    #[arg(long, value_name = "ADDR", env = "RCLUSTER_ADMIN")]
    pub admin: Option<String>,

    /// A file with the token that allows changes over --admin (Authorization: Bearer TOKEN); mode 0600, the master's user's or root's.
    #[arg(long, value_name = "PATH", env = "RCLUSTER_ADMIN_TOKEN_FILE")]
    pub admin_token_file: Option<PathBuf>,

    /// Do not time requests, nor count answers by class; requests are counted all the same.
    #[arg(long, env = "RCLUSTER_NO_REQUEST_METRICS", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_request_metrics: bool,
}

/// `rcluster events`
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Which master.
    #[command(flatten)]
    pub which: WhichMaster,
    /// Print JSON, one object a line.
    #[arg(long)]
    pub json: bool,
}

/// `rcluster ls`
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Print JSON: the status of each, and its control socket.
    #[arg(long)]
    pub json: bool,
}
