//! The processes of the virtual world: what orders do to them, and what they
//! tell the master.

use super::{
    super::{
        Action, Beat, Event, Exit, Fact, Finding, Gate, Generation, Listened, Pid, Policy,
        Readiness, StopSignal, Time, Usage, WorkerId,
    },
    habits::{Boot, Drains, Fate, Habit, chance},
    world::{Item, World, ms},
};

/// What a process does of its own accord.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    Say(Fact),
    Open(u8),
    /// Opens a port that the kernel chooses.
    Pass,
    Close(u8),
    /// Stops accepting, finishes, tells; ends if so wished.
    Finish {
        ends: bool,
    },
    Disconnect,
    /// A sign of its event loop, and the next after so long.
    Beat,
    Hang,
    Awake,
    Sicken,
    Probed,
    End(Exit),
}

/// A process, alive or dead.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) alive: bool,
    pub(super) habit: Habit,
    pub(super) gate_open: bool,
    pub(super) asked: bool,
    pub(super) channel: bool,
    /// Its event loop stands still.
    pub(super) hung: bool,
    /// Its health check is answered badly.
    pub(super) sick: bool,
    /// It has a shim, and the shim has said hello.
    pub(super) beats: u64,
    /// When its start is told.
    pub(super) born: Time,
    /// When the last of its facts arrives: they keep their order.
    pub(super) told: Time,
}

/// What the kernel counts for each.
pub(super) const USAGE: Usage = Usage {
    memory: 1 << 20,
    cpu_ms: 0,
    fds: 20,
    fd_limit: 1000,
};

impl World {
    /// Carries an order out.
    pub(super) fn execute(&mut self, action: &Action) {
        match *action {
            Action::Prepare { generation, from } => self.prepare(generation, from),
            Action::Spawn {
                id,
                generation,
                gate,
                ..
            } => self.start(id, generation, gate),
            Action::OpenGate { id } => {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.gate_open = true;
                    if process.asked {
                        self.serve(id, 1);
                    }
                }
            }
            Action::Probe { id } => {
                let soon = self.rng.u64(..=30);
                self.after(soon, id, Deed::Probed);
            }
            Action::Measure { id } => {
                let fact = Fact::Measured(USAGE);
                self.push(self.now, Item::Deliver(Event::Worker { id, fact }));
            }
            Action::Examine { id } => {
                let finding = if self.rng.bool() {
                    Finding::Stopped
                } else {
                    Finding::Unknown("nothing".to_owned())
                };
                let fact = Fact::Examined(finding);
                // The runtime answers for it, and keeps its own limit; now and then nobody does.
                if self.rng.u8(..8) > 0 {
                    let at = self.now + ms(self.rng.u64(..2500));
                    self.push(at, Item::Deliver(Event::Worker { id, fact }));
                }
            }
            Action::Drain { id } => self.drain(id),
            Action::Signal { id, signal } => {
                let Some(process) = self.processes.get(&id) else {
                    return;
                };
                match (signal, process.habit.term) {
                    (StopSignal::Kill, _) => {
                        let exit = Exit::Signal {
                            signal: 9,
                            core: false,
                        };
                        let soon = self.rng.u64(..=20);
                        self.after(soon, id, Deed::End(exit));
                    }
                    // It stays pending: the handler is JavaScript.
                    (StopSignal::Stop, Some(_)) if process.hung => {}
                    (StopSignal::Stop, Some(time)) => {
                        self.after(time, id, Deed::End(Exit::Code(0)));
                    }
                    (StopSignal::Stop, None) => {}
                }
            }
            Action::CheckIdle { .. }
            | Action::Promote { .. }
            | Action::ReloadEnded { .. }
            | Action::Retire { .. }
            | Action::Report(_)
            | Action::Exit { .. } => {}
        }
    }

    fn prepare(&mut self, generation: Generation, from: Option<Generation>) {
        let keys = match from.and_then(|from| self.keys_of.get(&from)) {
            Some(keys) => *keys,
            None if from.is_none() && !self.quiet && self.changes_ports() => self.rng.u8(1..=3),
            None => self.keys,
        };
        self.keys_of.insert(generation, keys);
        let fails = !self.quiet && chance(&mut self.rng, self.chaos.prepare_fails);
        if !self.quiet && chance(&mut self.rng, self.chaos.bad_generation) {
            self.bad_generations.insert(generation);
        }
        if fails && generation.0.is_multiple_of(3) {
            // Its files are on a file system that does not answer, and the runtime forgets to say so.
            return;
        }
        let event = if fails {
            Event::PrepareFailed {
                generation,
                reason: "no such script".to_owned(),
            }
        } else {
            Event::Prepared { generation }
        };
        let at = self.now + self.delay();
        self.push(at, Item::Deliver(event));
    }

    fn start(&mut self, id: WorkerId, generation: Generation, gate: Gate) {
        let at = self.now + self.delay();
        if !self.quiet && chance(&mut self.rng, self.chaos.spawn_fails) {
            let reason = "EAGAIN".to_owned();
            self.push(at, Item::Deliver(Event::SpawnFailed { id, reason }));
            return;
        }
        let bad = chance(&mut self.rng, self.chaos.bad_worker)
            || self.bad_generations.contains(&generation) && self.rng.u8(..8) > 0;
        let keys = self.keys_of.get(&generation).copied().unwrap_or(self.keys);
        let mut habit = if self.chaos.storm && !self.quiet {
            Habit::short(&mut self.rng, keys)
        } else if bad && !self.quiet {
            Habit::bad(&mut self.rng, keys)
        } else {
            Habit::good(&mut self.rng, keys)
        };
        habit.key_gap = habit.key_gap.max(self.late_ms);
        if self.quiet {
            habit.key_gap = habit.key_gap.min(self.longest_gap());
        }
        let process = Process {
            alive: true,
            habit,
            gate_open: gate == Gate::Open,
            asked: false,
            channel: true,
            hung: false,
            sick: false,
            beats: 0,
            born: at,
            told: at,
        };
        self.processes.insert(id, process);
        let pid = Pid(i32::try_from(id.0).unwrap_or(i32::MAX));
        self.push(at, Item::Deliver(Event::Spawned { id, pid }));
        self.boot(id, habit);
    }

    fn boot(&mut self, id: WorkerId, habit: Habit) {
        let Habit { boot_ms, .. } = habit;
        self.after(boot_ms / 2, id, Deed::Say(Fact::Online));
        // Without a shim nothing beats.
        if self.rng.u8(..8) > 0 {
            self.after(boot_ms / 3, id, Deed::Say(Fact::Hello));
            self.after(boot_ms / 3 + 1, id, Deed::Beat);
        }
        match habit.boot {
            Boot::Serves => self.after(boot_ms, id, Deed::Say(Fact::AtGate)),
            Boot::Crashes => {
                self.after(
                    boot_ms,
                    id,
                    Deed::Say(Fact::Failed("SyntaxError".to_owned())),
                );
                self.after(boot_ms + 1, id, Deed::End(Exit::Code(1)));
            }
            Boot::Hangs => {
                if self.rng.bool() {
                    self.after(boot_ms, id, Deed::Hang);
                }
            }
            Boot::CannotBind => {
                self.after(
                    boot_ms,
                    id,
                    Deed::Say(Fact::BindFailed("EADDRINUSE".to_owned())),
                );
                if self.rng.bool() {
                    self.after(boot_ms + 1, id, Deed::End(Exit::Code(1)));
                }
            }
            Boot::Disconnects => self.after(boot_ms, id, Deed::Disconnect),
            Boot::Misbehaves => {
                self.after(boot_ms, id, Deed::Say(Fact::Misbehaves("flood".to_owned())));
            }
        }
    }

    /// It has its listeners: opens its servers, says ready, and meets its fate.
    fn serve(&mut self, id: WorkerId, first: u64) {
        let Some(Process { habit, .. }) = self.processes.get(&id) else {
            return;
        };
        let habit = *habit;
        let mut at = first;
        for key in 0..habit.keys {
            self.after(at, id, Deed::Open(key));
            at += habit.key_gap;
        }
        self.after(at, id, Deed::Say(Fact::SaidReady));
        if self.passing {
            self.after(at + 2500, id, Deed::Pass);
        }
        if self.quiet {
            return;
        }
        let at = first + habit.fate_ms;
        match habit.fate {
            Fate::None => {}
            Fate::Crashes => {
                let code = self.rng.i32(0..=1);
                if self.killed {
                    if code == 1 {
                        self.after(at, id, Deed::Say(Fact::OutOfMemory { kills: 1 }));
                    }
                    let exit = Exit::Signal {
                        signal: 9,
                        core: false,
                    };
                    self.after(at + 1, id, Deed::End(exit));
                } else {
                    self.after(at, id, Deed::End(Exit::Code(code)));
                }
            }
            Fate::Leaves => {
                self.after(at, id, Deed::Say(Fact::Leaving));
                self.after(at + 1, id, Deed::Disconnect);
                let end = at + self.rng.u64(1..=3000);
                self.after(end, id, Deed::End(Exit::Code(0)));
            }
            Fate::Closes => {
                for key in 0..habit.keys {
                    self.after(at, id, Deed::Close(key));
                }
            }
            Fate::Hangs => self.after(at, id, Deed::Hang),
            Fate::Pauses(time) => {
                self.after(at, id, Deed::Hang);
                self.after(at + time, id, Deed::Awake);
            }
            Fate::Sickens { .. } => self.after(at, id, Deed::Sicken),
            Fate::Disconnects => self.after(at, id, Deed::Disconnect),
            Fate::Misbehaves => {
                self.after(at, id, Deed::Say(Fact::Misbehaves("flood".to_owned())));
            }
            Fate::Reopens => {
                self.after(at, id, Deed::Close(0));
                self.after(at + 100, id, Deed::Open(0));
            }
        }
    }

    /// Most time between two servers of an app that behaves. It says ready after the last of them; where that is what
    /// counts, three such times and a boot of 400 ms with all its news come within the ready timeout. An app that needs
    /// longer is never ready, and its fleet never at rest.
    fn longest_gap(&self) -> u64 {
        let policy = self.watch.machine.policy();
        if policy.readiness != Readiness::Message {
            return u64::MAX;
        }
        let most = u64::try_from(policy.ready_timeout.as_millis()).unwrap_or(u64::MAX);
        most.saturating_sub(400) / 3
    }

    /// As the policy was when the schedule began.
    fn beat_ms(&self) -> u64 {
        u64::try_from(self.watch.machine.policy().beat().as_millis()).unwrap_or(u64::MAX)
    }

    fn drain(&mut self, id: WorkerId) {
        if self.processes.get(&id).is_some_and(|p| p.hung) {
            return;
        }
        let Some(Process { habit, .. }) = self.processes.get(&id) else {
            return;
        };
        match habit.drains {
            Drains::In(time) => self.after(time, id, Deed::Finish { ends: true }),
            Drains::LivesOn(time) => self.after(time, id, Deed::Finish { ends: false }),
            Drains::Crashes(time) => self.after(time, id, Deed::End(Exit::Code(1))),
            Drains::Disconnects(time) => self.after(time, id, Deed::Disconnect),
            Drains::Ignores => {}
        }
    }

    pub(super) fn perform(&mut self, id: WorkerId, deed: Deed) {
        let period = self.beat_ms();
        let Some(process) = self.processes.get_mut(&id).filter(|p| p.alive) else {
            return;
        };
        // A loop that stands still says nothing; what it was about to do it never does.
        if process.hung && !matches!(deed, Deed::Awake | Deed::End(_) | Deed::Beat | Deed::Probed) {
            return;
        }
        match deed {
            Deed::Beat => {
                process.beats += 1;
                let (hung, requests) = (process.hung, process.beats * 10);
                if !hung {
                    let beat = Beat {
                        requests,
                        ..Beat::default()
                    };
                    self.tell(id, Fact::Beat(beat));
                }
                self.after(period, id, Deed::Beat);
            }
            Deed::Hang => process.hung = !self.quiet,
            Deed::Awake => process.hung = false,
            Deed::Sicken => process.sick = !self.quiet,
            Deed::Probed => {
                let silent = process.habit.fate == Fate::Sickens { silent: true };
                let answer = if process.sick {
                    Err("503".to_owned())
                } else {
                    Ok(())
                };
                if !(process.hung || process.sick && silent) {
                    self.tell(id, Fact::Probed(answer));
                }
            }
            Deed::Say(fact) => {
                if fact == Fact::AtGate {
                    process.asked = true;
                    if process.gate_open {
                        self.serve(id, 0);
                    }
                }
                self.tell(id, fact);
            }
            Deed::Open(key) => {
                let aside = self.aside && key == 0 && process.habit.keys > 1;
                let what = Listened {
                    instead_of: aside.then(|| "1".to_owned()),
                    ..Listened::on(key.to_string())
                };
                self.tell(id, Fact::Listening(what));
            }
            Deed::Pass => {
                let worker = self.watch.machine.worker(id);
                let ready_at = worker.and_then(|w| w.ready_at);
                if ready_at.is_none_or(|at| at + Policy::KEY_GRACE > self.now) {
                    // Before that it would be one that each worker opens.
                    self.after(1000, id, Deed::Pass);
                    return;
                }
                let what = Listened {
                    chosen: true,
                    ..Listened::on(format!("chosen {id}"))
                };
                self.tell(id, Fact::Listening(what));
            }
            Deed::Close(key) => self.tell(id, Fact::Closed(key.to_string())),
            Deed::Finish { ends } => {
                for key in 0..process.habit.keys {
                    self.tell(id, Fact::Closed(key.to_string()));
                }
                let cut = self.rng.u64(..3);
                // Of those that have handlers of the stop signal some do not end by them.
                let stopping = cut == 1;
                self.tell(id, Fact::Drained { cut, stopping });
                if ends {
                    self.after(1, id, Deed::Disconnect);
                    self.after(2, id, Deed::End(Exit::Code(0)));
                }
            }
            Deed::Disconnect => {
                self.tell(id, Fact::ChannelClosed);
                if let Some(process) = self.processes.get_mut(&id) {
                    process.channel = false;
                }
            }
            Deed::End(exit) => {
                process.alive = false;
                if self.rng.bool() {
                    self.tell(id, Fact::ChannelClosed);
                }
                let at = self.now + self.delay();
                // A death is not told before the birth; it may overtake the last words.
                let (born, told) = self
                    .processes
                    .get(&id)
                    .map_or((at, at), |p| (p.born, p.told));
                let at = at.max(if self.rng.bool() { told } else { born + ms(1) });
                self.push(at, Item::Deliver(Event::Exited { id, exit }));
            }
        }
    }

    /// A fact goes over the channel.
    fn tell(&mut self, id: WorkerId, fact: Fact) {
        let delay = self.delay();
        let odd = self.chaos.odd_order;
        let Some(process) = self.processes.get_mut(&id).filter(|p| p.channel) else {
            return;
        };
        let at = if odd {
            self.now + delay
        } else {
            process.told.max(self.now + delay)
        };
        process.told = process.told.max(at);
        // The same moment keeps the order of the channel, unless order is odd.
        self.sequence += 1;
        let order = if odd {
            self.rng.u64(..1 << 52)
        } else {
            (1 << 52) | self.sequence
        };
        self.queue
            .insert((at, order), Item::Deliver(Event::Worker { id, fact }));
    }
}
