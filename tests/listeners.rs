//! Promise: what a worker's `listen()` and `bind()` get is what Node's own primary gives.

use serde_json::{Value, json};

use crate::common::{Addr, BOOT, Launch, Node, on_every_node, wait_until};
use crate::deploys::{Releases, reload, tell};
use crate::drains::certificate;

/// A run of this code in each worker.
fn code(node: Node, workers: u32, code: &str) -> Launch {
    let launch = Launch::new("run.js").node(node).workers(workers).arg(code);
    let dir = launch.dir.path().to_owned();
    certificate(&dir);
    launch.env("TLS_DIR", dir)
}

fn a_tls_server_is_told_that_its_port_is_taken(node: Node) {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let app = format!(
        "require('http').createServer(answer).listen(0, '127.0.0.1');
         require('https').createServer(tls(), answer).listen({port}, '127.0.0.1').on('error', (e) => say('error', {{ code: e.code }}));"
    );
    let mut master = code(node, 1, &app).start();
    assert_eq!(master.wait_events("error", 1)[0]["code"], "EADDRINUSE");
    assert_eq!(master.wait_ready(1)[0].restarts, 0);
    master.stop();
}

/// The first of a key had no ticket keys.
fn a_tls_server_follows_a_plain_one_on_port_0(node: Node) {
    let app = "
        const plain = require('http').createServer(answer);
        plain.listen(0, '127.0.0.1', () => plain.close(() => {
          const server = require('https').createServer(tls(), answer);
          server.listen(0, '127.0.0.1', () => say('tls', server.address()));
        }));";
    let mut master = code(node, 2, app).start();
    let told = master.wait_events("tls", 2);
    assert!(told[0]["port"].as_u64() > Some(0), "{told:?}");
    let ready = master.wait_ready(2);
    assert!(ready.iter().all(|w| w.restarts == 0), "{ready:?}");
    master.stop();
}

#[test]
fn a_reload_goes_from_http_to_https_and_back() {
    let releases = Releases::new();
    certificate(&releases.path(""));
    let port = Addr::free_port();
    let release = |number, kind: &str| {
        let code = format!(
            "const fs = require('fs');
             const pem = (name) => fs.readFileSync(process.env.TLS_DIR + '/' + name);
             const tls = {{ key: pem('key.pem'), cert: pem('cert.pem') }};
             require('{kind}').createServer(tls, (req, res) => res.end('{kind}')).listen({port}, '127.0.0.1');"
        );
        releases.make_with(number, &json!({}), &code);
        releases.switch(number);
    };
    release(1, "http");
    // The health check speaks as the worker's own server does.
    let launch = releases.launch().env("TLS_DIR", releases.path(""));
    let mut master = launch.workers(2).options(["--health-path", "/"]).start();
    master.wait_ready(2);
    release(2, "https");
    reload(&master);
    assert_eq!(master.status().generation, 2);
    assert_eq!(master.wait_ready(2).len(), 2);
    let told = tell(&master, &["rollback"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    assert_eq!(Addr::port(port).get("/").body, "http");
    master.stop();
}

/// `dgram` sends no port where the app named none.
fn datagrams_without_a_port(node: Node) {
    let app = "
        const dgram = require('dgram');
        const open = (name, bind) => {
          const socket = dgram.createSocket('udp4');
          socket.on('error', (e) => say('error', { name, code: e.code }));
          socket.on('listening', () => say('bound', { name, ...socket.address() }));
          bind(socket);
        };
        open('nothing', (s) => s.bind());
        open('callback', (s) => s.bind(() => say('called')));
        open('address', (s) => s.bind({ address: '127.0.0.1' }));
        open('zero', (s) => s.bind(0));
        require('http').createServer(answer).listen(0, '127.0.0.1');";
    let mut master = code(node, 2, app).start();
    let bound = wait_until("four sockets in two workers", BOOT, || {
        assert_eq!(master.events("error"), Vec::<Value>::new());
        Some(master.events("bound")).filter(|all| all.len() == 8)
    });
    master.wait_events("called", 2);
    let ports = |name: &str| -> Vec<u64> {
        let of = bound.iter().filter(|b| b["name"] == name);
        of.map(|b| b["port"].as_u64().expect("a port")).collect()
    };
    let mut all = vec![];
    for name in ["nothing", "callback", "address", "zero"] {
        let [one, other] = ports(name)[..] else {
            panic!("{name}: {bound:?}");
        };
        assert_eq!(one, other, "{name}: not shared by the workers");
        all.push(one);
    }
    all.sort_unstable();
    all.dedup();
    assert!(all.len() == 4 && all[0] > 0, "{all:?}");
    master.stop();
}

/// What cannot work in a worker is named where it can be recognised.
#[test]
fn limits_of_a_worker_are_named() {
    let never = "if (require('cluster').isPrimary) require('http').createServer(answer).listen(0); else process.exit();";
    let early = "require('http').createServer(answer).listen(0).address().port;";
    for (app, named) in [
        (never, "cluster.isPrimary"),
        (early, "server.address() is null"),
    ] {
        let ended = code(Node::V24, 1, app).run();
        assert_eq!(ended.code, Some(3), "{}", ended.log);
        assert!(ended.log.contains(named), "{}", ended.log);
    }
}

on_every_node!(
    a_tls_server_is_told_that_its_port_is_taken,
    a_tls_server_follows_a_plain_one_on_port_0,
    datagrams_without_a_port,
);
