//! The loop: waits for one thing, turns it into events, lets the supervisor
//! step, carries out its orders. Nothing else in the master waits.

use std::{collections::VecDeque, os::fd::RawFd, time::Duration};

use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    clock::Clock,
    effects::World,
    link::FromLink,
    manager::Manager,
    prepare::Prepared,
    report,
    signals::{Signals, Told},
    upgrade::Upgrade,
    verdict::Verdict,
};
use crate::admin::{Readiness, Request, RestartReply, ScaleReply};
use rcluster_core::supervisor::{Event, FleetState, Scale, Supervisor, Time, Urgency, WorkerId};
use rcluster_sys::terminal::Terminal;

/// A signal to stop that follows another one sooner is the same wish: wrapper scripts, `timeout` and terminals send two.
const SAME_WISH: Duration = Duration::from_secs(1);
/// How often children are looked for while an end is waited for: a SIGCHLD that was lost, or a `waitid` that failed, must not
/// hang a stop.
const REAP: Duration = Duration::from_secs(1);
/// How long the last answers of the API may take.
const LAST_ANSWERS: Duration = Duration::from_millis(250);

/// Where events come from.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) signals: Signals,
    pub(super) requests: Receiver<Request>,
    pub(super) inbox: Receiver<(WorkerId, FromLink)>,
}

enum Input {
    Signal(Told),
    Request(Request),
    Link(WorkerId, FromLink),
    /// A worker said something about the connections that it was given.
    Hand,
    /// A connection waits where nobody but the master accepts.
    Arrival,
    /// A listening socket that was shut down listens again.
    Reopened(RawFd),
    /// What a reload reads was read, or could not be.
    Prepared(Box<Prepared>),
    Tick,
    /// The last answer before an upgrade is written.
    Left,
}

/// The process master.
#[derive(Debug)]
pub(super) struct Master {
    pub(super) supervisor: Supervisor,
    pub(super) clock: Clock,
    pub(super) world: World,
    terminal: Option<Terminal>,
    manager: Manager,
    /// When the last signal to stop came that had an effect.
    interrupted: Option<Instant>,
    /// When children are looked for although no signal told of an end.
    reap_at: Option<Instant>,
    /// When the stop begins that was announced by `--pre-stop`.
    leave_at: Option<Instant>,
    pub(super) upgrade: Upgrade,
    /// The program before this one left it to us.
    resumed: bool,
}

/// A reload that nobody waits for.
fn reload() -> Event {
    Event::Reload {
        ticket: None,
        may_drop: vec![],
    }
}

impl Master {
    pub(super) fn new(
        supervisor: Supervisor,
        world: World,
        manager: Manager,
        upgrade: Upgrade,
    ) -> Self {
        Self {
            supervisor,
            clock: Clock::start(),
            world,
            terminal: Terminal::of_process(),
            manager,
            interrupted: None,
            reap_at: None,
            leave_at: None,
            upgrade,
            resumed: false,
        }
    }

    /// The master that ran in the program before this one.
    pub(super) fn resume(
        supervisor: Supervisor,
        world: World,
        clock: Clock,
        upgrade: Upgrade,
    ) -> Self {
        let manager = Manager::resumed(supervisor.brief());
        Self {
            clock,
            resumed: true,
            ..Self::new(supervisor, world, manager, upgrade)
        }
    }

    /// Runs until every worker is gone.
    pub(super) async fn run(mut self, mut inputs: Inputs) -> Verdict {
        if self.resumed {
            // Nobody was told of a child that ended meanwhile.
            self.signal(Told::Child);
            self.dispatch(Event::Resumed);
        }
        self.dispatch(Event::Tick);
        loop {
            if let Some(verdict) = self.world.verdict.take() {
                self.world.close(&verdict).await;
                self.answer_last(&mut inputs, &verdict).await;
                return verdict;
            }
            self.plan_reaping();
            let input = self.next_input(&mut inputs).await;
            self.manager.turn();
            if self.leave_at.is_some_and(|at| at <= Instant::now()) {
                self.stop("SIGTERM", Urgency::Graceful);
            }
            if self.reap_at.is_some_and(|at| at <= Instant::now()) {
                self.reap_at = None;
                self.signal(Told::Child);
            }
            if let Some(pause) = self.clock.woke() {
                self.world.endings.delay(pause.moved);
                if pause.is_long() {
                    warn!(
                        pause_ms = pause.late.as_millis() as u64,
                        event = "master_paused",
                        "the master itself was paused; its timeouts are moved by as much"
                    );
                }
            }
            match input {
                Input::Signal(told) => self.signal(told),
                Input::Request(request) => self.request(request),
                Input::Link(id, what) => {
                    if let Some(event) = self.world.hear(id, what, &self.supervisor) {
                        self.dispatch(event);
                    }
                }
                Input::Hand => self.world.hear_hands(),
                Input::Arrival => self.world.welcome(),
                Input::Reopened(socket) => {
                    self.world.listeners.reopened(socket);
                    self.world.balancer.stale = true;
                    self.world.follow_balance(&self.supervisor);
                }
                Input::Prepared(prepared) => {
                    for event in self.world.prepared(*prepared, &self.supervisor) {
                        self.dispatch(event);
                    }
                }
                Input::Tick if self.world.tend_detached() => {}
                Input::Tick if self.world.look() && !self.is_due() => {}
                Input::Tick => {
                    for event in self.world.endings.overdue() {
                        self.dispatch(event);
                    }
                    self.dispatch(Event::Tick);
                    self.world.keep_guard(self.clock.now(), &self.supervisor);
                }
                Input::Left => {}
            }
            self.turn_upgrade(&mut inputs).await;
        }
    }

    fn plan_reaping(&mut self) {
        self.reap_at = self
            .supervisor
            .is_ending()
            .then(|| self.reap_at.unwrap_or_else(|| Instant::now() + REAP));
    }

    /// Writes the answers of those who wait for the end, and of those who asked for it last.
    async fn answer_last(&mut self, inputs: &mut Inputs, verdict: &Verdict) {
        let answers = tokio::time::timeout(LAST_ANSWERS, self.upgrade.end_serving());
        let mut answers = std::pin::pin!(answers);
        loop {
            tokio::select! {
                biased;
                _ = &mut answers => return,
                Some(request) = inputs.requests.recv() => {
                    if matches!(request, Request::Status(_) | Request::Readiness(_)) {
                        self.request(request);
                    } else if let Request::Stop { reply, .. } = request {
                        // Whoever asked may have gone.
                        let _ = reply.send(verdict.into());
                    }
                }
            }
        }
    }

    async fn next_input(&mut self, inputs: &mut Inputs) -> Input {
        let deadline = self.deadline().map(|due| self.clock.at(due));
        let wake = deadline.into_iter().chain(self.world.endings.due());
        let wake = wake.chain(self.world.look_due());
        let wake = wake.chain(self.manager.due()).chain(self.leave_at);
        let wake = wake.chain(self.reap_at).chain(self.world.detached.due());
        let wake = wake.chain(self.upgrade.due()).min();
        self.clock.plan(wake);
        // Signals first: a child that ended must be reaped before anything is sent to it.
        tokio::select! {
            biased;
            told = inputs.signals.next() => Input::Signal(told),
            Some(request) = inputs.requests.recv() => Input::Request(request),
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => Input::Tick,
            () = self.upgrade.left() => Input::Left,
            prepared = self.world.preparer.next() => Input::Prepared(Box::new(prepared)),
            socket = self.world.sentries.repaired() => Input::Reopened(socket),
            () = self.world.hands.answer() => Input::Hand,
            () = self.world.hands.arrival(), if self.world.has_a_hand() => Input::Arrival,
            Some((id, what)) = inputs.inbox.recv() => Input::Link(id, what),
        }
    }

    fn deadline(&self) -> Option<Time> {
        let late = self.world.balancer.late_at();
        let guard = self.world.guarding.due();
        let all = self.supervisor.deadline().into_iter();
        let listeners = self.world.listeners.due();
        all.chain(late).chain(guard).chain(listeners).min()
    }

    /// Whether the clock has something for the supervisor.
    fn is_due(&self) -> bool {
        let now = self.clock.now();
        self.deadline().is_some_and(|due| due <= now)
            || self
                .world
                .endings
                .due()
                .is_some_and(|due| due <= Instant::now())
    }

    /// One event and all that its orders bring about.
    pub(super) fn dispatch(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            if let Event::Exited { id, .. } | Event::SpawnFailed { id, .. } = &event {
                let slot = self.supervisor.worker(*id).map(|worker| worker.slot);
                self.world.forget(*id, slot);
            }
            self.world.bus.now = self.clock.now();
            for action in self.supervisor.step(self.world.bus.now, event) {
                let result = self.world.execute(action, &self.supervisor);
                events.extend(result);
            }
        }
        let policy = self.supervisor.policy();
        self.world.sweep_listeners(&self.supervisor);
        self.world.follow(policy);
        self.world.follow_balance(&self.supervisor);
        self.manager.follow(self.supervisor.brief(), policy);
        self.world
            .waiters
            .answer_drained(&self.supervisor, &self.world.bus);
    }

    pub(super) fn signal(&mut self, told: Told) {
        match told {
            Told::Child => {
                for event in self.world.reap(self.clock.now(), &self.supervisor) {
                    self.dispatch(event);
                }
            }
            Told::Hup if self.terminal.as_ref().is_some_and(Terminal::is_gone) => {
                info!(
                    event = "terminal_closed",
                    "the terminal went away: stopping"
                );
                self.dispatch(Event::Stop(Urgency::Graceful));
            }
            Told::Hup => {
                info!(
                    signal = "SIGHUP",
                    event = "reload_requested",
                    "reload asked for"
                );
                self.dispatch(reload());
            }
            Told::Quit => self.stop("SIGQUIT", Urgency::Graceful),
            Told::Int | Told::Term => {
                let now = Instant::now();
                let before = self.interrupted;
                if before.is_some_and(|at| now < at + SAME_WISH) {
                    debug!(
                        event = "stop_repeated",
                        "a signal to stop followed another within a second; ignored"
                    );
                    return;
                }
                self.interrupted = Some(now);
                let again = before.is_some();
                let name = if told == Told::Int {
                    "SIGINT"
                } else {
                    "SIGTERM"
                };
                // What was only announced begins first.
                let urgency = if again && self.leave_at.is_none() {
                    Urgency::Now
                } else {
                    Urgency::Graceful
                };
                if again || told == Told::Int || !self.leave() {
                    self.stop(name, urgency);
                }
            }
            Told::Ttin => self.scale("SIGTTIN", Scale::By(1)),
            Told::Ttou => self.scale("SIGTTOU", Scale::By(-1)),
            // There it means that somebody resized the window.
            Told::Winch if self.terminal.is_some() => {}
            Told::Winch => {
                info!(
                    signal = "SIGWINCH",
                    event = "drain_requested",
                    "drain of all workers asked for"
                );
                self.dispatch(Event::Park);
            }
            Told::Usr2 => self.upgrade.wanted = true,
            Told::Usr1 => {
                if self.world.logs.as_ref().is_some_and(|logs| logs.reopen()) {
                    info!(event = "log_reopened", "log files are opened anew");
                } else {
                    warn!(
                        event = "log_reopen_ignored",
                        "SIGUSR1: there are no log files to open anew (--log-file); ignored"
                    );
                }
            }
        }
    }

    /// Announces the stop and serves on for a while, where that is wanted and there is something to serve.
    fn leave(&mut self) -> bool {
        let wait = self.world.config.pre_stop;
        if wait.is_zero() || self.supervisor.brief().ready == 0 {
            return false;
        }
        info!(
            pre_stop_ms = wait.as_millis() as u64,
            event = "stop_delayed",
            "stop asked for; serving on, not ready for new traffic"
        );
        self.leave_at = Some(Instant::now() + wait);
        self.world.leaving = true;
        self.manager.leaving(self.supervisor.policy(), wait);
        true
    }

    fn stop(&mut self, signal: &str, urgency: Urgency) {
        self.leave_at = None;
        self.world.leaving = true;
        let now = urgency == Urgency::Now;
        info!(signal, now, event = "stop_requested", "stop asked for");
        self.dispatch(Event::Stop(urgency));
    }

    fn scale(&mut self, origin: &str, scale: Scale) {
        info!(
            origin,
            ?scale,
            event = "scale_requested",
            "another number of workers asked for"
        );
        self.dispatch(Event::Scale(scale));
    }

    pub(super) fn request(&mut self, request: Request) {
        match request {
            Request::Status(reply) => {
                let now = self.clock.now();
                let fleet = self.supervisor.view(now);
                let mut status = self.world.status(fleet, &self.supervisor, now);
                status.upgrade = self.upgrade.view.clone();
                // Whoever asked may have gone.
                let _ = reply.send(status);
            }
            Request::Readiness(reply) => {
                let brief = self.supervisor.brief();
                let _ = reply.send(Readiness {
                    ready: brief.ready > 0
                        && !self.world.leaving
                        && brief.state != FleetState::Stopping,
                    leaving: self.world.leaving,
                    workers_ready: brief.ready,
                });
            }
            Request::Reload(wish, reply) => {
                let (ticket, reply) = if wish.wait == Some(false) {
                    (None, Some(reply))
                } else {
                    let since = self.world.bus.now;
                    let ticket = self.world.waiters.add_reload(wish.drained, since, reply);
                    (Some(ticket), None)
                };
                let before = self.supervisor.brief().reload;
                let may_drop = wish.allow_drop;
                info!(
                    rollback = wish.rollback,
                    event = "reload_requested",
                    "reload asked for"
                );
                self.dispatch(if wish.rollback {
                    Event::Rollback { ticket, may_drop }
                } else {
                    Event::Reload { ticket, may_drop }
                });
                if let Some(reply) = reply {
                    let after = self.supervisor.brief().reload;
                    let begun = after.filter(|after| before != Some(*after));
                    let _ = reply.send(self.world.accepted(begun));
                }
            }
            Request::Changed(path) => {
                info!(path = %path.display(), event = "watch_reload", "changed: reload");
                self.dispatch(reload());
            }
            Request::Scale {
                scale,
                force,
                reply,
            } => {
                let (policy, to) = (self.supervisor.policy(), self.supervisor.scaled(scale));
                let excess = report::excess(policy, policy.workers, to);
                if let Some(excess) = excess.filter(|_| !force) {
                    let reason = format!("{excess}; use --force if you mean it");
                    let _ = reply.send(Err(reason));
                    return;
                }
                self.scale("request", scale);
                let workers = self.supervisor.policy().workers;
                let _ = reply.send(Ok(ScaleReply { workers }));
            }
            Request::Logs(wish, reply) => {
                let _ = reply.send(self.world.logs.as_ref().map(|logs| logs.feed(wish)));
            }
            Request::Restart(slot, reply) => {
                let worker = self.supervisor.serving(slot);
                if worker.is_some() {
                    info!(%slot, event = "restart_requested", "restart asked for");
                    let reason = "an operator asked for it".to_owned();
                    self.dispatch(Event::Restart { slot, reason });
                }
                let _ = reply.send(worker.map(|worker| RestartReply { slot, worker }));
            }
            Request::Repaired(repaired) => self.upgrade.repaired(repaired),
            Request::Upgrade(wish, reply) => self.upgrade.ask(wish, reply),
            Request::Stop { now, reply } => {
                self.world.waiters.add_stop(reply);
                let urgency = if now { Urgency::Now } else { Urgency::Graceful };
                self.stop("request", urgency);
            }
        }
    }
}
