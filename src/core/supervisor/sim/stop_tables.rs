//! The end, step by step.

use super::{
    super::{Event, Fact, Urgency, WorkerId},
    table::{Table, policy},
};

const STOP: Event = Event::Stop(Urgency::Graceful);
const NOW: Event = Event::Stop(Urgency::Now);

#[test]
fn a_graceful_stop_drains_then_stops_then_kills() {
    let mut t = Table::serving(policy());
    assert_eq!(t.at(1000).tell(STOP), ["drain 1", "drain 2"]);
    // Worker 1 finishes; worker 2 ignores everything.
    assert_eq!(t.at(1500).drains(1), [""; 0]);
    assert_eq!(t.tick(20_999), [""; 0]);
    assert_eq!(t.tick(21_000), ["stop 2"]);
    assert_eq!(t.tick(26_000), ["kill 2"]);
    assert_eq!(t.tick(36_000), ["kill 2"]);
    assert_eq!(t.exits(2, 137), ["exit 6"]);
}

#[test]
fn a_second_stop_is_now() {
    let mut t = Table::serving(policy());
    assert_eq!(t.at(1000).tell(STOP), ["drain 1", "drain 2"]);
    assert_eq!(t.at(1100).tell(NOW), ["kill 1", "kill 2"]);
    assert_eq!(t.exits(1, 137), [""; 0]);
    assert_eq!(t.exits(2, 137), ["exit 6"]);
}

#[test]
fn a_stop_while_booting_reaches_processes_that_start_late() {
    let mut t = Table::booting(policy());
    assert_eq!(t.spawned(1), [""; 0]);
    assert_eq!(t.at(5).tell(STOP), ["stop 1"]);
    assert_eq!(t.at(6).spawned(2), ["stop 2"]);
    assert_eq!(t.exits(1, 0), [""; 0]);
    assert_eq!(t.exits(2, 0), ["exit 0"]);
}

#[test]
fn a_stop_ends_reloads_and_answers_who_waits() {
    let mut t = Table::serving(policy());
    assert_eq!(t.at(100).reload(1), ["prepare 2"]);
    assert_eq!(t.reload(2), [""; 0]);
    assert_eq!(
        t.tell(STOP),
        [
            "tell [1] superseded: the master is stopping",
            "tell [2] superseded: the master is stopping",
            "drain 1",
            "drain 2"
        ]
    );
    assert_eq!(t.reload(3), ["tell [3] superseded: the master is stopping"]);
    assert_eq!(t.prepared(2), [""; 0]);
    assert_eq!(t.drains(1), [""; 0]);
    assert_eq!(t.drains(2), ["exit 0"]);
}

#[test]
fn when_all_die_at_first_boot_it_ends_with_3() {
    let mut t = Table::booting(policy());
    t.spawned(1);
    t.spawned(2);
    assert_eq!(t.exits(1, 1), [""; 0]);
    assert_eq!(t.exits(2, 1), ["exit 3"]);
}

#[test]
fn when_none_is_ready_in_time_it_ends_with_4() {
    let mut t = Table::booting(policy());
    t.spawned(1);
    t.spawned(2);
    assert_eq!(t.tick(30_000), ["stop 1", "stop 2"]);
    assert_eq!(t.exits(1, 0), [""; 0]);
    assert_eq!(t.exits(2, 0), ["exit 4"]);
}

#[test]
fn when_the_port_is_taken_it_ends_with_5() {
    let mut t = Table::booting(policy());
    t.spawned(1);
    t.spawned(2);
    assert_eq!(t.exits(1, 1), [""; 0]);
    t.fact(2, Fact::BindFailed("port 80: EACCES".to_owned()));
    assert_eq!(t.exits(2, 1), ["exit 5"]);
}

#[test]
fn what_has_no_process_gets_no_signal_and_was_not_killed() {
    let mut t = Table::booting(policy());
    t.spawned(1);
    assert_eq!(t.at(5).tell(STOP), ["stop 1"]);
    assert_eq!(t.exits(1, 0), [""; 0]);
    // Worker 2 is ordered, and neither its start nor its failure is told.
    assert_eq!(t.tick(5005), [""; 0]);
    assert_eq!(t.tick(15_005), [""; 0]);
    let (id, reason) = (WorkerId(2), "EAGAIN".to_owned());
    assert_eq!(t.tell(Event::SpawnFailed { id, reason }), ["exit 0"]);
}

#[test]
fn a_start_told_twice_gets_one_signal() {
    let mut t = Table::booting(policy());
    t.tell(STOP);
    assert_eq!(t.spawned(1), ["stop 1"]);
    assert_eq!(t.spawned(1), [""; 0]);
}

/// The promise is drain timeout plus kill timeout, and not the time to end by
/// itself on top.
#[test]
fn a_drain_that_ends_late_does_not_prolong_the_stop() {
    let mut t = Table::serving(policy());
    t.at(1000).tell(STOP);
    t.at(20_900).drains(2);
    t.fact(
        1,
        Fact::Drained {
            cut: 3,
            stopping: false,
        },
    );
    assert_eq!(t.tick(21_000), ["stop 1"]);
    assert_eq!(t.tick(26_000), ["kill 1"]);
}
