//! Reloads, step by step.

use std::time::Duration;

use super::{
    super::{Event, Fact, Generation, Policy, Scale, Surge, Switch},
    table::{Table, policy},
};

#[test]
fn a_rolling_reload_goes_slot_by_slot() {
    let mut t = Table::serving(Policy {
        min_uptime: Duration::from_secs(1),
        ..policy()
    });
    assert_eq!(t.at(100).reload(1), ["prepare 2"]);
    assert_eq!(t.prepared(2), ["spawn 3 in slot 0 of generation 2"]);
    assert_eq!(t.at(200).ready(3), [""; 0]);
    // Ready is not enough: it has to live for min-uptime.
    assert_eq!(t.tick(1199), [""; 0]);
    assert_eq!(
        t.tick(1200),
        ["spawn 4 in slot 1 of generation 2", "drain 1"]
    );
    // The next slot does not wait for the drain of the first.
    assert_eq!(t.at(1300).ready(4), [""; 0]);
    assert_eq!(t.tick(2300), ["drain 2"]);
    assert_eq!(t.at(2400).drains(2), [""; 0]);
    // Told when the old ones accept no more; releases go when they are gone.
    assert_eq!(t.fact(1, Fact::Closed("0".to_owned())), ["tell [1] done 2"]);
    assert_eq!(t.at(2500).drains(1), ["retire all but [1, 2]"]);
    assert_eq!(t.fleet(), ["3:2:ready", "4:2:ready"]);
    // Nothing is left to do but to measure now and then.
    assert_eq!(t.machine.deadline(), Some(super::super::Time(10_000)));
}

/// One worker; reloads follow each other while the old ones drain slowly.
#[test]
fn over_the_cap_only_the_oldest_is_cut() {
    let mut t = Table::serving(Policy {
        workers: 1,
        ..policy()
    });
    for generation in 2..=3 {
        t.at(generation * 100).reload(generation);
        t.prepared(generation);
        assert_eq!(t.ready(generation), [format!("drain {}", generation - 1)]);
        assert_eq!(
            t.fact(generation - 1, Fact::Closed("0".to_owned())),
            [format!("tell [{generation}] done {generation}")]
        );
    }
    assert_eq!(t.at(400).reload(4), ["prepare 4"]);
    assert_eq!(t.prepared(4), ["spawn 4 in slot 0 of generation 4"]);
    assert_eq!(t.ready(4), ["drain 3", "stop 1"]);
    assert_eq!(
        t.fleet(),
        ["1:1:stopping", "2:2:draining", "3:3:draining", "4:4:ready"]
    );
}

/// The old worker of slot 1 is dead and waits for its backoff: nobody there
/// can relieve the new one, which must go all the same.
#[test]
fn a_failed_reload_sends_home_whoever_boots_for_it() {
    let mut t = Table::serving(Policy {
        surge: Surge::Count(2),
        ..policy()
    });
    // The first death is forgiven, the second is not.
    assert_eq!(t.at(20).exits(2, 1), ["spawn 3 in slot 1 of generation 1"]);
    t.spawned(3);
    assert_eq!(t.exits(3, 1), [""; 0]);
    t.reload(1);
    assert_eq!(
        t.prepared(2),
        [
            "spawn 4 in slot 0 of generation 2",
            "spawn 5 in slot 1 of generation 2"
        ]
    );
    t.spawned(4);
    t.spawned(5);
    assert_eq!(
        t.exits(4, 1),
        [
            "tell [1] failed: worker of slot 0 ended: exit code 1",
            "stop 5"
        ]
    );
    assert_eq!(t.fleet(), ["1:1:ready", "5:2:stopping"]);
}

#[test]
fn during_an_atomic_reload_the_old_generation_is_kept_up() {
    let mut t = Table::serving(Policy {
        switch: Switch::Atomic,
        ..policy()
    });
    t.at(20).reload(1);
    t.prepared(2);
    t.spawned(3);
    t.spawned(4);
    assert_eq!(t.exits(1, 1), ["spawn 5 in slot 0 of generation 1"]);
    t.fact(3, Fact::AtGate);
    assert_eq!(
        t.exits(4, 1),
        [
            "tell [1] failed: worker of slot 1 ended: exit code 1",
            "stop 3"
        ]
    );
}

#[test]
fn an_atomic_reload_switches_in_one_moment() {
    let mut t = Table::serving(Policy {
        switch: Switch::Atomic,
        min_uptime: Duration::from_secs(1),
        ..policy()
    });
    assert_eq!(t.at(100).reload(1), ["prepare 2"]);
    assert_eq!(
        t.prepared(2),
        [
            "spawn 3 in slot 0 of generation 2 held",
            "spawn 4 in slot 1 of generation 2 held"
        ]
    );
    t.spawned(3);
    t.spawned(4);
    assert_eq!(t.at(200).fact(3, Fact::AtGate), [""; 0]);
    assert_eq!(t.at(300).fact(4, Fact::AtGate), [""; 0]);
    // The last one lives for min-uptime at the gate.
    assert_eq!(t.tick(1299), [""; 0]);
    assert_eq!(t.tick(1300), ["open gate 3", "open gate 4"]);
    assert_eq!(t.at(1301).listens(3), [""; 0]);
    // All listen: at this moment the old ones are told, not a min-uptime later.
    assert_eq!(t.at(1302).listens(4), ["drain 1", "drain 2"]);
    t.at(1400).drains(1);
    t.drains(2);
    // The reload can still fail until the new ones have served for min-uptime.
    assert_eq!(t.tick(2301), [""; 0]);
    assert_eq!(t.tick(2302), ["tell [1] done 2", "retire all but [1, 2]"]);
}

#[test]
fn an_atomic_reload_whose_workers_die_once_they_serve_goes_back() {
    let mut t = Table::serving(Policy {
        switch: Switch::Atomic,
        min_uptime: Duration::from_secs(1),
        ..policy()
    });
    t.at(100).reload(1);
    t.prepared(2);
    for id in [3, 4] {
        t.spawned(id);
        t.fact(id, Fact::AtGate);
    }
    t.tick(1100);
    t.listens(3);
    assert_eq!(t.listens(4), ["drain 1", "drain 2"]);
    // Slot 0 is empty; in slot 1 the new worker serves until an old one can.
    assert_eq!(
        t.at(1400).exits(3, 1),
        [
            "tell [1] failed: worker of slot 0 ended: exit code 1",
            "spawn 5 in slot 0 of generation 1",
            "spawn 6 in slot 1 of generation 1"
        ]
    );
    t.ready(5);
    assert_eq!(t.ready(6), [""; 0]);
    assert_eq!(t.tick(2400), ["drain 4"]);
}

/// As above, but the one that was cut ignores its stop signal: the next reload
/// waits until it is reaped.
#[test]
fn processes_are_bounded() {
    let mut t = Table::serving(Policy {
        workers: 1,
        ..policy()
    });
    for generation in 2..=4 {
        t.at(generation * 100).reload(generation);
        t.prepared(generation);
        t.ready(generation);
    }
    t.at(500).reload(5);
    assert_eq!(t.prepared(5), [""; 0], "1 seat, 1 extra, 2 draining");
    assert_eq!(t.tick(5400), ["kill 1"]);
    assert_eq!(t.exits(1, 137), ["spawn 5 in slot 0 of generation 5"]);
}

#[test]
fn what_a_worker_says_before_its_start_is_told_counts() {
    let mut t = Table::booting(policy());
    t.listens(1);
    t.spawned(1);
    assert_eq!(t.fleet(), ["1:1:ready", "2:1:starting"]);

    let mut t = Table::serving(Policy {
        switch: Switch::Atomic,
        ..policy()
    });
    t.reload(1);
    t.prepared(2);
    t.fact(3, Fact::AtGate);
    t.spawned(3);
    t.spawned(4);
    assert_eq!(t.fact(4, Fact::AtGate), ["open gate 3", "open gate 4"]);
}

#[test]
fn a_rollback_during_a_reload_is_told_when_the_old_code_serves_alone() {
    let mut t = Table::serving(policy());
    t.at(100).reload(1);
    t.prepared(2);
    assert_eq!(t.ready(3), ["spawn 4 in slot 1 of generation 2", "drain 1"]);
    t.drains(1);
    t.spawned(4);
    assert_eq!(
        t.at(200).rollback(2),
        [
            "tell [1] superseded: rolled back",
            "spawn 5 in slot 0 of generation 1",
            "stop 4"
        ]
    );
    // Worker 3 serves until its successor does.
    assert_eq!(t.at(300).ready(5), ["drain 3"]);
    assert_eq!(t.fact(3, Fact::Closed("0".to_owned())), ["tell [2] done 1"]);
}

#[test]
fn a_rollback_after_a_reload_takes_the_release_before() {
    let mut t = Table::serving(policy());
    assert_eq!(
        t.rollback(1),
        ["tell [1] failed: there is no previous release to go back to"]
    );
    t.reload(2);
    t.prepared(2);
    t.ready(3);
    t.ready(4);
    t.drains(1);
    assert_eq!(t.drains(2).last().unwrap(), "retire all but [1, 2]");
    assert_eq!(t.rollback(3), ["prepare 3 from 1"]);
}

#[test]
fn requests_during_a_reload_become_one_more() {
    let mut t = Table::serving(policy());
    assert_eq!(t.reload(1), ["prepare 2"]);
    for ticket in 2..1000 {
        assert_eq!(t.reload(ticket), [""; 0]);
    }
    t.prepared(2);
    t.ready(3);
    assert_eq!(t.ready(4), ["drain 2", "prepare 3"]);
    t.fact(1, Fact::Closed("0".to_owned()));
    // The next reload runs already; the first is told all the same.
    t.prepared(3);
    t.ready(5);
    assert_eq!(t.fact(2, Fact::Closed("0".to_owned())), ["tell [1] done 2"]);
}

#[test]
fn a_release_that_cannot_be_prepared_changes_nothing() {
    let mut t = Table::serving(policy());
    t.reload(1);
    let (generation, reason) = (Generation(2), "no such script".to_owned());
    assert_eq!(
        t.tell(Event::PrepareFailed { generation, reason }),
        ["tell [1] failed: no such script", "retire all but [1]"]
    );
    assert_eq!(t.fleet(), ["1:1:ready", "2:1:ready"]);
}

/// The committed generation is down; workers of given-up ones must not pile up.
#[test]
fn one_worker_of_a_given_up_generation_stands_in() {
    let mut t = Table::serving(Policy {
        workers: 1,
        bake: Duration::from_secs(60),
        ..policy()
    });
    assert_eq!(t.at(20).exits(1, 1), ["spawn 2 in slot 0 of generation 1"]);
    t.spawned(2);
    assert_eq!(t.exits(2, 1), [""; 0]);
    t.reload(1);
    t.prepared(2);
    t.ready(3);
    t.rollback(2);
    t.reload(3);
    t.prepared(3);
    assert_eq!(t.ready(4), [""; 0]);
    assert_eq!(
        t.rollback(4),
        ["tell [3] superseded: rolled back", "drain 4"]
    );
    assert_eq!(t.fleet(), ["3:2:ready", "4:3:draining"]);
    assert_eq!(t.tick(120), ["spawn 5 in slot 0 of generation 1"]);
    assert_eq!(t.ready(5), ["drain 3"]);
}

/// Each replacement misbehaves before it has proven itself: one goes on
/// serving, and no more than that.
#[test]
fn one_condemned_worker_stands_in() {
    let mut t = Table::serving(Policy {
        workers: 1,
        min_uptime: Duration::from_secs(1),
        ..policy()
    });
    let flood = || Fact::Misbehaves("flood".to_owned());
    assert_eq!(t.fact(1, flood()), ["spawn 2 in slot 0 of generation 1"]);
    assert_eq!(t.ready(2), [""; 0]);
    assert_eq!(
        t.fact(2, flood()),
        ["spawn 3 in slot 0 of generation 1", "drain 2"]
    );
    t.ready(3);
    assert_eq!(t.fleet(), ["1:1:ready", "2:1:draining", "3:1:ready"]);
    assert_eq!(t.tick(1010), ["drain 1"]);
}

#[test]
fn a_new_configuration_counts_for_the_reload_and_its_workers_at_the_end() {
    let mut t = Table::serving(policy());
    assert_eq!(t.at(100).reload(1), ["prepare 2"]);
    t.configured(
        2,
        Policy {
            workers: 1,
            drain_timeout: Duration::from_secs(1),
            ..policy()
        },
    );
    assert_eq!(t.machine.policy().workers, 2);
    assert_eq!(t.prepared(2), ["spawn 3 in slot 0 of generation 2"]);
    assert_eq!(t.ready(3), ["spawn 4 in slot 1 of generation 2", "drain 1"]);
    assert_eq!(t.machine.policy().drain_timeout, Duration::from_secs(1));
    // Only then is the second slot one too many.
    assert_eq!(t.ready(4), ["drain 2", "drain 4"]);
    assert_eq!(t.machine.policy().workers, 1);
}

#[test]
fn a_failed_reload_leaves_the_configuration_as_it_was() {
    let mut t = Table::serving(policy());
    for (generation, worker) in [(2, 3), (3, 4)] {
        t.at(generation * 100).reload(generation);
        t.configured(
            generation,
            Policy {
                workers: 3,
                bake: Duration::from_secs(9),
                ..policy()
            },
        );
        t.prepared(generation);
        assert_eq!(t.machine.policy().bake, Duration::from_secs(9));
        t.exits(worker, 1);
        assert_eq!(*t.machine.policy(), policy());
    }
    // A number that was never in force still is news to the next one.
    t.at(900).reload(4);
    t.configured(
        4,
        Policy {
            workers: 3,
            ..policy()
        },
    );
    t.prepared(4);
    t.ready(5);
    t.ready(6);
    assert_eq!(t.machine.policy().workers, 3);
}

#[test]
fn a_failed_reload_leaves_the_workers_that_were_asked_for_meanwhile() {
    let mut t = Table::serving(policy());
    t.at(100).reload(1);
    let bake = Duration::from_secs(9);
    t.configured(2, Policy { bake, ..policy() });
    t.prepared(2);
    t.tell(Event::Scale(Scale::To(3)));
    t.exits(3, 1);
    assert_eq!(
        *t.machine.policy(),
        Policy {
            workers: 3,
            ..policy()
        }
    );
}
