//! What is kept of what went wrong, for a reader.

use std::time::Duration;

use super::{
    super::{Event, Exit, Fact, Finding, Incident, Kind, Policy, Slot, WorkerId},
    table::{Table, policy},
};

const KILLED: Exit = Exit::Signal {
    signal: 9,
    core: false,
};

fn ends(table: &mut Table, id: u64, exit: Exit) {
    let id = WorkerId(id);
    table.tell(Event::Exited { id, exit });
}

fn incidents(table: &Table) -> Vec<&Incident> {
    table.machine.incidents.iter().collect()
}

/// The only incident: kind and words.
fn told(table: &Table) -> (Kind, &str) {
    let [incident] = incidents(table)[..] else {
        panic!("not one incident: {:?}", incidents(table));
    };
    (incident.kind, &incident.reason)
}

#[test]
fn each_end_has_its_kind_and_its_words() {
    let core = Exit::Signal {
        signal: 11,
        core: true,
    };
    let oom = Fact::OutOfMemory { kills: 2 };
    for (before, exit, kind, words) in [
        (None, Exit::Code(1), Kind::Crashed, "exit code 1"),
        (None, core, Kind::Crashed, "killed by SIGSEGV (core dumped)"),
        (
            None,
            KILLED,
            Kind::Killed,
            "killed by SIGKILL, which the master did not send: perhaps out of memory",
        ),
        (
            Some(oom),
            KILLED,
            Kind::Killed,
            "killed by SIGKILL: out of memory (the cgroup's oom_kill counter rose by 2)",
        ),
        (
            Some(Fact::Leaving),
            Exit::Code(0),
            Kind::Left,
            "exit code 0",
        ),
        (Some(Fact::Leaving), KILLED, Kind::Left, ""),
    ] {
        let mut table = Table::serving(policy());
        if let Some(fact) = before.clone() {
            table.fact(1, fact);
        }
        ends(&mut table, 1, exit);
        let (what, why) = told(&table);
        assert_eq!(what, kind, "{before:?}, {exit}");
        assert!(why == words || words.is_empty(), "{why}");
        let incident = incidents(&table)[0];
        assert_eq!(incident.exit, Some(exit));
        let kills = matches!(before, Some(Fact::OutOfMemory { .. })).then_some(2);
        assert_eq!(incident.oom_kills, kills);
        let place = (incident.slot, incident.worker, incident.pid.map(|p| p.0));
        assert_eq!(place, (Slot(0), WorkerId(1), Some(1001)));
        assert_eq!(table.machine.seats[0].troubles[&kind], 1);
    }
}

#[test]
fn who_was_told_to_go_and_finished_is_no_incident() {
    let mut table = Table::serving(policy());
    table.tell(Event::Park);
    table.drains(2);
    assert_eq!(incidents(&table), [] as [&Incident; 0]);
    ends(&mut table, 1, KILLED);
    assert_eq!(told(&table).0, Kind::Undrained);
}

#[test]
fn a_channel_that_closes_is_told_by_when_it_did() {
    for (ready, words) in [
        (false, "closed its channel while booting"),
        (true, "closed its channel but serves on"),
    ] {
        let mut table = Table::serving(policy());
        // What boots here is a replacement.
        table.exits(1, 1);
        table.spawned(3);
        let id = if ready { 2 } else { 3 };
        table.fact(id, Fact::ChannelClosed);
        let incident = incidents(&table)[1];
        assert_eq!(
            (incident.kind, incident.reason.as_str()),
            (Kind::Left, words)
        );
    }
}

#[test]
fn the_last_error_is_kept_wherever_it_comes_from() {
    let error = "Error: no database\n    at start (/app/server.js:3:9)";
    let mut table = Table::serving(policy());
    table.fact(1, Fact::Failed(error.to_owned()));
    table.exits(1, 1);
    assert_eq!(incidents(&table)[0].error.as_deref(), Some(error));
    // It may come between the incident and the end.
    let mut table = Table::serving(policy());
    table.fact(1, Fact::ChannelClosed);
    assert_eq!(incidents(&table)[0].error, None);
    table.fact(1, Fact::Failed(error.to_owned()));
    table.exits(1, 1);
    assert_eq!(incidents(&table)[0].error.as_deref(), Some(error));
    assert_eq!(incidents(&table)[0].exit, Some(Exit::Code(1)));
}

#[test]
fn what_a_look_into_a_hung_worker_found_completes_its_incident() {
    let stack = "spin (/app/server.js:7:3)".to_owned();
    let stopped = "its process is stopped (SIGSTOP or a debugger)";
    let unknown =
        "hung: no heartbeat for 1.2 s, and none since its start (no stack: it did not answer)";
    let busy = Finding::Busy {
        stack: stack.clone(),
    };
    for (finding, kind, words, kept) in [
        (
            busy,
            Kind::Hung,
            "hung: no heartbeat for 1.2 s, and none since its start",
            Some(stack),
        ),
        (Finding::Stopped, Kind::Stopped, stopped, None),
        (
            Finding::Unknown("it did not answer".to_owned()),
            Kind::Hung,
            unknown,
            None,
        ),
    ] {
        let mut table = Table::serving(Policy {
            hang_timeout: Duration::from_secs(1),
            ..policy()
        });
        table.fact(1, Fact::Hello);
        // Another one's trouble in between must not get what was found.
        assert_eq!(table.tick(1010), ["check idle 1"]);
        assert_eq!(table.tick(1260)[0], "examine 1");
        table.exits(2, 1);
        table.fact(1, Fact::Examined(finding));
        let found = incidents(&table);
        assert_eq!((found[0].kind, found[0].reason.as_str()), (kind, words));
        assert_eq!(found[0].stack, kept);
        assert_eq!((found[1].kind, &found[1].stack), (Kind::Crashed, &None));
    }
}

/// The heartbeat does not work, the event loop does: nobody is replaced, it is told once, and a later hang is found.
#[test]
fn an_idle_worker_without_heartbeats_stays() {
    let mut table = Table::serving(Policy {
        hang_timeout: Duration::from_secs(1),
        ..policy()
    });
    table.fact(1, Fact::Hello);
    assert_eq!(table.tick(1010), ["check idle 1"]);
    table.fact(1, Fact::Idle);
    assert_eq!(table.tick(1300), [""; 0]);
    assert_eq!(table.tick(2020), ["check idle 1"]);
    table.fact(1, Fact::Idle);
    assert!(incidents(&table).is_empty());
    // An answer that comes when nobody asks changes nothing.
    table.fact(1, Fact::Idle);
    assert_eq!(table.tick(3030), ["check idle 1"]);
    assert_eq!(table.tick(3280)[0], "examine 1");
    assert_eq!(incidents(&table)[0].kind, Kind::Hung);
}

/// The master is slow for a moment: the limit of the look is over, its answer waits in the inbox.
#[test]
fn nobody_is_killed_while_it_is_looked_into() {
    let mut table = Table::serving(Policy {
        hang_timeout: Duration::from_secs(1),
        ..policy()
    });
    table.fact(1, Fact::Hello);
    table.tick(1010);
    let orders = table.tick(1260);
    assert_eq!(orders[0], "examine 1");
    table.ready(3);
    assert_eq!(table.tick(1260 + 5000), [""; 0]);
    let child = Finding::Unknown("it waits for its child".to_owned());
    let orders = table.fact(1, Fact::Examined(child));
    assert_eq!(orders, ["kill 1"]);
    assert!(incidents(&table)[0].reason.contains("its child"));
}

#[test]
fn the_last_twenty_are_kept_and_all_are_counted() {
    let mut table = Table::serving(policy());
    let mut id = 1;
    for n in 0..25_u64 {
        table.at(100_000 * n).exits(id, 1);
        let newest = table.machine.workers().map(|w| w.id.0).max();
        id = newest.expect("it is replaced at once");
        table.ready(id);
    }
    let kept = incidents(&table);
    assert_eq!(kept.len(), 20);
    assert_eq!(kept[19].at.0, 2_400_000);
    assert!(kept.is_sorted_by_key(|i| i.at));
    assert_eq!(table.machine.seats[0].troubles[&Kind::Crashed], 25);
}
