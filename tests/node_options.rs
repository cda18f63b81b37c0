//! Promise: options of Node itself, on its command line or in `NODE_OPTIONS`, mean what they mean without rcluster.

use crate::common::{Addr, Launch, Node, app, on_every_node, pid_in};
use crate::deploys::reload;

/// `NODE_OPTIONS=--inspect=...` is one worker's: its port is the one that was asked for.
fn an_inspector_keeps_the_port_that_was_asked_for(node: Node) {
    let port = Addr::free_port();
    let mut master = Launch::new("http.js")
        .node(node)
        .workers(1)
        .option("--autopsy")
        .env("NODE_OPTIONS", format!("--inspect=127.0.0.1:{port}"))
        .start();
    master.wait_ready(1);
    let answer = Addr::port(port).try_request("GET", "/json/list");
    let answer = answer.expect("its inspector answers");
    assert_eq!(answer.status, 200, "{answer:?}");
    master.stop();
}

/// Each worker has an inspector, at a port that counts up, also after a reload.
fn every_worker_has_an_inspector(node: Node) {
    let port = Addr::free_port();
    for on_the_command_line in [false, true] {
        let flag = format!("--inspect=127.0.0.1:{port}");
        let launch = Launch::new("http.js").node(node).workers(2);
        let launch = if on_the_command_line {
            launch.option("--node-arg").option(flag)
        } else {
            launch.env("NODE_OPTIONS", flag)
        };
        let mut master = launch.env("RCLUSTER_MIN_UPTIME", "0s").start();
        let mut workers = master.wait_ready(2);
        for _ in 0..2 {
            for worker in &workers {
                let of = port + u16::try_from(worker.id - 1).expect("few workers");
                let answer = Addr::port(of).try_request("GET", "/json/list");
                let answer = answer.unwrap_or_else(|e| panic!("{e}: {}", master.log()));
                assert_eq!(answer.status, 200, "{answer:?}");
            }
            reload(&master);
            workers = master.wait_ready(2);
        }
        master.stop();
    }
}

/// The permission model lets the app read its own folder; the shim needs no right that the user has to give.
fn the_permission_model_works(node: Node) {
    let flag = match node {
        Node::V18 => return, // it has none
        Node::V20 => "--experimental-permission",
        Node::V22 | Node::V24 | Node::V26 => "--permission",
    };
    let folder = app("").display().to_string();
    let launch = match node {
        // From here on the network is closed, too; Node's own error names the flag.
        Node::V26 => Launch::new("http.js").options(["--node-arg", "--allow-net"]),
        Node::V18 | Node::V20 | Node::V22 | Node::V24 => Launch::new("http.js"),
    };
    let mut master = launch
        .node(node)
        .workers(1)
        .env("RCLUSTER_MIN_UPTIME", "0s")
        .options(["--node-arg", flag])
        .option("--node-arg")
        .option(format!("--allow-fs-read={folder}/"))
        .start();
    let old = master.wait_ready(1).remove(0);
    reload(&master);
    let answered = pid_in(&master.addr().get("/").json());
    assert_ne!(answered, old.process());
    let log = master.log();
    assert!(
        !log.contains("shim_fault") && !log.contains("shim_missing"),
        "{log}"
    );
    master.stop();
}

on_every_node!(
    an_inspector_keeps_the_port_that_was_asked_for,
    every_worker_has_an_inspector,
    the_permission_model_works,
);
