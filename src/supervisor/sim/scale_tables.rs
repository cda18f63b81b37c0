//! Another number of workers in the middle of an atomic reload: one release serves at a time all the same.

use std::time::Duration;

use super::{
    super::{Event, Fact, Policy, Scale, Switch},
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
