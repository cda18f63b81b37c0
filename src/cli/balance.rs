//! Options that say how connections reach the workers.

use clap::{Args, ValueEnum};

use rcluster_core::balance::Balance;

/// Options of the master that concern connections.
#[derive(Clone, Debug, Args)]
pub struct BalanceArgs {
    /// How connections reach the workers; Unix paths and UDP are always shared.
    #[arg(
        long,
        value_name = "MODE",
        value_enum,
        default_value = "shared",
        env = "RCLUSTER_BALANCE"
    )]
    pub balance: BalanceArg,

    /// Connections that may wait to be accepted, for each listening socket; the kernel cuts it to net.core.somaxconn.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(i32).range(1..=65_535), env = "RCLUSTER_BACKLOG")]
    pub backlog: i32,
}

/// `--balance`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BalanceArg {
    /// One socket for all: whoever is quick takes most.
    Shared,
    /// A socket for each slot; the kernel deals connections out by turns or by load.
    Spread,
    /// A socket for each slot; a client's address decides which.
    SourceIp,
    /// The master accepts, and hands each connection to the worker with the fewest.
    LeastConn,
}

impl From<BalanceArg> for Balance {
    fn from(arg: BalanceArg) -> Self {
        match arg {
            BalanceArg::Shared => Self::Shared,
            BalanceArg::Spread => Self::Spread,
            BalanceArg::SourceIp => Self::SourceIp,
            BalanceArg::LeastConn => Self::LeastConn,
        }
    }
}
