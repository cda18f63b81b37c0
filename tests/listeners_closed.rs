//! Promise: what the app closes is closed, as with Node's own primary; what a worker leaves at its end is kept for the next one.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::{
    Addr, BOOT, Launch, Master, Node, Stopped, kill, on_every_node, pid_in, wait_until,
};
use crate::deploys::{document, reload_with, tell};

fn code(node: Node, workers: u32, code: &str) -> Launch {
    Launch::new("run.js").node(node).workers(workers).arg(code)
}

/// A server whose paths open and close others. `ports` are those of the extra ones.
const DOORS: &str = "
    const net = require('net');
    const doors = new Map();
    const open = (port) => {
      const server = net.createServer((socket) => socket.end('open'));
      server.on('error', (e) => say('error', { port, code: e.code }));
      server.listen(port, '127.0.0.1', () => { doors.set(port, server); say('open', { port: server.address().port }); });
    };
    const http = require('http').createServer((req, res) => {
      const [, verb, port] = req.url.split('/');
      if (verb === 'open') open(Number(port));
      if (verb === 'close') doors.get(Number(port)).close(() => say('closed', { port: Number(port) }));
      answer(req, res);
    });
    http.listen(0, '127.0.0.1', () => say('main', { port: http.address().port }));";

#[track_caller]
fn is_refused(port: u16) {
    wait_until(&format!("port {port} to be refused"), BOOT, || {
        let error = TcpStream::connect(("127.0.0.1", port)).err()?;
        (error.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
}

fn is_answered(port: u16) {
    let mut text = String::new();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("not refused");
    stream.read_to_string(&mut text).expect("an answer");
    assert_eq!(text, "open");
}

fn port_of(event: &Value) -> u16 {
    let port = event["port"].as_u64().expect("a port");
    u16::try_from(port).expect("a port")
}

/// The main listener of a run of [`DOORS`].
fn main_of(master: &Master) -> Addr {
    Addr::port(port_of(&master.wait_events("main", 1)[0]))
}

#[test]
fn what_the_app_closes_is_refused() {
    let mut master = code(Node::V24, 1, DOORS).start();
    master.wait_ready(1);
    let main = main_of(&master);
    for (n, port) in [0, Addr::free_port()].into_iter().enumerate() {
        main.get(&format!("/open/{port}"));
        let real = port_of(&master.wait_events("open", 2 * n + 1)[2 * n]);
        is_answered(real);
        main.get(&format!("/close/{port}"));
        master.wait_events("closed", 2 * n + 1);
        is_refused(real);
        // And it may be opened again.
        main.get(&format!("/open/{port}"));
        is_answered(port_of(&master.wait_events("open", 2 * n + 2)[2 * n + 1]));
        main.get(&format!("/close/{port}"));
        master.wait_events("closed", 2 * n + 2);
    }
    wait_until("one listener", BOOT, || {
        (master.status().listeners.len() == 1).then_some(())
    });
    assert_eq!(master.wait_ready(1)[0].restarts, 0);
    master.stop();
}

#[test]
fn what_another_worker_holds_or_bind_declares_stays_open() {
    let [shared, declared] = [0; 2].map(|_| Addr::free_port());
    let app = format!(
        "{DOORS} open({shared}); open({declared}); if (process.env.RCLUSTER_SLOT === '0') {{
           const timer = setInterval(() => {{
             if (doors.size < 2) return;
             clearInterval(timer);
             doors.get({shared}).close(() => say('closed', {{}}));
           }}, 5);
         }}"
    );
    let launch = code(Node::V24, 2, &app).option("-b");
    let mut master = launch.option(format!("127.0.0.1:{declared}")).start();
    let ready = master.wait_ready(2);
    master.wait_events("closed", 1);
    master.wait_events("open", 4);
    // For longer than an unused listener is kept, by the master's own clock.
    let begun = document(&master)["clock_ms"].as_u64().expect("a time");
    wait_until("four seconds of the master", BOOT, || {
        (document(&master)["clock_ms"].as_u64()? > begun + 4000).then_some(())
    });
    is_answered(shared);
    // The one that holds it dies: its successor is waited for.
    let stopped = Stopped::new(&[ready[0].process()]);
    kill(ready[1].process(), Signal::SIGKILL);
    is_answered(shared);
    drop(stopped);
    master.wait_replaced(&ready[1]);
    master.wait_ready(2);
    assert_eq!(master.status().listeners.len(), 3, "{:?}", master.status());
    master.stop();
}

/// The way of get-port and of detect-port to find a free port, and of an FTP server to open one for each transfer.
fn ports_that_are_tried_and_closed_are_free_again(node: Node) {
    let start = Addr::free_port();
    let app = format!(
        "const net = require('net');
         const listen = (...args) => new Promise((resolve, reject) => {{
           const server = net.createServer().on('error', reject);
           server.listen(...args, () => resolve(server));
         }});
         const close = (server) => new Promise((resolve) => server.close(resolve));
         (async () => {{
           const first = await listen(0);
           const {{ port }} = first.address();
           await close(first);
           const got = await listen(port);
           for (const host of [undefined, '0.0.0.0', '127.0.0.1', 'localhost']) await close(await listen({{ port: {start}, host }}));
           const detected = await listen({start}, '127.0.0.1');
           for (let i = 1; i < 100; i++) await close(await listen(0, `127.0.1.${{i}}`));
           for (let i = 1; i < 100; i++) await close(await listen(0, '127.0.0.1'));
           say('done', {{ got: got.address().port === port, detected: detected.address().port }});
         }})().catch((e) => say('error', {{ code: e.code, message: e.message }}));"
    );
    let mut master = code(node, 1, &app).start();
    let done = wait_until("the end of the search", BOOT, || {
        assert_eq!(
            master.events("error"),
            Vec::<Value>::new(),
            "{}",
            master.log()
        );
        master.events("done").pop()
    });
    assert_eq!(
        (&done["got"], &done["detected"]),
        (&true.into(), &start.into())
    );
    master.wait_ready(1);
    wait_until("the two that are held", BOOT, || {
        (master.status().listeners.len() == 2).then_some(())
    });
    master.stop();
}
on_every_node!(ports_that_are_tried_and_closed_are_free_again);

/// An app that opens a port for each slot.
fn one_port_a_slot(base: u16) -> String {
    format!("{DOORS} open({base} + Number(process.env.RCLUSTER_SLOT));")
}

fn free_range() -> u16 {
    loop {
        let base = Addr::free_port();
        let free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (base..base + 3).all(free) {
            return base;
        }
    }
}

#[test]
fn the_port_of_a_slot_that_is_scaled_away_is_refused() {
    let base = free_range();
    let launch = code(Node::V24, 2, &one_port_a_slot(base));
    let mut master = launch.options(["--ready-timeout", "3s"]).start();
    master.wait_ready(2);
    master.wait_events("open", 2);
    is_answered(base + 1);
    assert_eq!(tell(&master, &["scale", "1"]).code, Some(0));
    is_refused(base + 1);
    is_answered(base);
    // And back.
    assert_eq!(tell(&master, &["scale", "2"]).code, Some(0));
    master.wait_events("open", 3);
    is_answered(base + 1);
    master.stop();
}

#[test]
fn a_port_that_a_promoted_spare_does_not_open_is_refused() {
    let base = free_range();
    let launch = code(Node::V24, 2, &one_port_a_slot(base)).options(["--spares", "1"]);
    let mut master = launch.options(["--ready-timeout", "3s"]).start();
    let ready = master.wait_ready(2);
    master.wait_status("a spare", |status| {
        status
            .workers
            .iter()
            .any(|w| w.state == "held")
            .then_some(())
    });
    is_answered(base);
    kill(ready[0].process(), Signal::SIGKILL);
    master.wait_replaced(&ready[0]);
    // It had read another number, and opens that port.
    wait_until("the spare's port", BOOT, || {
        TcpStream::connect(("127.0.0.1", base + 2)).ok().map(drop)
    });
    is_refused(base);
    is_answered(base + 1);
    is_answered(base + 2);
    master.stop();
}

/// The only worker leaves: its port is its successor's, although it closes its servers first.
fn a_port_stays_when_the_only_worker_leaves(node: Node) {
    for path in ["/disconnect", "/kill"] {
        let mut master = Launch::new("http.js").node(node).workers(1).start();
        let before = master.wait_ready(1);
        let addr = master.addr();
        addr.get(path);
        let after = master.wait_replaced(&before[0]);
        assert_eq!(pid_in(&addr.get("/").json()), after.process());
        master.stop();
    }
}
on_every_node!(a_port_stays_when_the_only_worker_leaves);

/// Whom the one with the fewest connections has no room for, another one gets.
#[test]
fn least_conn_respects_the_most_connections() {
    let app = "
        const server = require('net').createServer((socket) => socket.on('error', () => {}).write('x'));
        server.maxConnections = [0, 1, 9][process.env.RCLUSTER_SLOT];
        server.listen(0, '127.0.0.1');";
    let launch = code(Node::V24, 3, app).options(["--balance", "least-conn"]);
    let mut master = launch.start();
    master.wait_ready(3);
    let addr = master.addr();
    let served = |stream: &mut TcpStream| stream.read_exact(&mut [0]).is_ok();
    let connect = || {
        let stream = TcpStream::connect(("127.0.0.1", addr.tcp_port())).expect("not refused");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("set");
        stream
    };
    let mut all: Vec<TcpStream> = (0..10).map(|_| connect()).collect();
    assert_eq!(
        all.iter_mut()
            .filter_map(|s| served(s).then_some(()))
            .count(),
        10
    );
    // One more has to wait until there is room, and then gets it.
    let mut late = connect();
    drop(all.pop());
    assert!(served(&mut late));
    drop(all);
    master.stop();
}

/// Sockets that a process has.
fn sockets(pid: i32) -> usize {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
    let links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    links
        .filter(|link| link.to_string_lossy().starts_with("socket:"))
        .count()
}

/// What the master has handed over is the worker's alone, whatever happens to the answer: the next program keeps no
/// descriptor of it.
#[test]
fn no_client_is_kept_over_an_upgrade_with_a_hang() {
    let launch = Launch::new("http.js")
        .workers(2)
        .options(["--balance", "least-conn"]);
    let mut master = launch.options(["--hang-timeout", "60s"]).start();
    let ready = master.wait_ready(2);
    let pids: Vec<_> = ready.iter().map(crate::common::Worker::process).collect();
    let addr = master.addr();
    master.each_answers_http(&addr);
    let before = sockets(master.pid());
    for hanging in [1, 2, 2] {
        let stopped = Stopped::new(&pids[..hanging]);
        let clients: Vec<_> = (0..8).map(|_| crate::deploys::begin(&addr, "/")).collect();
        if hanging == pids.len() {
            // Nobody takes what it was handed.
            wait_until("connections that are handed over", BOOT, || {
                (document(&master)["balance"]["held"].as_u64()? >= 2).then_some(())
            });
        }
        reload_with(&master, &["upgrade"]);
        drop(stopped);
        for mut client in clients {
            client.read().expect("an answer");
        }
        wait_until("nothing is held", BOOT, || {
            (document(&master)["balance"]["held"] == 0).then_some(())
        });
        // A client of the control socket may still have been there before.
        wait_until("no more sockets than before", BOOT, || {
            (sockets(master.pid()) <= before).then_some(())
        });
    }
    master.stop();
}

/// What it cannot be handed, such as without a free descriptor, is not kept for it either.
#[test]
fn a_connection_that_a_worker_cannot_take_goes_to_another() {
    let launch = Launch::new("refuses.py").workers(2);
    let mut master = launch.options(["--balance", "least-conn"]).start();
    let ready = master.wait_ready(2);
    let addr = master.addr();
    for _ in 0..4 {
        let answer = addr.get("/").json();
        assert_eq!(pid_in(&answer), ready[1].process());
    }
    // Once, and three times again.
    assert!(master.events("refused").len() >= 4);
    wait_until("nothing is held", BOOT, || {
        (document(&master)["balance"]["held"] == 0).then_some(())
    });
    master.stop();
}

#[test]
fn what_the_app_closes_after_an_upgrade_is_refused() {
    let mut master = code(Node::V24, 1, DOORS).start();
    master.wait_ready(1);
    let main = main_of(&master);
    main.get("/open/0");
    let real = port_of(&master.wait_events("open", 1)[0]);
    reload_with(&master, &["upgrade"]);
    is_answered(real);
    main.get("/close/0");
    master.wait_events("closed", 1);
    is_refused(real);
    master.stop();
}
