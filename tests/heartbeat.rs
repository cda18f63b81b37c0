//! Promise: what a heartbeat says is true from the first one on, and its absence is told apart from a hang.

use crate::common::{self, Launch, Node, on_every_node, wait_until};
use crate::deploys::document;

fn the_first_heartbeat_tells_an_idle_worker(node: Node) {
    let mut master = Launch::new("http.js")
        .node(node)
        .workers(1)
        .options(["--hang-timeout", "18s"])
        .start();
    master.wait_ready(1);
    let first = wait_until("a heartbeat", common::BOOT, || {
        let beat = document(&master)["workers"][0]["beat"].take();
        (!beat.is_null()).then_some(beat)
    });
    // Thousandths of the three seconds since the start, in which it did nothing.
    let busy = first["busy"].as_u64().expect("a number");
    assert!(busy < 900, "{first}");
    master.stop();
}

on_every_node!(the_first_heartbeat_tells_an_idle_worker);
