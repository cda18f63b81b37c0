//! Who serves: the contenders, their names, and whether this machine has what they need.

use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::contender::{bench_file, rcluster};

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Rcluster,
    RclusterNoShim,
    /// rcluster with `--balance` in that mode.
    Balanced(Balance),
    ClusterRr,
    /// The same once more: its ratio to `ClusterRr` is noise.
    ClusterRrAgain,
    ClusterNone,
    /// Plain `node`, one process, whatever number of workers is asked for.
    Plain,
    /// So many plain `node`, each on its own port: what starting them costs.
    Plains,
    /// PM2's cluster mode.
    Pm2,
    /// Watt: worker threads of one process, each with a `SO_REUSEPORT` socket.
    Watt,
    /// So many `bun`, each with a `SO_REUSEPORT` socket of its own.
    Bun,
    /// This process binds and listens; its workers inherit the socket. The limit for one shared socket.
    Bare,
    /// The same once more: its ratio to `Bare` is the bench's own noise.
    BareAgain,
    /// This process binds a `SO_REUSEPORT` socket for each worker, which inherits it; the kernel's hash chooses.
    BareReuseport,
}

/// A mode of `--balance`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Balance {
    Shared,
    /// With the best program that the kernel allows: eBPF with the right, else classic.
    Spread,
    /// The same with classic BPF, as it is without the right.
    SpreadClassic,
    SourceIp,
    LeastConn,
}

impl Balance {
    pub(crate) const ALL: [Self; 5] = [
        Self::Shared,
        Self::Spread,
        Self::SpreadClassic,
        Self::SourceIp,
        Self::LeastConn,
    ];

    /// The argument of `--balance`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Spread | Self::SpreadClassic => "spread",
            Self::SourceIp => "source-ip",
            Self::LeastConn => "least-conn",
        }
    }
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rcluster => "rcluster",
            Self::RclusterNoShim => "rcluster --no-shim",
            Self::Balanced(Balance::Shared) => "rcluster shared",
            Self::Balanced(Balance::Spread) => "rcluster spread",
            Self::Balanced(Balance::SpreadClassic) => "rcluster spread, classic BPF",
            Self::Balanced(Balance::SourceIp) => "rcluster source-ip",
            Self::Balanced(Balance::LeastConn) => "rcluster least-conn",
            Self::ClusterRr => "Node cluster, round robin",
            Self::ClusterRrAgain => "Node cluster, round robin, again",
            Self::ClusterNone => "Node cluster, SCHED_NONE",
            Self::Plain => "one plain node",
            Self::Plains => "plain nodes at once",
            Self::Pm2 => "PM2",
            Self::Watt => "Watt",
            Self::Bun => "Bun, reusePort",
            Self::Bare => "bare shared socket (the limit)",
            Self::BareAgain => "bare shared socket, again",
            Self::BareReuseport => "bare SO_REUSEPORT sockets",
        }
    }

    /// Whether an rcluster master runs it.
    pub(crate) fn is_rcluster(self) -> bool {
        matches!(
            self,
            Self::Rcluster | Self::RclusterNoShim | Self::Balanced(_)
        )
    }

    /// Why it cannot be run here, if it cannot.
    pub(crate) fn missing(self) -> Option<String> {
        let needs = |file: &str| {
            let path = bench_file(file);
            (!path.exists()).then(|| format!("{file} is missing: `npm ci` in benches/"))
        };
        match self {
            Self::Balanced(_) if !knows_balance() => {
                Some("this rcluster has no --balance".to_owned())
            }
            Self::Pm2 => needs("node_modules/pm2/bin/pm2"),
            Self::Watt => needs("node_modules/wattpm/bin/cli.js"),
            Self::Bun => needs(bun()),
            Self::Rcluster
            | Self::RclusterNoShim
            | Self::Balanced(_)
            | Self::ClusterRr
            | Self::ClusterRrAgain
            | Self::ClusterNone
            | Self::Plain
            | Self::Plains
            | Self::Bare
            | Self::BareAgain
            | Self::BareReuseport => None,
        }
    }
}

/// Bun's binary, from the package that holds nothing else: no install script has to run.
pub(crate) fn bun() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "node_modules/@oven/bun-linux-aarch64/bin/bun"
    } else {
        "node_modules/@oven/bun-linux-x64/bin/bun"
    }
}

/// Whether the rcluster under test has the option at all.
fn knows_balance() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        Command::new(rcluster())
            .arg("--help")
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--balance"))
    })
}
