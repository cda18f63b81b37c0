//! Promises of the README that no single command shows: the master is not on the data path, the port is never refused,
//! and the guard stands behind a master that is killed.

use std::time::Duration;

use crate::common::{
    self, Addr, BOOT, LONG, Launch, Master, Node, Stat, Worker, field, kill, on_two_nodes,
    state_of, wait_until,
};
use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP};
use rcluster_ledger::{Class, Limit, Load, Mode, Report, Target, spawn};

fn ledger(node: Node) -> Master {
    let master = Launch::new("ledger-http.cjs").node(node).workers(2).start();
    master.wait_ready(2);
    master
}

fn load(master: &Master, mode: Mode, requests: u64) -> Load {
    Load {
        mode,
        clients: 8,
        request_timeout: LONG,
        limit: Limit {
            requests: Some(requests),
            duration: None,
        },
        ..Load::new(Target::Tcp(
            ([127, 0, 0, 1], master.addr().tcp_port()).into(),
        ))
    }
}

fn report(load: Load) -> Report {
    spawn(load)
        .expect("a thread")
        .join()
        .expect("a load that can run")
}

fn pids(workers: &[Worker]) -> Vec<i32> {
    workers.iter().map(Worker::process).collect()
}

fn a_stopped_master_costs_nobody_anything(node: Node) {
    let mut master = ledger(node);
    let before = pids(&master.wait_ready(2));
    let loads = [Mode::KeepAlive, Mode::Short].map(|mode| load(&master, mode, 2000));
    master.may_be_blocked();
    kill(master.pid(), SIGSTOP);
    wait_until("a stopped master", BOOT, || {
        (state_of(master.pid()) == Some('T')).then_some(())
    });
    for load in loads {
        let report = report(load);
        assert_eq!((report.ok(), report.lost()), (2000, 0), "{report}");
    }
    assert_eq!(
        state_of(master.pid()),
        Some('T'),
        "it was stopped all the time"
    );
    kill(master.pid(), SIGCONT);
    assert_eq!(pids(&master.wait_ready(2)), before, "nobody was replaced");
    master.stop();
}

fn a_total_outage_refuses_nobody(node: Node) {
    let mut master = ledger(node);
    let running = spawn(Load {
        think: Duration::from_millis(2),
        ..load(&master, Mode::Short, 4000)
    })
    .expect("a thread");
    let control = running.control();
    for round in 1..=3 {
        wait_until("load", LONG, || {
            (control.done() >= round * 500).then_some(())
        });
        let workers = master.wait_ready(2);
        for worker in &workers {
            kill(worker.process(), SIGKILL);
        }
        for worker in &workers {
            master.wait_replaced(worker);
        }
    }
    let report = running.join().expect("a report");
    assert_eq!(report.count(Class::Refused), 0, "{report}");
    assert_eq!(report.count(Class::ConnectTimeout), 0, "{report}");
    assert_eq!(
        report.dead_connections, 0,
        "no connection was left hanging: {report}"
    );
    // At most what the killed workers had accepted: one request a client and kill.
    assert!(report.lost() <= 3 * 8, "{report}");
    master.stop();
}

fn guards(master: &Master) -> Vec<i32> {
    let children = Stat::all();
    let guards = children.iter().filter(|stat| {
        stat.parent == master.pid()
            && stat.state != 'Z'
            && std::fs::read(format!("/proc/{}/cmdline", stat.pid))
                .is_ok_and(|line| line.starts_with(b"rcluster-guard"))
    });
    guards.map(|stat| stat.pid).collect()
}

fn a_guard_that_is_killed_is_replaced_and_knows_the_workers(node: Node) {
    let port = Addr::free_port();
    let mut master = Launch::new("http.js")
        .node(node)
        .workers(2)
        .env("PORT", port.to_string())
        .options(["--drain-timeout", "1s"])
        .start();
    master.wait_ready(2);
    let [guard] = guards(&master)[..] else {
        panic!("one guard");
    };
    kill(guard, SIGKILL);
    wait_until("another guard", BOOT, || {
        (guards(&master).iter().any(|pid| *pid != guard)).then_some(())
    });
    let spinning = common::pid_in(&Addr::port(port).get("/spin").json());
    wait_until("a spinning worker", BOOT, || {
        (state_of(spinning) == Some('R')).then_some(())
    });
    master.kill_master();
    master.wait_no_process();
    master.forget();
}

/// Kills the guard as soon as there is one; how long the next is waited for.
fn kill_guard(master: &Master, deaths: usize) -> u64 {
    let guard = wait_until("a guard", BOOT, || guards(master).first().copied());
    kill(guard, SIGKILL);
    wait_until("news of its death", BOOT, || {
        let log = master.log();
        let told: Vec<_> = log
            .lines()
            .filter(|l| l.contains("the guard ended"))
            .collect();
        let line = (told.len() == deaths).then(|| told[deaths - 1].to_owned())?;
        Some(field(&line, "retry_ms")?.parse().expect("a number"))
    })
}

fn a_guard_that_dies_at_once_is_started_ever_more_rarely(node: Node) {
    let mut master = Launch::new("http.js").node(node).workers(1).start();
    master.wait_ready(1);
    let waits = [1, 2, 3, 4].map(|deaths| kill_guard(&master, deaths));
    assert_eq!(waits, [0, 100, 200, 400], "{}", master.log());
    // The next program of the master goes on counting.
    let told = master.command(&["upgrade"]);
    assert!(told.status.success(), "{told:?}");
    assert_eq!(kill_guard(&master, 5), 800, "{}", master.log());
    wait_until("the last guard", BOOT, || {
        (guards(&master).len() == 1).then_some(())
    });
    master.stop();
}

on_two_nodes!(
    a_stopped_master_costs_nobody_anything,
    a_total_outage_refuses_nobody,
    a_guard_that_is_killed_is_replaced_and_knows_the_workers,
    a_guard_that_dies_at_once_is_started_ever_more_rarely,
);
