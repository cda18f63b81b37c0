//! Promise: the steps of a reload are bounded in their processes, switch as they were told to, and go back by themselves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use crate::common::{self, Addr, Master, Node, on_two_nodes, running};
use crate::deploys::{
    Releases, answers, ask, assert_serves, document, hold, number, pids, reload, tell, touch,
    wait_settled,
};
use serde_json::json;

/// The most seated workers, and the most processes, seen until `done`.
fn most(master: &Master, mut done: impl FnMut() -> bool) -> (usize, usize) {
    let (mut seated, mut processes) = (0, 0);
    while !done() {
        let status = master.status();
        let leaving = ["draining", "stopping", "killing"];
        let here = status
            .workers
            .iter()
            .filter(|worker| !leaving.contains(&worker.state.as_str()));
        seated = seated.max(here.count());
        processes = processes.max(status.workers.len());
    }
    (seated, processes)
}

#[test]
fn surge_bounds_the_workers_of_a_reload() {
    let releases = Releases::new();
    for (surge, extra) in [("1", 1), ("3", 3), ("50%", 2), ("100%", 4)] {
        releases.switch(1);
        let launch = releases.launch().workers(4);
        let mut master = launch.options(["--surge", surge]).start();
        master.wait_ready(4);
        // Old workers stay, draining: what they hold ends only when the test says so.
        let end = releases.path(&format!("end-{extra}"));
        let addr = master.addr();
        let mut held: Vec<_> = (0..8).map(|_| hold(&addr, &end)).collect();
        master.wait_events("held", 8);
        // The new ones listen when they may: so many may wait for it at one time, and no more.
        let file = releases.path(&format!("listen-{extra}"));
        releases.deploy(2, &json!({"wait": {"file": file}}));
        let mut asking = ask(&master.control, &["reload"]);
        master.wait_events("waiting", extra);
        let waiting = master.status();
        assert_eq!(waiting.workers.len(), 4 + extra, "--surge {surge}");
        assert_eq!(waiting.ready().len(), 4, "nobody has left: {waiting:?}");
        touch(&file);
        let (seated, processes) = most(&master, || asking.is_over());
        assert!(
            seated <= 4 + extra && processes <= 4 + extra + 8,
            "--surge {surge}: {seated} workers, {processes} processes"
        );
        assert_eq!(asking.wait().code, Some(0));
        assert_serves(&master, 2);
        touch(&end);
        for conn in &mut held {
            assert_eq!(conn.read().expect("an answer").json()["release"], 1);
        }
        drop(held);
        wait_settled(&master, 4);
        assert_eq!(number(&master, "cut_total"), 0);
        master.stop();
    }
}

#[test]
fn old_workers_beyond_twice_the_workers_are_cut_oldest_first_and_counted() {
    let releases = Releases::new();
    let mut master = releases.launch().workers(1).start();
    let never = releases.path("never");
    let mut held = vec![];
    for generation in 1..=4 {
        master.wait_ready(1);
        held.push(hold(&master.addr(), &never));
        master.wait_events("held", generation);
        reload(&master);
        assert!(master.status().workers.len() <= 4, "{:?}", master.status());
    }
    // Of four old workers two may drain on.
    for conn in &mut held[..2] {
        conn.read().expect_err("cut");
    }
    let draining = master.wait_status("two draining workers", |status| {
        let workers: Vec<_> = status.workers.iter().filter(|w| !w.is_ready()).collect();
        (workers.len() == 2).then(|| workers.iter().map(|w| w.generation).collect::<Vec<_>>())
    });
    assert_eq!(draining, [3, 4], "the oldest are cut");
    assert_eq!(number(&master, "cut_total"), 2, "{}", document(&master));
    touch(&never);
    for conn in &mut held[2..] {
        assert_eq!(conn.read().expect("an answer").status, 200);
    }
    drop(held);
    wait_settled(&master, 1);
    master.stop();
}

fn a_crash_during_the_bake_rolls_back(node: Node) {
    for switch in ["rolling", "atomic"] {
        let releases = Releases::new();
        let launch = releases.launch().node(node).workers(2);
        let launch = launch.options(["--bake", "3s", "--surge", "100%", "--switch", switch]);
        let mut master = launch.start();
        let old = pids(&master.wait_ready(2));
        releases.deploy(2, &json!({"dieAfter": 300}));
        let told = tell(&master, &["reload"]);
        assert_eq!(told.code, Some(10), "{switch}: {told:?}");
        assert!(told.err.contains("Error: died by itself"), "{told:?}");
        assert!(told.err.contains("server.js:"), "{told:?}");
        let after = wait_settled(&master, 2);
        assert_serves(&master, 1);
        if switch == "rolling" {
            assert_eq!(pids(&after), old, "the old ones have never left");
        }
        assert!(after.iter().all(|worker| worker.generation == 1));
        releases.deploy(3, &json!({}));
        reload(&master);
        assert_serves(&master, 3);
        master.stop();
    }
}

#[test]
fn a_rolling_bake_holds_the_next_slot_back() {
    let releases = Releases::new();
    let launch = releases.launch().workers(2);
    let mut master = launch.options(["--bake", "1h"]).start();
    let old = pids(&master.wait_ready(2));
    releases.deploy(2, &json!({}));
    let asking = ask(&master.control, &["reload"]);
    let fresh = master.wait_status("a new worker beside both old ones", |status| {
        let ready = status.ready();
        (ready.len() == 3).then(|| ready.iter().find(|w| w.generation == 2).cloned())?
    });
    assert!(
        pids(&master.status().ready()).starts_with(&old[..1]),
        "no old one drains"
    );
    common::kill(fresh.process(), nix::sys::signal::Signal::SIGKILL);
    let told = asking.wait();
    assert_eq!(told.code, Some(10), "{told:?}");
    assert_eq!(pids(&wait_settled(&master, 2)), old);
    master.stop();
}

/// New connections, one after the other: when each was opened and answered, and by which release.
fn watch(addr: &Addr, stop: &AtomicBool) -> Vec<(Instant, Instant, u64)> {
    let mut seen = vec![];
    while !stop.load(Ordering::Relaxed) {
        let opened = Instant::now();
        let release = answers(addr);
        seen.push((opened, Instant::now(), release));
    }
    seen
}

fn atomic_lets_no_two_releases_answer_side_by_side(node: Node) {
    let releases = Releases::new();
    let launch = releases.launch().node(node).workers(3);
    let mut master = launch.options(["--switch", "atomic"]).start();
    master.wait_ready(3);
    let addr = master.addr();
    let mut overlaps = vec![];
    for release in 2..=4 {
        let file = releases.path(&format!("listen-{release}"));
        releases.deploy(release, &json!({"wait": {"file": file, "slot": "2"}}));
        let stop = AtomicBool::new(false);
        let (returned, seen) = thread::scope(|scope| {
            let watching: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| watch(&addr, &stop)))
                .collect();
            let asking = ask(&master.control, &["reload"]);
            master.wait_status("two new workers at the gate", |status| {
                let held = status
                    .workers
                    .iter()
                    .filter(|worker| worker.state == "held");
                (held.count() == 2).then_some(())
            });
            // As long as one of them is missing, nobody hears of the new release.
            for _ in 0..50 {
                assert_eq!(answers(&addr), u64::from(release - 1));
            }
            touch(&file);
            assert_eq!(asking.wait().code, Some(0), "{}", master.log());
            let returned = Instant::now();
            assert_serves(&master, release.into());
            stop.store(true, Ordering::Relaxed);
            let seen = watching
                .into_iter()
                .flat_map(|thread| thread.join().expect("no panic"));
            (returned, seen.collect::<Vec<_>>())
        });
        let old = u64::from(release - 1);
        let late = seen
            .iter()
            .filter(|(opened, _, release)| *release == old && *opened >= returned);
        assert_eq!(late.count(), 0, "an old answer after the reload returned");
        let first_new = seen
            .iter()
            .filter(|s| s.2 == old + 1)
            .map(|s| s.1)
            .min()
            .expect("new answers");
        // Opened after somebody had got a new answer, and still answered by the old code.
        let side_by_side = seen.iter().filter(|s| s.2 == old && s.0 >= first_new);
        let window = side_by_side
            .map(|s| s.1 - first_new)
            .max()
            .unwrap_or_default();
        overlaps.push((seen.len(), window));
    }
    println!("answers, and time with two releases side by side: {overlaps:?}");
    master.stop();
}

#[test]
fn drained_waits_for_the_last_old_worker() {
    let releases = Releases::new();
    let mut master = releases.launch().workers(2).start();
    let old = pids(&master.wait_ready(2));
    let addr = master.addr();
    let end = releases.path("end");
    let mut held = hold(&addr, &end);
    master.wait_events("held", 1);
    let mut drained = ask(&master.control, &["reload", "--drained"]);
    master.wait_status("the new generation", |status| {
        (status.state == "serving" && status.generation == 2).then_some(())
    });
    // Another reload comes and goes while it waits.
    reload(&master);
    assert!(!drained.is_over(), "an old worker still answers a request");
    touch(&end);
    assert_eq!(held.read().expect("an answer").status, 200);
    drop(held);
    assert_eq!(drained.wait().code, Some(0));
    assert!(
        old.iter().all(|pid| !running(*pid)),
        "{:?}",
        master.status()
    );
    master.stop();
}

#[test]
fn a_reload_during_the_drain_of_the_last_one() {
    let releases = Releases::new();
    let mut master = releases.launch().workers(1).start();
    let mut held = vec![];
    for release in 1..=3u32 {
        master.wait_ready(1);
        let end = releases.path(&format!("end-{release}"));
        held.push((end.clone(), hold(&master.addr(), &end)));
        master.wait_events("held", release as usize);
        if release < 3 {
            releases.deploy(release + 1, &json!({}));
            reload(&master);
        }
    }
    // Both old releases are still at it; the older one ends last.
    for (release, (end, conn)) in held.iter_mut().enumerate().rev() {
        touch(end);
        let answer = conn.read().expect("an answer");
        assert_eq!(answer.json()["release"], release + 1);
    }
    drop(held);
    wait_settled(&master, 1);
    assert_eq!(number(&master, "cut_total"), 0);
    master.stop();
}

on_two_nodes!(
    a_crash_during_the_bake_rolls_back,
    atomic_lets_no_two_releases_answer_side_by_side,
);
