//! Promise: who asks over TCP without the token sees no text of an app, and cannot use up what the operator or a worker
//! needs: readers, connections, descriptors.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use crate::common::{self, Addr, Conn, Launch, Master, Node, kill, wait_until};
use nix::sys::signal::Signal::SIGKILL;
use serde_json::Value;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const SECRET: &str = "postgres://app:hunter2@db";

fn guarded(launch: Launch) -> Launch {
    let file = launch.dir.path().join("token");
    fs::write(&file, TOKEN).expect("written");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("chmod");
    launch
        .env("RCLUSTER_ADMIN_TOKEN_FILE", file)
        .options(["--admin", "127.0.0.1:0"])
}

fn control(master: &Master) -> Addr {
    Addr::Unix(master.control.clone())
}

fn door(master: &Master) -> Addr {
    let status = control(master).get("/v1/status").json();
    Addr::parse(status["admin"].as_str().expect("--admin is shown")).expect("an address")
}

fn with_token(door: &Addr, path: &str) -> String {
    let mut conn = Conn::open(door).expect("connected");
    conn.send(&format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    ))
    .expect("sent");
    conn.read().expect("an answer").body
}

/// A reader of events, once it is greeted; `None` when it is refused.
fn reader(door: &Addr, head: &str) -> Option<Conn> {
    let mut conn = Conn::open(door).ok()?;
    let ask = format!("GET /v1/events HTTP/1.1\r\nHost: localhost\r\n{head}\r\n");
    conn.send(&ask).ok()?;
    let head = conn.read_head().ok()?;
    head.starts_with("HTTP/1.1 200").then_some(conn)
}

#[test]
fn texts_of_an_app_need_the_token_in_every_document() {
    let folder = common::scratch();
    let script = folder.path().join("app.js");
    fs::write(
        &script,
        format!(
            "if (require('fs').existsSync(__dirname + '/bad')) throw new Error('{SECRET}');\n\
             require('http').createServer((q, r) => {{ if (q.url === '/die') throw new Error('{SECRET}'); r.end('x'); }}).listen(0);\n"
        ),
    )
    .expect("an app");
    let mut master = guarded(Launch::new(&script).node(Node::V20).workers(1)).start();
    let worker = master.wait_ready(1).remove(0);
    let door = door(&master);
    let mut stranger = reader(&door, "").expect("let in");
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let mut operator = reader(&door, &bearer).expect("let in");
    let mut local = reader(&control(&master), "").expect("let in");
    let _ = master.addr().try_request("GET", "/die");
    master.wait_replaced(&worker);
    fs::write(folder.path().join("bad"), "").expect("a file");
    assert_eq!(master.command(&["reload"]).status.code(), Some(10));
    for path in [
        "/v1/status",
        "/v1/incidents",
        "/v1/workers/0",
        "/metrics",
        "/",
    ] {
        let open = door.get(path);
        assert_eq!(open.status, 200, "{path}");
        assert!(!open.body.contains(SECRET), "{path}: {}", open.body);
    }
    for path in ["/v1/status", "/v1/incidents"] {
        for text in [with_token(&door, path), control(&master).get(path).body] {
            assert!(text.contains(SECRET), "{path}: {text}");
        }
    }
    // What the dashboard counts on is there, in another text.
    let status: Value = door.get("/v1/status").json();
    assert_eq!(status["incidents"][0]["kind"], "crashed", "{status}");
    assert!(status["last_reload_error"].is_string(), "{status}");
    for (conn, sees) in [
        (&mut stranger, false),
        (&mut operator, true),
        (&mut local, true),
    ] {
        let text = conn.read_until("reload-ended").expect("events");
        assert_eq!(text.contains(SECRET), sees, "{text}");
    }
    master.stop();
}

#[test]
fn readers_without_the_token_take_no_place_of_the_operators() {
    let mut master = guarded(Launch::new("good.py").workers(1)).start();
    master.wait_ready(1);
    let door = door(&master);
    let mut readers: Vec<Conn> = vec![];
    while let Some(conn) = reader(&door, "") {
        readers.push(conn);
        assert!(readers.len() <= 64, "no end of readers");
    }
    assert_eq!(readers.len(), 64);
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert!(reader(&door, &bearer).is_some());
    assert!(reader(&control(&master), "").is_some());
    // Nor do connections that are busy for ever: the longest of them makes room.
    while readers.len() < 300 {
        let mut conn = Conn::open(&door).expect("connected");
        let _ = conn.send("GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
        readers.push(conn);
    }
    assert!(with_token(&door, "/v1/status").contains("workers"));
    master.stop();
}

#[test]
fn idle_clients_of_the_api_leave_descriptors_to_workers() {
    let launch = guarded(Launch::new("good.py").workers(1));
    let mut master = launch
        .under(["sh", "-c", "ulimit -n 40; exec \"$@\"", "sh"])
        .start();
    let worker = master.wait_ready(1).remove(0);
    let door = door(&master);
    let addresses = [control(&master), door.clone()];
    let idle: Vec<_> = (0..80)
        .filter_map(|n| Conn::open(&addresses[n % 2]).ok())
        .collect();
    assert!(idle.len() > 40, "{}", idle.len());
    kill(worker.process(), SIGKILL);
    // The operator is answered meanwhile, on both doors.
    wait_until("a replacement", common::BOOT, || {
        let now = master.status();
        let new = now.in_slot(0).filter(|new| new.id != worker.id);
        new.map(|_| ())
    });
    assert!(with_token(&door, "/v1/status").contains("workers"));
    let log = master.log();
    assert!(!log.contains("never started"), "{log}");
    master.stop();
}

#[test]
fn a_request_that_was_sent_is_answered_whatever_connects_after_it() {
    let launch = guarded(Launch::new("good.py").workers(1));
    let mut master = launch
        .under(["sh", "-c", "ulimit -n 40; exec \"$@\"", "sh"])
        .start();
    master.wait_ready(1);
    for at in [control(&master), door(&master)] {
        let mut idle: Vec<_> = (0..40).filter_map(|_| Conn::open(&at).ok()).collect();
        let mut operators: Vec<Conn> = vec![];
        for _ in 0..10 {
            let mut conn = Conn::open(&at).expect("connected");
            conn.send("GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .expect("sent");
            operators.push(conn);
            idle.extend((0..4).filter_map(|_| Conn::open(&at).ok()));
        }
        for (n, mut conn) in operators.into_iter().enumerate() {
            let answer = conn.read();
            let status = answer.as_ref().map(|answer| answer.status);
            assert_eq!(status.ok(), Some(200), "{n}: {answer:?}");
        }
        drop(idle);
    }
    master.stop();
}
