//! Carrying out orders: one arm an [`Action`]. Never waits for a worker.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::sync::mpsc::Sender;
use tracing::{debug, info, warn};

use super::{
    balance::Balancer,
    chatter::Chatter,
    detached::Detached,
    endings::Endings,
    figures::Figures,
    guarding::Guarding,
    hands::Hands,
    link::{FromLink, Link},
    listeners::Listeners,
    overview::{Bus, Told},
    port_owner::PortOwners,
    prepare::{Prepared, Preparer},
    release::Release,
    report,
    reread::Reread,
    senses::OomCounter,
    sentries::Sentries,
    shim_file::ShimFile,
    verdict::Verdict,
    waiters::Waiters,
};
use crate::{
    config::{Config, Launch},
    logs::Logs,
};
use rcluster_core::{
    ipc::{Query, outbound},
    supervisor::{
        Action, Event, Exit, Generation, Pid, Policy, Report, Slot, State, StopSignal, Supervisor,
        Time, WorkerId,
    },
};
use rcluster_sys::{
    guard::Guard, identity::Identity, limits::Reserve, path_thread, process, spawn::ExecReport,
};

/// How long the end waits until sockets' files are removed.
const SETTLE: Duration = Duration::from_secs(1);

/// What the master holds of the world.
#[derive(Debug)]
pub(super) struct World {
    pub(super) config: Config,
    pub(super) figures: Figures,
    pub(super) bus: Bus,
    /// Where the API listens besides the control socket.
    pub(super) admin: Option<SocketAddr>,
    /// Where workers print, if it passes through us.
    pub(super) logs: Option<Arc<Logs>>,
    pub(super) links: HashMap<WorkerId, Link>,
    pub(super) listeners: Listeners,
    pub(super) hands: Hands,
    pub(super) balancer: Balancer,
    pub(super) sentries: Sentries,
    /// Queries for Unix paths by key, in order; the first one's file is being made or put back.
    pub(super) at_paths: BTreeMap<String, VecDeque<(WorkerId, Query)>>,
    pub(super) port_owners: PortOwners,
    /// Queries of workers that are held at the gate.
    pub(super) withheld: HashMap<WorkerId, Vec<Query>>,
    pub(super) endings: Endings,
    /// Refused queries that the log has told of.
    pub(super) refused: HashSet<(WorkerId, String)>,
    pub(super) chatter: Chatter,
    pub(super) told: Told,
    pub(super) verdict: Option<Verdict>,
    pub(super) reread: Reread,
    pub(super) preparer: Preparer,
    pub(super) oom: OomCounter,
    /// Connections that were given to workers so far, by `seq`; health checks too.
    pub(super) probes: u64,
    /// A stop was asked for, although it may not have begun yet.
    pub(super) leaving: bool,
    pub(super) pids: BTreeMap<Pid, WorkerId>,
    /// Programs that were started and have not said a word yet.
    pub(super) starting: BTreeMap<WorkerId, (String, ExecReport)>,
    pub(super) releases: BTreeMap<Generation, Release>,
    pub(super) shim: Option<ShimFile>,
    /// The newest generation whose faulty shim the log has told of.
    pub(super) shim_fault: Option<Generation>,
    pub(super) guard: Option<Guard>,
    pub(super) guarding: Guarding,
    /// Processes that ended workers left behind.
    pub(super) detached: Detached,
    /// Descriptors for the start of a worker.
    pub(super) reserve: Reserve,
    pub(super) inbox: Sender<(WorkerId, FromLink)>,
    pub(super) waiters: Waiters,
    /// A binary that is being asked, and how it ended.
    pub(super) probe: Option<(Pid, Option<Exit>)>,
}

impl World {
    pub(super) fn new(
        config: Config,
        releases: BTreeMap<Generation, Release>,
        listeners: Listeners,
        shim: Option<ShimFile>,
        guard: Option<Guard>,
        inbox: Sender<(WorkerId, FromLink)>,
    ) -> Self {
        let reread = Reread::new(&config);
        let sentries = Sentries::new(config.backlog);
        let mut reserve = Reserve::default();
        reserve.refill();
        Self {
            config,
            figures: Figures::default(),
            bus: Bus::new(),
            admin: None,
            logs: None,
            links: HashMap::new(),
            listeners,
            hands: Hands::default(),
            balancer: Balancer::default(),
            sentries,
            at_paths: BTreeMap::new(),
            port_owners: PortOwners::default(),
            withheld: HashMap::new(),
            endings: Endings::default(),
            refused: HashSet::new(),
            chatter: Chatter::default(),
            told: Told::default(),
            verdict: None,
            reread,
            preparer: Preparer::default(),
            oom: OomCounter::start(),
            probes: 0,
            leaving: false,
            pids: BTreeMap::new(),
            starting: BTreeMap::new(),
            releases,
            shim,
            shim_fault: None,
            guard,
            guarding: Guarding::default(),
            detached: Detached::default(),
            reserve,
            inbox,
            waiters: Waiters::default(),
            probe: None,
        }
    }

    /// Carries out one order; the result is the next event.
    pub(super) fn execute(&mut self, action: Action, supervisor: &Supervisor) -> Option<Event> {
        match action {
            Action::Prepare { generation, from } => {
                self.reserve.lend();
                self.prepare(generation, from);
                None
            }
            Action::Spawn {
                id,
                slot,
                generation,
                gate: _,
            } => {
                self.reserve.lend();
                let terms = supervisor.worker(id).map(|w| supervisor.terms(w));
                let terms = terms.unwrap_or_else(|| supervisor.policy().terms());
                let spawned = self.spawn(id, slot, generation, &terms);
                self.reserve.refill();
                Some(match spawned {
                    Ok(pid) => Event::Spawned { id, pid },
                    Err(reason) => Event::SpawnFailed { id, reason },
                })
            }
            Action::OpenGate { id } => self.open_gate(id, supervisor),
            Action::Drain { id } => {
                if let Some(worker) = supervisor.worker(id) {
                    self.drain(id, &supervisor.way_out(worker));
                }
                None
            }
            Action::Signal { id, signal } => {
                let signal = match signal {
                    StopSignal::Stop => self.launch_of(id, supervisor).stop_signal,
                    StopSignal::Kill => Signal::SIGKILL,
                };
                // No pid here means that it was reaped: nothing may be sent any more.
                if let Some((pid, _)) = self.pids.iter().find(|(_, worker)| **worker == id) {
                    process::signal(*pid, signal);
                }
                None
            }
            Action::Promote { id, slot } => {
                self.send(id, outbound::slot(slot.0));
                if let Some(logs) = &self.logs {
                    logs.promote(id.0, slot.0);
                }
                None
            }
            Action::Probe { id } => self.probe(id, supervisor),
            Action::Measure { id } => self.measure(id),
            Action::CheckIdle { id } => {
                self.check_idle(id);
                None
            }
            Action::Examine { id } => self.examine(id, supervisor),
            Action::ReloadEnded {
                tickets,
                of,
                outcome,
            } => {
                let id = of.map(|generation| self.bus.reload_id(generation));
                self.waiters
                    .reload_ended(&tickets, id.as_ref(), &outcome, supervisor);
                None
            }
            Action::Retire { keep } => {
                self.releases.retain(|g, _| keep.contains(g));
                self.balancer.stale = true;
                for address in self.listeners.retire(supervisor.generation()) {
                    info!(
                        address,
                        event = "listener_closed",
                        "listener closed: the new generation did not ask for it"
                    );
                }
                None
            }
            Action::Report(report) => {
                if let Report::Moved {
                    id,
                    to: State::Ready,
                    ..
                } = report
                    && let Some((listens, declared)) = self.listeners.elsewhere(id)
                {
                    warn!(
                        event = "listens_elsewhere",
                        worker = %id,
                        listens,
                        declared,
                        "a ready worker does not listen where --bind declares: clients there wait (does PORT name another port?)"
                    );
                }
                self.tell(report, supervisor);
                None
            }
            Action::Exit { code, reason } => {
                let alike = self.alike(reason.as_deref(), supervisor);
                self.verdict = Some(Verdict {
                    code,
                    reason,
                    alike,
                });
                None
            }
        }
    }

    fn prepare(&self, generation: Generation, from: Option<Generation>) {
        if let Some(release) = from.and_then(|from| self.releases.get(&from)) {
            self.preparer.look(generation, release.clone());
        } else {
            let worker = self.config.identity.as_ref().and_then(Identity::account);
            self.preparer.read(generation, self.reread.clone(), worker);
        }
    }

    /// Takes over what was read for a generation, if it is still wanted.
    pub(super) fn prepared(&mut self, prepared: Prepared, supervisor: &Supervisor) -> Vec<Event> {
        self.reserve.refill();
        let Prepared { generation, result } = prepared;
        if !supervisor.awaits(generation) {
            debug!(%generation, event = "reload_read_discarded", "what was read for a reload is not wanted any more");
            return vec![];
        }
        let (release, fresh) = match result {
            Ok(read) => read,
            Err(reason) => return vec![Event::PrepareFailed { generation, reason }],
        };
        info!(%generation, folder = %release.folder().display(), event = "release_resolved", "release resolved");
        self.releases.insert(generation, release);
        let configured = fresh.map(|fresh| {
            self.reread.follow(&fresh.settings);
            Event::Configured {
                generation,
                policy: Box::new(fresh.policy),
            }
        });
        configured
            .into_iter()
            .chain([Event::Prepared { generation }])
            .collect()
    }

    /// Takes over what the supervisor wants from now on.
    pub(super) fn follow(&mut self, policy: &Policy) {
        self.sentries.follow(self.listeners.streams());
        if self.config.policy == *policy {
            return;
        }
        if self.config.policy.orphan_grace() != policy.orphan_grace()
            && let Some(guard) = &mut self.guard
        {
            // Its end is noticed as any child's.
            let _ = guard.set_grace(policy.orphan_grace());
        }
        report::warn_of_excess(policy, self.config.policy.workers);
        self.config.policy = policy.clone();
    }

    /// What the worker's own generation was started with.
    pub(super) fn launch_of(&self, id: WorkerId, supervisor: &Supervisor) -> &Launch {
        supervisor
            .worker(id)
            .and_then(|worker| self.releases.get(&worker.generation))
            .map_or(&self.config.launch, |release| &release.launch)
    }

    fn open_gate(&mut self, id: WorkerId, supervisor: &Supervisor) -> Option<Event> {
        let worker = supervisor.worker(id)?;
        let mut failed = None;
        for query in self.withheld.remove(&id).unwrap_or_default() {
            failed = failed.or(self.query(worker, query));
        }
        failed.map(|fact| Event::Worker { id, fact })
    }

    fn drain(&mut self, id: WorkerId, policy: &Policy) {
        self.note_children(id);
        let Some(link) = self.links.get(&id) else {
            return;
        };
        if link.has_shim {
            let closing = policy.closing_of_worker();
            link.send(outbound::drain(policy.drain_timeout, closing));
        } else {
            link.send(outbound::disconnect());
        }
    }

    pub(super) fn send(&self, id: WorkerId, line: Vec<u8>) {
        if let Some(link) = self.links.get(&id) {
            link.send(line);
        }
    }

    /// Takes all children that ended.
    pub(super) fn reap(&mut self, now: Time, supervisor: &Supervisor) -> Vec<Event> {
        let mut events = vec![];
        let mut left = false;
        while let Some((pid, exit)) = process::reap(|pid| self.pids.contains_key(&pid)) {
            left = true;
            self.detached.forget(pid);
            if let Some(id) = self.pids.remove(&pid) {
                self.detached.killed_group(pid);
                if let Some(guard) = &mut self.guard {
                    // Its own end is noticed as any child's.
                    let _ = guard.remove(pid);
                }
                if let Some(reason) = self.never_ran(id) {
                    events.push(Event::SpawnFailed { id, reason });
                    continue;
                }
                events.extend(self.post_mortem(id, exit));
                events.extend(self.endings.exited(id, exit));
                if let Some(link) = self.links.get(&id) {
                    link.finish();
                }
            } else if self.guard.as_ref().is_some_and(|g| g.pid() == pid) {
                self.guard_ended(exit, now, supervisor);
            } else if let Some((_, end)) = self.probe.as_mut().filter(|(asked, _)| *asked == pid) {
                *end = Some(exit);
            } else {
                debug!(pid = pid.0, %exit, event = "foreign_reaped", "reaped a process that is not ours");
            }
        }
        if left {
            self.find_detached();
        }
        events
    }

    /// Why a process that has ended never ran its program, if that is so.
    fn never_ran(&mut self, id: WorkerId) -> Option<String> {
        let (program, exec) = self.starting.remove(&id)?;
        let failure = exec.failure()?;
        self.endings.forget(id);
        Some(format!("failed to start {program}: {failure}"))
    }

    /// Everything that is kept of a worker goes, once its end is complete.
    pub(super) fn forget(&mut self, id: WorkerId, slot: Option<Slot>) {
        self.figures.ended(id, slot);
        self.links.remove(&id);
        self.withheld.remove(&id);
        self.refused.retain(|(worker, _)| *worker != id);
        self.chatter.forget(id);
        self.port_owners.forget(id);
        self.listeners.forget(id);
        self.forget_hands(id);
    }

    /// Lets go of everything, ends what workers left behind if that is wanted, and tells those who wait for the end.
    pub(super) async fn close(&mut self, verdict: &Verdict) {
        self.hands.drop_all();
        self.listeners = Listeners::default();
        // A file system that does not answer keeps its files.
        path_thread::settle(SETTLE);
        self.sentries.follow(self.listeners.streams());
        if let Some(guard) = self.guard.take() {
            guard.finish();
            // It was killed: this is a matter of milliseconds, and nobody depends on it.
            for _ in 0..100 {
                if guard.has_ended() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        self.end_detached().await;
        self.shim = None;
        self.waiters.stopped(verdict);
    }
}
