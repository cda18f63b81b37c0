//! What the master learns of a worker besides what it says: the kernel's
//! counts, its health, where it hangs. Nothing here is waited for.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Sender;

use super::{autopsy, effects::World, health, link::FromLink};
use rcluster_core::{
    ipc::outbound,
    supervisor::{Event, Exit, Fact, Finding, Pid, Policy, Supervisor, Usage, WorkerId},
};
use rcluster_sys::{cgroup, procfs};

/// Two that are killed for memory at once are reaped one after the other within this time.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The counter of the cgroup as it was when it was last read.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct OomCounter {
    read: Option<u64>,
    /// By how much it rose last, when, and how many of those are not accounted for.
    #[serde(skip)]
    rise: Option<(u64, Instant, u64)>,
}

impl OomCounter {
    pub(super) fn start() -> Self {
        Self {
            read: cgroup::oom_kills(),
            rise: None,
        }
    }

    /// By how much it rose, if one that was killed now may have been killed for that.
    fn risen(&mut self, read: Option<u64>, at: Instant) -> Option<u64> {
        let now = read?;
        let before = self.read.replace(now)?;
        let new = now.checked_sub(before).filter(|n| *n > 0);
        if let Some(kills) = new {
            self.rise = Some((kills, at, kills - 1));
            return Some(kills);
        }
        let (kills, then, left) = self.rise.as_mut()?;
        let also = *left > 0 && at.duration_since(*then) < AT_ONCE;
        *left = left.checked_sub(1)?;
        also.then_some(*kills)
    }
}

impl World {
    fn report(&self, id: WorkerId) -> impl FnOnce(Fact) -> Reporting + use<> {
        let inbox = self.inbox.clone();
        move |fact| Reporting(inbox, id, fact)
    }

    pub(super) fn pid_of(&self, id: WorkerId) -> Option<Pid> {
        self.pids
            .iter()
            .find(|(_, worker)| **worker == id)
            .map(|(pid, _)| *pid)
    }

    /// Looks what the kernel counts for a worker.
    pub(super) fn measure(&mut self, id: WorkerId) -> Option<Event> {
        self.note_children(id);
        let usage: Usage = procfs::usage(self.pid_of(id)?)?;
        self.figures.measured(id, &usage);
        Some(Event::Worker {
            id,
            fact: Fact::Measured(usage),
        })
    }

    /// Asks a worker's own server for the health path.
    pub(super) fn probe(&mut self, id: WorkerId, supervisor: &Supervisor) -> Option<Event> {
        let bad = |why: String| {
            Some(Event::Worker {
                id,
                fact: Fact::Probed(Err(why)),
            })
        };
        let launch = self.launch_of(id, supervisor);
        let health = supervisor
            .worker(id)
            .and_then(|w| supervisor.terms(w).health);
        let (Some(health), Some(path)) = (health, launch.health_path.clone()) else {
            return None;
        };
        let (at, path) = health::target(&path);
        let path = path.to_owned();
        let (key, tls) = match self.listeners.asked_of(id, at.as_ref()) {
            Ok(asked) => asked,
            Err(missing) => return bad(missing),
        };
        let (ours, theirs) = match rcluster_sys::fd_pass::channel() {
            Ok(pair) => pair,
            Err(error) => return bad(format!("failed to make a socket pair: {error}")),
        };
        let link = self.links.get(&id)?;
        self.probes += 1;
        link.send_handle(outbound::health_check(&key, self.probes), theirs.into());
        self.hands.also(id);
        let report = self.report(id);
        tokio::spawn(async move {
            let answer = health::ask(ours, &path, tls, health.timeout).await;
            let answer = answer.map_err(|why| format!("GET {path}: {why}"));
            report(Fact::Probed(answer)).send().await;
        });
        None
    }

    /// Looks into a silent worker.
    pub(super) fn examine(&mut self, id: WorkerId, supervisor: &Supervisor) -> Option<Event> {
        let found = |finding| {
            Some(Event::Worker {
                id,
                fact: Fact::Examined(finding),
            })
        };
        let pid = self.pid_of(id)?;
        if procfs::is_stopped(pid) {
            return found(Finding::Stopped);
        }
        let why_not = self.no_stack(id, pid, supervisor);
        let report = self.report(id);
        let ticks = procfs::loop_ticks(pid);
        if why_not.is_none() {
            // The stack comes through the channel, before the look ends.
            rcluster_sys::process::signal(pid, Signal::SIGUSR1);
        }
        tokio::spawn(async move {
            let limit = if why_not.is_some() {
                autopsy::GLANCE
            } else {
                Policy::EXAMINATION
            };
            autopsy::pass(limit).await;
            let finding = autopsy::native(pid, ticks, why_not).await;
            report(Fact::Examined(finding)).send().await;
        });
        None
    }

    /// Why a worker cannot be asked for its stack. Without a handler SIGUSR1 would kill it.
    fn no_stack(&self, id: WorkerId, pid: Pid, supervisor: &Supervisor) -> Option<String> {
        let why = if !self.launch_of(id, supervisor).captures_stacks() {
            "stacks are not captured: --no-autopsy, or a root master without --autopsy"
        } else if !procfs::catches(pid, Signal::SIGUSR1) {
            "node does not listen to SIGUSR1: --disable-sigusr1 or --permission"
        } else if self.links.get(&id).is_none_or(|link| !link.has_stack) {
            "its inspector is open (--inspect: attach to it), or its shim is of an older version"
        } else {
            return None;
        };
        Some(why.to_owned())
    }

    /// Looks whether a silent worker's event loop is idle.
    pub(super) fn check_idle(&self, id: WorkerId) {
        let Some(pid) = self.pid_of(id) else {
            return;
        };
        let report = self.report(id);
        tokio::spawn(async move {
            if autopsy::is_idle_soon(pid).await {
                report(Fact::Idle).send().await;
            }
        });
    }

    /// What must be told of a worker's end before the end itself: that the kernel
    /// killed it for memory.
    pub(super) fn post_mortem(&mut self, id: WorkerId, exit: Exit) -> Option<Event> {
        if !exit.is_kill() {
            return None;
        }
        let kills = self.oom.risen(cgroup::oom_kills(), Instant::now())?;
        Some(Event::Worker {
            id,
            fact: Fact::OutOfMemory { kills },
        })
    }
}

/// A fact on its way to the loop.
struct Reporting(Sender<(WorkerId, FromLink)>, WorkerId, Fact);

impl Reporting {
    async fn send(self) {
        let Self(inbox, id, fact) = self;
        // Fails only when the loop has ended.
        let _ = inbox.send((id, FromLink::Fact(fact))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_are_killed_for_memory_at_once_are_both_told() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut counter = OomCounter {
            read: Some(5),
            rise: None,
        };
        assert_eq!(counter.risen(Some(5), after(0)), None);
        assert_eq!(counter.risen(Some(7), after(10)), Some(2));
        assert_eq!(counter.risen(Some(7), after(400)), Some(2));
        assert_eq!(counter.risen(Some(7), after(500)), None);
        assert_eq!(counter.risen(Some(9), after(600)), Some(2));
        assert_eq!(counter.risen(Some(9), after(1600)), None, "too late");
        assert_eq!(counter.risen(None, after(1700)), None);
    }
}
