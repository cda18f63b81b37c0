//! Promise: one API on the control socket and on --admin; what it counts goes on over replacements; what a browser could
//! be made to ask is refused; nobody can make it stop answering.

#![expect(
    clippy::float_cmp,
    clippy::cast_sign_loss,
    reason = "counters are whole numbers, and not negative"
)]

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use crate::common::{
    self, Addr, BOOT, Conn, LONG, Launch, Master, Node, Stopped, tool, wait_until,
};
use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use serde_json::Value;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const CANARY: &str = "canary-4711-secret";

fn launch(script: &str) -> Launch {
    Launch::new(script)
        .node(Node::V24)
        .workers(2)
        .options(["--admin", "127.0.0.1:0"])
        // It beats every second; a busy machine is not taken for a hang.
        .env("RCLUSTER_HANG_TIMEOUT", "6s")
}

fn guarded() -> Launch {
    let launch = launch("http.js");
    let file = launch.dir.path().join("token");
    fs::write(&file, TOKEN).expect("written");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("chmod");
    launch.env("RCLUSTER_ADMIN_TOKEN_FILE", file)
}

/// Asks the control socket.
fn get(master: &Master, path: &str) -> Value {
    Addr::Unix(master.control.clone()).get(path).json()
}

/// The TCP door.
fn door(master: &Master) -> Addr {
    let status = get(master, "/v1/status");
    Addr::parse(status["admin"].as_str().expect("--admin is shown")).expect("an address")
}

/// One request with these header lines; the status and the body.
fn ask(door: &Addr, method: &str, path: &str, head: &str) -> (u16, String) {
    let mut conn = Conn::open(door).expect("connected");
    let text =
        format!("{method} {path} HTTP/1.1\r\n{head}Connection: close\r\nContent-Length: 0\r\n\r\n");
    conn.send(&text).expect("sent");
    let answer = conn.read().expect("an answer");
    (answer.status, answer.body)
}

/// A sample of `/metrics`, over all its label sets.
fn sample(master: &Master, name: &str) -> f64 {
    let text = Addr::Unix(master.control.clone()).get("/metrics").body;
    let lines = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    });
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

#[test]
fn what_is_counted_goes_on_over_replacements() {
    let mut master = launch("http.js").start();
    let workers = master.wait_ready(2);
    let app = master.addr();
    for _ in 0..40 {
        assert_eq!(app.get("/").status, 200);
    }
    let requests = |n: f64| {
        wait_until("requests are counted", BOOT, || {
            (sample(&master, "rcluster_requests_total") >= n).then_some(())
        });
    };
    requests(40.0);
    for worker in workers {
        common::kill(worker.process(), SIGKILL);
        master.wait_replaced(&worker);
    }
    assert!(sample(&master, "rcluster_requests_total") >= 40.0);
    for _ in 0..10 {
        assert_eq!(app.get("/").status, 200);
    }
    // A drain sends what the last beat has not.
    let reply = Addr::Unix(master.control.clone())
        .try_request("POST", "/v1/reload")
        .expect("answered")
        .json();
    assert_eq!(reply["outcome"], "done", "{reply}");
    requests(50.0);
    let status = get(&master, "/v1/status");
    let id = reply["id"].as_str().expect("an id");
    assert!(id.starts_with(status["run"].as_str().expect("a run")));
    assert_eq!(status["reloads"]["last"]["id"], id);
    assert!(master.log().contains(id), "{}", master.log());
    assert_eq!(sample(&master, "rcluster_requests_total"), 50.0);
    assert_eq!(sample(&master, "rcluster_responses_total"), 50.0);
    assert_eq!(
        sample(&master, "rcluster_request_duration_seconds_count"),
        50.0
    );
    assert_eq!(sample(&master, "rcluster_connections_total"), 50.0);
    assert_eq!(sample(&master, "rcluster_restarts_total"), 2.0);
    assert_eq!(sample(&master, "rcluster_reloads_total"), 1.0);
    master.stop();
}

#[test]
fn without_request_metrics_requests_are_still_counted() {
    let mut master = launch("http.js").option("--no-request-metrics").start();
    master.wait_ready(2);
    master.addr().get("/");
    wait_until("a request is counted", BOOT, || {
        (sample(&master, "rcluster_requests_total") == 1.0).then_some(())
    });
    assert_eq!(sample(&master, "rcluster_responses_total"), 0.0);
    assert_eq!(
        sample(&master, "rcluster_request_duration_seconds_count"),
        0.0
    );
    master.stop();
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let mut master = launch("http.js").start();
    master.wait_ready(2);
    let (code, open) = ask(
        &door(&master),
        "GET",
        "/metrics",
        "Host: localhost\r\nAccept: application/openmetrics-text; version=1.0.0\r\n",
    );
    assert_eq!(code, 200);
    assert!(open.ends_with("# EOF\n"), "{open}");
    let plain = door(&master).get("/metrics").body;
    assert!(!plain.contains("# EOF"));
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match promtool {
        Ok(mut child) => {
            use std::io::Write as _;
            let mut stdin = child.stdin.take().expect("a pipe");
            stdin.write_all(plain.as_bytes()).expect("written");
            drop(stdin);
            let output = child.wait_with_output().expect("promtool ends");
            assert!(output.status.success(), "{output:?}");
            assert!(output.stderr.is_empty(), "{output:?}");
        }
        Err(_) => common::skip("no promtool (Debian package prometheus)"),
    }
    master.stop();
}

#[test]
fn only_literal_hosts_and_the_own_origin_come_in_over_tcp() {
    let mut master = guarded().start();
    master.wait_ready(2);
    let door = door(&master);
    let port = door.tcp_port();
    let get = |head: &str| ask(&door, "GET", "/v1/status", head).0;
    for host in ["localhost", "127.0.0.1", "[::1]"] {
        assert_eq!(get(&format!("Host: {host}:{port}\r\n")), 200, "{host}");
        assert_eq!(get(&format!("Host: {host}\r\n")), 200, "{host}");
    }
    for head in [
        "Host: evil.com\r\n",
        "Host: localhost6\r\n",
        "Host: 0x7f.1\r\n",
        "Host: localhost\r\nHost: localhost\r\n",
        "Host: localhost\r\nHost: evil.com\r\n",
        "Host: localhost\r\nOrigin: http://evil.com\r\n",
        "Host: localhost\r\nOrigin: null\r\n",
        "Host: localhost\r\nOrigin: https://localhost\r\n",
        "",
    ] {
        assert!([400, 403].contains(&get(head)), "{head}: {}", get(head));
    }
    assert_eq!(get("Host: localhost\r\nOrigin: http://localhost\r\n"), 200);
    let absolute = ask(
        &door,
        "GET",
        "http://evil.com/v1/status",
        "Host: localhost\r\n",
    );
    assert_eq!(absolute.0, 403);
    for path in [
        "/v1/..%2fv1/status",
        "/v1/workers/..%2f..%2fstatus",
        "//v1/status",
    ] {
        assert_eq!(
            ask(&door, "GET", path, "Host: localhost\r\n").0,
            404,
            "{path}"
        );
    }
    // No method override, no CORS.
    let method = "Host: localhost\r\nX-HTTP-Method-Override: POST\r\n";
    assert_eq!(ask(&door, "GET", "/v1/stop", method).0, 405);
    let mut conn = Conn::open(&door).expect("connected");
    conn.send("GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let head = conn.read().expect("an answer").head.to_ascii_lowercase();
    assert!(!head.contains("access-control"), "{head}");
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    master.stop();
}

#[test]
fn changes_over_tcp_need_the_token() {
    let mut master = guarded().start();
    master.wait_ready(2);
    let tcp = door(&master);
    let scale = |head: &str| {
        ask(
            &tcp,
            "POST",
            "/v1/workers/9/restart",
            &format!("Host: localhost\r\n{head}"),
        )
        .0
    };
    assert_eq!(scale(""), 401);
    assert_eq!(scale("Authorization: Bearer nonsense\r\n"), 401);
    assert_eq!(scale(&format!("Authorization: Basic {TOKEN}\r\n")), 401);
    assert_eq!(scale(&format!("Authorization: Bearer {TOKEN}0\r\n")), 401);
    assert_eq!(
        scale(&format!(
            "Authorization: Bearer {TOKEN}\r\nOrigin: http://evil.com\r\n"
        )),
        403
    );
    // The token opens the door: what is behind it says that there is no slot 9.
    assert_eq!(scale(&format!("Authorization: Bearer {TOKEN}\r\n")), 404);
    assert_eq!(ask(&tcp, "GET", "/v1/logs", "Host: localhost\r\n").0, 401);
    // It would run any program: not even with the token.
    let upgrade = format!("Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n");
    let refused = ask(&tcp, "POST", "/v1/upgrade", &upgrade);
    assert_eq!(refused.0, 403, "{}", refused.1);
    master.stop();

    let mut master = launch("http.js").start();
    master.wait_ready(2);
    let bearer = format!("Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n");
    let refused = ask(&door(&master), "POST", "/v1/stop", &bearer);
    assert_eq!(refused.0, 403, "{}", refused.1);
    assert_eq!(master.status().state, "serving");
    master.stop();
}

#[test]
fn a_token_file_that_others_could_read_is_refused() {
    for (text, mode) in [
        (TOKEN, 0o644),
        (TOKEN, 0o620),
        ("short", 0o600),
        ("with space in its middle", 0o600),
    ] {
        let launch = launch("http.js");
        let file = launch.dir.path().join("token");
        fs::write(&file, text).expect("written");
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("chmod");
        let ended = launch.env("RCLUSTER_ADMIN_TOKEN_FILE", &file).run();
        assert_eq!(ended.code, Some(2), "{}", ended.log);
        assert!(
            ended.log.contains("refused the token file"),
            "{}",
            ended.log
        );
        assert!(!ended.log.contains(text), "{}", ended.log);
    }
}

#[test]
fn no_value_of_the_environment_and_no_argument_is_shown() {
    let launch = guarded().env("CANARY", CANARY);
    let file = launch.dir.path().join("vars");
    fs::write(&file, format!("FROM_FILE={CANARY}\n")).expect("written");
    let launch = launch.options(["--log-level", "trace"]);
    let mut master = launch.env("RCLUSTER_ENV_FILE", file).arg(CANARY).start();
    master.wait_ready(2);
    for path in [
        "/v1/status",
        "/v1/incidents",
        "/v1/workers/0",
        "/metrics",
        "/livez",
        "/readyz",
        "/v1/openapi.json",
        "/",
    ] {
        let text = door(&master).get(path).body;
        assert!(!text.is_empty());
        assert!(
            !text.contains(CANARY) && !text.contains(TOKEN),
            "{path}: {text}"
        );
    }
    let mut events = Conn::open(&Addr::Unix(master.control.clone())).expect("connected");
    events
        .send("GET /v1/events?status_ms=200 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    for words in [
        &["reload", "--json"][..],
        &["status"],
        &["status", "--json"],
        &["incidents", "--json"],
    ] {
        let output = master.command(words);
        assert!(output.status.success(), "{output:?}");
        let text = format!("{output:?}");
        assert!(!text.contains(CANARY), "{words:?}: {text}");
    }
    master.signal(SIGTERM);
    master.wait_exit();
    let told = events.read_to_end().expect("events to the end");
    assert!(told.contains("reload-ended"), "{told}");
    assert!(!told.contains(CANARY) && !told.contains(TOKEN), "{told}");
    assert!(
        !master.log().contains(CANARY) && !master.log().contains(TOKEN),
        "{}",
        master.log()
    );
    master.finish();
}

#[test]
fn events_tell_each_transition_and_a_reader_that_never_reads_costs_nobody() {
    let mut master = launch("http.js").start();
    let workers = master.wait_ready(2);
    // Never read from here on.
    let mut deaf = Conn::open(&door(&master)).expect("connected");
    deaf.send("GET /v1/events?status_ms=200 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    let mut reader = Command::new(env!("CARGO_BIN_EXE_rcluster"))
        .args(["events", "--json", "--control"])
        .arg(&master.control)
        .stdout(Stdio::piped())
        .spawn()
        .expect("rcluster events starts");
    let out = reader.stdout.take().expect("a pipe");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(out));
    // Its first line says that it listens: what happens from here on is told.
    let first = lines.next().expect("a line").expect("text");
    assert!(first.contains("\"listening\""), "{first}");
    common::kill(workers[0].process(), SIGKILL);
    let told: Vec<Value> = lines
        .map(|line| serde_json::from_str(&line.expect("text")).expect("JSON"))
        .take_while(|event: &Value| !(event["event"] == "moved" && event["to"] == "ready"))
        .collect();
    let kinds: Vec<_> = told.iter().filter_map(|e| e["event"].as_str()).collect();
    assert!(kinds.contains(&"ended"), "{told:?}");
    assert!(
        told.iter()
            .any(|e| e["event"] == "ended" && e["unexpected"] == true),
        "{told:?}"
    );
    reader.kill().expect("killed");
    reader.wait().expect("reaped");
    assert_eq!(master.status().state, "serving");
    drop(deaf);
    master.stop();
}

#[test]
fn silent_connections_and_large_requests_are_bounded() {
    let mut master = launch("http.js").start();
    master.wait_ready(2);
    let tcp = door(&master);
    let silent: Vec<_> = (0..600)
        .map(|_| TcpStream::connect(("127.0.0.1", tcp.tcp_port())).expect("connected"))
        .collect();
    assert_eq!(tcp.get("/livez").status, 200);
    let control = Addr::Unix(master.control.clone());
    let idle: Vec<_> = (0..1000)
        .filter_map(|_| Conn::open(&control).ok())
        .collect();
    assert_eq!(control.get("/livez").status, 200);
    // Those that have asked once and stay make room, too.
    let asked: Vec<_> = (0..300)
        .map(|_| {
            let mut conn = Conn::open(&control).expect("connected");
            let _ = conn.send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(conn.read().expect("an answer").status, 200);
            conn
        })
        .collect();
    assert_eq!(control.get("/livez").status, 200);
    drop((silent, idle, asked));
    let huge = format!("Host: localhost\r\nX-Huge: {}\r\n", "x".repeat(64 * 1024));
    assert_eq!(ask(&tcp, "GET", "/livez", &huge).0, 431);
    let many = format!("Host: localhost\r\n{}", "X-Many: 1\r\n".repeat(200));
    assert_eq!(ask(&tcp, "GET", "/livez", &many).0, 431);
    let mut conn = Conn::open(&control).expect("connected");
    let body = "x".repeat(32 * 1024);
    let request = format!(
        "POST /v1/scale HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    conn.send(&request).expect("sent");
    assert_eq!(conn.read().expect("an answer").status, 413);
    master.stop();
}

#[test]
fn not_ready_while_it_boots_and_while_it_stops() {
    let ready = |master: &Master| {
        let answer = Addr::Unix(master.control.clone())
            .try_request("GET", "/readyz")
            .ok()?;
        Some((answer.status, answer.json()["ready"] == true))
    };
    let mut booting = Launch::new("never.js").workers(1).start();
    booting.wait_status("booting", |status| {
        (status.state == "booting").then_some(())
    });
    assert_eq!(ready(&booting), Some((503, false)));
    assert_eq!(get(&booting, "/livez")["live"], true);
    booting.signal(SIGTERM);
    booting.wait_exit();
    booting.finish();

    let mut stopping = Launch::new("stubborn.py")
        .workers(1)
        .options(["--drain-timeout", "2s", "--kill-timeout", "1s"])
        .start();
    stopping.wait_ready(1);
    assert_eq!(ready(&stopping), Some((200, true)));
    stopping.signal(SIGTERM);
    wait_until("not ready any more", BOOT, || {
        (ready(&stopping) == Some((503, false))).then_some(())
    });
    stopping.wait_exit();
    stopping.finish();
}

#[test]
fn whoever_takes_for_ever_to_ask_is_put_out() {
    let mut master = launch("http.js").start();
    master.wait_ready(2);
    let tcp = door(&master);
    let mut dripping = Conn::open(&tcp).expect("connected");
    dripping
        .send("GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        .expect("sent");
    let mut half = Conn::open(&tcp).expect("connected");
    half.send("GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n1")
        .expect("sent");
    wait_until("the end of a head without end", LONG, || {
        dripping.send("x").is_err().then_some(())
    });
    assert_eq!(half.read().expect("an answer").status, 408);
    assert_eq!(tcp.get("/livez").status, 200);
    master.stop();
}

#[test]
fn an_accept_queue_that_is_full_is_seen() {
    // Nobody takes a stopped worker for a hung one.
    let launch = launch("http.js").env("RCLUSTER_HANG_TIMEOUT", "0s");
    let mut master = launch.start();
    let workers = master.wait_ready(2);
    let port = master.addr().tcp_port();
    let pids: Vec<_> = workers.iter().map(common::Worker::process).collect();
    let stopped = Stopped::new(&pids);
    assert_eq!(sample(&master, "rcluster_accept_queue_drops_total"), 0.0);
    // More than may wait: nobody accepts them.
    let limit = sample(&master, "rcluster_accept_queue_limit");
    let Some(python) = tool("python3") else {
        common::skip("no python3 to fill an accept queue with");
        return master.stop();
    };
    // In a process of its own: it needs a limit that all other tests would inherit.
    let mut clients = Command::new(python)
        .arg(common::app("crowd.py"))
        .args([port.to_string(), (limit as usize + 100).to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut said = String::new();
    let output = clients.stdout.take().expect("a pipe");
    BufReader::new(output).read_line(&mut said).expect("a line");
    let open: f64 = said.trim().parse().expect("a number");
    if open > limit {
        wait_until("drops", BOOT, || {
            (sample(&master, "rcluster_accept_queue_drops_total") > 0.0).then_some(())
        });
        assert!(sample(&master, "rcluster_accept_queue") >= limit);
    } else {
        common::skip("too few descriptors to fill an accept queue");
    }
    drop(clients.stdin.take());
    clients.wait().expect("our child");
    drop(stopped);
    master.stop();
}

#[test]
fn alert_rules_and_dashboard_name_series_that_exist() {
    let mut master = launch("http.js").start();
    master.wait_ready(2);
    let text = Addr::Unix(master.control.clone()).get("/metrics").body;
    let source = include_str!("../src/admin/metrics.rs");
    let files = ["alerts.yml", "grafana.json"];
    for file in files {
        let path = format!("{}/examples/prometheus/{file}", env!("CARGO_MANIFEST_DIR"));
        let words = fs::read_to_string(path).expect("a file");
        let words =
            words.split(|c: char| !(c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit()));
        let names: Vec<_> = words.filter(|w| w.starts_with("rcluster_")).collect();
        assert!(names.len() > 5, "{names:?}");
        for name in names {
            // Some are there only once something has happened, or was measured.
            let family = name.trim_end_matches("_total").trim_end_matches("_bucket");
            assert!(
                text.contains(name) || source.contains(&format!("\"{family}\"")),
                "{file}: {name}"
            );
        }
    }
    let rules = format!(
        "{}/examples/prometheus/alerts.yml",
        env!("CARGO_MANIFEST_DIR")
    );
    match Command::new("promtool")
        .args(["check", "rules", &rules])
        .output()
    {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(_) => common::skip("no promtool (Debian package prometheus)"),
    }
    // What the dashboard asks, as rules: promtool reads no dashboards.
    let board: Value = serde_json::from_str(include_str!("../examples/prometheus/grafana.json"))
        .expect("a dashboard");
    let panels = board["panels"].as_array().expect("panels");
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let rules: Vec<_> = targets
        .flatten()
        .zip(0..)
        .map(|(target, n)| {
            let expr = target["expr"].as_str().expect("an expression");
            let expr = expr.replace("$__rate_interval", "5m");
            serde_json::json!({"record": format!("board:panel:{n}"), "expr": expr})
        })
        .collect();
    assert!(rules.len() > 10, "{rules:?}");
    // JSON is YAML.
    let file = master.dir.path().join("board.yml");
    let groups = serde_json::json!({"groups": [{"name": "board", "rules": rules}]});
    fs::write(&file, groups.to_string()).expect("written");
    if let Ok(output) = Command::new("promtool")
        .args(["check", "rules"])
        .arg(&file)
        .output()
    {
        assert!(output.status.success(), "{output:?}");
    }
    master.stop();
}
