//! Promise: whatever a worker does on its channel, the master lives, answers, stays small, and the other workers serve.
//!
//! The workers are apps/hostile.py: slot 0 misbehaves, slot 1 does not.

use std::fs;
use std::time::Duration;

use crate::common::{
    self, Addr, Launch, Master, Worker, backlog_of, fd_count, is_root, rss_kib, wait_until,
};
use serde_json::json;

/// No deed may cost the master more than this.
const MEMORY_BOUND_KIB: u64 = 24 * 1024;

/// Two workers are ready and slot 0 has not begun yet.
struct Scene {
    master: Master,
    bad: Worker,
    good: Worker,
    addr: Addr,
    rss: u64,
    fds: usize,
    backlog: Option<u32>,
}

impl Scene {
    fn new(deed: &str, arg: &str) -> Self {
        Self::with(Launch::new("hostile.py"), deed, arg)
    }

    fn with(launch: Launch, deed: &str, arg: &str) -> Self {
        let go = launch.dir.path().join("go");
        let once = launch.dir.path().join("once");
        let launch = launch
            .workers(2)
            .options(["--drain-timeout", "2s", "--kill-timeout", "2s"]);
        let master = launch
            .arg(deed)
            .arg(arg)
            .env("GO", &go)
            .env("ONCE", once)
            .start();
        let ready = master.wait_ready(2);
        let (rss, fds) = (rss_kib(master.pid()), fd_count(master.pid()));
        let addr = Addr::parse(&master.status().addresses()[0]).expect("a TCP address");
        let backlog = backlog_of(addr.tcp_port());
        fs::write(go, "").expect("the sign to begin");
        Self {
            bad: ready[0].clone(),
            good: ready[1].clone(),
            addr,
            backlog,
            master,
            rss,
            fds,
        }
    }

    /// The master answers, is small, and the good worker is the same one and serves.
    #[track_caller]
    fn check(&self) {
        let status = self.master.status();
        let good = status
            .in_slot(1)
            .unwrap_or_else(|| panic!("the good worker is gone: {status:?}"));
        assert_eq!(good.id, self.good.id, "the good worker was replaced");
        let grown = rss_kib(self.master.pid()).saturating_sub(self.rss);
        assert!(grown < MEMORY_BOUND_KIB, "the master grew by {grown} KiB");
    }

    /// The good worker takes connections while the bad one stands still.
    #[track_caller]
    fn good_serves(&self) {
        let ready = self.master.status().ready();
        let others: Vec<i32> = ready
            .iter()
            .map(Worker::process)
            .filter(|pid| *pid != self.good.process())
            .collect();
        let _others = common::Stopped::new(&others);
        assert_eq!(
            common::pid_in(&self.addr.get("/").json()),
            self.good.process()
        );
    }

    /// The bad worker went through its deed and its channel still works.
    #[track_caller]
    fn still_alive(&self) {
        let alive = self.master.wait_events("alive", 1);
        assert_eq!(
            (&alive[0]["errno"], &alive[0]["handle"]),
            (&json!(0), &json!(true)),
            "{alive:?}"
        );
        self.check();
        let bad = self.master.status().in_slot(0).expect("still ready");
        assert_eq!(bad.id, self.bad.id, "it was replaced");
    }

    #[track_caller]
    fn end(mut self) {
        self.check();
        self.master.stop();
    }
}

#[test]
fn a_few_malformed_lines_are_ignored() {
    let scene = Scene::new("malformed", "40");
    scene.still_alive();
    scene.end();
}

#[test]
fn too_many_malformed_lines_replace_the_worker() {
    let scene = Scene::new("malformed", "1000");
    scene.master.wait_replaced(&scene.bad);
    scene.end();
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    let scene = Scene::new("nested", "");
    scene.still_alive();
    scene.end();
}

#[test]
fn a_line_over_a_mebibyte_is_dropped_and_the_next_one_counts() {
    let scene = Scene::new("long_line", "3");
    scene.still_alive();
    scene.end();
}

#[test]
fn a_line_of_200_mebibytes_does_not_grow_the_master() {
    let scene = Scene::new("long_line", "200");
    // While it arrives: asked until the worker is through.
    let mut peak = 0;
    wait_until("the end of the line", Duration::from_secs(90), || {
        peak = peak.max(rss_kib(scene.master.pid()));
        scene.master.status();
        (!scene.master.events("alive").is_empty()).then_some(())
    });
    assert!(
        peak - scene.rss.min(peak) < MEMORY_BOUND_KIB,
        "grew from {} to {peak} KiB",
        scene.rss
    );
    scene.still_alive();
    scene.end();
}

#[test]
fn the_end_of_the_channel_in_a_line() {
    let scene = Scene::new("endless_line", "20");
    scene.master.wait_replaced(&scene.bad);
    scene.end();
    let scene = Scene::new("half_line", "");
    scene.master.wait_replaced(&scene.bad);
    scene.end();
}

#[test]
fn a_message_split_at_every_byte() {
    let scene = Scene::new("split", "");
    scene.still_alive();
    scene.end();
}

#[test]
fn a_flood_leaves_the_master_responsive_and_small() {
    let scene = Scene::new("flood", "");
    scene.master.wait_events("flooding", 1);
    for _ in 0..200 {
        scene.check();
    }
    scene.good_serves();
    let answer = scene.master.command(&["status", "--json"]);
    assert!(answer.status.success(), "{answer:?}");
    scene.end_by_force();
}

#[test]
fn unknown_acts_and_wrong_types_are_harmless() {
    let scene = Scene::new("unknown", "");
    scene.still_alive();
    scene.end();
}

#[test]
fn the_same_key_twice_gets_an_errno_and_no_handle() {
    let scene = Scene::new("same_key", "");
    scene.still_alive();
    let asked: Vec<_> = scene
        .master
        .events("asked")
        .into_iter()
        .map(|event| (event["errno"].clone(), event["handle"].clone()))
        .collect();
    assert_eq!(
        asked,
        [
            (json!(0), json!(true)),
            (json!(-98), json!(false)),
            (json!(0), json!(true))
        ]
    );
    scene.end();
}

#[test]
fn sockets_sent_to_the_master_are_closed_and_acknowledged() {
    let scene = Scene::new("handles", "");
    scene.still_alive();
    let closed = scene.master.wait_events("closed", 1);
    // Half of the lines announced a handle.
    assert!(closed[0]["acks"].as_u64() >= Some(149), "{closed:?}");
    wait_until("as many descriptors as before", common::BOOT, || {
        // One more for the listener of the worker's last question.
        (fd_count(scene.master.pid()) <= scene.fds + 1).then_some(())
    });
    scene.end();
}

#[test]
fn a_thousand_descriptors_without_a_message_are_closed() {
    let scene = Scene::new("many_fds", "");
    scene.still_alive();
    wait_until("as many descriptors as before", common::BOOT, || {
        (fd_count(scene.master.pid()) <= scene.fds + 1).then_some(())
    });
    scene.end();
}

#[test]
fn large_messages_both_ways_at_once_do_not_deadlock() {
    let scene = Scene::new("both_ways", "500");
    scene.still_alive();
    scene.end();
}

#[test]
fn a_worker_that_reads_nothing_does_not_block_the_master() {
    let scene = Scene::new("deaf", "");
    scene.master.wait_events("deaf", 1);
    for _ in 0..200 {
        scene.check();
    }
    scene.master.wait_replaced(&scene.bad);
    scene.good_serves();
    scene.end_by_force();
}

#[test]
fn writing_to_a_dead_worker_is_survived() {
    let scene = Scene::new("dies_asking", "");
    scene.master.wait_replaced(&scene.bad);
    scene.end();
}

#[test]
fn a_lowered_backlog_is_repaired() {
    if common::tool("ss").is_none() {
        common::skip("no `ss` to look at the backlog with");
        return;
    }
    let scene = Scene::new("lowers_backlog", "");
    let port = scene.addr.tcp_port();
    let before = scene.backlog.expect("a backlog");
    assert!(before >= 511, "the backlog is {before} from the start");
    scene.master.wait_events("lowered", 1);
    wait_until("the repaired backlog", common::BOOT, || {
        (backlog_of(port)? == before).then_some(())
    });
    scene.end();
}

#[test]
fn a_listener_that_a_worker_shuts_down_is_open_again_for_all() {
    for times in ["1", "300"] {
        let scene = Scene::new("shuts_down", times);
        scene.master.wait_events("shut", 1);
        wait_until("a listener that takes connections", common::BOOT, || {
            scene.addr.connect().ok()
        });
        scene.good_serves();
        let log = scene.master.log();
        let told = log.matches("it listens again").count();
        assert_eq!(told, 1, "told once a minute: {log}");
        scene.end();
    }
}

#[test]
fn a_unix_socket_that_a_worker_shuts_down_is_told_of() {
    let folder = common::scratch();
    let path = folder.path().join("down.sock");
    let scene = Scene::new("shuts_a_path_down", path.to_str().expect("a path"));
    scene.master.wait_events("shut", 1);
    wait_until("word of it", common::BOOT, || {
        let log = scene.master.log();
        log.contains("cannot be opened again: restart rcluster")
            .then_some(())
    });
    scene.good_serves();
    scene.end();
}

#[test]
fn a_worker_that_closes_its_channel_and_serves_on_is_replaced() {
    let scene = Scene::new("close_channel", "");
    scene.master.wait_events("closed", 1);
    scene.master.wait_replaced(&scene.bad);
    wait_until("the end of the deaf worker", common::LONG, || {
        (!common::running(scene.bad.process())).then_some(())
    });
    scene.end();
}

#[test]
fn a_worker_cannot_open_listeners_without_bound() {
    let scene = Scene::new("greedy", "80");
    let greedy = scene.master.wait_events("greedy", 1);
    assert!(greedy[0]["granted"].as_u64() <= Some(64), "{greedy:?}");
    assert!(greedy[0]["errno"].as_i64() < Some(0), "{greedy:?}");
    assert!(fd_count(scene.master.pid()) <= scene.fds + 64);
    scene.end();
}

#[test]
fn a_root_master_binds_no_privileged_port_for_a_worker() {
    if !is_root() {
        common::skip("not root: the kernel itself forbids the port");
        return;
    }
    let scene = Scene::new("privileged", "83");
    let said = scene.master.wait_events("privileged", 1);
    assert_eq!(
        (&said[0]["errno"], &said[0]["handle"]),
        (&json!(-13), &json!(false)),
        "{said:?}"
    );
    scene.end();
    let scene = Scene::with(
        // Its own listener is another one.
        Launch::new("hostile.py").options(["--bind", "127.0.0.1:83", "--ready", "online"]),
        "privileged",
        "83",
    );
    let said = scene.master.wait_events("privileged", 1);
    assert_eq!(
        (&said[0]["errno"], &said[0]["handle"]),
        (&json!(0), &json!(true)),
        "a declared port: {said:?}"
    );
    scene.end_any_listeners();
}

impl Scene {
    /// For a worker that may have to be killed at the stop.
    #[track_caller]
    fn end_by_force(mut self) {
        self.check();
        self.master.signal(nix::sys::signal::Signal::SIGTERM);
        let status = self.master.wait_exit();
        assert!(
            matches!(status.code(), Some(0 | 6)),
            "{status}\n{}",
            self.master.log()
        );
        self.master.finish();
    }

    #[track_caller]
    fn end_any_listeners(mut self) {
        self.master.stop();
    }
}
