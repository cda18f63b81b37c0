//! Promise: what `rcluster top` and `rcluster status` show of requests is true: a reload looks like no outage, errors are
//! seen, and no pid is cut.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use crate::common::{Addr, BOOT, LONG, Launch, Node, Screen, Stopped, on_two_nodes, wait_until};

/// Clients that ask all the time.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn on(addr: &Addr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..4).map(|_| {
            let (addr, stop) = (addr.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    addr.get("/");
                }
            })
        });
        Self {
            threads: threads.collect(),
            stop,
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that failed has said so.
            let _ = thread.join();
        }
    }
}

/// The number after these words, and the letters that follow it.
fn number_after(text: &str, words: &str) -> Option<(f64, String)> {
    let (_, rest) = text.split_once(words)?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let unit = rest[end..].chars().take_while(|c| c.is_alphabetic());
    Some((rest[..end].parse().ok()?, unit.collect()))
}

#[test]
fn a_reload_under_constant_load_shows_no_outage() {
    // A heartbeat every two seconds.
    let mut master = Launch::new("http.js")
        .workers(2)
        .options(["--hang-timeout", "12s"])
        .start();
    master.wait_ready(2);
    let load = Load::on(&master.addr());
    let mut top = Screen::run(&master, &["top", "--interval", "100ms"]);
    let rate = |text: &str| number_after(text, "requests/s ").map(|(rate, _)| rate);
    top.wait("a rate and memory", |text| {
        rate(text).is_some_and(|rate| rate > 0.0) && number_after(text, "memory ").is_some()
    });
    let told = |generation: u64| {
        let status: serde_json::Value = Addr::Unix(master.control.clone()).get("/v1/status").json();
        let workers = status["workers"].as_array().expect("a list").clone();
        let new = |worker: &serde_json::Value| {
            let requests = worker["beat"]["requests"].as_u64();
            worker["generation"] == generation && requests > Some(0)
        };
        workers.len() == 2 && workers.iter().all(new)
    };
    wait_until("both to have told of requests", BOOT, || {
        told(1).then_some(())
    });
    let (rates, memories) = (RefCell::new(vec![]), RefCell::new(vec![]));
    let note = |text: &str| {
        rates.borrow_mut().extend(rate(text));
        memories.borrow_mut().extend(number_after(text, "memory "));
    };
    note(&top.text());
    let reload = master.command(&["reload"]);
    assert_eq!(reload.status.code(), Some(0), "{reload:?}");
    top.wait("the first figures of the new workers", |text| {
        note(text);
        told(2)
    });
    drop(load);
    let least = rates.borrow().iter().copied().fold(f64::MAX, f64::min);
    assert!(least > 0.0, "an outage in {rates:?}");
    // Each is of one process or two, and never of half of the fleet.
    let memories = memories.into_inner();
    let (before, unit) = memories[0].clone();
    let halved = memories
        .iter()
        .find(|(now, u)| *u == unit && *now < before * 0.7);
    assert_eq!(halved, None, "of {memories:?}");
    top.press("q");
    top.end();
    master.stop();
}

#[test]
fn a_release_that_answers_only_5xx_shows_it() {
    let mut master = Launch::new("fails.js")
        .workers(2)
        .options(["--hang-timeout", "3s"])
        .start();
    master.wait_ready(2);
    let load = Load::on(&master.addr());
    let mut top = Screen::run(&master, &["top", "--interval", "100ms"]);
    top.wait("errors in its head", |text| {
        number_after(text, "  5xx ").is_some_and(|(rate, _)| rate > 0.0)
    });
    wait_until("errors of both slots", BOOT, || {
        let status: serde_json::Value = Addr::Unix(master.control.clone()).get("/v1/status").json();
        let figures = status["figures"].as_array().expect("a list").clone();
        let fails = |slot: &serde_json::Value| {
            let rates = &slot["responses_per_s"];
            rates[4].as_f64() > Some(0.0) && rates[1] == 0.0
        };
        (figures.len() == 2 && figures.iter().all(fails)).then_some(())
    });
    let shown = master.command(&["status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let titles: Vec<_> = shown
        .lines()
        .find(|l| l.contains("5XX/S"))
        .expect("a table")
        .split("  ")
        .collect();
    assert!(
        titles.iter().any(|title| title.trim() == "4XX/S"),
        "{shown}"
    );
    drop(load);
    top.press("q");
    top.end();
    master.stop();
}

/// Answers over HTTP/2 count as those over HTTP/1.
fn answers_over_http2_are_counted_by_class(node: Node) {
    let app = "
        const http2 = require('http2');
        const server = http2.createServer((req, res) => { res.statusCode = 503; res.end(); });
        server.listen(0, '127.0.0.1', () => {
          const client = http2.connect(`http://127.0.0.1:${server.address().port}`);
          setInterval(() => client.request({ ':path': '/' }).resume(), 20);
        });";
    let mut master = Launch::new("run.js")
        .node(node)
        .workers(1)
        .arg(app)
        .options(["--hang-timeout", "3s"])
        .start();
    master.wait_ready(1);
    let control = Addr::Unix(master.control.clone());
    wait_until("errors in the status", BOOT, || {
        let status = control.get("/v1/status").json();
        let rates = &status["figures"][0]["responses_per_s"];
        (rates[4].as_f64() > Some(0.0) && rates[1] == 0.0).then_some(())
    });
    let metrics = control.get("/metrics").body;
    let line = metrics.lines().find(|line| {
        line.starts_with("rcluster_responses_total") && line.contains("class=\"5xx\"")
    });
    let count = line.and_then(|line| line.rsplit(' ').next());
    assert!(count.is_some_and(|n| n != "0"), "{metrics}");
    master.stop();
}
on_two_nodes!(answers_over_http2_are_counted_by_class);

#[test]
fn a_silent_worker_shows_it_in_every_view() {
    // Without a limit it stays as it is.
    let mut master = Launch::new("http.js")
        .workers(2)
        .options(["--hang-timeout", "0s"])
        .start();
    let worker = master.wait_ready(2).remove(0);
    let control = Addr::Unix(master.control.clone());
    let stopped = Stopped::new(&[worker.process()]);
    wait_until("an overdue heartbeat", LONG, || {
        let status: serde_json::Value = control.get("/v1/status").json();
        let silent = |slot: usize| status["workers"][slot]["silent"] == true;
        assert_eq!(status["workers"][0]["state"], "ready");
        assert!(!silent(1), "the other one is not: {status}");
        silent(0).then_some(())
    });
    let shown = master.command(&["status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let row = shown.lines().find(|row| row.contains("silent "));
    let pid = worker.process().to_string();
    assert!(row.is_some_and(|row| row.contains(&pid)), "{shown}");
    let metrics = control.get("/metrics").body;
    for line in ["{slot=\"0\"} 1", "{slot=\"1\"} 0"] {
        let line = format!("rcluster_worker_silent{line}");
        assert!(metrics.contains(&line), "{line} in\n{metrics}");
    }
    let mut top = Screen::run_in(80, &master, &["top", "--interval", "100ms"]);
    let text = top.wait("its silence", |text| text.contains(" silent "));
    assert!(text.contains(" s "), "{text}");
    drop(stopped);
    top.wait("its next heartbeat", |text| !text.contains(" silent "));
    top.press("q");
    top.end();
    master.stop();
}

#[test]
fn at_80_columns_no_pid_is_cut() {
    let mut master = Launch::new("http.js").workers(2).start();
    let workers = master.wait_ready(2);
    let mut top = Screen::run_in(80, &master, &["top", "--interval", "100ms"]);
    let text = top.wait("two ready workers", |text| {
        text.matches(" ready ").count() >= 2
    });
    for worker in workers {
        let pid = format!(" {} ", worker.process());
        assert!(text.contains(&pid), "{pid} in\n{text}");
    }
    top.press("q");
    top.end();
    master.stop();
}
