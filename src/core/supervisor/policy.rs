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

/// Asking a worker's own server whether it is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Time between two questions.
    pub interval: Duration,
    /// An answer must come within this.
    pub timeout: Duration,
    /// So many bad answers in a row make a worker unhealthy.
    pub threshold: u32,
}

/// Limits at which a healthy worker is replaced. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recycle {
    /// HTTP requests.
    pub requests: Option<u64>,
    /// Time since it serves.
    pub lifetime: Option<Duration>,
    /// Bytes of memory, three samples in a row.
    pub memory: Option<u64>,
    /// Bytes of JavaScript heap.
    pub heap: Option<u64>,
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
    /// Time between the stop signal and SIGKILL, or since the drain timeout where that has passed.
    pub kill_timeout: Duration,
    /// A replacement must live this long, ready, before the old worker drains.
    pub min_uptime: Duration,
    /// In a reload: further time a new worker must stay healthy before the next slot goes.
    pub bake: Duration,
    /// Extra workers at a time in a reload.
    pub surge: Surge,
    /// How a reload switches.
    pub switch: Switch,
    /// A worker whose event loop is silent for so long is replaced; zero: never.
    pub hang_timeout: Duration,
    /// The same while it boots.
    pub boot_hang_timeout: Duration,
    /// How a worker is asked whether it is well, if it is asked.
    pub health: Option<Health>,
    /// When a healthy worker is replaced.
    pub recycle: Recycle,
    /// Booted workers held at the gate, to take the place of one that dies.
    pub spares: u32,
    /// Addresses that a replacement need not listen on although its predecessor does: as status shows them, `:PORT`, or `all`.
    #[serde(default)]
    pub may_drop: Vec<String>,
    /// Somebody acts on what workers report: they report at least once a second.
    #[serde(default)]
    pub attentive: bool,
    /// Most workers of a generation that boot at the same time, at least 1; see [`Policy::boots_on`]. The surge of a
    /// rolling reload is not bounded by it.
    #[serde(default = "least_boots")]
    pub boots: u32,
}

/// As [`Policy::LEAST_BOOTS`], for states that were written before there was a bound.
fn least_boots() -> u32 {
    Policy::LEAST_BOOTS
}

/// What a worker is started with, and judged by as long as it lives: a reload that changes the policy must not find old
/// workers guilty of what they were never told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// What makes it ready.
    pub readiness: Readiness,
    /// It has this long for its connections when it drains.
    pub drain_timeout: Duration,
    /// Time between its stop signal and SIGKILL.
    pub kill_timeout: Duration,
    /// Its event loop may be silent for so long; zero: for ever.
    pub hang_timeout: Duration,
    /// The same while it boots.
    pub boot_hang_timeout: Duration,
    /// How it is asked whether it is well.
    pub health: Option<Health>,
    /// When it is replaced although it is healthy.
    pub recycle: Recycle,
    /// Time from its FIN to the end of a connection that it cuts.
    pub closing: Duration,
    /// How often its event loop reports.
    pub beat: Duration,
}

impl Terms {
    /// Times that it has to end by itself if its master is killed: first to drain and to close what it cuts, then, no longer
    /// listening, for its handlers of the stop signal. In all the drain timeout and the kill timeout, as under its master.
    pub fn orphan_graces(&self) -> (Duration, Duration) {
        let closing = self.closing / 2 * 3;
        let stop = self.kill_timeout.saturating_sub(closing);
        (self.drain_timeout + closing, stop)
    }
}

impl Policy {
    /// What a worker that starts now is told.
    pub fn terms(&self) -> Terms {
        Terms {
            readiness: self.readiness,
            drain_timeout: self.drain_timeout,
            kill_timeout: self.kill_timeout,
            hang_timeout: self.hang_timeout,
            boot_hang_timeout: self.boot_hang_timeout,
            health: self.health,
            recycle: self.recycle,
            closing: self.closing_of_worker(),
            beat: self.beat(),
        }
    }

    /// For how long a refused listen of a ready worker may explain its end: the app handled it if it still runs then.
    pub const REFUSAL: Duration = Duration::from_secs(5);
    /// Time that a drained worker has to end by itself before it gets the stop signal.
    pub const LINGER: Duration = Duration::from_millis(300);
    /// Where every address may be let go (`--allow-drop all`), a replacement has this long after `min_uptime` to listen on those of its
    /// predecessor all the same. Also the time after readiness within which a port that the kernel chose counts.
    pub const KEY_GRACE: Duration = Duration::from_secs(2);
    /// A look into a silent worker ends by itself after so long.
    pub const EXAMINATION: Duration = Duration::from_millis(2700);
    /// Time between two looks at what the kernel counts for a worker; one that boots, or has served for less, is looked at with each beat.
    pub const MEASURE: Duration = Duration::from_secs(10);
    /// Least time between two samples of memory that count: [`Policy::MEASURE`], less what a busy host may be late.
    pub const SAMPLE: Duration = Duration::from_secs(9);
    /// What a reload reads (configuration, release) must be read within this time, or the reload fails: a disk that spins
    /// up takes a few seconds, a dead file server for ever.
    pub const PREPARATION: Duration = Duration::from_secs(10);
    /// SIGKILL is repeated at this interval until the process is reaped.
    pub const KILL_REPEAT: Duration = Duration::from_secs(10);

    /// Time after the drain timeout, taken from the kill timeout: the worker closes what it cuts (two thirds of it) and
    /// reports. At most 1.5 s, and at most half of the kill timeout.
    pub fn closing(&self) -> Duration {
        (self.kill_timeout / 2).min(Duration::from_millis(1500))
    }

    /// What the worker has of it between the FIN to what is cut and the end of the connection.
    pub fn closing_of_worker(&self) -> Duration {
        self.closing() / 3 * 2
    }

    /// Time that workers of a killed master have to end by themselves if nothing else is known of them: the drain timeout,
    /// and what closes after it.
    pub fn orphan_grace(&self) -> Duration {
        self.drain_timeout + self.closing()
    }

    /// Least hang timeout, and least boot hang timeout, but for zero: with fewer than six reports in it, or with reports that
    /// come closer than the scheduler of a busy host allows, a worker would be taken for silent that is not.
    pub const LEAST_HANG: Duration = Duration::from_secs(1);

    /// How often a worker's event loop reports: six times in the shorter of both hang timeouts,
    /// at least every 5 s (four workers wake the master less than once a second) or, if it is attentive, every
    /// second; at most ten times a second.
    pub fn beat(&self) -> Duration {
        let longest = Duration::from_secs(if self.attentive { 1 } else { 5 });
        let limits = [self.hang_timeout, self.boot_hang_timeout];
        let hang = match self.hang_timeout {
            Duration::ZERO => Duration::from_secs(30),
            some => limits
                .into_iter()
                .filter(|limit| !limit.is_zero())
                .fold(some, Duration::min),
        };
        (hang / 6).clamp(Duration::from_millis(100), longest)
    }

    /// A heartbeat that is later than this is overdue: what a busy host may add to its interval.
    pub const LATE: Duration = Duration::from_secs(1);
    /// A silence is believed when it has lasted so much longer than its limit:
    /// a beat that waits in the socket is read before.
    pub const DOUBT: Duration = Duration::from_millis(250);
    /// A health check, the reading for a reload and a look into a silent worker end by themselves at their limits. So long after that the supervisor
    /// gives them up: an answer that waits in the inbox while the master is slow must be heard first, no worker killed
    /// while it is looked into, and no answer taken for the next question's.
    pub const ANSWER_GRACE: Duration = Duration::from_secs(5);
    /// A serving worker that has closed all its listeners has this long to open one again.
    pub const UNHEARD: Duration = Duration::from_secs(2);
    /// Least time between two workers that are recycled: an app that leaks from
    /// its first second on must not make a storm.
    pub const RECYCLE_FLOOR: Duration = Duration::from_secs(10);
    /// So many samples in a row over the memory limit count.
    pub const MEMORY_SAMPLES: u8 = 3;
    /// A booting worker's health is asked again after this.
    pub const BOOT_PROBE: Duration = Duration::from_millis(250);
    /// Most workers.
    pub const MAX_WORKERS: u32 = 1024;

    /// Workers of a generation that may boot at the same time on any host.
    pub const LEAST_BOOTS: u32 = 4;

    /// [`Policy::boots`] for a number of CPUs: two each, since a boot also waits for files; at least
    /// [`Policy::LEAST_BOOTS`].
    pub fn boots_on(cpus: u32) -> u32 {
        cpus.saturating_mul(2).max(Self::LEAST_BOOTS)
    }

    /// More workers than this are probably a slip: sixteen times those that may boot at the same time, so 64 or 32 a CPU.
    pub fn sensible_workers(&self) -> u32 {
        self.boots.saturating_mul(16).min(Self::MAX_WORKERS)
    }

    /// Most processes at one time, whatever happens: the seats, the spares, the extra ones
    /// of a reload (an atomic one boots a whole second generation), and the
    /// draining cap. Those that are cut count until they are reaped, so at the
    /// bound a spawn waits for one of them, at most the kill timeout.
    pub fn process_cap(&self) -> usize {
        let extra = match self.switch {
            Switch::Rolling => self.surge.of(self.workers).min(self.workers),
            Switch::Atomic => self.workers,
        };
        (self.workers + self.spares + extra) as usize + self.draining_cap()
    }

    /// Most workers that may drain in the background of reloads: twice the wanted workers.
    pub fn draining_cap(&self) -> usize {
        self.workers as usize * 2
    }
}
