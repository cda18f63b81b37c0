//! What the operator wants: the numbers that the supervisor acts on.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// What makes a worker ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Readiness {
    /// One of its servers listens.
    Listening,
    /// The app called `process.send('ready')`.
    Message,
    /// Node has started; proves nothing about the app.
    Online,
}

/// How a reload moves from the old generation to the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Slot by slot; both generations serve in between.
    Rolling,
    /// The whole new generation boots behind the gate, then all switch at once.
    Atomic,
}

/// How many extra workers a reload may run at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Surge {
    /// A number of workers, at least 1.
    Count(u32),
    /// A share of the wanted workers in percent, rounded up.
    Percent(u32),
}

impl Surge {
    /// Extra workers for a fleet of `workers`; at least 1.
    pub fn of(self, workers: u32) -> u32 {
        match self {
            Self::Count(n) => n.max(1),
            Self::Percent(p) => workers.saturating_mul(p).div_ceil(100).max(1),
        }
    }
}

impl fmt::Display for Surge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(n) => write!(f, "{n}"),
            Self::Percent(p) => write!(f, "{p}%"),
        }
    }
}

impl FromStr for Surge {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!("`{s}` is neither a number of workers from 1 nor a percentage from 1% to 100%")
        };
        let surge = match s.strip_suffix('%') {
            Some(p) => Self::Percent(
                p.parse()
                    .ok()
                    .filter(|p| (1..=100).contains(p))
                    .ok_or_else(wrong)?,
            ),
            None => Self::Count(s.parse().ok().filter(|n| *n >= 1).ok_or_else(wrong)?),
        };
        Ok(surge)
    }
}

/// The operator's wishes, validated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Wanted workers, at least 1.
    pub workers: u32,
    /// What makes a worker ready.
    pub readiness: Readiness,
    /// A worker that is not ready this long after its start is replaced.
    pub ready_timeout: Duration,
    /// A draining worker has this long for its connections.
    pub drain_timeout: Duration,
    /// Time between the stop signal and SIGKILL.
    pub kill_timeout: Duration,
    /// A replacement must live this long, ready, before the old worker drains.
    pub min_uptime: Duration,
    /// In a reload: further time a new worker must stay healthy before the next slot goes.
    pub bake: Duration,
    /// Extra workers at a time in a reload.
    pub surge: Surge,
    /// How a reload switches.
    pub switch: Switch,
}

impl Policy {
    /// Time that a drained worker has to end by itself before it gets the stop signal.
    pub const LINGER: Duration = Duration::from_millis(300);
    /// After `min_uptime`, a replacement that serves fewer listeners than the
    /// old worker gets this long to open the others before it counts as complete.
    pub const KEY_GRACE: Duration = Duration::from_secs(2);
    /// SIGKILL is repeated at this interval until the process is reaped.
    pub const KILL_REPEAT: Duration = Duration::from_secs(10);

    /// Most processes at one time, whatever happens: the seats, the extra ones
    /// of a reload (an atomic one boots a whole second generation), and the
    /// draining cap. Those that are cut count until they are reaped, so at the
    /// bound a spawn waits for one of them, at most the kill timeout.
    pub fn process_cap(&self) -> usize {
        let extra = match self.switch {
            Switch::Rolling => self.surge.of(self.workers).min(self.workers),
            Switch::Atomic => self.workers,
        };
        (self.workers + extra) as usize + self.draining_cap()
    }

    /// Most workers that may drain in the background of reloads: twice the wanted workers.
    pub fn draining_cap(&self) -> usize {
        self.workers as usize * 2
    }
}
