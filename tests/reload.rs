//! Promise: a reload runs what is there now (code, folder, node, variables, ports), is bounded in its processes, one at a
//! time, switches as it was told to, and goes back by itself or on demand.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{self, Addr, BOOT, Launch, Node, on_two_nodes, wait_until};
use crate::deploys::{
    Releases, Told, answers, ask, assert_serves, begin, count, hold, number, pids, reload,
    reload_with, tell, touch, wait_settled,
};
use nix::sys::signal::Signal::SIGHUP;
use serde_json::{Value, json};

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
    let status = Addr::Unix(master.control.clone()).get("/v1/status").json();
    let run = status["run"].as_str().expect("a run");
    // One reload for all of them, so one id.
    let expected = format!("generation 3 serves (reload {run}-3)\n");
    for asking in asking {
        let told = asking.wait();
        assert_eq!((told.code, &told.out), (Some(0), &expected), "{told:?}");
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
    let gone_address = format!(":{gone}");
    reload_with(&master, &["reload", "--allow-drop", &gone_address]);
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

on_two_nodes!(the_environment_file_is_read_anew);
