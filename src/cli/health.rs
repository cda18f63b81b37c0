//! Options that say when a worker is unhealthy, or old enough.

use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::duration;

/// Options of the master that concern the health of workers.
#[derive(Clone, Debug, Args)]
pub struct HealthArgs {
    /// Replace a worker whose event loop is silent for so long, at least 1s; 0 never does.
    #[arg(long, value_name = "DUR", default_value = "30s", value_parser = duration, env = "RCLUSTER_HANG_TIMEOUT")]
    pub hang_timeout: Duration,

    /// The same for a worker that still boots, at least 1s; 0 leaves it to --ready-timeout.
    #[arg(long, value_name = "DUR", default_value = "2m", value_parser = duration, env = "RCLUSTER_BOOT_HANG_TIMEOUT")]
    pub boot_hang_timeout: Duration,

    /// Capture the JavaScript stack of a hung worker when the master is root, too (default: only if it is not).
    ///
    /// The worker's inspector opens a loopback port for less than a millisecond; nobody connects to it.
    #[arg(long, env = "RCLUSTER_AUTOPSY", value_parser = clap::builder::FalseyValueParser::new())]
    pub autopsy: bool,

    /// Never capture the JavaScript stack of a hung worker; SIGUSR1 then opens no inspector in a worker.
    ///
    /// Of --autopsy and --no-autopsy the last one on the command line wins. A variable counts more than the file; in one
    /// place --no-autopsy wins.
    #[arg(long, env = "RCLUSTER_NO_AUTOPSY", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_autopsy: bool,

    /// Ask each worker's own server for this path: it must answer 2xx or 3xx to count as ready, and to stay. ADDRESS/PATH asks the server at that address.
    #[arg(long, value_name = "[ADDR]PATH", env = "RCLUSTER_HEALTH_PATH")]
    pub health_path: Option<String>,

    /// Time between two health checks of a worker.
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = duration, env = "RCLUSTER_HEALTH_INTERVAL")]
    pub health_interval: Duration,

    /// A health check must be answered within this time.
    #[arg(long, value_name = "DUR", default_value = "5s", value_parser = duration, env = "RCLUSTER_HEALTH_TIMEOUT")]
    pub health_timeout: Duration,

    /// So many bad answers in a row make a worker unhealthy.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000), env = "RCLUSTER_HEALTH_THRESHOLD")]
    pub health_threshold: u32,

    /// Replace a worker after so many HTTP requests (up to a tenth fewer, so that not all go at once).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), env = "RCLUSTER_MAX_REQUESTS")]
    pub max_requests: Option<u64>,

    /// Replace a worker after this time (up to a tenth sooner).
    #[arg(long, value_name = "DUR", value_parser = duration, env = "RCLUSTER_MAX_LIFETIME")]
    pub max_lifetime: Option<Duration>,

    /// Replace a worker whose resident memory (RSS) is over this in three samples, 10 s apart: 512MiB, 1.5GiB.
    #[arg(long, value_name = "SIZE", env = "RCLUSTER_MAX_RSS")]
    pub max_rss: Option<ByteSize>,

    /// Replace a worker whose JavaScript heap is over this: 512MiB.
    #[arg(long, value_name = "SIZE", env = "RCLUSTER_MAX_HEAP")]
    pub max_heap: Option<ByteSize>,

    /// Booted workers that wait to take the place of one that dies. What the app does before it listens, a spare does too.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64), env = "RCLUSTER_SPARES")]
    pub spares: u32,

    /// Replacements need not listen on this address although the old worker does: :PORT, an address as status shows it, or `all`; repeatable.
    #[arg(long, value_name = "ADDR", value_parser = crate::config::may_drop, env = "RCLUSTER_ALLOW_DROP", value_delimiter = ',')]
    pub allow_drop: Vec<String>,

    /// Workers may listen only where --bind says.
    #[arg(long, env = "RCLUSTER_STRICT_BIND", value_parser = clap::builder::FalseyValueParser::new())]
    pub strict_bind: bool,
}
