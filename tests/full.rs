//! Promise: a server that has as many connections as it may have delays nobody else, and an error of the app's is the app's.

use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::common::{BOOT, Conn, Launch, Node, on_every_node, wait_until};
use crate::deploys::document;

fn code(node: Node, workers: u32, code: &str) -> Launch {
    Launch::new("run.js").node(node).workers(workers).arg(code)
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("not refused");
    let limit = Some(Duration::from_secs(30));
    stream.set_read_timeout(limit).expect("set");
    stream
}

fn is_served(stream: &mut TcpStream) -> bool {
    stream.read_exact(&mut [0]).is_ok()
}

#[test]
fn a_full_address_does_not_delay_another_one() {
    let app = "
        for (const most of [1, undefined]) {
          const server = require('net').createServer((socket) => socket.on('error', () => {}).write('x'));
          server.maxConnections = most;
          server.listen(0, '127.0.0.1', () => say('open', { most: most || 0, port: server.address().port }));
        }";
    let launch = code(Node::V24, 1, app).options(["--balance", "least-conn"]);
    let mut master = launch.start();
    master.wait_ready(1);
    let open = master.wait_events("open", 2);
    let port = |most: u64| {
        let at = open.iter().find(|event| event["most"] == most);
        let port = at.expect("open")["port"].as_u64().expect("a port");
        u16::try_from(port).expect("a port")
    };
    let mut first = connect(port(1));
    assert!(is_served(&mut first));
    // These have to wait; the master closes what nobody takes after ten seconds.
    let mut wait: Vec<_> = (0..6).map(|_| connect(port(1))).collect();
    wait_until("one to come back", BOOT, || {
        (document(&master)["balance"]["held"].as_u64() > Some(0)).then_some(())
    });
    for _ in 0..10 {
        assert!(is_served(&mut connect(port(0))));
    }
    for waiting in &mut wait {
        waiting.set_nonblocking(true).expect("set");
        let nothing = waiting.read(&mut [0]).expect_err("it waits");
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        waiting.set_nonblocking(false).expect("set");
    }
    // Each gets its turn, in whatever order.
    drop(first);
    for stream in &wait {
        stream.set_nonblocking(true).expect("set");
    }
    wait_until("all to be served", BOOT, || {
        wait.retain_mut(|stream| match stream.read(&mut [0]) {
            Ok(read) => {
                assert_eq!(read, 1, "closed without an answer");
                false
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                true
            }
        });
        wait.is_empty().then_some(())
    });
    master.stop();
}

/// And what the app's other clients are told stays: a client too many is refused.
fn a_full_server_answers_its_health_check(node: Node) {
    let app = "
        const server = require('http').createServer((req, res) => {
          if (req.url === '/healthz') say('checked', { connections: server._connections });
          answer(req, res);
        });
        server.maxConnections = 1;
        server.listen(0, '127.0.0.1');";
    let launch = code(node, 1, app)
        .options(["--health-path", "/healthz"])
        .options(["--health-interval", "100ms"]);
    let mut master = launch.start();
    let worker = master.wait_ready(1).remove(0);
    let addr = master.addr();
    let mut holds = Conn::open(&addr).expect("a connection");
    holds
        .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("sent");
    holds.read().expect("an answer");
    let full = || {
        let checks = master.events("checked");
        checks.iter().filter(|c| c["connections"] == 2).count()
    };
    wait_until("checks of a full server", BOOT, || {
        (full() >= 5).then_some(())
    });
    let mut refused = connect(addr.tcp_port());
    assert!(!is_served(&mut refused), "the limit was lifted");
    assert_eq!(document(&master)["incidents"], json!([]));
    assert_eq!(master.wait_ready(1)[0].id, worker.id);
    drop(holds);
    master.stop();
}
on_every_node!(a_full_server_answers_its_health_check);

/// A connection that the master hands over is the app's like any other.
fn an_error_in_a_connection_listener_is_uncaught(node: Node) {
    let app = "
        const server = require('net').createServer();
        server.on('connection', () => { throw new Error('of a listener'); });
        server.listen(0, '127.0.0.1');";
    let launch = code(node, 1, app).options(["--balance", "least-conn"]);
    let mut master = launch.start();
    let before = master.wait_ready(1).remove(0);
    drop(connect(master.addr().tcp_port()));
    master.wait_replaced(&before);
    let incident = document(&master)["incidents"][0].clone();
    let error = incident["error"].to_string();
    assert!(error.contains("of a listener"), "{incident}");
    master.stop();
}
on_every_node!(an_error_in_a_connection_listener_is_uncaught);
