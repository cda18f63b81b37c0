//! Replacing healthy workers before they do harm: one at a time, never during a reload.

use super::{
    event::Usage,
    incident::Kind,
    machine::Supervisor,
    policy::Policy,
    time::Time,
    worker::{Worker, WorkerId},
};

/// A limit, shortened by up to a tenth.
fn jittered(limit: u64, jitter: u8) -> u64 {
    limit - limit / 10 * u64::from(jitter) / 255
}

const MIB: u64 = 1024 * 1024;

impl Supervisor {
    pub(super) fn measured(&mut self, id: WorkerId, usage: Usage) {
        let (policy, now) = (self.policy.recycle, self.now);
        let Some(worker) = self.fleet.worker_mut(id) else {
            return;
        };
        let limit = worker.terms.map_or(policy, |terms| terms.recycle).memory;
        worker.usage = Some(usage);
        // Looks at a young worker are closer, and those at its boot do not count.
        if !worker.is_ready() || worker.sampled.is_some_and(|at| now < at + Policy::SAMPLE) {
            return;
        }
        worker.sampled = Some(now);
        let over = limit.is_some_and(|limit| usage.memory >= jittered(limit, worker.jitter));
        worker.over_memory = if over {
            worker.over_memory.saturating_add(1)
        } else {
            0
        };
    }

    /// When a worker's lifetime is over, if it is limited: it counts from the
    /// moment it serves, so that a spare that waited long is not old at once.
    fn lives_until(&self, worker: &Worker) -> Option<Time> {
        let lifetime = self.terms(worker).recycle.lifetime?;
        let ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        let from = worker.ready_at?;
        Some(Time(from.0.saturating_add(jittered(ms, worker.jitter))))
    }

    /// Which limit a worker has reached, in words.
    pub(super) fn is_spent(&self, worker: &Worker) -> Option<String> {
        let limits = self.terms(worker).recycle;
        let reached = |limit: Option<u64>, value: u64| {
            limit.is_some_and(|limit| value >= jittered(limit, worker.jitter))
        };
        if !worker.is_ready() || !worker.is_sound() {
            return None;
        }
        if self.lives_until(worker).is_some_and(|at| at <= self.now) {
            let limit = crate::names::duration(limits.lifetime.unwrap_or_default());
            return Some(format!("it has lived for its lifetime of {limit}"));
        }
        if let Some(usage) = worker.usage {
            // Above its limit Node accepts and closes at once: it would swallow the shared queue.
            if usage.fd_limit > 0
                && usage.fds.saturating_mul(10) >= usage.fd_limit.saturating_mul(9)
            {
                let Usage { fds, fd_limit, .. } = usage;
                return Some(format!("it holds {fds} of {fd_limit} descriptors"));
            }
            if worker.over_memory >= Policy::MEMORY_SAMPLES {
                let memory = usage.memory / MIB;
                let samples = Policy::MEMORY_SAMPLES;
                return Some(format!(
                    "its resident memory (RSS) is {memory} MiB, {samples} samples in a row"
                ));
            }
        }
        let beat = worker.beat?;
        if reached(limits.requests, beat.requests) {
            return Some(format!("it has answered {} requests", beat.requests));
        }
        reached(limits.heap, beat.heap_used)
            .then(|| format!("its heap holds {} MiB", beat.heap_used / MIB))
    }

    fn recycles_at(&self) -> Time {
        self.recycled_at
            .map_or(Time::default(), |at| at + Policy::RECYCLE_FLOOR)
    }

    pub(super) fn recycle(&mut self) {
        let under_way = self.fleet.iter().any(|w| w.trouble == Some(Kind::Recycled));
        let reloads = self.reload.is_some() || self.pending.is_some();
        if under_way || reloads || self.parked || self.recycles_at() > self.now {
            return;
        }
        let spent = self
            .fleet
            .iter()
            .find_map(|w| self.is_spent(w).map(|why| (w.id, why)));
        if let Some((id, why)) = spent {
            self.recycled_at = Some(self.now);
            self.condemn(id, Kind::Recycled, &format!("recycled: {why}"));
        }
    }

    pub(super) fn recycle_deadlines(&self) -> Vec<Time> {
        let lifetimes = self.fleet.iter().filter_map(|w| self.lives_until(w));
        lifetimes.chain([self.recycles_at()]).collect()
    }
}
