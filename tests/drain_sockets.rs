//! Promise: a drain ends TLS, HTTP/2, WebSocket, Socket.IO and raw connections as their clients expect it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::{BOOT, Master, Node, app, on_every_node, on_two_nodes, pid_in, wait_until};
use crate::deploys::{reload, touch};
use crate::drains::{certificate, ended, launch, start, wait_requests};
use serde_json::{Value, json};

/// drain-client.js with clients of some kinds.
struct Clients {
    child: Child,
    out: PathBuf,
}

impl Clients {
    fn start(master: &Master, go: &Path, kinds: &[&str]) -> Self {
        let out = master.dir.path().join("clients");
        let listening = master.wait_events("listening", kinds.len());
        let mut command = Command::new(Node::V20.binary());
        command.arg(app("drain-client.js")).arg(go);
        for kind in kinds {
            let told = listening
                .iter()
                .find(|event| event["kind"] == *kind)
                .expect("it listens");
            command.arg(format!("{kind}={}", told["port"]));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&out).expect("a file"))
            .spawn()
            .expect("node runs");
        Self { child, out }
    }

    fn of(&self, kind: &str) -> Vec<Value> {
        let text = fs::read_to_string(&self.out).expect("its output");
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["kind"] == kind).collect()
    }

    #[track_caller]
    fn wait(&self, kind: &str, event: &str, count: usize) -> Vec<Value> {
        wait_until(&format!("{count} x {event} of {kind}"), BOOT, || {
            let lines = self.of(kind);
            let found: Vec<_> = lines
                .iter()
                .filter(|line| line["event"] == event)
                .cloned()
                .collect();
            assert!(
                !lines.iter().any(|line| line["event"] == "error"),
                "{lines:?}"
            );
            (found.len() >= count).then_some(found)
        })
    }

    #[track_caller]
    fn all_end(&mut self) {
        let child = &mut self.child;
        wait_until("the end of the clients", BOOT, || {
            child.try_wait().expect("our own child")
        });
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sessions_and_sockets(node: Node) {
    let kinds = ["https", "h2", "h2c", "ws", "socketio"];
    let launch = launch(node, &kinds);
    certificate(launch.dir.path());
    let tls_dir = launch.dir.path().to_owned();
    let (mut master, pid, go) = start(launch.env("TLS_DIR", tls_dir));
    let mut clients = Clients::start(&master, &go, &kinds);
    for kind in kinds {
        assert_eq!(pid_in(&clients.wait(kind, "answer", 1)[0]), pid, "{kind}");
    }
    wait_requests(&master, "/hold", 2);
    reload(&master);
    let new = master.wait_ready(1)[0].process();
    // WebSockets are told to come back, and those that know how do.
    let close = clients.wait("ws", "end", 1);
    assert_eq!(
        (&close[0]["code"], &close[0]["reason"]),
        (&json!(1012), &json!("service restart"))
    );
    assert_eq!(pid_in(&clients.wait("socketio", "answer", 2)[1]), new);
    // A stream under way is answered after the session was told to go.
    for kind in ["h2", "h2c"] {
        assert_eq!(clients.wait(kind, "goaway", 1)[0]["code"], 0, "{kind}");
        assert_eq!(clients.wait(kind, "answer", 1).len(), 1, "{kind}");
    }
    touch(&go);
    for kind in ["h2", "h2c", "https"] {
        assert_eq!(pid_in(&clients.wait(kind, "answer", 2)[1]), pid, "{kind}");
        clients.wait(kind, "end", 1);
    }
    assert_eq!(clients.wait("https", "answer", 2)[1]["close"], true);
    clients.all_end();
    ended(&master, 0);
    master.stop();
}

/// Nobody knows when a raw connection is at rest: it gets the whole drain timeout.
fn raw_connections(node: Node) {
    let kinds = ["net", "tls"];
    let launch = launch(node, &kinds).options(["--drain-timeout", "5s"]);
    certificate(launch.dir.path());
    let tls_dir = launch.dir.path().to_owned();
    let (mut master, pid, go) = start(launch.env("TLS_DIR", tls_dir));
    let mut clients = Clients::start(&master, &go, &kinds);
    for kind in kinds {
        clients.wait(kind, "answer", 1);
    }
    reload(&master);
    touch(&go);
    for kind in kinds {
        assert_eq!(pid_in(&clients.wait(kind, "answer", 2)[1]), pid, "{kind}");
        clients.wait(kind, "end", 1);
    }
    clients.all_end();
    ended(&master, 2);
    master.stop();
}

on_every_node!(sessions_and_sockets);
on_two_nodes!(raw_connections);
