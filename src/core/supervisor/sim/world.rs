//! The world around a supervisor: processes, their channels, the clock, the
//! operator. It carries out orders and turns what happens into events.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fastrand::Rng;

use super::{
    super::{
        Action, Event, Exit, Fact, Generation, Listened, Pid, Policy, Scale, Slot, Ticket, Time,
        Urgency, Worker, WorkerId, machine::Phase,
    },
    habits::{self, Chaos, chance},
    invariants::{self, Verdict, ensure},
    processes::{self, Deed, Process},
    watch::Watch,
};

/// What is to happen next, and when.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Deliver(Event),
    Do(WorkerId, Deed),
}

/// A schedule that is being played.
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) chaos: Chaos,
    pub(super) keys: u8,
    pub(super) watch: Watch,
    pub(super) now: Time,
    pub(super) queue: BTreeMap<(Time, u64), Item>,
    pub(super) sequence: u64,
    pub(super) processes: BTreeMap<WorkerId, Process>,
    pub(super) bad_generations: BTreeSet<Generation>,
    next_request: Time,
    next_ticket: u64,
    stopped_at: Option<Time>,
    /// Everything new behaves and nobody asks for anything.
    pub(super) quiet: bool,
    /// Whoever would crash is killed from outside instead, or for memory.
    pub(super) killed: bool,
    /// Least time between one server of a worker and its next, milliseconds.
    pub(super) late_ms: u64,
    /// Workers open ports that the kernel chooses long after they are ready.
    pub(super) passing: bool,
    /// The first of several servers is not at the address that `--bind` declares.
    pub(super) aside: bool,
    /// Servers of each generation's workers, where these are not `keys`.
    pub(super) keys_of: BTreeMap<Generation, u8>,
    seed: u64,
}

pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Longest time from an order to die to the news of it, whatever the delays.
const SLACK: Duration = Duration::from_millis(500);

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut policy = habits::policy(&mut rng);
        policy.may_drop = match seed % 13 {
            4 => vec!["all".to_owned()],
            9 => vec!["2".to_owned()],
            _ => vec![],
        };
        // Not drawn: the schedules of `regressions` stay what they were.
        policy.boots = match seed % 15 {
            2 | 7 => 1,
            0 | 14 => 2,
            4 | 12 => 3,
            _ => policy.boots,
        };
        let chaos = Chaos::draw(&mut rng);
        let twin = rng.u8(..4) == 0;
        let mut world = Self {
            keys: rng.u8(1..=3),
            watch: Watch::new(policy, seed, twin),
            now: Time(0),
            queue: BTreeMap::new(),
            sequence: 0,
            processes: BTreeMap::new(),
            bad_generations: BTreeSet::new(),
            next_request: Time(0),
            next_ticket: 0,
            stopped_at: None,
            quiet: false,
            // Not drawn: the schedules of `regressions` stay what they were.
            killed: matches!(seed % 11, 3 | 5 | 7),
            late_ms: 0,
            passing: seed % 7 == 2,
            aside: seed % 5 == 3,
            keys_of: BTreeMap::new(),
            seed,
            rng,
            chaos,
        };
        // All three servers are open before whoever lacks one is given up.
        let most = world.policy().ready_timeout.max(Policy::KEY_GRACE);
        let most = u64::try_from(most.as_millis()).unwrap_or(0) / 2 - 250;
        world.late_ms = [0, 0, 0, 300, 800, 2000][(seed % 6) as usize].min(most);
        if chance(&mut world.rng, world.chaos.bad_generation / 2) {
            world.bad_generations.insert(Generation(1));
        }
        world.plan_request();
        world
    }

    /// New code opens other ports now and then.
    pub(super) fn changes_ports(&self) -> bool {
        self.seed % 4 == 1
    }

    fn policy(&self) -> &Policy {
        self.watch.machine.policy()
    }

    pub(super) fn push(&mut self, at: Time, item: Item) {
        self.sequence += 1;
        // Things of the same moment happen in any order.
        let order = (self.rng.u64(..1 << 20) << 32) | self.sequence;
        self.queue.insert((at, order), item);
    }

    pub(super) fn after(&mut self, millis: u64, id: WorkerId, deed: Deed) {
        self.push(self.now + ms(millis), Item::Do(id, deed));
    }

    pub(super) fn delay(&mut self) -> Duration {
        ms(self.rng.u64(..=self.chaos.delay))
    }

    /// Plays `steps` steps of chaos, then waits for quiet, then stops.
    pub(super) fn play(&mut self, steps: usize) -> Verdict {
        self.step(&Event::Tick)?;
        for _ in 0..steps {
            if self.watch.exit.is_some() {
                return self.after_the_end();
            }
            self.advance()?;
        }
        self.quieten();
        if self.watch.exit.is_none() {
            // Whoever rests is woken.
            self.step(&Event::Scale(Scale::By(0)))?;
        }
        self.comes_to_rest()?;
        if self.watch.exit.is_none() {
            self.push(self.now, Item::Deliver(Event::Stop(Urgency::Graceful)));
            while self.watch.exit.is_none() {
                self.advance()?;
            }
        }
        self.after_the_end()
    }

    /// Whatever comes after `Exit` changes nothing.
    fn after_the_end(&mut self) -> Verdict {
        for _ in 0..5 {
            let event = self.dead_event();
            self.step(&event)?;
            self.request()?;
        }
        Ok(())
    }

    /// From now on all behave; what has been started before may still be slow to go.
    fn quieten(&mut self) {
        self.quiet = true;
        for process in self.processes.values_mut() {
            process.sick = false;
        }
        let harmful = |item: &Item| {
            matches!(
                item,
                Item::Do(
                    _,
                    Deed::Say(Fact::Misbehaves(_))
                        | Deed::Disconnect
                        | Deed::Close(_)
                        | Deed::End(_)
                )
            )
        };
        let mut spared = vec![];
        for (key, item) in &self.queue {
            if let Item::Do(id, _) = item
                && harmful(item)
                && self.watch.machine.worker(*id).is_some_and(Worker::is_ready)
            {
                spared.push(*key);
            }
        }
        for key in spared {
            self.queue.remove(&key);
        }
    }

    /// In a quiet world the supervisor comes to rest: N ready workers of the
    /// committed generation, no reload, nobody waiting, in bounded time and
    /// without spinning.
    fn comes_to_rest(&mut self) -> Verdict {
        let p = self.policy();
        let slot = p.ready_timeout + p.min_uptime + p.bake + ms(4000);
        let old = p.drain_timeout + p.kill_timeout + ms(10_000);
        let limit = self.now + ms(90_000) + slot * p.workers * 4 + old * 3;
        // Heartbeats and health checks go on all the time, of old and new workers: for each a tick, and the beat, or the
        // question and its answer.
        let span = limit.since(self.now).as_millis();
        let checks = p.health.map_or(0, |h| span / h.interval.as_millis());
        let beats = span / p.beat().as_millis();
        let most = 60_000 + (checks * 3 + beats * 2) * u128::from(p.workers) * 2;
        let mut steps = 0;
        while !invariants::is_quiet(&self.watch.machine) {
            if self.watch.exit.is_some() {
                return Ok(());
            }
            steps += 1;
            ensure(self.now <= limit && steps < most, || {
                format!(
                    "not at rest at {} after {steps} steps: {:#?}",
                    self.now, self.watch.machine
                )
            })?;
            self.advance()?;
        }
        ensure(self.watch.open_tickets.is_empty(), || {
            format!("never answered: {:?}", self.watch.open_tickets)
        })
    }

    /// The next thing that happens.
    fn advance(&mut self) -> Verdict {
        let item = self.queue.first_key_value().map(|((at, _), _)| *at);
        let timer = self.watch.machine.deadline();
        let request = (!self.quiet).then_some(self.next_request);
        let Some(next) = [item, timer, request].into_iter().flatten().min() else {
            return Err("everybody sleeps for ever".to_owned());
        };
        self.now = self.now.max(next);
        if !self.quiet && self.stopped_at.is_none() && chance(&mut self.rng, self.chaos.pauses) {
            self.now = self.now + ms(self.rng.u64(1..=60_000));
        }
        if !self.quiet && chance(&mut self.rng, self.chaos.dead) {
            let event = self.dead_event();
            self.step(&event)?;
        }
        if request.is_some_and(|at| at <= next) {
            self.plan_request();
            return self.request();
        }
        // The timer and an event of the same moment: either may come first.
        let timer_first = timer == Some(next) && (item != Some(next) || self.rng.bool());
        if timer_first {
            return self.step(&Event::Tick);
        }
        match self.queue.pop_first() {
            Some((_, Item::Deliver(event))) => {
                if !self.quiet && chance(&mut self.rng, self.chaos.duplicates) {
                    let again = self.now + ms(self.rng.u64(..=1000));
                    if !matches!(
                        event,
                        Event::Stop(_) | Event::Reload { .. } | Event::Rollback { .. }
                    ) {
                        self.push(again, Item::Deliver(event.clone()));
                    }
                }
                self.step(&event)
            }
            Some((_, Item::Do(id, deed))) => {
                self.perform(id, deed);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn step(&mut self, event: &Event) -> Verdict {
        if matches!(event, Event::Stop(_)) && self.stopped_at.is_none() {
            self.stopped_at = Some(self.now);
        }
        let mut actions = self.watch.step(self.now, event)?;
        if let Some(id) = self.looked_at_for(event, &actions) {
            // Not through the queue, which draws: the schedules of `regressions` stay what they were.
            actions.remove(0);
            let fact = Fact::Measured(processes::USAGE);
            let looked = Event::Worker { id, fact };
            actions.extend(self.watch.step(self.now, &looked)?);
        }
        for action in actions {
            self.execute(&action);
        }
        // Most beats are noted and no more: the next full step catches up with the clock.
        let beat = matches!(
            event,
            Event::Worker {
                fact: Fact::Beat(_),
                ..
            }
        );
        if !beat {
            self.spot_checks()?;
        }
        if self.watch.exit.is_none()
            && let Some(at) = self.stopped_at
        {
            let limit = at + self.policy().drain_timeout + self.policy().kill_timeout + SLACK;
            ensure(self.now <= limit, || {
                format!("stop of {at} still runs at {}", self.now)
            })?;
        }
        Ok(())
    }

    /// Whom a beat makes the master look at: one that is young. All others are looked at together, now and then.
    fn looked_at_for(&self, event: &Event, actions: &[Action]) -> Option<WorkerId> {
        let Event::Worker {
            id,
            fact: Fact::Beat(_),
        } = event
        else {
            return None;
        };
        let worker = self.watch.machine.worker(*id)?;
        let young = |at: Time| self.now < at + Policy::MEASURE;
        let first = actions.first() == Some(&Action::Measure { id: *id });
        (first && worker.ready_at.is_none_or(young)).then_some(*id)
    }

    /// Checks that cost a copy of the machine, now and then.
    fn spot_checks(&mut self) -> Verdict {
        match self.rng.u8(..24) {
            0 => invariants::deadline_is_honest(&self.watch.machine),
            1 => invariants::nothing_is_left_undone(&self.watch.machine, &Event::Tick),
            2 => {
                let event = self.dead_event();
                invariants::nothing_is_left_undone(&self.watch.machine, &event)
            }
            3 => self.watch.replace_twin(),
            _ => Ok(()),
        }
    }

    /// Something about a worker that is gone, or never was.
    fn dead_event(&mut self) -> Event {
        let live: BTreeSet<_> = self.watch.ids().collect();
        let gone = self.processes.keys().find(|id| !live.contains(id));
        let id = gone.copied().unwrap_or(WorkerId(u64::MAX));
        let fact = match self.rng.u8(..9) {
            0 => Fact::Listening(Listened::on("0")),
            1 => Fact::ChannelClosed,
            2 => Fact::Leaving,
            3 => Fact::Drained {
                cut: 1,
                stopping: false,
            },
            4 => Fact::BindFailed("gone".to_owned()),
            5 => Fact::Misbehaves("gone".to_owned()),
            6 => {
                let reason = "gone".to_owned();
                return Event::SpawnFailed { id, reason };
            }
            7 => return Event::Spawned { id, pid: Pid(1) },
            _ => {
                let exit = Exit::Code(0);
                return Event::Exited { id, exit };
            }
        };
        Event::Worker { id, fact }
    }

    fn plan_request(&mut self) {
        let gap = self.rng.u64(..=self.chaos.request_gap);
        self.next_request = self.now + ms(gap);
    }

    /// The operator asks for something.
    fn request(&mut self) -> Verdict {
        if chance(&mut self.rng, self.chaos.stops) {
            let now = self.rng.u8(..3) == 0;
            return self.step(&Event::Stop(if now {
                Urgency::Now
            } else {
                Urgency::Graceful
            }));
        }
        if chance(&mut self.rng, self.chaos.scales) {
            let event = match self.rng.u8(..5) {
                0 => Event::Park,
                1 => Event::Restart {
                    slot: Slot(self.rng.u32(..6)),
                    reason: "asked for".to_owned(),
                },
                2 => Event::Scale(Scale::To(self.rng.u32(..8))),
                _ => Event::Scale(Scale::By(self.rng.i32(-2..=2))),
            };
            return self.step(&event);
        }
        for _ in 0..*[1, 1, 1, 3].get(self.rng.usize(..4)).unwrap_or(&1) {
            self.next_ticket += 1;
            let ticket = self.rng.bool().then_some(Ticket(self.next_ticket));
            let back = self.rng.u8(..5) == 0;
            let may_drop = match self.seed % 3 {
                0 => vec!["1".to_owned(), "2".to_owned()],
                _ => vec![],
            };
            self.step(&if back {
                Event::Rollback { ticket, may_drop }
            } else {
                Event::Reload { ticket, may_drop }
            })?;
        }
        Ok(())
    }

    /// For the report of a failure.
    pub(super) fn setting(&self) -> String {
        let stopping = matches!(self.watch.machine.phase, Phase::Stopping(_));
        format!(
            "{:?}\n{:?}\nat {}, stopping {stopping}",
            self.policy(),
            self.chaos,
            self.now
        )
    }
}
