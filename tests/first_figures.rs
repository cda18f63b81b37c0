//! Promise: the figures of a fresh master are there within seconds, and count all that it answered.

use std::fs;

use crate::common::{self, Addr, Launch, Node, on_every_node, scratch, wait_until};
use serde_json::Value;

/// Answers what the path says.
const ANSWERS: &str = "require('http').createServer((asked, answer) => {
  answer.statusCode = Number(asked.url.slice(1));
  answer.end();
}).listen(0, '127.0.0.1');";

fn rates_count_what_was_answered_before_the_first_heartbeat(node: Node) {
    let site = scratch();
    let script = site.path().join("app.js");
    fs::write(&script, ANSWERS).expect("written");
    let mut master = Launch::new(&script).node(node).workers(1).start();
    master.wait_ready(1);
    let addr = master.addr();
    let status = || -> Value { Addr::Unix(master.control.clone()).get("/v1/status").json() };
    for (path, count) in [("/500", 60), ("/404", 30)] {
        for _ in 0..count {
            addr.get(path);
        }
    }
    // Nothing is known before, which is not 0.
    let told = |status: &Value| status["workers"][0]["beat"].is_object();
    let first = wait_until("rates", common::BOOT, || {
        let status = status();
        let rates = status["figures"][0]["responses_per_s"].clone();
        assert!(rates.is_null() || told(&status), "{status}");
        (!rates.is_null()).then_some(status)
    });
    let figures = &first["figures"][0];
    assert_eq!(
        figures["responses"],
        serde_json::json!([0, 0, 0, 30, 60]),
        "{first}"
    );
    let rate = |value: &Value| value.as_f64().expect("a rate");
    let [client, server] = [3, 4].map(|class| rate(&figures["responses_per_s"][class]));
    let all = rate(&figures["requests_per_s"]);
    assert!(client > 0.0 && server > client && all > server, "{first}");
    // Nobody counts twice: what it answered took less than this time.
    let uptime_s = first["workers"][0]["uptime_ms"].as_f64().expect("ms") / 1000.0;
    assert!(all * uptime_s >= 90.0, "{first}");
    master.stop();
}

on_every_node!(rates_count_what_was_answered_before_the_first_heartbeat);

#[test]
fn what_a_worker_carries_is_known_before_the_first_round_of_all() {
    // A heartbeat each five seconds later, and a look at all workers each ten.
    let mut master = Launch::new("http.js").workers(2).start();
    master.wait_ready(2);
    let known = wait_until("the first figures", common::BOOT, || {
        let status: Value = Addr::Unix(master.control.clone()).get("/v1/status").json();
        let all = |list: &str, key: &str| {
            let list = status[list].as_array().expect("a list");
            list.len() == 2 && list.iter().all(|one| !one[key].is_null())
        };
        let known = all("workers", "usage") && all("workers", "beat") && all("figures", "cpus");
        known.then_some(status)
    });
    for worker in known["workers"].as_array().expect("a list") {
        // By the clock of the master, which looks at all of them after 10 s and 20 s.
        let uptime_ms = worker["uptime_ms"].as_u64().expect("ms");
        assert!(uptime_ms < 15_000, "{known}");
    }
    master.stop();
}

#[test]
fn a_reload_that_shortens_the_heartbeat_makes_nobody_silent() {
    let site = scratch();
    fs::copy(common::app("site.js"), site.path().join("site.js")).expect("copied");
    let file = site.path().join("rcluster.toml");
    fs::write(&file, "hang-timeout = \"60s\"\n").expect("written");
    let mut master = Launch::new(site.path().join("site.js")).workers(1).start();
    let before = master.wait_ready(1).remove(0);
    // The new code never gets ready: the old worker serves on, by its own interval.
    fs::write(&file, "hang-timeout = \"1s\"\nready-timeout = \"12s\"\n").expect("written");
    fs::write(site.path().join("site.js"), "setInterval(() => {}, 1000)\n").expect("written");
    let told = master.command(&["reload", "--no-wait"]);
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    wait_until("the end of the reload", common::LONG, || {
        let status: Value = Addr::Unix(master.control.clone()).get("/v1/status").json();
        let workers = status["workers"].as_array().expect("a list");
        let old = workers.iter().find(|worker| worker["id"] == before.id);
        assert_eq!(old.expect("the old worker").get("silent"), None, "{status}");
        (status["reloads_failed"] == 1).then_some(())
    });
    master.stop();
}
