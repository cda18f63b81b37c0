//! Fleets whose workers die again and again: who is held back, and who is not.

use super::{
    super::{Event, Exit, Fact, Policy, SpawnBudget, State, WorkerId},
    table::{Table, policy},
};

/// From its order until it listens, milliseconds.
const BOOT: u64 = 300;

const KILLED: Exit = Exit::Signal {
    signal: 9,
    core: false,
};

/// A fleet of four, and how many were started after the first four.
struct Fleet {
    table: Table,
    now: u64,
}

impl Fleet {
    fn new() -> Self {
        let four = Policy {
            workers: 4,
            ..policy()
        };
        Self {
            table: Table::serving(four),
            now: 10,
        }
    }

    /// Time goes on by 10 ms; who has booted listens.
    fn turn(&mut self) {
        self.now += 10;
        self.table.tick(self.now);
        let now = self.now;
        let up = |w: &&super::super::Worker| w.state < State::Ready && w.started.0 + BOOT <= now;
        let up: Vec<u64> = self
            .table
            .machine
            .workers()
            .filter(up)
            .map(|w| w.id.0)
            .collect();
        for id in up {
            self.table.ready(id);
        }
    }

    /// Who serves, and since when.
    fn ready(&self) -> Vec<(WorkerId, u64)> {
        let workers = self.table.machine.workers();
        workers
            .filter_map(|w| Some((w.id, w.ready_at?.0)))
            .collect()
    }

    fn ends(&mut self, id: WorkerId, exit: Exit) {
        self.table.tell(Event::Exited { id, exit });
    }

    fn started(&self) -> u64 {
        let last = self.table.machine.workers().map(|w| w.id.0).max();
        last.unwrap_or(0).saturating_sub(4)
    }
}

#[test]
fn a_fleet_of_which_one_is_killed_every_300_ms_stays_served() {
    // The oldest, then any.
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut fleet = Fleet::new();
        for kill in 0..100 {
            let ready = fleet.ready();
            let victim = if seed == 0 {
                0
            } else {
                rng.usize(..ready.len())
            };
            fleet.ends(ready[victim].0, KILLED);
            for _ in 0..30 {
                assert!(
                    !fleet.ready().is_empty(),
                    "seed {seed}: nobody serves after kill {kill}"
                );
                fleet.turn();
            }
        }
        let started = fleet.started();
        assert!((60..=100).contains(&started), "{started} restarts");
    }
}

#[test]
fn workers_that_die_within_seconds_are_held_back_more_and_more() {
    for (served, exit, most) in [
        (600, Exit::Code(1), 160),
        (3000, Exit::Code(0), 160),
        // Perhaps the kernel for memory: spaced all the same, a tenth of a second at least.
        (600, KILLED, 2550),
    ] {
        let mut fleet = Fleet::new();
        let until = 600_000;
        while fleet.now < until {
            fleet.turn();
            for (id, since) in fleet.ready() {
                if since + served <= fleet.now {
                    fleet.ends(id, exit);
                }
            }
        }
        let started = fleet.started();
        assert!(
            started <= most,
            "{started} restarts in ten minutes of {exit}, {served} ms of service each"
        );
        let bound = SpawnBudget::burst(4) + SpawnBudget::per_second(4) * until / 1000;
        assert!(started <= bound);
    }
}

#[test]
fn who_calls_disconnect_drains_by_itself_and_is_replaced_at_once() {
    let mut table = Table::serving(policy());
    assert_eq!(table.at(1000).fact(1, Fact::Leaving), [""; 0]);
    // No order to drain: it does so already, and has no channel to hear it.
    let next = ["spawn 3 in slot 0 of generation 1"];
    assert_eq!(table.fact(1, Fact::ChannelClosed), next);
    assert_eq!(table.fleet()[0], "1:1:draining");
    assert_eq!(table.ready(3), [""; 0]);
    // It has the time of a drain, no more.
    assert_eq!(table.tick(20_999), ["measure 2", "measure 3"]);
    assert_eq!(table.tick(21_000), ["stop 1"]);
    assert_eq!(table.exits(1, 0), [""; 0], "its seat is another's");
}
