//! An observer of one supervisor: what can only be judged over many steps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    super::{
        Action, Backoff, Event, Fact, Gate, Generation, Policy, Report, Slot, SpawnBudget, State,
        StopSignal, Supervisor, Ticket, Time, WorkerId, machine::Phase,
    },
    coverage,
    deaths::Deaths,
    invariants::{self, Step, Verdict, ensure, moves},
};
use crate::exit_code::ExitCode;

/// Steps kept for the report of a failure.
const KEPT: usize = 60;

/// What is known of a worker that was ordered and not yet removed.
#[derive(Clone, Debug)]
struct Seen {
    gate: Gate,
    opened: bool,
    drained: bool,
    stopped: bool,
}

/// A supervisor under observation.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) machine: Supervisor,
    /// Gets the same events, and is now and then written out and read back.
    twin: Option<Supervisor>,
    live: BTreeMap<WorkerId, Seen>,
    last_id: WorkerId,
    spawned: BTreeSet<(Slot, Generation)>,
    restarts: Restarts,
    deaths: Deaths,
    seen: coverage::Seen,
    pub(super) open_tickets: BTreeSet<Ticket>,
    served: bool,
    pub(super) stop_asked: bool,
    boot_failed: bool,
    bind_failed: bool,
    first_failure: Option<ExitCode>,
    kills: BTreeSet<WorkerId>,
    pub(super) exit: Option<ExitCode>,
    trace: VecDeque<(Time, Event, Vec<Action>)>,
}

/// The bound of [`SpawnBudget`] on any window, watched from outside.
#[derive(Clone, Copy, Debug, Default)]
struct Restarts {
    thousandths: u64,
    at: Time,
}

impl Watch {
    pub(super) fn new(policy: Policy, seed: u64, twin: bool) -> Self {
        let machine = Supervisor::new(policy, seed);
        Self {
            twin: twin.then(|| machine.clone()),
            machine,
            live: BTreeMap::new(),
            last_id: WorkerId(0),
            spawned: BTreeSet::new(),
            restarts: Restarts::default(),
            deaths: Deaths::default(),
            seen: coverage::Seen::default(),
            open_tickets: BTreeSet::new(),
            served: false,
            stop_asked: false,
            boot_failed: false,
            bind_failed: false,
            first_failure: None,
            kills: BTreeSet::new(),
            exit: None,
            trace: VecDeque::new(),
        }
    }

    /// Workers that the machine should know.
    pub(super) fn ids(&self) -> impl Iterator<Item = WorkerId> {
        self.live.keys().copied()
    }

    /// The last steps, for a reader.
    pub(super) fn trace(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for (at, event, actions) in &self.trace {
            let _ = writeln!(text, "{at}: {event:?}");
            for action in actions {
                let _ = writeln!(text, "    {action:?}");
            }
        }
        text
    }

    /// One step of the machine, with every check.
    pub(super) fn step(&mut self, now: Time, event: &Event) -> Result<Vec<Action>, String> {
        let before = self.machine.clone();
        let actions = self.machine.step(now, event.clone());
        if self.trace.len() == KEPT {
            self.trace.pop_front();
        }
        self.trace.push_back((now, event.clone(), actions.clone()));
        self.same_inputs_same_outputs(now, event, &actions)?;
        if self.exit.is_some() {
            self.nothing_after_exit(&before, event, &actions)?;
            return Ok(actions);
        }
        self.asked(event);
        self.seen.note(&before, self.machine.now, event);
        self.seen.prepared(&actions);
        invariants::check(&Step {
            before: &before,
            after: &self.machine,
            event,
            actions: &actions,
            seen: &self.seen,
        })?;
        self.every_spawn_ends_once(event, &actions)?;
        self.orders_make_sense(&actions)?;
        self.deaths.note(&before, self.machine.now, event, &actions);
        self.restarts_are_bounded(&actions)?;
        self.every_ticket_is_answered_once(&actions)?;
        self.the_end_is_justified(&before, event, &actions)?;
        Ok(actions)
    }

    /// Writes the twin out and reads it back, as a master replaced in place would.
    pub(super) fn replace_twin(&mut self) -> Verdict {
        let Some(twin) = &mut self.twin else {
            return Ok(());
        };
        let text = serde_json::to_string(twin).map_err(|e| e.to_string())?;
        *twin = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        ensure(*twin == self.machine, || {
            "the state is not the same after it was written out".to_owned()
        })
    }

    /// The same inputs give the same outputs, across a replacement of the master too.
    fn same_inputs_same_outputs(
        &mut self,
        now: Time,
        event: &Event,
        actions: &[Action],
    ) -> Verdict {
        let Some(twin) = &mut self.twin else {
            return Ok(());
        };
        let same = twin.step(now, event.clone()) == actions;
        ensure(same, || "the twin orders something else".to_owned())
    }

    fn asked(&mut self, event: &Event) {
        match event {
            Event::Reload { ticket, .. } | Event::Rollback { ticket, .. } => {
                self.open_tickets.extend(*ticket);
            }
            Event::Stop(_) => self.stop_asked = true,
            Event::Tick
            | Event::Spawned { .. }
            | Event::SpawnFailed { .. }
            | Event::Worker { .. }
            | Event::Exited { .. }
            | Event::Configured { .. }
            | Event::Prepared { .. }
            | Event::PrepareFailed { .. }
            | Event::Scale(_)
            | Event::Resumed
            | Event::Park
            | Event::Restart { .. } => {}
        }
    }

    /// Ids are new and rise; a worker is removed by its exit or failed start,
    /// told once, and by nothing else.
    fn every_spawn_ends_once(&mut self, event: &Event, actions: &[Action]) -> Verdict {
        let gone = match event {
            Event::Exited { id, .. } | Event::SpawnFailed { id, .. } => {
                self.live.remove(id).map(|_| *id)
            }
            Event::Tick
            | Event::Spawned { .. }
            | Event::Worker { .. }
            | Event::Reload { .. }
            | Event::Rollback { .. }
            | Event::Configured { .. }
            | Event::Prepared { .. }
            | Event::PrepareFailed { .. }
            | Event::Scale(_)
            | Event::Resumed
            | Event::Park
            | Event::Restart { .. }
            | Event::Stop(_) => None,
        };
        let mut told = vec![];
        for action in actions {
            if let Action::Spawn { id, gate, .. } = action {
                ensure(*id > self.last_id, || format!("id {id} is used again"))?;
                self.last_id = *id;
                let seen = Seen {
                    gate: *gate,
                    opened: false,
                    drained: false,
                    stopped: false,
                };
                self.live.insert(*id, seen);
            } else if let Action::Report(Report::Ended { id, .. }) = action {
                told.push(*id);
            }
        }
        ensure(told == Vec::from_iter(gone), || {
            format!("removed {gone:?}, told {told:?}")
        })?;
        ensure(
            self.machine.fleet.iter().map(|w| w.id).eq(self.ids()),
            || "the fleet is not what was spawned and not removed".to_owned(),
        )
    }

    /// A gate opens once and only if it was closed; a drain and a stop signal
    /// are ordered once; a drain has a channel to go through; and nothing is
    /// ordered of a worker that is gone.
    fn orders_make_sense(&mut self, actions: &[Action]) -> Verdict {
        for action in actions {
            let (id, fine) = if let Action::OpenGate { id } = action {
                let once = |s: &mut Seen| {
                    s.gate == Gate::Closed && !std::mem::replace(&mut s.opened, true)
                };
                (id, self.live.get_mut(id).is_some_and(once))
            } else if let Action::Drain { id } = action {
                let once = |s: &mut Seen| !std::mem::replace(&mut s.drained, true);
                let open = self.machine.worker(*id).is_some_and(|w| w.channel_open);
                (id, open && self.live.get_mut(id).is_some_and(once))
            } else if let Action::Signal { id, signal } = action {
                let stop = *signal == StopSignal::Stop;
                let once = |s: &mut Seen| !stop || !std::mem::replace(&mut s.stopped, true);
                (id, self.live.get_mut(id).is_some_and(once))
            } else {
                continue;
            };
            ensure(fine, || format!("{action:?} of worker {id}"))?;
        }
        Ok(())
    }

    /// Restarts (all spawns but the first of a generation in a slot, which a
    /// boot or a reload asks for) in any window stay within [`SpawnBudget`].
    fn restarts_are_bounded(&mut self, actions: &[Action]) -> Verdict {
        // The budget grows with the fleet; what it was at its largest bounds it.
        let seats = u32::try_from(self.machine.seats.len()).unwrap_or(u32::MAX);
        let workers = self.machine.policy.workers.max(seats);
        for action in actions {
            let Action::Spawn {
                slot, generation, ..
            } = action
            else {
                continue;
            };
            if self.spawned.insert((*slot, *generation)) {
                continue;
            }
            let Restarts { thousandths, at } = &mut self.restarts;
            let elapsed = self.machine.now.0 - at.0;
            let leaked = thousandths.saturating_sub(elapsed * SpawnBudget::per_second(workers));
            (*thousandths, *at) = (leaked + 1000, self.machine.now);
            let most = SpawnBudget::burst(workers) * 1000;
            ensure(*thousandths <= most, || {
                format!("{thousandths} thousandths of a restart in a window")
            })?;
            // A slot waits for its backoff, whoever fills it.
            let seat = self.machine.seats.get(slot.0 as usize);
            let due = seat.map_or(Time(0), |s| s.backoff.not_before());
            ensure(due <= self.machine.now, || {
                format!("slot {slot} filled before {due}")
            })?;
            ensure(due.since(self.machine.now) <= Backoff::CAP, String::new)?;
            self.deaths.were_waited_for(*slot, self.machine.now)?;
        }
        Ok(())
    }

    /// Whoever waits for a reload gets one answer.
    fn every_ticket_is_answered_once(&mut self, actions: &[Action]) -> Verdict {
        for action in actions {
            if let Action::ReloadEnded { tickets, .. } = action {
                for ticket in tickets {
                    ensure(self.open_tickets.remove(ticket), || {
                        format!("{ticket:?} is answered twice")
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Before it has served, the master ends with 5 if an address could not be
    /// bound, else by its first failure: 4 if that was the ready timeout, 3 if
    /// not. Afterwards only a stop ends it: with 6 if one had to be killed, else 0.
    fn the_end_is_justified(
        &mut self,
        before: &Supervisor,
        event: &Event,
        actions: &[Action],
    ) -> Verdict {
        let first_boot = before.phase == Phase::FirstBoot;
        self.served |= self.machine.phase == Phase::Serving;
        if first_boot {
            self.note_boot_failures(before, event, actions);
        }
        let stopping = matches!(self.machine.phase, Phase::Stopping(_) | Phase::Over);
        if first_boot && stopping && !self.stop_asked {
            self.boot_failed = true;
        }
        if stopping {
            self.note_kills(event, actions);
        }
        let mut exits = actions.iter().filter_map(|action| {
            let Action::Exit { code, .. } = action else {
                return None;
            };
            Some(*code)
        });
        let Some(code) = exits.next() else {
            return Ok(());
        };
        ensure(exits.next().is_none(), || "two exits".to_owned())?;
        ensure(self.stop_asked || !self.served, || {
            "it gave up after it had served".to_owned()
        })?;
        let expected = if self.boot_failed && self.bind_failed {
            Some(ExitCode::BindFailed)
        } else if self.boot_failed {
            self.first_failure
        } else if self.kills.is_empty() {
            Some(ExitCode::Ok)
        } else {
            Some(ExitCode::Killed)
        };
        ensure(Some(code) == expected, || {
            format!("exit {code:?}, expected {expected:?}")
        })?;
        ensure(self.open_tickets.is_empty(), || {
            format!("never answered: {:?}", self.open_tickets)
        })?;
        self.exit = Some(code);
        Ok(())
    }

    fn note_boot_failures(&mut self, before: &Supervisor, event: &Event, actions: &[Action]) {
        if let Event::Worker {
            id,
            fact: Fact::BindFailed(_),
        } = event
            && before.worker(*id).is_some()
        {
            self.bind_failed = true;
        }
        for action in actions {
            let failure = if let Action::Report(Report::Moved {
                from, to, reason, ..
            }) = action
                && *from < State::Ready
                && *to > State::Ready
            {
                let late =
                    reason.starts_with("not ready after") || reason == "did not start in time";
                if late {
                    ExitCode::NeverReady
                } else {
                    ExitCode::BootFailed
                }
            } else if let Action::Report(Report::Ended { unexpected, .. }) = action
                && *unexpected
            {
                ExitCode::BootFailed
            } else {
                continue;
            };
            self.first_failure.get_or_insert(failure);
        }
    }

    /// Workers that had to be killed since the stop.
    fn note_kills(&mut self, event: &Event, actions: &[Action]) {
        let moved: Vec<_> = moves(actions)
            .filter(|m| m.to == State::Killing)
            .map(|m| m.id)
            .collect();
        for action in actions {
            let Action::Signal {
                id,
                signal: StopSignal::Kill,
            } = action
            else {
                continue;
            };
            let late_start = matches!(event, Event::Spawned { id: started, .. } if started == id);
            if late_start || moved.contains(id) {
                self.kills.insert(*id);
            }
        }
    }

    /// After `Exit` only questions are answered.
    fn nothing_after_exit(
        &self,
        before: &Supervisor,
        event: &Event,
        actions: &[Action],
    ) -> Verdict {
        let asked = match event {
            Event::Reload { ticket, .. } | Event::Rollback { ticket, .. } => *ticket,
            Event::Tick
            | Event::Spawned { .. }
            | Event::SpawnFailed { .. }
            | Event::Worker { .. }
            | Event::Exited { .. }
            | Event::Configured { .. }
            | Event::Prepared { .. }
            | Event::PrepareFailed { .. }
            | Event::Scale(_)
            | Event::Resumed
            | Event::Park
            | Event::Restart { .. }
            | Event::Stop(_) => None,
        };
        let fine = actions.iter().all(
            |a| matches!(a, Action::ReloadEnded { tickets, .. } if tickets.iter().eq(asked.iter())),
        );
        ensure(
            fine && actions.len() == usize::from(asked.is_some()),
            || "ordered after exit".to_owned(),
        )?;
        let mut same = before.clone();
        same.now = self.machine.now;
        ensure(same == self.machine, || "changed after exit".to_owned())
    }
}
