//! The ways to give connections to workers.

use serde::{Deserialize, Serialize};

/// How connections reach the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// All workers accept from one socket.
    #[default]
    Shared,
    /// Each slot has a socket; the kernel distributes connections in turns or by load.
    Spread,
    /// Each slot has a socket; the client's address decides which.
    SourceIp,
    /// The master accepts, and gives each connection to the worker with the fewest.
    LeastConn,
}

impl Balance {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Spread => "spread",
            Self::SourceIp => "source-ip",
            Self::LeastConn => "least-conn",
        }
    }
}
