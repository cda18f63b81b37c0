//! Who gets new connections: looks at the workers, steers the kernel, and tends the seats of those who cannot.
//!
//! It must not decide who lives: that is the supervisor's.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    effects::World,
    listeners::{GroupId, Holding},
};
use crate::admin::{BalanceStatus, Fairness, SlotFigures, SlotShare};
use rcluster_core::{
    balance::{Balance, Seat, Weigher, fairness},
    supervisor::{State, Supervisor, Time, Worker, WorkerId},
};

/// Time between two looks at the accept queues while connections come.
const LOOK: Duration = Duration::from_millis(5);
/// The same where nothing waits.
const CALM_LOOK: Duration = Duration::from_millis(20);
/// See [`CALM_LOOK`].
const CALM: u32 = 20;
/// A look at more seats takes longer: this much more for each.
const LOOK_A_SEAT: Duration = Duration::from_micros(250);
/// Time between two changes of weights that follow load.
const WEIGH: Duration = Duration::from_millis(100);
/// Looks go on for this long after the last connection that a worker told of.
const ATTENTION: Duration = Duration::from_secs(2);
/// A beat that is late by more than this is missed.
const LATE: Duration = Duration::from_millis(350);

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(super) struct Balancer {
    mode: Balance,
    /// Workers that may get connections, in the order of their ids.
    pub(super) fit: Vec<WorkerId>,
    /// Workers that drain: they get connections of listeners that only their own requests know, while nobody else is there.
    pub(super) draining: Vec<WorkerId>,
    /// When the first of them will have missed a beat.
    late_at: Option<Time>,
    look_at: Option<Instant>,
    /// Looks in a row at which nothing waited.
    calm_looks: u32,
    weigh_at: Option<Instant>,
    attentive_until: Option<Instant>,
    /// Connections that workers told of since weights were last changed.
    arrivals: u64,
    /// Descriptors of the listeners have changed.
    pub(super) stale: bool,
}

/// What a look at a group's queues has shown.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    seats: u32,
    /// Connections wait.
    waits: bool,
    /// Somebody may have time for what waits for others.
    idle: bool,
}

impl Balancer {
    /// Whether all workers get connections from the kernel.
    pub(super) fn is_spread(&self) -> bool {
        self.mode == Balance::Spread
    }

    /// There is something to look at soon.
    pub(super) fn attend(&mut self) {
        self.look_at.get_or_insert_with(|| Instant::now() + LOOK);
    }

    /// As it is in force; before the first worker is ready, as it will be.
    fn mode(&self, configured: Balance) -> Balance {
        if self.fit.is_empty() {
            configured
        } else {
            self.mode
        }
    }

    /// When a worker's silence counts.
    pub(super) fn late_at(&self) -> Option<Time> {
        self.late_at
    }
}

/// Whether a worker can be trusted with a new connection.
fn is_fit(worker: &Worker, now: Time, silence: Option<Duration>) -> bool {
    let silent = |heard: Time| silence.is_some_and(|most| now.since(heard) > most);
    worker.is_ready()
        && worker.channel_open
        && !worker.leaving
        && !worker.hung
        && worker.doubted.is_none()
        && !worker.heard.is_some_and(silent)
}

impl World {
    /// A worker told what it has: connections that came, and those that are open.
    pub(super) fn told_load(&mut self, id: WorkerId, accepted: u64, open: u64) {
        let came = self.hands.report(id, accepted, open);
        if came > 0 && self.balancer.mode == Balance::Spread {
            self.balancer.arrivals += came;
            self.balancer.attentive_until = Some(Instant::now() + ATTENTION);
            self.balancer.attend();
        }
    }

    /// Follows what has changed since the last step.
    pub(super) fn follow_balance(&mut self, supervisor: &Supervisor) {
        let plain = self.config.launch.balance == Balance::Shared && self.listeners.are_plain();
        if plain && self.balancer.fit.is_empty() {
            return;
        }
        let mode = self
            .releases
            .get(&supervisor.generation())
            .map_or(self.config.launch.balance, |r| r.launch.balance);
        let now = self.bus.now;
        let attentive = mode != Balance::Shared && supervisor.policy().attentive;
        // As often as each was told to beat.
        let silence = |w: &Worker| attentive.then(|| supervisor.terms(w).beat + LATE);
        let fit: Vec<_> = supervisor
            .workers()
            .filter(|w| is_fit(w, now, silence(w)))
            .map(|w| (w.id, w.heard.zip(silence(w))))
            .collect();
        let late = fit.iter().filter_map(|(_, heard)| *heard);
        self.balancer.late_at = late
            .map(|(heard, most)| heard + most + Duration::from_millis(1))
            .min();
        let drains =
            |w: &&Worker| w.state == State::Draining && w.channel_open && !w.hung && !w.leaving;
        let draining: Vec<_> = (supervisor.workers().filter(drains).map(|w| w.id)).collect();
        let changed = !fit.iter().map(|(id, _)| id).eq(&self.balancer.fit)
            || draining != self.balancer.draining;
        if changed || self.balancer.mode != mode || std::mem::take(&mut self.balancer.stale) {
            self.balancer.fit = fit.into_iter().map(|(id, _)| id).collect();
            self.balancer.draining = draining;
            self.balancer.mode = mode;
            self.weigh();
            self.tend();
            self.give_back();
        }
    }

    /// When [`look`](Self::look) has something to do.
    pub(super) fn look_due(&self) -> Option<Instant> {
        self.balancer
            .look_at
            .into_iter()
            .chain(self.hands.due())
            .min()
    }

    /// Looks at the queues and at what workers carry, if it is time. Returns whether it was.
    pub(super) fn look(&mut self) -> bool {
        let now = Instant::now();
        if self.look_due().is_none_or(|at| at > now) {
            return false;
        }
        self.give_back();
        self.hands.go_on(now);
        if self.balancer.look_at.is_none_or(|at| at > now) {
            return true;
        }
        let mut seats = 0;
        let mut waits = self.hands.is_waiting();
        let mut idle = self.balancer.mode != Balance::Spread;
        if self.balancer.mode == Balance::Spread {
            let groups: Vec<_> = self.listeners.groups().map(|(id, _)| id).collect();
            for group in groups {
                let seen = self.look_at_queues(group);
                seats += seen.seats;
                waits |= seen.waits;
                idle |= seen.idle;
            }
        }
        let slower = self.relieve_hands(idle);
        if slower {
            self.follow_turns();
        }
        if self.balancer.weigh_at.is_none_or(|at| at <= now) {
            self.weigh();
        }
        let attentive = self.balancer.attentive_until.is_some_and(|at| at > now);
        self.balancer.calm_looks = if waits {
            0
        } else {
            self.balancer.calm_looks + 1
        };
        // Where nothing has waited for a while, it is looked at less often.
        let calm = self.balancer.calm_looks > CALM;
        let look = if calm { CALM_LOOK } else { LOOK };
        self.balancer.look_at = (attentive || waits).then(|| now + look.max(LOOK_A_SEAT * seats));
        true
    }

    /// Looks at the accept queues of a group: a worker at whose seat connections wait is asked whether it turns. Returns how
    /// it has seen.
    fn look_at_queues(&mut self, id: GroupId) -> Seen {
        let seats = self.seats_of(id);
        let mut seen = Seen {
            seats: seats.len() as u32,
            ..Seen::default()
        };
        let Some(group) = self.listeners.group(id).filter(|group| group.len() > 1) else {
            return seen;
        };
        let waiting: Vec<bool> = (seats.iter().map(|(seat, _)| group.waiting(*seat) > 0)).collect();
        for ((_, workers), waits) in seats.iter().zip(waiting) {
            seen.waits |= waits;
            for worker in workers {
                if waits {
                    self.ask(*worker, id);
                } else {
                    seen.idle |= self.has_answered(*worker);
                }
            }
        }
        seen
    }

    /// Who may get the connections of a group.
    pub(super) fn takers(&self, group: GroupId) -> Vec<(WorkerId, Holding, &str)> {
        let of = |list: &[WorkerId]| -> Vec<_> {
            let holders = self.listeners.holders(group);
            holders.filter(|(id, _, _)| list.contains(id)).collect()
        };
        let fit = of(&self.balancer.fit);
        if fit.is_empty() && !self.balancer.draining.is_empty() && self.listeners.is_private(group)
        {
            return of(&self.balancer.draining);
        }
        fit
    }

    /// Seats that fit workers accept from, with these workers.
    fn seats_of(&self, group: GroupId) -> Vec<(u32, Vec<WorkerId>)> {
        let mut seats: Vec<(u32, Vec<WorkerId>)> = vec![];
        for (id, how, _) in self.takers(group) {
            let Holding::Seat(seat) = how else { continue };
            match seats.iter_mut().find(|(s, _)| *s == seat) {
                Some((_, workers)) if workers.contains(&id) => {}
                Some((_, workers)) => workers.push(id),
                None => seats.push((seat, vec![id])),
            }
        }
        seats
    }

    /// Tells the kernel who gets how much.
    fn weigh(&mut self) {
        let arrivals = std::mem::take(&mut self.balancer.arrivals);
        self.balancer.weigh_at = Some(Instant::now() + WEIGH);
        self.steer(|weigher, seats| weigher.weigh(seats, arrivals));
    }

    /// Somebody has become slow, or is no longer.
    pub(super) fn follow_turns(&mut self) {
        self.tend();
        if self.balancer.mode == Balance::Spread {
            self.steer(Weigher::weigh_again);
        }
    }

    fn steer(&mut self, weigh: impl Fn(&mut Weigher, &[Seat]) -> Option<Vec<u32>>) {
        let mode = self.balancer.mode;
        let ids: Vec<_> = (self.listeners.groups())
            .filter(|(_, group)| group.len() > 1)
            .map(|(id, _)| id)
            .collect();
        for id in ids {
            let taken = self.seats_of(id);
            let slow = |worker: &&WorkerId| self.is_slow(**worker);
            let slow: Vec<_> = (self.balancer.fit.iter().filter(slow).copied()).collect();
            let Some(group) = self.listeners.group(id) else {
                continue;
            };
            let mut seats = vec![Seat::default(); group.len()];
            for (seat, workers) in &taken {
                let known = &mut seats[*seat as usize];
                let turns = workers.iter().any(|worker| !slow.contains(worker));
                known.eligible = turns || mode == Balance::SourceIp;
                for worker in workers {
                    let (open, busy) = self.hands.load(*worker);
                    known.connections = known.connections.saturating_add(open);
                    known.busy = known.busy.max(busy);
                }
            }
            if !seats.iter().any(|s| s.eligible) {
                // All are slow: nobody is worse than the others.
                for (seat, _) in &taken {
                    seats[*seat as usize].eligible = true;
                }
            }
            let weights = weigh(&mut group.weigher, &seats);
            group.steer(mode, weights);
        }
    }

    /// Tends the seats that no fit worker accepts from, as long as there is a worker to give to. Where clients may go to
    /// anybody, one that is slow counts for as long as nobody.
    pub(super) fn tend(&mut self) {
        let mut seats = vec![];
        let anybody = self.balancer.mode == Balance::Spread;
        for (id, group) in self.listeners.groups() {
            let mut taken = self.seats_of(id);
            taken.retain(|(_, by)| !anybody || by.iter().any(|worker| !self.is_slow(*worker)));
            if self.takers(id).is_empty() {
                continue;
            }
            for seat in 0..group.len() as u32 {
                if !taken.iter().any(|(s, _)| *s == seat)
                    && let Some(socket) = group.socket(seat)
                {
                    seats.push((id, seat, socket.clone()));
                }
            }
        }
        self.hands.tend(seats);
    }

    /// How evenly connections and requests are shared.
    pub(super) fn shares(&self, figures: &[SlotFigures], supervisor: &Supervisor) -> BalanceStatus {
        let open = |slot| {
            let seated = supervisor.workers().filter(|w| w.slot == slot && !w.spare);
            // Where workers do not tell at once, what they told last.
            let told = |w: &Worker| w.beat.map_or(0, |b| b.connections);
            let known = |w: &Worker| self.hands.known(w.id).unwrap_or_else(|| told(w));
            seated.map(known).sum::<u64>()
        };
        let wanted = figures
            .iter()
            .filter(|f| f.slot.0 < supervisor.policy().workers);
        let rows: Vec<_> = wanted
            .map(|f| (f.slot, [open(f.slot), f.accepted, f.requests]))
            .collect();
        let column = |at: usize| -> Vec<f64> { rows.iter().map(|(_, r)| r[at] as f64).collect() };
        let sum = |at: usize| column(at).iter().sum::<f64>();
        let part = |of: u64, at: usize| of as f64 / sum(at).max(1.0);
        let mode = self.balancer.mode(self.config.launch.balance);
        BalanceStatus {
            mode: mode.name().to_owned(),
            fairness: Fairness {
                connections: fairness(&column(0)),
                accepted: fairness(&column(1)),
                requests: fairness(&column(2)),
            },
            shares: rows
                .iter()
                .map(|(slot, [connections, accepted, requests])| SlotShare {
                    slot: *slot,
                    connections: *connections,
                    accepted: part(*accepted, 1),
                    requests: part(*requests, 2),
                })
                .collect(),
            passed: self.hands.passed,
            held: self.hands.held() as u64,
        }
    }
}
