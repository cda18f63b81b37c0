//! Promise: a reload at the wrong moment (no master, boot, stop, another reload) or with options that make no sense ends in
//! bounded time with its own exit code, and so does a stop at each moment of a reload.

use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::common::{self, Launch, scratch};
use crate::deploys::{Releases, ask, count, document, hold, tell, touch, wait_settled};
use nix::sys::signal::Signal::{SIGHUP, SIGTERM};
use serde_json::{Value, json};

#[test]
fn with_no_master() {
    let folder = scratch();
    let control = folder.path().join("c.sock");
    for words in [["reload"], ["rollback"]] {
        let told = ask(&control, &words).wait();
        assert_eq!(told.code, Some(13), "{told:?}");
        assert!(told.err.contains("c.sock"), "{told:?}");
    }
    // The file of one that was killed.
    drop(std::os::unix::net::UnixListener::bind(&control).expect("bound"));
    assert_eq!(ask(&control, &["reload"]).wait().code, Some(13));
}

#[test]
fn of_a_master_that_stops() {
    let releases = Releases::new();
    let mut master = releases.launch().workers(1).start();
    master.wait_ready(1);
    let end = releases.path("end");
    let mut held = hold(&master.addr(), &end);
    master.wait_events("held", 1);
    // One that runs when the stop comes, one that is asked for later.
    let never = releases.path("never");
    releases.deploy(2, &json!({"wait": {"file": never}}));
    let running = ask(&master.control, &["reload"]);
    master.wait_events("waiting", 1);
    master.signal(SIGTERM);
    let told = running.wait();
    assert_eq!(told.code, Some(12), "{told:?}");
    assert!(told.err.contains("stopping"), "{told:?}");
    for words in [["reload"], ["rollback"]] {
        let told = tell(&master, &words);
        assert_eq!(told.code, Some(12), "{told:?}");
        assert!(told.err.contains("stopping"), "{told:?}");
    }
    master.signal(SIGHUP);
    touch(&end);
    assert_eq!(held.read().expect("an answer").status, 200);
    drop(held);
    assert_eq!(master.wait_exit().code(), Some(0), "{}", master.log());
    master.finish();
}

#[test]
fn during_boot() {
    for by_signal in [false, true] {
        let releases = Releases::new();
        let file = releases.path("listen");
        releases.deploy(1, &json!({"wait": {"file": file}}));
        let mut master = releases.launch().workers(2).start();
        master.wait_events("waiting", 2);
        let asking = (!by_signal).then(|| ask(&master.control, &["reload"]));
        if by_signal {
            master.signal(SIGHUP);
        }
        common::wait_until("the request", common::BOOT, || {
            master.log().contains("reload asked for").then_some(())
        });
        releases.deploy(2, &json!({}));
        touch(&file);
        if let Some(asking) = asking {
            let told = asking.wait();
            assert_eq!(told.code, Some(0), "{told:?}");
        }
        master.wait_status("generation 2", |status| {
            (status.generation == 2).then_some(())
        });
        wait_settled(&master, 2);
        assert_eq!(master.addr().get("/").json()["release"], 2);
        master.stop();
    }
}

#[test]
fn during_a_boot_that_fails() {
    let releases = Releases::new();
    let file = releases.path("listen");
    releases.deploy(1, &json!({"wait": {"file": file}}));
    let launch = releases.launch().workers(1);
    let mut master = launch.options(["--ready-timeout", "3s"]).start();
    master.wait_events("waiting", 1);
    let asking = ask(&master.control, &["reload"]);
    // The master ends with its own code; who waits for the reload is told.
    assert_eq!(master.wait_exit().code(), Some(4), "{}", master.log());
    let told = asking.wait();
    assert!(matches!(told.code, Some(12 | 13)), "{told:?}");
    master.finish();
}

/// HUP, then TERM after a growing time: the delay is what the test varies, nothing depends on its exactness.
fn hup_then_term(switch: &str, steps: u32, step: Duration) {
    for n in 0..steps {
        let releases = Releases::new();
        let launch = releases.launch().workers(2);
        let mut master = launch
            .options(["--switch", switch, "--surge", "100%"])
            .start();
        master.wait_ready(2);
        releases.deploy(2, &json!({}));
        master.signal(SIGHUP);
        thread::sleep(step * n);
        master.signal(SIGTERM);
        assert_eq!(
            master.wait_exit().code(),
            Some(0),
            "{n} x {step:?}\n{}",
            master.log()
        );
        master.finish();
    }
}

#[test]
fn hup_then_term_at_each_moment_of_a_rolling_reload() {
    hup_then_term(
        "rolling",
        u32::try_from(count(12, 100)).expect("small"),
        Duration::from_millis(30),
    );
}

#[test]
fn hup_then_term_at_each_moment_of_an_atomic_reload() {
    hup_then_term(
        "atomic",
        u32::try_from(count(12, 100)).expect("small"),
        Duration::from_millis(30),
    );
}

/// The steps that last, each met for certain.
#[test]
fn term_at_each_step_of_a_reload() {
    for (switch, options, state) in [
        (
            "rolling",
            json!({"wait": {"file": "/nonexistent"}}),
            "booting",
        ),
        (
            "rolling",
            json!({"wait": {"file": "/nonexistent", "slot": "1"}}),
            "ready",
        ),
        (
            "atomic",
            json!({"wait": {"file": "/nonexistent", "slot": "1"}}),
            "held",
        ),
        ("atomic", json!({}), "baking"),
    ] {
        let releases = Releases::new();
        let launch = releases.launch().workers(2);
        let mut master = launch
            .options(["--switch", switch, "--bake", "30s", "--surge", "2"])
            .start();
        master.wait_ready(2);
        releases.deploy(2, &options);
        let asking = ask(&master.control, &["reload"]);
        common::wait_until(state, common::BOOT, || {
            let document = document(&master);
            let new = |worker: &Value| worker["generation"] == 2 && worker["state"] == state;
            let workers = document["workers"].as_array().expect("workers");
            (document["reload"]["stage"] == state || workers.iter().any(new)).then_some(())
        });
        master.signal(SIGTERM);
        let told = asking.wait();
        assert_eq!(told.code, Some(12), "{state}: {told:?}");
        assert_eq!(
            master.wait_exit().code(),
            Some(0),
            "{state}\n{}",
            master.log()
        );
        master.finish();
    }
}

#[test]
fn options_that_make_no_sense() {
    for (options, word) in [
        (["--surge", "0"], "from 1"),
        (["--surge", "0%"], "1%"),
        (["--surge", "101%"], "100%"),
        (["--surge", "-1"], "-1"),
        (["--surge", "many"], "many"),
        (["--bake", "25h"], "longer than a day"),
        (["--bake", "soon"], "soon"),
        (["--switch", "sometimes"], "sometimes"),
        (
            ["--env-file", "/nonexistent/app.env"],
            "/nonexistent/app.env",
        ),
    ] {
        let ended = Launch::new("http.js").options(options).run();
        assert_eq!(ended.code, Some(2), "{options:?}: {}", ended.log);
        assert!(ended.log.contains(word), "{options:?}: {}", ended.log);
    }
    let folder = scratch();
    let told = ask(
        &folder.path().join("c.sock"),
        &["reload", "--timeout", "later"],
    )
    .wait();
    assert_eq!(told.code, Some(2), "{told:?}");
}

/// The generation of each worker in the table that people see.
fn listed(table: &str) -> Vec<String> {
    let rows = table
        .lines()
        .skip_while(|line| !line.contains("GENERATION"))
        .skip(1);
    rows.filter_map(|row| row.split_whitespace().nth(3).map(str::to_owned))
        .collect()
}

#[test]
fn a_timeout_lists_the_mixed_generations_and_the_reload_goes_on() {
    let releases = Releases::new();
    let mut master = releases.launch().workers(2).start();
    master.wait_ready(2);
    let file: &Path = &releases.path("listen");
    releases.deploy(2, &json!({"wait": {"file": file, "slot": "1"}}));
    let first = ask(&master.control, &["reload"]);
    master.wait_events("waiting", 1);
    master.wait_status("slot 0 replaced", |status| {
        status.in_slot(0).filter(|worker| worker.generation == 2)
    });
    let told = tell(&master, &["reload", "--timeout", "300ms"]);
    assert_eq!(told.code, Some(11), "{told:?}");
    let generations = listed(&told.err);
    assert!(
        ["1", "2"]
            .iter()
            .all(|generation| generations.iter().any(|g| g == generation)),
        "{told:?}"
    );
    touch(file);
    assert_eq!(first.wait().code, Some(0));
    // Who gave up waiting has not called it off.
    master.wait_status("generation 3", |status| {
        (status.generation == 3).then_some(())
    });
    wait_settled(&master, 2);
    master.stop();
}
