//! What is counted for a slot, over all the workers that it has had.

use serde::{Deserialize, Serialize};

use super::types::Outcome;
use rcluster_core::supervisor::Slot;

/// Buckets of the shim's histogram of durations (`bucketOf` in `node-shim/hooks.cjs`).
const FINE: usize = 88;
/// Microseconds that its buckets are counted in.
const UNIT_US: u64 = 16;

/// A histogram of durations, four buckets to each doubling: a percentile is right within a fifth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
pub struct Durations([u64; FINE]);

impl From<Vec<u64>> for Durations {
    /// Whatever is missing is zero, whatever is too much is left out.
    fn from(counts: Vec<u64>) -> Self {
        let mut durations = Self::default();
        durations.raise(&counts);
        durations
    }
}

impl From<Durations> for Vec<u64> {
    fn from(durations: Durations) -> Self {
        durations.0.into()
    }
}

impl Default for Durations {
    fn default() -> Self {
        Self([0; FINE])
    }
}

/// Where a bucket ends, microseconds.
const fn upper_us(bucket: usize) -> u64 {
    let units = if bucket < 4 {
        bucket as u64 + 1
    } else {
        (5 + bucket as u64 % 4) << (bucket / 4 - 1)
    };
    units * UNIT_US
}

impl Durations {
    /// Upper bounds of [`coarse`](Self::coarse), microseconds: doublings, the last one without an end.
    pub const BOUNDS_US: [u64; 17] = {
        let mut bounds = [0; 17];
        let mut i = 0;
        while i < bounds.len() {
            bounds[i] = 256 << i;
            i += 1;
        }
        bounds
    };

    /// Takes over what a worker counts now; a count never falls.
    pub fn raise(&mut self, told: &[u64]) {
        for (ours, told) in self.0.iter_mut().zip(told) {
            *ours = (*ours).max(*told);
        }
    }

    /// Adds those of another worker.
    pub fn add(&mut self, other: &Self) {
        for (ours, theirs) in self.0.iter_mut().zip(&other.0) {
            *ours = ours.saturating_add(*theirs);
        }
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        for (ours, theirs) in since.0.iter_mut().zip(&earlier.0) {
            *ours = ours.saturating_sub(*theirs);
        }
        since
    }

    /// The end of the bucket that this share of all lies in, microseconds; none without any.
    pub fn percentile_us(&self, share: f64) -> Option<u64> {
        let total = self.0.iter().fold(0u64, |sum, n| sum.saturating_add(*n));
        // A count of requests is far from where f64 loses one.
        #[expect(clippy::cast_sign_loss)]
        let wanted = (total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0u64;
        let reaches = |n: &u64| {
            seen = n.saturating_add(seen);
            total > 0 && seen >= wanted
        };
        self.0.iter().position(reaches).map(upper_us)
    }

    /// Counts for each of [`BOUNDS_US`](Self::BOUNDS_US), and above the last.
    pub fn coarse(&self) -> Vec<u64> {
        let mut coarse = vec![0u64; Self::BOUNDS_US.len() + 1];
        for (bucket, count) in self.0.iter().enumerate() {
            let upper = upper_us(bucket);
            let at = Self::BOUNDS_US.partition_point(|bound| *bound < upper);
            coarse[at] = count.saturating_add(coarse[at]);
        }
        coarse
    }
}

/// What is counted for one slot; it goes on when its worker is replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotFigures {
    /// The slot.
    pub slot: Slot,
    /// Responses finished over HTTP/1 and HTTP/2. Without the shim: 0.
    pub requests: u64,
    /// Connections accepted by the app's servers.
    pub accepted: u64,
    /// Those responses by class, 1xx to 5xx.
    pub responses: [u64; 5],
    /// Their durations added up, microseconds: from the request's turn on its connection to the last byte handed to the kernel.
    pub duration_us: u64,
    /// How many of them took up to 256 us, 512 us and so on to 16.8 s, and how many longer.
    pub durations: Vec<u64>,
    /// CPU time, user and system, milliseconds.
    pub cpu_ms: u64,
    /// Requests a second, over the last half minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_s: Option<f64>,
    /// Responses a second by class, 1xx to 5xx, over the last half minute. Absent without data, and with `--no-request-metrics`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responses_per_s: Option<[f64; 5]>,
    /// Half of the requests of the last half minute took up to so long, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<u64>,
    /// The same for 99 of 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<u64>,
    /// Processors in use lately: 1 is a whole one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
}

impl SlotFigures {
    /// Client errors (4xx) a second, over the last half minute.
    pub fn client_errors_per_s(&self) -> Option<f64> {
        self.responses_per_s.map(|rates| rates[3])
    }

    /// Server errors (5xx) a second, over the last half minute.
    pub fn server_errors_per_s(&self) -> Option<f64> {
        self.responses_per_s.map(|rates| rates[4])
    }
}

/// How reloads of this master ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadFigures {
    /// Those that succeeded.
    pub done: u64,
    /// Those that failed; the old workers served on.
    pub failed: u64,
    /// Those that a rollback or a stop ended.
    pub superseded: u64,
    /// Milliseconds that all of them took.
    pub took_ms: u64,
    /// The last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<LastReload>,
}

/// The last reload that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastReload {
    /// Its id, as in log and events.
    pub id: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Milliseconds it took.
    pub took_ms: u64,
}

/// What the kernel counts for the master itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterFigures {
    /// When it started, milliseconds since 1970.
    pub started_unix_ms: u64,
    /// Bytes of resident memory (RSS).
    pub memory: u64,
    /// CPU time, user and system, milliseconds.
    pub cpu_ms: u64,
    /// Open descriptors.
    pub fds: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other() {
        let ends: Vec<_> = (0..FINE).map(upper_us).collect();
        assert_eq!(ends[..10], [16, 32, 48, 64, 80, 96, 112, 128, 160, 192]);
        assert!(ends.windows(2).all(|w| w[0] < w[1]));
        // Every doubling ends where a bucket ends, so that folding is exact.
        assert!(Durations::BOUNDS_US.iter().all(|b| ends.contains(b)));
    }

    #[test]
    fn percentiles_and_folding() {
        let mut durations = Durations::default();
        assert_eq!(durations.percentile_us(0.5), None);
        let mut told = vec![0; FINE];
        told[9] = 98;
        told[FINE - 1] = 2;
        durations.raise(&told);
        durations.raise(&[]);
        assert_eq!(durations.percentile_us(0.5), Some(192));
        assert_eq!(durations.percentile_us(0.99), Some(upper_us(FINE - 1)));
        let coarse = durations.coarse();
        assert_eq!((coarse[0], coarse[17]), (98, 2));
        let none = durations.since(&durations);
        assert_eq!(none, Durations::default());
    }
}
