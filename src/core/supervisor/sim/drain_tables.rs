//! A drain and its ends, step by step.

use super::{
    super::{Event, Exit, Fact, Generation, Kind, Time, Urgency, WorkerId},
    table::{Table, policy},
};

const STOP: Event = Event::Stop(Urgency::Graceful);

fn drained(t: &mut Table, id: u64, cut: u64, stopping: bool) -> Vec<String> {
    t.fact(id, Fact::Drained { cut, stopping })
}

fn dies(t: &mut Table, id: u64, exit: Exit) -> Vec<String> {
    let id = WorkerId(id);
    t.tell(Event::Exited { id, exit })
}

/// Serving, with a shim in each worker.
fn serving() -> Table {
    let mut t = Table::serving(policy());
    for id in [1, 2] {
        t.fact(id, Fact::Hello);
    }
    t
}

#[test]
fn what_is_cut_is_closed_after_the_drain_timeout_at_the_cost_of_the_kill_timeout() {
    let mut t = serving();
    assert_eq!(t.at(1000).tell(STOP), ["drain 1", "drain 2"]);
    // 20 s of drain, 1.5 s for the end of what is cut and the report.
    assert_eq!(t.tick(22_499), [""; 0]);
    assert_eq!(t.tick(22_500), ["stop 1", "stop 2"]);
    // 5 s after the drain timeout, as without it.
    assert_eq!(t.tick(25_999), [""; 0]);
    assert_eq!(t.tick(26_000), ["kill 1", "kill 2"]);
}

#[test]
fn a_worker_that_reports_its_cut_still_has_what_is_left_of_the_kill_timeout() {
    let mut t = serving();
    t.at(1000).tell(STOP);
    t.at(20_000).drains(2);
    assert_eq!(drained(t.at(22_000), 1, 3, false), [""; 0]);
    assert_eq!(t.tick(22_300), ["stop 1"]);
    assert_eq!(t.tick(26_000), ["kill 1"]);
}

#[test]
fn the_stop_signal_is_not_sent_to_a_worker_that_runs_its_handlers() {
    let mut t = serving();
    t.at(1000).tell(STOP);
    t.at(2000).drains(2);
    assert_eq!(drained(&mut t, 1, 0, true), [""; 0]);
    assert_eq!(t.tick(6999), [""; 0]);
    assert_eq!(t.tick(7000), ["kill 1"]);
}

#[test]
fn a_worker_that_dies_in_its_drain_is_an_incident_and_no_restart() {
    let crash = Exit::Code(1);
    for (left, exit, noted) in [
        (3, crash, true),
        (0, crash, true),
        (2, Exit::Code(0), true),
        // As without a shim: its end is the end of its drain.
        (0, Exit::Code(0), false),
    ] {
        let mut t = serving();
        t.at(1000).reload(1);
        t.prepared(2);
        t.ready(3);
        t.fact(1, Fact::Left(left));
        assert_eq!(dies(t.at(1500), 1, exit), [""; 0]);
        let incidents: Vec<_> = t.machine.incidents.iter().collect();
        assert_eq!(incidents.len(), usize::from(noted), "{left}, {exit}");
        assert_eq!(t.machine.cut_total, left);
        assert!(t.machine.seats.iter().all(|s| s.troubles.is_empty()));
        let told = |before, since| t.machine.undrained(Generation(before), Time(since)).len();
        assert_eq!(told(2, 1000), usize::from(noted));
        // Nothing for a later question, or for the reload that brought it.
        assert_eq!((told(2, 1500), told(1, 1000)), (0, 0));
        if let [incident] = incidents[..] {
            assert_eq!(
                (incident.kind, incident.exit),
                (Kind::Undrained, Some(exit))
            );
            let cut = format!("; {left} connections cut");
            assert!(incident.reason.ends_with(&cut), "{}", incident.reason);
        }
    }
}

#[test]
fn a_worker_that_is_killed_after_its_drain_is_no_incident() {
    let mut t = serving();
    t.at(1000).tell(STOP);
    drained(&mut t, 1, 0, true);
    dies(&mut t, 1, Exit::Code(7));
    assert_eq!(t.machine.incidents.iter().count(), 0);
}
