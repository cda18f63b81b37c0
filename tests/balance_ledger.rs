//! Promise: however connections are balanced, nobody is refused, nobody waits for ever, and nothing is lost but what a
//! killed worker had accepted: over reloads, scaling, kills, spares, and a worker that stands still. The controls, which
//! must lose, are in `ledger_reload.rs`.

use crate::common::{self, Launch, Node, Stopped, Worker, kill, wait_until};
use crate::deploys::{document, wait_settled};
use crate::service::{Service, ms, nothing_is_lost};
use nix::sys::signal::Signal::{SIGKILL, SIGSTOP};
use rcluster_ledger::{Class, Fate, Load, Mode, Reconciliation, Report};

/// Turns `fn name(mode: &str)` into one test for each way to balance.
macro_rules! in_every_mode {
    ($($name:ident),+ $(,)?) => { $(
        mod $name {
            #[test] fn shared() { super::$name("shared"); }
            #[test] fn spread() { super::$name("spread"); }
            #[test] fn source_ip() { super::$name("source-ip"); }
            #[test] fn least_conn() { super::$name("least-conn"); }
        }
    )+ };
}

fn fleet(mode: &str, set: impl FnOnce(Launch) -> Launch) -> Service {
    Service::start("ledger-http.cjs", Node::V20, None, |launch| {
        set(launch.options(["--balance", mode]))
    })
}

/// Short connections, keep-alive ones with a way to go, and requests that take their time.
fn loads(service: &Service) -> Vec<Load> {
    let load = service.load();
    vec![
        Load {
            mode: Mode::Short,
            think: ms(5),
            ..load.clone()
        },
        Load {
            latency: ms(20),
            ..load.clone()
        },
        Load {
            server_delay: Some(ms(100)),
            ..load
        },
    ]
}

/// Sockets that are bound to the only address.
fn seats(service: &Service) -> u64 {
    let document = document(&service.master);
    let seats = &document["listeners"][0]["seats"];
    seats.as_u64().unwrap_or_else(|| panic!("{document}"))
}

fn reloads_and_scaling_lose_nothing(mode: &str) {
    let service = fleet(mode, |launch| launch);
    let (report, journals) = service.under(loads(&service), |loads| {
        service.reloads(3, loads);
        for count in [6, 3, 4] {
            let told = service.master.command(&["scale", &count.to_string()]);
            assert!(told.status.success(), "{told:?}");
            wait_settled(&service.master, count);
            loads.all_go_on();
        }
        service.reloads(1, loads);
    });
    nothing_is_lost(&report, &journals);
    let drained = report.count(Class::OkClose);
    assert!(drained > 3 * 4, "no drain was seen: {report}");
    let own = matches!(mode, "spread" | "source-ip");
    assert_eq!(seats(&service), if own { 6 } else { 1 });
    service.stop(4);
}
in_every_mode!(reloads_and_scaling_lose_nothing);

/// What was lost was in the hands of those who were killed.
#[track_caller]
fn only_the_killed_lost(report: &Report, journals: &Reconciliation, killed: &[String]) {
    for class in [
        Class::Refused,
        Class::ConnectTimeout,
        Class::ResetBeforeConnect,
        Class::NeverAnswered,
    ] {
        assert_eq!(report.count(class), 0, "{class}: {report}");
    }
    assert_eq!((journals.unjournaled, journals.duplicates.len()), (0, 0));
    for (id, class, fate) in &journals.failures {
        match fate {
            Fate::Accepted(worker) | Fate::Received(worker) | Fate::Answered(worker) => {
                assert!(
                    killed.contains(worker),
                    "{id} ({class}) was lost by {worker}, which lived"
                );
            }
            // The worker had accepted it, and died before it could say so.
            Fate::NeverSeen => assert!(
                matches!(class, Class::FinBeforeByte | Class::RstBeforeByte),
                "{id}: {class}"
            ),
        }
    }
}

/// `kill -9` of each worker in turn, once with a spare that takes the place and once with none.
fn kills_lose_only_what_was_accepted(mode: &str) {
    for spares in [0, 1] {
        let service = fleet(mode, |launch| {
            launch.options(["--spares", &spares.to_string()])
        });
        let loads = loads(&service);
        let clients: u64 = loads.iter().map(|load| u64::from(load.clients)).sum();
        let mut killed: Vec<String> = vec![];
        let (report, journals) = service.under(loads, |loads| {
            for slot in 0..4 {
                service
                    .master
                    .wait_status("a spare", |status| held(&status.workers, spares));
                let victim: Worker = service.master.wait_ready(4).remove(slot);
                kill(victim.process(), SIGKILL);
                killed.push(victim.process().to_string());
                service.master.wait_replaced(&victim);
                loads.all_go_on();
            }
        });
        let lost = report.lost();
        assert!(lost > 0, "a kill under load costs something: {report}");
        assert!(lost <= clients * 4, "{report}");
        only_the_killed_lost(&report, &journals, &killed);
        let mut master = service.master;
        master.stop();
    }
}
in_every_mode!(kills_lose_only_what_was_accepted);

fn held(workers: &[Worker], spares: usize) -> Option<()> {
    let held = workers.iter().filter(|worker| worker.state == "held");
    (held.count() == spares).then_some(())
}

/// A worker stands still while clients come and go, one slot after the other; what it had accepted is answered when it
/// goes on.
fn a_worker_that_stands_still_costs_time_and_no_request(mode: &str) {
    let service = fleet(mode, |launch| launch);
    let (report, journals) = service.under(loads(&service), |loads| {
        for worker in service.master.wait_ready(4) {
            let stopped = Stopped::new(&[worker.process()]);
            // Those who come meanwhile: each client of short connections has many answers.
            let short = loads.0[0].control();
            let before = short.done();
            wait_until("answers by the others", common::LONG, || {
                (short.done() > before + 60).then_some(())
            });
            drop(stopped);
            loads.all_go_on();
        }
    });
    nothing_is_lost(&report, &journals);
    service.stop(0);
}
in_every_mode!(a_worker_that_stands_still_costs_time_and_no_request);

/// One is stopped for ever: it is replaced, and only what it had accepted is lost.
fn a_worker_that_hangs_is_replaced(mode: &str) {
    let service = fleet(mode, |launch| launch.options(["--hang-timeout", "2s"]));
    let mut hung = String::new();
    let (report, journals) = service.under(loads(&service), |loads| {
        let slot = busiest(&service);
        let victim = service.master.wait_ready(4).remove(slot);
        kill(victim.process(), SIGSTOP);
        hung = victim.process().to_string();
        service.master.wait_replaced(&victim);
        loads.all_go_on();
    });
    only_the_killed_lost(&report, &journals, &[hung]);
    wait_settled(&service.master, 4);
    let mut master = service.master;
    master.stop();
}
in_every_mode!(a_worker_that_hangs_is_replaced);

/// The slot that has most connections, once they are told.
fn busiest(service: &Service) -> usize {
    wait_until("a slot with connections", common::BOOT, || {
        let document = document(&service.master);
        let shares = document["balance"]["shares"].as_array()?.clone();
        let open = |share: &serde_json::Value| share["connections"].as_u64().unwrap_or(0);
        let most = shares.iter().max_by_key(|share| open(share))?;
        let slot = usize::try_from(most["slot"].as_u64()?).ok()?;
        (open(most) > 0).then_some(slot)
    })
}
