//! Every order of events for a fleet of two, to a small depth: what random
//! schedules could miss. Deeper with `RCLUSTER_SIM_DEPTH`.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use super::{
    super::{
        Event, Exit, Fact, Gate, Listened, Pid, Policy, State, Switch, Ticket, Time, Urgency,
        Worker, WorkerId, machine::Phase, reload::Stage,
    },
    invariants, table,
    watch::Watch,
};

const KEY: &str = "0";

/// All that can happen next.
fn choices(watch: &Watch) -> Vec<(Time, Event)> {
    let machine = &watch.machine;
    let mut events: Vec<_> = machine.fleet.iter().flat_map(of_worker).collect();
    if matches!(machine.phase, Phase::FirstBoot | Phase::Serving) {
        // One waits at a time: who else waits makes no difference.
        let ticket = watch.open_tickets.is_empty().then_some(Ticket(1));
        events.push(Event::Reload {
            ticket,
            may_drop: vec![],
        });
        events.push(Event::Rollback {
            ticket,
            may_drop: vec![],
        });
    }
    events.push(Event::Stop(Urgency::Graceful));
    events.push(Event::Stop(Urgency::Now));
    if let Some(reload) = &machine.reload
        && reload.stage == Stage::Preparing
    {
        let generation = reload.generation;
        let reason = "gone".to_owned();
        events.push(Event::Prepared { generation });
        events.push(Event::PrepareFailed { generation, reason });
    }
    let now = machine.now;
    let mut choices: Vec<_> = events.into_iter().map(|event| (now, event)).collect();
    choices.extend(machine.deadline().map(|at| (at, Event::Tick)));
    choices
}

fn of_worker(worker: &Worker) -> Vec<Event> {
    let id = worker.id;
    if worker.pid.is_none() {
        let pid = Pid(i32::try_from(id.0).unwrap());
        let reason = "EAGAIN".to_owned();
        return vec![
            Event::Spawned { id, pid },
            Event::SpawnFailed { id, reason },
        ];
    }
    let mut facts = vec![];
    let seated = worker.is_seated();
    if worker.listening.is_empty() && worker.state <= State::Draining {
        facts.push(Fact::Listening(Listened::on(KEY)));
    } else if worker.state <= State::Draining {
        facts.push(Fact::Closed(KEY.to_owned()));
    }
    if worker.gate == Gate::Closed && worker.state == State::Booting {
        facts.push(Fact::AtGate);
    }
    if worker.channel_open {
        facts.push(Fact::ChannelClosed);
    }
    if seated && !worker.leaving {
        facts.push(Fact::Leaving);
    }
    if seated && worker.condemned.is_none() {
        facts.push(Fact::Misbehaves("flood".to_owned()));
    }
    if worker.state == State::Draining && worker.drained.is_none() {
        facts.push(Fact::Drained {
            cut: 0,
            stopping: false,
        });
    }
    let exit = Exit::Code(1);
    let facts = facts.into_iter().map(|fact| Event::Worker { id, fact });
    facts.chain([Event::Exited { id, exit }]).collect()
}

fn fingerprint(watch: &Watch) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(&watch.machine)
        .unwrap()
        .hash(&mut hasher);
    hasher.finish()
}

/// Breadth first from `root`; states that were seen before are not explored again.
fn explore(root: Watch, depth: usize) -> usize {
    let depth = depth + std::env::var("RCLUSTER_SIM_DEPTH").map_or(0, |d| d.parse().unwrap());
    let mut seen = HashSet::from([fingerprint(&root)]);
    let mut level = vec![root];
    for _ in 0..depth {
        let mut next = vec![];
        for watch in level {
            for (at, event) in choices(&watch) {
                let mut branch = watch.clone();
                if let Err(broken) = taken(&mut branch, at, &event) {
                    panic!("{broken}\n{}", branch.trace());
                }
                if branch.exit.is_none() && seen.insert(fingerprint(&branch)) {
                    next.push(branch);
                }
            }
        }
        level = next;
    }
    seen.len()
}

fn taken(branch: &mut Watch, at: Time, event: &Event) -> Result<(), String> {
    branch.step(at, event)?;
    let gone = Event::Exited {
        id: WorkerId(u64::MAX),
        exit: Exit::Code(0),
    };
    invariants::nothing_is_left_undone(&branch.machine, &gone)?;
    invariants::deadline_is_honest(&branch.machine)
}

fn root(policy: Policy, path: &[Event]) -> Watch {
    let mut watch = Watch::new(policy, 1, false);
    for (at, event) in [Event::Tick].iter().chain(path).enumerate() {
        watch.step(Time(at as u64), event).unwrap();
    }
    watch
}

fn ready(id: u64) -> [Event; 2] {
    let (id, fact) = (WorkerId(id), Fact::Listening(Listened::on(KEY)));
    let pid = Pid(i32::try_from(id.0).unwrap());
    [Event::Spawned { id, pid }, Event::Worker { id, fact }]
}

fn reloading() -> Vec<Event> {
    let ticket = Some(Ticket(1));
    let generation = super::super::Generation(2);
    let booted = [ready(1), ready(2)].concat();
    let reload = [
        Event::Reload {
            ticket,
            may_drop: vec![],
        },
        Event::Prepared { generation },
    ];
    booted.into_iter().chain(reload).collect()
}

fn timed() -> Policy {
    Policy {
        min_uptime: Duration::from_secs(1),
        bake: Duration::from_secs(2),
        ..table::policy()
    }
}

#[test]
fn from_the_first_boot() {
    let states = explore(root(table::policy(), &[]), 5);
    assert!(states > 500, "{states}");
}

#[test]
fn from_serving() {
    let states = explore(root(timed(), &[ready(1), ready(2)].concat()), 4);
    assert!(states > 500, "{states}");
}

#[test]
fn from_a_rolling_reload() {
    let states = explore(root(timed(), &reloading()), 4);
    assert!(states > 500, "{states}");
}

#[test]
fn from_an_atomic_reload() {
    let policy = Policy {
        switch: Switch::Atomic,
        ..timed()
    };
    let states = explore(root(policy, &reloading()), 4);
    assert!(states > 500, "{states}");
}
