//! Few workers boot at a time: the invariant, and schedules that a reader reads.

use super::{
    super::{Action, Event, Fact, Policy, Scale, Slot, State, Supervisor, Switch},
    invariants::{Step, Verdict, count, ensure},
    table::{Table, policy},
};

/// The policy bounds how many workers of a generation boot at a time; in a rolling reload the surge does, too.
/// Where more are ordered in a step, no more than that boot.
pub(super) fn are_bounded(step: &Step<'_>) -> Verdict {
    let (after, policy) = (step.after, &step.after.policy);
    let reload = after.reload.as_ref();
    for action in step.actions {
        let Action::Spawn { generation, .. } = action else {
            continue;
        };
        let boots = count(after, |w| {
            w.generation == *generation && w.state <= State::Booting
        });
        let rolls = reload.is_some_and(|r| r.generation == *generation && r.rolls());
        let surge = if rolls {
            policy.surge.of(policy.workers)
        } else {
            0
        };
        let most = policy.boots.max(surge) as usize;
        ensure(boots <= most, || {
            format!("{boots} workers boot, bound {most}")
        })?;
    }
    Ok(())
}

/// So many boot that a slot waits for one of them.
pub(super) fn is_full(machine: &Supervisor, slot: Slot) -> bool {
    let goals = [machine.goal(slot), machine.committed];
    goals.iter().any(|goal| {
        let boots = |w: &super::super::Worker| w.generation == *goal && w.state <= State::Booting;
        count(machine, boots) >= machine.policy.boots as usize
    })
}

fn two_at_a_time(workers: u32) -> Policy {
    Policy {
        workers,
        boots: 2,
        ..policy()
    }
}

#[test]
fn a_first_boot_begins_with_as_many_as_may_boot() {
    let mut t = Table::booting(two_at_a_time(4));
    assert_eq!(t.fleet(), ["1:1:starting", "2:1:starting"]);
    assert_eq!(t.spawned(1), [""; 0]);
    assert_eq!(t.listens(1), ["spawn 3 in slot 2 of generation 1"]);
    assert_eq!(t.ready(2), ["spawn 4 in slot 3 of generation 1"]);
    assert_eq!(t.ready(3), [""; 0]);
    assert_eq!(t.ready(4), [""; 0]);
}

#[test]
fn a_first_boot_that_fails_starts_no_others() {
    let mut t = Table::booting(two_at_a_time(4));
    t.spawned(1);
    t.spawned(2);
    assert_eq!(t.exits(1, 1), [""; 0]);
    assert_eq!(t.exits(2, 1), ["exit 3"]);
    // Where one gets ready the others follow.
    let mut t = Table::booting(two_at_a_time(4));
    t.spawned(1);
    t.spawned(2);
    assert_eq!(t.exits(1, 1), [""; 0]);
    let orders = t.listens(2);
    assert_eq!(
        orders,
        [
            "spawn 3 in slot 0 of generation 1",
            "spawn 4 in slot 2 of generation 1"
        ]
    );
}

#[test]
fn many_more_workers_boot_by_and_by() {
    let mut t = Table::serving(two_at_a_time(1));
    let orders = t.tell(Event::Scale(Scale::To(100)));
    let expected = [
        "spawn 2 in slot 1 of generation 1",
        "spawn 3 in slot 2 of generation 1",
    ];
    assert_eq!(orders, expected);
    for id in 2..=100 {
        let next = t.ready(id).len();
        assert_eq!(next, usize::from(id < 99), "after worker {id}");
    }
    assert_eq!(t.fleet().len(), 100);
}

#[test]
fn an_atomic_reload_boots_by_and_by_and_a_rolling_one_by_its_surge() {
    let atomic = Policy {
        switch: Switch::Atomic,
        ..two_at_a_time(3)
    };
    let mut t = Table::serving(atomic);
    t.reload(1);
    assert_eq!(t.prepared(2).len(), 2);
    t.spawned(4);
    let orders = t.fact(4, Fact::AtGate);
    assert_eq!(orders, ["spawn 6 in slot 2 of generation 2 held"]);

    let rolling = Policy {
        surge: "100%".parse().expect("a surge"),
        ..two_at_a_time(3)
    };
    let mut t = Table::serving(rolling);
    t.reload(1);
    assert_eq!(t.prepared(2).len(), 3);
}
