//! Processes that workers started in sessions of their own (`detached: true`, daemons) and left behind. The
//! master is their parent then (`PR_SET_CHILD_SUBREAPER`): it finds them at a worker's end, tells of them, counts
//! them, and with `--reap-detached` ends them.
//!
//! What is in the worker's own process group is killed with it, so it counts only if it lives on after that (it may belong to
//! another user).
//!
//! A process is left behind when its worker is known and has ended: by the worker's session, or because it was seen among
//! the worker's children. Else it is when no worker runs that could have started it, because all are younger.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::time::Instant;
use tracing::{info, warn};

use super::effects::World;
use rcluster_core::supervisor::{Pid, WorkerId};
use rcluster_sys::{
    guard::Guard,
    process,
    procfs::{self, Kin},
};

/// How often the end of what is ended is looked for when the master stops.
const LOOK: Duration = Duration::from_millis(10);
/// After the kill of its process group, a process has this long to end.
const DYING: Duration = Duration::from_secs(1);
/// What one that is ended leaves behind is ended too, so often.
const ROUNDS: u32 = 8;

#[derive(Debug)]
struct Left {
    kin: Kin,
    /// When it is killed; `None`: it may live.
    kill_at: Option<Instant>,
}

/// What is known of workers' children, and of those that were left behind.
#[derive(Debug, Default)]
pub(super) struct Detached {
    /// Children that were seen while their worker ran.
    seen: HashMap<Pid, (u64, WorkerId)>,
    /// Sessions of workers, living and ended. A number stays taken while the session has a process.
    sessions: BTreeSet<Pid>,
    /// Process groups of workers that ended. A number stays taken while the group has a process.
    groups: BTreeSet<Pid>,
    /// Processes of groups that were killed, with their birth and when they were first seen after it.
    dying: BTreeMap<Pid, (u64, Instant)>,
    left: BTreeMap<Pid, Left>,
    ended: u64,
    /// When the first worker started. A child that is older was there before the master: a shell script that
    /// ends with `exec rcluster` may have started it.
    first: Option<u64>,
}

impl Detached {
    /// How many live that were left behind.
    pub(super) fn count(&self) -> u64 {
        self.left.len() as u64
    }

    /// How many were ended.
    pub(super) fn ended(&self) -> u64 {
        self.ended
    }

    /// When the next one is killed.
    pub(super) fn due(&self) -> Option<Instant> {
        let kills = self.left.values().filter_map(|left| left.kill_at);
        kills.chain(self.looks_again()).min()
    }

    /// When those that were killed with their group should have ended.
    fn looks_again(&self) -> Option<Instant> {
        self.dying.values().map(|(_, since)| *since + DYING).min()
    }

    /// Whether it was killed a moment ago with the group of its worker.
    fn is_dying(&mut self, kin: &Kin) -> bool {
        if !self.groups.contains(&kin.group) {
            return false;
        }
        let now = Instant::now();
        let (born, since) = *self.dying.entry(kin.pid).or_insert((kin.born, now));
        if born != kin.born {
            self.dying.insert(kin.pid, (kin.born, now));
            return true;
        }
        now < since + DYING
    }

    /// A worker was started.
    pub(super) fn started(&mut self, worker: Pid) {
        let born = procfs::born(worker).into_iter();
        self.first = born.chain(self.first).min();
    }

    /// A worker has ended, and its process group was killed.
    pub(super) fn killed_group(&mut self, worker: Pid) {
        self.groups.insert(worker);
    }

    /// A child was reaped.
    pub(super) fn forget(&mut self, pid: Pid) {
        self.seen.remove(&pid);
        if let Some(left) = self.left.remove(&pid)
            && left.kill_at.is_some()
        {
            self.ended += 1;
        }
    }

    /// Whether it was left behind. `workers` are those that run, with when they started; `exact`: strangers
    /// may be our children, too.
    fn is_left(&self, kin: &Kin, workers: &BTreeMap<Pid, (u64, WorkerId)>, exact: bool) -> bool {
        if self.first.is_none_or(|first| kin.born < first) {
            return false;
        }
        if let Some((born, id)) = self.seen.get(&kin.pid)
            && *born == kin.born
        {
            return !workers.values().any(|(_, worker)| worker == id);
        }
        if self.sessions.contains(&kin.session) {
            return !workers.contains_key(&kin.session);
        }
        !exact && workers.values().all(|(born, _)| *born > kin.born)
    }
}

impl World {
    /// Looks which children a worker has, while it runs.
    pub(super) fn note_children(&mut self, id: WorkerId) {
        let Some(pid) = self.pid_of(id) else { return };
        let children = procfs::pids_of_children(pid).into_iter();
        let known = children.filter_map(|child| Some((child, (procfs::born(child)?, id))));
        self.detached.seen.retain(|_, (_, worker)| *worker != id);
        self.detached.seen.extend(known);
    }

    /// Looks for what the workers that ended have left behind.
    pub(super) fn find_detached(&mut self) {
        let guard = self.guard.as_ref().map(Guard::pid);
        let probe = self.probe.as_ref().map(|(pid, _)| *pid);
        let us = Pid(std::process::id().cast_signed());
        let children = procfs::pids_of_children(us);
        self.detached.sessions.extend(self.pids.keys());
        let others = children
            .iter()
            .filter(|pid| !self.pids.contains_key(pid) && ![guard, probe].contains(&Some(**pid)));
        let others: Vec<_> = others.filter_map(|pid| Kin::of(*pid)).collect();
        let sessions: BTreeSet<_> = others.iter().map(|kin| kin.session).collect();
        (self.detached.sessions)
            .retain(|session| self.pids.contains_key(session) || sessions.contains(session));
        let groups: BTreeSet<_> = others.iter().map(|kin| kin.group).collect();
        (self.detached.groups).retain(|group| groups.contains(group));
        let living: BTreeSet<_> = self.pids.values().copied().collect();
        let there = |pid: &Pid| others.iter().any(|kin| kin.pid == *pid);
        (self.detached.seen).retain(|pid, (_, worker)| living.contains(worker) || there(pid));
        let dying = std::mem::take(&mut self.detached.dying).into_iter();
        self.detached.dying = dying.filter(|(pid, _)| there(pid)).collect();
        if others.is_empty() {
            return;
        }
        let workers = self.pids.iter();
        let workers = workers.filter_map(|(pid, id)| Some((*pid, (procfs::born(*pid)?, *id))));
        let workers: BTreeMap<_, _> = workers.collect();
        // After an upgrade in place nobody else knows.
        let born = workers.values().map(|(born, _)| *born);
        self.detached.first = self.detached.first.or(born.min());
        for kin in others {
            let known = self.detached.left.contains_key(&kin.pid);
            if !known
                && self.detached.is_left(&kin, &workers, us == Pid(1))
                && !self.detached.is_dying(&kin)
            {
                self.detached.dying.remove(&kin.pid);
                self.leave(kin);
            }
        }
    }

    fn leave(&mut self, kin: Kin) {
        let (pid, command) = (kin.pid, procfs::name(kin.pid));
        let reap = self.config.reap_detached;
        // What it starts itself is left behind with it.
        self.detached.sessions.insert(kin.session);
        if reap {
            info!(
                event = "detached_ended",
                pid = pid.0,
                ?command,
                "ending a process that an ended worker left behind"
            );
            signal(&kin, Signal::SIGTERM);
        } else {
            warn!(
                event = "detached_left",
                pid = pid.0,
                ?command,
                "an ended worker left a detached process behind; it lives on (--reap-detached ends such)"
            );
        }
        let kill_at = reap.then(|| Instant::now() + self.config.policy.kill_timeout);
        self.detached.left.insert(pid, Left { kin, kill_at });
    }

    /// Kills those that did not end when they were asked to; whether there was one.
    pub(super) fn tend_detached(&mut self) -> bool {
        let now = Instant::now();
        if self.detached.looks_again().is_some_and(|at| at <= now) {
            self.find_detached();
            (self.detached.dying).retain(|_, (_, since)| now < *since + DYING);
        }
        let mut killed = false;
        for left in self.detached.left.values_mut() {
            if left.kill_at.is_some_and(|at| at <= now) {
                killed = true;
                signal(&left.kin, Signal::SIGKILL);
                // One that is stuck in the kernel is killed again, and holds nobody up.
                left.kill_at = Some(now + Duration::from_secs(1));
            }
        }
        killed
    }

    /// At a stop: all workers are gone. Bounded by twice the kill timeout.
    pub(super) async fn end_detached(&mut self) {
        if !self.config.reap_detached {
            return;
        }
        let limit = Instant::now() + self.config.policy.kill_timeout * 2;
        let mut rounds = 0;
        while Instant::now() < limit && rounds < ROUNDS {
            self.find_detached();
            if self.detached.left.is_empty() {
                return;
            }
            while !self.detached.left.is_empty() && Instant::now() < limit {
                self.tend_detached();
                tokio::time::sleep(LOOK).await;
                while let Some((pid, _)) = process::reap(|_| false) {
                    self.detached.forget(pid);
                }
            }
            rounds += 1;
        }
    }
}

/// With its process group, if it leads one. It is our child: nobody else can have its number.
fn signal(kin: &Kin, signal: Signal) {
    if kin.group == kin.pid {
        process::signal_group(kin.pid, signal);
    } else {
        process::signal(kin.pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kin(pid: i32, session: i32, born: u64) -> Kin {
        Kin {
            pid: Pid(pid),
            group: Pid(pid),
            session: Pid(session),
            born,
        }
    }

    #[test]
    fn nobody_is_left_behind_while_a_worker_runs_that_could_be_the_parent() {
        let workers: BTreeMap<_, _> = [(10, 100, 1), (20, 200, 2)]
            .map(|(pid, born, id)| (Pid(pid), (born, WorkerId(id))))
            .into();
        let mut detached = Detached {
            first: Some(40),
            ..Detached::default()
        };
        let left = |detached: &Detached, kin: &Kin| detached.is_left(kin, &workers, false);
        // Started before the first worker that runs, or after it.
        assert!(left(&detached, &kin(30, 30, 99)));
        assert!(!left(&detached, &kin(30, 30, 150)));
        assert!(
            !left(&detached, &kin(30, 30, 39)),
            "older than the first worker"
        );
        assert!(
            !detached.is_left(&kin(30, 30, 99), &workers, true),
            "a stranger"
        );
        // In the session of a worker that ended, or of one that runs.
        detached.sessions.extend([Pid(5), Pid(10)]);
        assert!(detached.is_left(&kin(30, 5, 150), &workers, true));
        assert!(!detached.is_left(&kin(30, 10, 99), &workers, false));
        // Seen among the children of a worker that ended, or of one that runs; not another one of its number.
        detached.seen.insert(Pid(40), (150, WorkerId(9)));
        detached.seen.insert(Pid(41), (50, WorkerId(2)));
        assert!(detached.is_left(&kin(40, 40, 150), &workers, true));
        assert!(!detached.is_left(&kin(41, 41, 50), &workers, false));
        assert!(!detached.is_left(&kin(40, 40, 151), &workers, false));
    }
}
