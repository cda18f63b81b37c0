//! `rcluster rehearse` tells an app that loses requests from one that does not, and puts everything away.

use std::net::{IpAddr, UdpSocket};
use std::os::unix::process::ExitStatusExt as _;

use crate::common::{self, Ended, LONG, Launch, Node, app, skip, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// `rcluster rehearse` with small numbers; its private folder is made in the folder that must be empty in the end.
fn rehearse(script: &str) -> Launch {
    let launch = Launch::bare().without_control().without_node();
    let folder = launch.control.parent().expect("a folder").to_owned();
    launch
        .option("rehearse")
        .option("--node")
        .option(Node::V24.binary())
        .options(["--min-uptime", "100ms", "--duration", "800ms"])
        .options(["--timeout", "30s", "--clients", "8"])
        .env("TMPDIR", folder)
        .env("HOST", "127.0.0.1")
        .arg(app(script))
}

fn events(reloads: u32, pauses: u32, kills: u32) -> [String; 3] {
    [
        format!("--reloads={reloads}"),
        format!("--pauses={pauses}"),
        format!("--kills={kills}"),
    ]
}

fn with(launch: Launch, [reloads, pauses, kills]: [String; 3]) -> Launch {
    launch.option(reloads).option(pauses).option(kills)
}

#[track_caller]
fn json(ended: &Ended, code: i32) -> Value {
    assert_eq!(ended.code, Some(code), "{}\n{}", ended.log, ended.out);
    let result: Value = serde_json::from_str(&ended.out).expect("nothing but JSON on stdout");
    assert_eq!(result["exit_code"], code);
    result
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("a number: {value}"))
}

/// `requests` or `lost` of a phase.
#[track_caller]
fn of_phase(result: &Value, phase: &str, what: &str) -> u64 {
    let phases = result["phases"].as_array().expect("phases");
    let found = phases.iter().find(|p| p["name"] == phase);
    number(&found.unwrap_or_else(|| panic!("the phase {phase}: {result}"))[what])
}

#[test]
fn a_plain_app_loses_nothing() {
    let launch = with(rehearse("http.js").workers(2), events(2, 1, 1));
    let picture = launch.dir.path().join("timeline.svg");
    let launch = launch.option("--json").option("--svg").option(&picture);
    let mut run = launch.start();
    assert_eq!(
        run.wait_exit().code(),
        Some(0),
        "{}{}",
        run.log(),
        run.out()
    );
    let result: Value = serde_json::from_str(&run.out()).expect("nothing but JSON on stdout");

    assert_eq!(result["verdict"], "clean");
    assert_eq!(result["lost"], result["excused"]);
    for phase in ["quiet", "reload", "pause", "after"] {
        assert!(of_phase(&result, phase, "requests") > 0, "{phase}");
        assert_eq!(of_phase(&result, phase, "lost"), 0, "{phase}");
    }
    let classes = result["classes"].as_object().expect("classes");
    let sum: u64 = classes.values().map(number).sum();
    assert_eq!(sum, number(&result["requests"]));

    // The events are in order and do not touch.
    let events = result["events"].as_array().expect("events");
    let kinds: Vec<_> = events.iter().map(|e| e["kind"].clone()).collect();
    assert_eq!(kinds, ["reload", "reload", "pause", "kill"]);
    for pair in events.windows(2) {
        assert!(number(&pair[0]["until_ms"]) <= number(&pair[1]["at_ms"]));
    }
    assert_eq!(events[1]["generation"], 3);
    assert!(number(&events[1]["drained_ms"]) >= number(&events[1]["took_ms"]));
    let killed = number(&events[3]["pid"]);
    assert!(run.log().contains("kill 1 of 1"), "{}", run.log());
    assert!(!std::path::Path::new(&format!("/proc/{killed}")).exists());

    // The picture is XML and has each mark, and each panel.
    let text = std::fs::read_to_string(&picture).expect("the picture");
    let xml = roxmltree::Document::parse(&text).expect("well-formed XML");
    assert_eq!(xml.root_element().tag_name().name(), "svg");
    let words: Vec<_> = xml
        .descendants()
        .filter(|n| n.tag_name().name() == "text")
        .filter_map(|n| n.text().map(str::trim))
        .collect();
    for word in [
        "reload 1",
        "reload (2)",
        "worker stopped and continued (1)",
        "worker killed (1)",
        "answered, requests/s",
        "lost, per 100 ms",
        "longest latency, ms",
    ] {
        assert!(words.contains(&word), "{word} in {words:?}");
    }
    let headline = format!("0 of {} requests lost", result["requests"]);
    assert!(words.iter().any(|w| w.starts_with(&headline)), "{words:?}");
    run.finish();
}

#[test]
fn express_loses_nothing_and_the_table_says_so() {
    let launch = with(rehearse("express.js").workers(2), events(3, 0, 0));
    let launch = launch.options([
        "--latency",
        "20ms",
        "--path",
        "/",
        "--path",
        "/nothing-here",
    ]);
    let ended = launch.run();
    assert_eq!(ended.code, Some(0), "{}{}", ended.log, ended.out);
    let verdict = ended.out.lines().last().expect("a verdict");
    assert!(verdict.starts_with("0 of "), "{verdict}");
    assert!(verdict.ends_with(" requests lost"), "{verdict}");
    for word in ["GET /, /nothing-here on ", "P50", "P99", "x3", "after"] {
        assert!(ended.out.contains(word), "{word} in {}", ended.out);
    }
    assert!(ended.log.contains("reload 3 of 3"), "{}", ended.log);
}

#[test]
fn the_request_is_the_one_that_was_given() {
    let launch = with(rehearse("picky.js").workers(1), events(1, 0, 0));
    let launch = launch
        .options([
            "--method",
            "post",
            "--path",
            "/exact?a=1",
            "--body",
            "hello",
        ])
        .options([
            "--header",
            "Host: shop.example",
            "--header",
            "X-Key: secret: 1",
        ]);
    let result = json(&launch.option("--json").run(), 0);
    assert!(number(&result["classes"]["ok"]) > 0);
}

#[test]
fn answers_of_500_are_lost() {
    let launch = with(rehearse("picky.js").workers(1), events(0, 0, 0));
    let result = json(&launch.option("--json").run(), 14);
    assert_eq!(result["lost"], result["requests"]);
    assert_eq!(result["classes"]["status"], result["requests"]);
}

#[test]
fn without_the_shim_reloads_lose_requests() {
    let launch = with(rehearse("http.js").workers(2), events(4, 0, 0));
    let launch = launch.options([
        "--no-shim",
        "--latency",
        "20ms",
        "--connections",
        "keep-alive",
    ]);
    let result = json(&launch.option("--json").run(), 14);
    assert_eq!(result["verdict"], "lost");
    assert!(of_phase(&result, "reload", "lost") > 0);
    assert_eq!(of_phase(&result, "quiet", "lost"), 0);
    assert_eq!(result["excused"], 0);
}

#[test]
fn an_app_that_destroys_sockets_is_found_out() {
    let launch = with(rehearse("destroys.js").workers(2), events(0, 0, 1));
    let ended = launch.run();
    assert_eq!(ended.code, Some(14), "{}{}", ended.log, ended.out);
    assert!(ended.out.contains(" requests LOST"), "{}", ended.out);
    assert!(ended.out.contains("(quiet)"), "{}", ended.out);
}

/// All connections are the one worker's: each client loses exactly the request that meets its death.
#[test]
fn what_a_killed_worker_had_accepted_is_excused() {
    let launch = with(rehearse("http.js").workers(1), events(0, 0, 2));
    let launch = launch.options(["--connections", "keep-alive"]);
    let result = json(&launch.option("--json").run(), 0);
    assert_eq!(
        (number(&result["lost"]), number(&result["excused"])),
        (16, 16)
    );
    assert_eq!(of_phase(&result, "kill", "lost"), 16);
}

#[test]
fn load_goes_to_this_machine_only() {
    // No packet is sent; the kernel says from which address it would be.
    let own = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let Some(ip) = own
        .ok()
        .map(|a| a.ip())
        .filter(|ip| !ip.is_loopback() && ip.is_ipv4())
    else {
        return skip("no address but loopback");
    };
    let IpAddr::V4(ip) = ip else { return };
    let launch = with(rehearse("http.js").workers(1), events(1, 0, 0));
    let ended = launch.env("HOST", ip.to_string()).run();
    assert_eq!(ended.code, Some(2), "{}", ended.log);
    let why = format!("the app listens on {ip}:");
    assert!(ended.log.contains(&why), "{}", ended.log);
    assert!(
        ended.log.contains("is no loopback address"),
        "{}",
        ended.log
    );
    assert_eq!(ended.out, "");
}

#[test]
fn an_app_that_does_not_start_has_the_masters_exit_code() {
    let ended = rehearse("throws.js").workers(1).option("--json").run();
    assert_eq!(ended.code, Some(3), "{}", ended.log);
    assert!(
        ended.log.contains("the last lines of app and master"),
        "{}",
        ended.log
    );
    assert!(ended.log.contains("Error: "), "{}", ended.log);
    assert_eq!(ended.out, "");
}

#[test]
fn an_app_that_is_never_ready_runs_into_the_limit() {
    let ended = rehearse("never.js")
        .workers(1)
        .options(["--limit", "2s"])
        .run();
    assert_eq!(ended.code, Some(11), "{}", ended.log);
    assert!(
        ended.log.contains("not ready within 2s (--limit)"),
        "{}",
        ended.log
    );
}

#[test]
fn a_reload_that_fails_ends_it_with_the_reason() {
    let launch = with(rehearse("worsens.js").workers(1), events(2, 1, 1));
    let broken = launch.dir.path().join("broken");
    let result = json(&launch.env("BROKEN", broken).option("--json").run(), 10);
    assert_eq!(result["verdict"], "reload-failed");
    assert_eq!(result["lost"], 0);
    let reason = result["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("reload 1 failed: "), "{reason}");
    assert!(reason.contains("a bad release"), "{reason}");
    assert_eq!(result["events"].as_array().map(Vec::len), Some(1));
}

#[test]
fn nonsense_starts_nothing() {
    let ended = rehearse("http.js").options(["--path", "no-slash"]).run();
    assert_eq!(ended.code, Some(2), "{}", ended.log);
    assert!(
        ended.log.contains("must begin with a slash"),
        "{}",
        ended.log
    );
    assert!(!ended.log.contains("rehearse:"), "{}", ended.log);
}

/// It has begun and has reloads to do for a long time.
fn in_the_middle() -> common::Master {
    let run = with(rehearse("http.js").workers(2), events(1000, 0, 0)).start();
    wait_until("the first reload", LONG, || {
        run.log().contains("reload 1 of 1000").then_some(())
    });
    run
}

#[test]
fn a_signal_ends_it_and_the_app() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut run = in_the_middle();
        assert!(run.processes().len() > 2, "master and workers");
        run.signal(signal);
        assert_eq!(run.wait_exit().code(), Some(130), "{}", run.log());
        assert!(run.log().contains("interrupted; the app is stopped"));
        assert_eq!(run.out(), "");
        run.finish();
    }
}

#[test]
fn killed_it_takes_the_app_along() {
    let mut run = in_the_middle();
    run.signal(Signal::SIGKILL);
    assert_eq!(run.wait_exit().signal(), Some(9));
    run.wait_no_process();
    run.forget();
}
