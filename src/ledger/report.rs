//! The result of a load.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Class, Id};

/// Longest latency that is told apart, in microseconds (ten minutes); longer ones count as this.
const MAX_US: u64 = 600_000_000;

/// Latencies of requests that were answered right, from the decision to send to the last byte; three significant digits.
#[derive(Clone, Debug)]
pub struct Latency(Histogram<u64>);

impl Latency {
    pub(super) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, MAX_US, 3).expect("the bounds are valid"))
    }

    pub(super) fn record(&mut self, latency: Duration) {
        self.0.saturating_record(micros(latency));
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("the bounds are the same");
    }

    /// The latency that this many percent (0 to 100) of the requests did not exceed; zero without requests.
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_micros(self.0.value_at_percentile(percent))
    }

    /// Number of requests.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The shortest.
    pub fn min(&self) -> Duration {
        Duration::from_micros(self.0.min())
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }

    /// The histogram, in microseconds.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }
}

impl Serialize for Latency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut s = serializer.serialize_struct("Latency", 6)?;
        s.serialize_field("count", &self.count())?;
        for (name, percent) in [
            ("p50_us", 50.0),
            ("p90_us", 90.0),
            ("p99_us", 99.0),
            ("p999_us", 99.9),
        ] {
            s.serialize_field(name, &self.0.value_at_percentile(percent))?;
        }
        s.serialize_field("max_us", &self.0.max())?;
        s.end()
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The requests of one phase.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// Name given to [`super::Control::mark`].
    pub name: String,
    /// Number of requests.
    pub requests: u64,
    /// Of which lost.
    pub lost: u64,
    /// Those by class.
    pub losses: BTreeMap<Class, u64>,
    /// Latencies of those that were answered right.
    pub latency: Latency,
}

/// A tenth of a second of the load; requests belong to the one in which they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// Answered right.
    pub ok: u32,
    /// Lost.
    pub lost: u32,
    /// Refused, but safe to send again.
    pub retryable: u32,
    /// Longest latency of those answered right, in microseconds.
    pub worst_us: u64,
    /// Sum of the latencies of those answered right, in microseconds.
    pub sum_us: u64,
}

/// One lost request, for people.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Which one.
    pub id: Id,
    /// When it ended, in milliseconds since the start of the load.
    pub at_ms: u64,
    /// What became of it.
    pub class: Class,
    /// What the client saw.
    pub seen: String,
}

/// The connection on which a request failed. Both times are of the same clock as a journal's.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// The client's port.
    pub port: u16,
    /// When it was made.
    pub opened: SystemTime,
    /// When the request on it failed.
    pub failed: SystemTime,
}

/// The result of a load. The counts of all classes add up to [`Report::total`].
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Number of requests of each class that occurred.
    pub classes: BTreeMap<Class, u64>,
    /// Number of requests sent.
    pub total: u64,
    /// Time from the start to the last class, in milliseconds.
    pub elapsed_ms: u64,
    /// Connections made.
    pub connections: u64,
    /// Connections on which the first request was never answered, not by one byte until the timeout.
    pub dead_connections: u64,
    /// HTTP/2 and WebSocket connections that ended without a word (GOAWAY, close frame) while no request was under way. No request was lost.
    pub idle_drops: u64,
    /// Latencies of all requests that were answered right.
    pub latency: Latency,
    /// The same by phase, the one at the start first.
    pub phases: Vec<Phase>,
    /// Longest time without a request that was answered right, in microseconds.
    pub longest_gap_us: u64,
    /// When that gap began, in milliseconds since the start.
    pub longest_gap_at_ms: u64,
    /// Tenths of seconds since the start.
    pub timeline: Vec<Slot>,
    /// When phases began, in milliseconds since the start.
    pub marks: Vec<(u64, String)>,
    /// The first 20 losses.
    pub samples: Vec<Sample>,
    /// Ids that were not answered right, with their class, in the order of their ends (at most 2^20 of them).
    pub failures: Vec<(Id, Class)>,
    /// Number of those beyond 2^20.
    pub failures_dropped: u64,
    /// The connections of failures over HTTP/1.1 and TCP.
    #[serde(skip)]
    pub lines: HashMap<Id, Line>,
    /// For each client, its number and how many requests it sent: sequence numbers 1 to that.
    #[serde(skip)]
    pub clients: Vec<(u32, u64)>,
}

impl Report {
    /// Number of requests of a class.
    pub fn count(&self, class: Class) -> u64 {
        self.classes.get(&class).copied().unwrap_or(0)
    }

    /// Requests answered right.
    pub fn ok(&self) -> u64 {
        self.sum(Class::is_ok)
    }

    /// Requests lost: all that were neither answered right nor refused in a way that is safe to repeat.
    pub fn lost(&self) -> u64 {
        self.sum(Class::is_loss)
    }

    /// HTTP/2 streams refused ([`Class::RefusedRetryable`]): safe to send again, but not every client does; Node's does not. No
    /// losses, and counted beside them wherever losses are.
    pub fn streams_refused(&self) -> u64 {
        self.count(Class::RefusedRetryable)
    }

    /// Longest time without a request that was answered right.
    pub fn longest_gap(&self) -> Duration {
        Duration::from_micros(self.longest_gap_us)
    }

    /// The requests of a phase, if there were any.
    pub fn phase(&self, name: &str) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }

    /// Adds the report of a load that ran at the same time. Both timelines are laid on each other at their starts; the longer of the two
    /// gaps remains.
    pub fn absorb(&mut self, other: &Self) {
        for (class, count) in &other.classes {
            *self.classes.entry(*class).or_default() += count;
        }
        self.total += other.total;
        self.connections += other.connections;
        self.dead_connections += other.dead_connections;
        self.idle_drops += other.idle_drops;
        self.elapsed_ms = self.elapsed_ms.max(other.elapsed_ms);
        self.latency.add(&other.latency);
        for phase in &other.phases {
            match self.phases.iter_mut().find(|own| own.name == phase.name) {
                Some(own) => {
                    own.requests += phase.requests;
                    own.lost += phase.lost;
                    for (class, count) in &phase.losses {
                        *own.losses.entry(*class).or_default() += count;
                    }
                    own.latency.add(&phase.latency);
                }
                None => self.phases.push(phase.clone()),
            }
        }
        if other.longest_gap_us > self.longest_gap_us {
            self.longest_gap_us = other.longest_gap_us;
            self.longest_gap_at_ms = other.longest_gap_at_ms;
        }
        let slots = self.timeline.len().max(other.timeline.len());
        self.timeline.resize(slots, Slot::default());
        for (own, slot) in self.timeline.iter_mut().zip(&other.timeline) {
            own.ok += slot.ok;
            own.lost += slot.lost;
            own.retryable += slot.retryable;
            own.worst_us = own.worst_us.max(slot.worst_us);
            own.sum_us += slot.sum_us;
        }
        self.samples.extend(other.samples.iter().cloned());
        self.failures.extend(&other.failures);
        self.failures_dropped += other.failures_dropped;
        self.lines.extend(&other.lines);
        self.clients.extend(&other.clients);
    }

    fn sum(&self, of: impl Fn(Class) -> bool) -> u64 {
        self.classes
            .iter()
            .filter(|(class, _)| of(**class))
            .map(|(_, count)| count)
            .sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} requests, {} lost, {} streams refused, {} connections",
            self.total,
            self.lost(),
            self.streams_refused(),
            self.connections
        )?;
        for (class, count) in &self.classes {
            writeln!(f, "  {class:<22}{count}")?;
        }
        let ms = |percent| self.latency.percentile(percent).as_secs_f64() * 1e3;
        writeln!(
            f,
            "  p50 {:.1} ms, p99 {:.1} ms, longest gap {:.1} ms",
            ms(50.0),
            ms(99.0),
            self.longest_gap_us as f64 / 1e3
        )?;
        for sample in &self.samples {
            writeln!(
                f,
                "  {} at {} ms: {}: {}",
                sample.id, sample.at_ms, sample.class, sample.seen
            )?;
        }
        Ok(())
    }
}
