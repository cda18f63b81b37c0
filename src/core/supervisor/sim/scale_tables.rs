//! Another number of workers in the middle of an atomic reload: one release serves at a time all the same.

use std::time::Duration;

use super::{
    super::{Event, Fact, Listened, Policy, Scale, Switch, WorkerId},
    table::{Table, policy},
};

fn atomic(workers: u32, spares: u32) -> Policy {
    Policy {
        workers,
        spares,
        switch: Switch::Atomic,
        bake: Duration::from_secs(60),
        ..policy()
    }
}

fn held(table: &mut Table, id: u64) -> Vec<String> {
    table.spawned(id);
    table.fact(id, Fact::AtGate)
}

#[test]
fn a_slot_that_went_and_came_back_waits_at_the_gate() {
    let mut t = Table::serving(atomic(2, 0));
    t.at(1000).reload(1);
    assert_eq!(
        t.prepared(2),
        [
            "spawn 3 in slot 0 of generation 2 held",
            "spawn 4 in slot 1 of generation 2 held"
        ]
    );
    t.spawned(3);
    t.spawned(4);
    assert_eq!(t.tell(Event::Scale(Scale::To(1))), ["drain 2", "stop 4"]);
    // The other slot is wanted again: new code behind the gate, and old code to serve until the switch.
    let orders = t.tell(Event::Scale(Scale::To(2)));
    assert_eq!(
        orders,
        [
            "spawn 5 in slot 1 of generation 2 held",
            "spawn 6 in slot 1 of generation 1"
        ]
    );
}

#[test]
fn new_code_does_not_take_over_beside_old_code_that_is_too_many() {
    let also = |address: &str| Fact::Listening(Listened::on(address));
    // Until the switch: worker 2 alone has opened the second address.
    let scaled_down = || {
        let mut t = Table::serving(atomic(2, 0));
        t.fact(2, also("1"));
        t.at(1000).reload(1);
        t.prepared(2);
        t.spawned(3);
        t.spawned(4);
        assert_eq!(t.tell(Event::Scale(Scale::To(1))), ["stop 4"]);
        t.exits(4, 0);
        assert_eq!(t.fact(3, Fact::AtGate), ["open gate 3"]);
        assert_eq!(t.listens(3), [""; 0]);
        t
    };
    // The new code opens it, and is alone from then on.
    assert_eq!(scaled_down().fact(3, also("1")), ["drain 1", "drain 2"]);
    // It does not open it: the ready timeout is over.
    let mut t = scaled_down();
    t.tick(30_000);
    assert_eq!(t.tick(30_999), [""; 0]);
    assert_eq!(t.tick(31_000), ["drain 1", "drain 2"]);
}

#[test]
fn a_spare_of_the_old_code_does_not_serve_after_the_switch() {
    let mut t = Table::serving(atomic(1, 1));
    assert_eq!(held(&mut t, 2), [""; 0]);
    t.at(1000).reload(1);
    assert_eq!(t.prepared(2), ["spawn 3 in slot 0 of generation 2 held"]);
    assert_eq!(held(&mut t, 3), ["open gate 3"]);
    assert_eq!(t.listens(3), ["drain 1"]);
    // The spare sits where a worker is wanted from now on.
    let orders = t.tell(Event::Scale(Scale::To(2)));
    assert_eq!(orders, ["spawn 4 in slot 1 of generation 2", "stop 2"]);
}

#[test]
fn a_worker_of_the_plan_is_planned_once_whoever_stood_in() {
    let mut t = Table::serving(atomic(2, 0));
    t.at(1000).reload(1);
    t.prepared(2);
    t.tell(Event::Scale(Scale::To(1)));
    t.tell(Event::Scale(Scale::To(2)));
    // Slot 1 has its second worker of each generation; the old code's cannot be started, twice.
    let failed = |id| Event::SpawnFailed {
        id: WorkerId(id),
        reason: "EAGAIN".to_owned(),
    };
    assert_eq!(t.tell(failed(6)), [""; 0]);
    assert_eq!(t.tick(1100), ["spawn 7 in slot 1 of generation 1"]);
    assert_eq!(t.tell(failed(7)), [""; 0]);
    // Down and up again: the slot waits for its backoff, new code and old.
    assert_eq!(t.tell(Event::Scale(Scale::To(1))), [""; 0]);
    assert_eq!(t.tell(Event::Scale(Scale::To(2))), [""; 0]);
    let orders = t.tick(1200);
    assert_eq!(
        orders,
        [
            "spawn 8 in slot 1 of generation 2 held",
            "spawn 9 in slot 1 of generation 1"
        ]
    );
}

#[test]
fn an_atomic_reload_fills_a_slot_that_came_back_however_many_others_are_held() {
    let mut t = Table::serving(atomic(3, 3));
    for id in 4..=6 {
        held(&mut t, id);
    }
    t.at(1000).reload(1);
    t.prepared(2);
    for id in 7..=9 {
        t.spawned(id);
    }
    // The old code of slot 2 dies twice and gets a spare each time; a third is left.
    assert_eq!(t.exits(3, 1), ["promote 4 to slot 2", "open gate 4"]);
    t.listens(4);
    assert_eq!(t.exits(4, 1), ["promote 5 to slot 2", "open gate 5"]);
    assert_eq!(t.tell(Event::Scale(Scale::To(2))), ["stop 5", "stop 9"]);
    let orders = t.tell(Event::Scale(Scale::To(3)));
    assert_eq!(orders, ["promote 6 to slot 2", "open gate 6"]);
    t.listens(6);
    for id in 7..=8 {
        assert_eq!(t.fact(id, Fact::AtGate), [""; 0]);
    }
    // Two wait at the gate, and the surge is one: the reload would wait for ever.
    assert_eq!(t.tick(1100), ["spawn 10 in slot 2 of generation 2 held"]);
}

#[test]
fn fewer_workers_are_wanted_and_not_none() {
    let rolling = Policy {
        workers: 3,
        ..policy()
    };
    let mut t = Table::serving(rolling);
    // The worker that would be left has just died.
    assert_eq!(
        t.at(1000).exits(1, 1),
        ["spawn 4 in slot 0 of generation 1"]
    );
    assert_eq!(t.tell(Event::Scale(Scale::To(1))), ["drain 3"]);
    assert_eq!(t.ready(4), ["drain 2"]);
}

#[test]
fn who_gets_ready_first_in_a_smaller_fleet_stands_in() {
    let mut t = Table::booting(Policy {
        workers: 2,
        ..policy()
    });
    t.tell(Event::Scale(Scale::To(1)));
    assert_eq!(t.ready(2), [""; 0]);
    assert_eq!(t.ready(1), ["drain 2"]);
}
