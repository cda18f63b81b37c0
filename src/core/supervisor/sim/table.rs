//! For tests that a reader reads: one machine, told facts line by line, its
//! orders as short words.

use std::time::Duration;

use super::super::{
    Action, Event, Exit, Fact, Gate, Generation, Listened, Pid, Policy, Readiness, Recycle,
    ReloadOutcome, StopSignal, Supervisor, Surge, Switch, Ticket, Time, WorkerId,
};

/// Two workers, rolling, one at a time, nothing to wait for.
pub(super) fn policy() -> Policy {
    Policy {
        workers: 2,
        readiness: Readiness::Listening,
        ready_timeout: Duration::from_secs(30),
        drain_timeout: Duration::from_secs(20),
        kill_timeout: Duration::from_secs(5),
        min_uptime: Duration::ZERO,
        bake: Duration::ZERO,
        surge: Surge::Count(1),
        switch: Switch::Rolling,
        hang_timeout: Duration::ZERO,
        boot_hang_timeout: Duration::ZERO,
        health: None,
        recycle: Recycle::default(),
        spares: 0,
        may_drop: vec![],
        attentive: false,
        boots: 16,
    }
}

/// A machine and its clock.
pub(super) struct Table {
    pub(super) machine: Supervisor,
    now: Time,
}

impl Table {
    /// Booted: workers 1 to N are ready, at 10 ms.
    pub(super) fn serving(policy: Policy) -> Self {
        let mut table = Self::booting(policy);
        table.now = Time(10);
        for id in 1..=u64::from(table.machine.policy().workers) {
            table.ready(id);
        }
        table
    }

    /// The first workers are ordered, at 0 ms.
    pub(super) fn booting(policy: Policy) -> Self {
        Self::of(Supervisor::new(policy, 7))
    }

    /// As of `rcluster check`: one worker is ordered, at 0 ms.
    pub(super) fn checking(policy: &Policy) -> Self {
        Self::of(Supervisor::checking(policy, 7))
    }

    fn of(machine: Supervisor) -> Self {
        let mut table = Self {
            machine,
            now: Time(0),
        };
        table.tell(Event::Tick);
        table
    }

    /// From now on it is so many milliseconds after the start; nothing happens yet.
    pub(super) fn at(&mut self, millis: u64) -> &mut Self {
        self.now = Time(millis);
        self
    }

    /// Time has come to `millis`.
    pub(super) fn tick(&mut self, millis: u64) -> Vec<String> {
        self.at(millis).tell(Event::Tick)
    }

    pub(super) fn tell(&mut self, event: Event) -> Vec<String> {
        let actions = self.machine.step(self.now, event);
        actions.into_iter().filter_map(words).collect()
    }

    pub(super) fn fact(&mut self, id: u64, fact: Fact) -> Vec<String> {
        let id = WorkerId(id);
        self.tell(Event::Worker { id, fact })
    }

    pub(super) fn spawned(&mut self, id: u64) -> Vec<String> {
        let pid = Pid(i32::try_from(id).unwrap() + 1000);
        let id = WorkerId(id);
        self.tell(Event::Spawned { id, pid })
    }

    /// Its process starts and listens.
    pub(super) fn ready(&mut self, id: u64) -> Vec<String> {
        let mut orders = self.spawned(id);
        orders.extend(self.listens(id));
        orders
    }

    pub(super) fn listens(&mut self, id: u64) -> Vec<String> {
        self.fact(id, Fact::Listening(Listened::on("0")))
    }

    pub(super) fn exits(&mut self, id: u64, code: i32) -> Vec<String> {
        let (id, exit) = (WorkerId(id), Exit::Code(code));
        self.tell(Event::Exited { id, exit })
    }

    /// Its drain is over and it ends.
    pub(super) fn drains(&mut self, id: u64) -> Vec<String> {
        let mut orders = self.fact(
            id,
            Fact::Drained {
                cut: 0,
                stopping: false,
            },
        );
        orders.extend(self.exits(id, 0));
        orders
    }

    pub(super) fn reload(&mut self, ticket: u64) -> Vec<String> {
        let ticket = Some(Ticket(ticket));
        self.tell(Event::Reload {
            ticket,
            may_drop: vec![],
        })
    }

    pub(super) fn rollback(&mut self, ticket: u64) -> Vec<String> {
        let ticket = Some(Ticket(ticket));
        self.tell(Event::Rollback {
            ticket,
            may_drop: vec![],
        })
    }

    pub(super) fn prepared(&mut self, generation: u64) -> Vec<String> {
        let generation = Generation(generation);
        self.tell(Event::Prepared { generation })
    }

    pub(super) fn configured(&mut self, generation: u64, policy: Policy) {
        let generation = Generation(generation);
        let policy = Box::new(policy);
        assert_eq!(self.tell(Event::Configured { generation, policy }), [""; 0]);
    }

    /// `id:generation:state` of all workers, by slot.
    pub(super) fn fleet(&self) -> Vec<String> {
        let view = self.machine.view(self.now);
        let show = |w: &super::super::WorkerView| format!("{}:{}:{}", w.id, w.generation, w.state);
        view.workers.iter().map(show).collect()
    }
}

/// An order in a few words; reports are for people and left out.
fn words(action: Action) -> Option<String> {
    let words = match action {
        Action::Prepare {
            generation,
            from: None,
        } => format!("prepare {generation}"),
        Action::Prepare {
            generation,
            from: Some(from),
        } => format!("prepare {generation} from {from}"),
        Action::Spawn {
            id,
            slot,
            generation,
            gate,
        } => {
            let held = if gate == Gate::Closed { " held" } else { "" };
            format!("spawn {id} in slot {slot} of generation {generation}{held}")
        }
        Action::OpenGate { id } => format!("open gate {id}"),
        Action::Promote { id, slot } => format!("promote {id} to slot {slot}"),
        Action::Probe { id } => format!("probe {id}"),
        Action::Measure { id } => format!("measure {id}"),
        Action::CheckIdle { id } => format!("check idle {id}"),
        Action::Examine { id } => format!("examine {id}"),
        Action::Drain { id } => format!("drain {id}"),
        Action::Signal {
            id,
            signal: StopSignal::Stop,
        } => format!("stop {id}"),
        Action::Signal {
            id,
            signal: StopSignal::Kill,
        } => format!("kill {id}"),
        Action::ReloadEnded {
            tickets, outcome, ..
        } => {
            let tickets: Vec<_> = tickets.iter().map(|t| t.0).collect();
            let outcome = match outcome {
                ReloadOutcome::Done { generation } => format!("done {generation}"),
                ReloadOutcome::Failed { reason } => format!("failed: {reason}"),
                ReloadOutcome::Superseded { reason } => format!("superseded: {reason}"),
            };
            format!("tell {tickets:?} {outcome}")
        }
        Action::Retire { keep } => {
            let keep: Vec<_> = keep.iter().map(|g| g.0).collect();
            format!("retire all but {keep:?}")
        }
        Action::Exit { code, .. } => format!("exit {}", code as u8),
        Action::Report(_) => return None,
    };
    Some(words)
}
