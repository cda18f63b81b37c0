//! Promise: a reload runs what is there now (code, folder, node, variables, ports), is bounded in its processes, one at a
//! time, switches as it was told to, and goes back by itself or on demand.

mod common;
#[path = "common/reload.rs"]
mod deploys;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Addr, BOOT, Launch, Master, Node, on_two_nodes, running, wait_until};
use deploys::{
    Releases, Told, ask, begin, count, document, hold, number, pids, reload, reload_with, tell,
    touch, wait_settled,
};
use nix::sys::signal::Signal::SIGHUP;
use serde_json::{Value, json};

/// Which release answers a new connection.
fn answers(addr: &Addr) -> u64 {
    let facts = addr.get("/").json();
    let release = facts["release"].as_u64().expect("a release");
    // Its code, its folder and its relative files are of one release.
    let name = json!(release.to_string());
    assert_eq!((&facts["cwd"], &facts["folder"]), (&name, &name), "{facts}");
    release
}

#[track_caller]
fn assert_serves(master: &Master, release: u64) {
    let addr = master.addr();
    let seen: BTreeSet<u64> = (0..8).map(|_| answers(&addr)).collect();
    assert_eq!(seen, BTreeSet::from([release]), "{}", master.log());
}

fn switches(node: Node, switches: usize) {
    let releases = Releases::new();
    let launch = releases.launch().node(node).workers(2);
    let mut master = launch.options(["--surge", "100%"]).start();
    master.wait_ready(2);
    let begun = Instant::now();
    for number in 2..=u32::try_from(switches).expect("a small number") + 1 {
        releases.deploy(number, &json!({}));
        // The old code is gone before the new one is asked for; its workers have all they need.
        releases.remove(number - 1);
        reload(&master);
        assert_serves(&master, number.into());
    }
    println!("{switches} switches in {:?}", begun.elapsed());
    assert_eq!(number(&master, "reloads_done"), switches as u64);
    assert_eq!(number(&master, "reloads_failed"), 0);
    master.stop();
}

#[test]
fn right_code_on_every_of_100_switches_with_old_releases_deleted() {
    switches(Node::V20, count(100, 1000));
}

#[test]
fn right_code_on_every_switch_on_node_24() {
    switches(Node::V24, count(15, 100));
}

#[test]
fn a_worker_that_dies_after_the_switch_of_the_link_comes_back_with_its_own_code() {
    let releases = Releases::new();
    let mut master = releases.launch().workers(2).start();
    master.wait_ready(2);
    releases.deploy(2, &json!({}));
    let old = master.status().ready().remove(0);
    common::kill(old.process(), nix::sys::signal::Signal::SIGKILL);
    master.wait_replaced(&old);
    // Nobody has asked for the new release yet.
    assert_serves(&master, 1);
    reload(&master);
    assert_serves(&master, 2);
    master.stop();
}

fn the_environment_file_is_read_anew(node: Node) {
    let releases = Releases::new();
    let file = releases.path("app.env");
    fs::write(&file, "COLOR=red\nSHAPE='round'\n").expect("written");
    let launch = releases.launch().node(node).workers(1);
    let launch = launch.env("COLOR", "of the master");
    let mut master = launch.option("--env-file").option(&file).start();
    master.wait_ready(1);
    let addr = master.addr();
    let seen = || {
        let facts = addr.get("/").json();
        (facts["color"].clone(), facts["shape"].clone())
    };
    assert_eq!(seen(), (json!("red"), json!("round")));
    fs::write(&file, "COLOR=blue\n").expect("written");
    assert_eq!(seen(), (json!("red"), json!("round")), "before the reload");
    reload(&master);
    assert_eq!(
        seen(),
        (json!("blue"), Value::Null),
        "a removed variable is gone"
    );
    fs::write(&file, "# nothing\n").expect("written");
    reload(&master);
    assert_eq!(seen(), (json!("of the master"), Value::Null));
    master.stop();
}

#[test]
fn node_is_looked_up_anew() {
    let releases = Releases::new();
    let bin = releases.path("bin");
    fs::create_dir(&bin).expect("a folder");
    let point = |node: Node| {
        let fresh = bin.join("new");
        symlink(node.binary(), &fresh).expect("a link");
        fs::rename(fresh, bin.join("node")).expect("switched");
    };
    for by_option in [true, false] {
        point(Node::V20);
        let launch = releases.launch().workers(1).without_node();
        let mut master = if by_option {
            launch.option("--node").option(bin.join("node")).start()
        } else {
            launch.env("PATH", &bin).start()
        };
        master.wait_ready(1);
        let addr = master.addr();
        let major = || {
            let version = addr.get("/").json()["version"].clone();
            version.as_str().expect("a version")[..3].to_owned()
        };
        for (node, expected) in [(Node::V24, "v24"), (Node::V18, "v18"), (Node::V26, "v26")] {
            point(node);
            reload(&master);
            assert_eq!(major(), expected);
        }
        master.stop();
    }
}

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

#[test]
fn requests_for_a_reload_coalesce_and_the_last_wins() {
    let releases = Releases::new();
    let mut master = releases.launch().workers(2).start();
    master.wait_ready(2);
    let file = releases.path("listen");
    releases.deploy(2, &json!({"wait": {"file": file}}));
    master.signal(SIGHUP);
    master.wait_events("waiting", 1);
    let mut asking: Vec<_> = (0..5).map(|_| ask(&master.control, &["reload"])).collect();
    for n in 0..1000 {
        if n % 100 == 0 {
            assert!(master.status().workers.len() <= 3, "{:?}", master.status());
        }
        master.signal(SIGHUP);
    }
    wait_until("all five requests", BOOT, || {
        (master
            .log()
            .matches("reload asked for rollback=false")
            .count()
            >= 5)
            .then_some(())
    });
    assert!(asking.iter_mut().all(|asking| !asking.is_over()));
    releases.deploy(3, &json!({}));
    touch(&file);
    for asking in asking {
        let told = asking.wait();
        assert_eq!(
            (told.code, told.out.as_str()),
            (Some(0), "generation 3 serves\n"),
            "{told:?}"
        );
    }
    wait_settled(&master, 2);
    // The one that ran, and one more for all that came meanwhile.
    assert_eq!(master.status().generation, 3);
    assert_eq!(number(&master, "reloads_done"), 2);
    assert_serves(&master, 3);
    master.stop();
}

#[test]
fn a_thousand_sighups_in_a_second() {
    let releases = Releases::new();
    let launch = releases.launch().workers(2);
    let mut master = launch.options(["--surge", "100%"]).start();
    master.wait_ready(2);
    let addr = master.addr();
    let begun = Instant::now();
    let mut most_workers = 0;
    for n in 0..1000u32 {
        if n == 999 {
            releases.deploy(2, &json!({}));
        }
        master.signal(SIGHUP);
        if n % 25 == 0 {
            most_workers = most_workers.max(master.status().workers.len());
            assert_eq!(addr.get("/").status, 200);
        }
        while begun.elapsed() < Duration::from_millis(1) * n {
            thread::yield_now();
        }
    }
    wait_settled(&master, 2);
    assert!(most_workers <= 2 + 2 + 4, "{most_workers} processes");
    assert_serves(&master, 2);
    println!(
        "{} reloads, at most {most_workers} processes",
        number(&master, "reloads_done")
    );
    assert_eq!(number(&master, "reloads_failed"), 0);
    master.stop();
}

#[test]
fn sighup_does_what_the_command_does() {
    let releases = Releases::new();
    let mut master = releases.launch().workers(2).start();
    let old = pids(&master.wait_ready(2));
    releases.deploy(2, &json!({}));
    master.signal(SIGHUP);
    master.wait_status("generation 2", |status| {
        (status.generation == 2).then_some(())
    });
    let new = pids(&wait_settled(&master, 2));
    assert_serves(&master, 2);
    assert!(new.iter().all(|pid| !old.contains(pid)));
    master.stop();
}

fn failed(told: &Told, why: &str) {
    assert_eq!(told.code, Some(10), "{told:?}");
    assert!(told.err.contains(why), "{why:?} is not in {told:?}");
}

#[test]
fn rollback_goes_to_the_release_before() {
    let releases = Releases::new();
    let mut master = releases.launch().workers(2).start();
    let old = pids(&master.wait_ready(2));
    failed(&tell(&master, &["rollback"]), "no previous release");
    assert_eq!(pids(&master.wait_ready(2)), old, "nothing has changed");
    releases.deploy(2, &json!({}));
    reload(&master);
    assert_serves(&master, 2);
    // The link still leads to release 2.
    reload_with(&master, &["rollback"]);
    assert_serves(&master, 1);
    reload_with(&master, &["rollback", "--drained"]);
    assert_serves(&master, 2);
    releases.remove(1);
    failed(&tell(&master, &["rollback"]), "is gone");
    assert_serves(&master, 2);
    // A plain reload after all this runs what the link says.
    reload(&master);
    assert_serves(&master, 2);
    master.stop();
}

#[test]
fn rollback_of_a_reload_that_still_runs() {
    let releases = Releases::new();
    let mut master = releases.launch().workers(2).start();
    master.wait_ready(2);
    // Slot 1 never gets ready: slot 0 runs the new release, slot 1 the old one.
    let file = releases.path("never");
    releases.deploy(2, &json!({"wait": {"file": file, "slot": "1"}}));
    let asking = ask(&master.control, &["reload"]);
    master.wait_events("waiting", 1);
    reload_with(&master, &["rollback"]);
    let told = asking.wait();
    assert_eq!(told.code, Some(12), "{told:?}");
    assert!(told.err.contains("rolled back"), "{told:?}");
    assert_serves(&master, 1);
    assert!(
        wait_settled(&master, 2)
            .iter()
            .all(|worker| worker.generation == 1)
    );
    master.stop();
}

#[test]
fn the_set_of_ports_changes() {
    let releases = Releases::new();
    let [gone, kept, new] = [0; 3].map(|_| Addr::free_port());
    let listen = |ports: [u16; 2]| {
        let list = ports.map(|port| json!({"port": port, "host": "127.0.0.1"}));
        json!({"listen": list})
    };
    releases.deploy(1, &listen([gone, kept]));
    let mut master = releases.launch().workers(2).start();
    master.wait_status("both ports", |status| {
        (status.listeners.len() == 2 && status.ready().len() == 2).then_some(())
    });
    let end = releases.path("end");
    let mut held = hold(&Addr::port(gone), &end);
    master.wait_events("held", 1);
    releases.deploy(2, &listen([kept, new]));
    reload(&master);
    assert_eq!(answers(&Addr::port(kept)), 2);
    assert_eq!(answers(&Addr::port(new)), 2);
    touch(&end);
    assert_eq!(held.read().expect("an answer").json()["release"], 1);
    drop(held);
    wait_settled(&master, 2);
    wait_until("the old port is refused", BOOT, || {
        let refused = Addr::port(gone).connect().err()?;
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        Some(())
    });
    assert_eq!(master.status().listeners.len(), 2, "{:?}", master.status());
    // And back, which opens it again.
    reload_with(&master, &["rollback", "--drained"]);
    assert_eq!(answers(&Addr::port(gone)), 1);
    master.stop();
}

#[test]
fn a_keep_alive_connection_meets_the_new_release_after_its_close() {
    let releases = Releases::new();
    let mut master = releases.launch().workers(1).start();
    master.wait_ready(1);
    let addr = master.addr();
    let mut conn = begin(&addr, "/");
    assert_eq!(conn.read().expect("an answer").json()["release"], 1);
    releases.deploy(2, &json!({}));
    reload(&master);
    conn.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    let last = conn.read().expect("an answer of the old worker");
    assert_eq!(last.json()["release"], 1);
    assert!(last.head.contains("Connection: close"), "{last:?}");
    assert_eq!(conn.read_to_end().expect("a FIN, no RST"), "");
    assert_serves(&master, 2);
    master.stop();
}

#[test]
fn workers_that_never_listen_on_a_port_reload_too() {
    let mut master = Launch::new("never.js")
        .options(["--ready", "online"])
        .workers(2)
        .start();
    let old = pids(&master.wait_ready(2));
    reload(&master);
    let new = pids(&wait_settled(&master, 2));
    assert!(new.iter().all(|pid| !old.contains(pid)));
    master.stop();
}

on_two_nodes!(
    the_environment_file_is_read_anew,
    a_crash_during_the_bake_rolls_back,
    atomic_lets_no_two_releases_answer_side_by_side,
);
