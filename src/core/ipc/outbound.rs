//! Messages to a worker, as lines with their newline.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};

fn line(value: &Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Answers a query with a handle, which goes along.
pub fn listener(seq: &Value, key: &str, data: &Value, udp: bool) -> Vec<u8> {
    let kind = if udp { "dgram.Native" } else { "net.Native" };
    line(&json!({
        "cmd": "NODE_HANDLE",
        "type": kind,
        "msg": {"cmd": "NODE_CLUSTER", "ack": seq, "key": key, "errno": 0, "data": data},
    }))
}

/// Answers a query without a handle: connections come one by one, by
/// [`new_connection`] (`rr` in `lib/internal/cluster/child.js`).
pub fn by_hand(seq: &Value, key: &str, data: &Value, local: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv4() { "IPv4" } else { "IPv6" };
    let name = json!({"address": local.ip().to_string(), "family": family, "port": local.port()});
    line(&json!({
        "cmd": "NODE_CLUSTER", "ack": seq, "key": key, "errno": 0, "data": data, "sockname": name,
    }))
}

/// Answers a query with an error: a positive errno of `errno(3)`. `data` is the asker's own: Node reads it before
/// it looks at the error (`_getServer` in `lib/internal/cluster/child.js`).
pub fn refusal(seq: &Value, key: &str, errno: i32, data: &Value) -> Vec<u8> {
    line(&json!({"cmd": "NODE_CLUSTER", "ack": seq, "key": key, "errno": -errno, "data": data}))
}

/// Answers a message that waits for nothing but an ack.
pub fn ack(seq: &Value) -> Vec<u8> {
    line(&json!({"cmd": "NODE_CLUSTER", "ack": seq}))
}

/// Says that we took a handle that the worker sent.
pub fn handle_ack() -> Vec<u8> {
    line(&json!({"cmd": "NODE_HANDLE_ACK"}))
}

/// Says how many of the sockets that the worker sent with that key are open: none, for each is closed when it comes.
pub fn socket_count(key: &str) -> Vec<u8> {
    line(&json!({"cmd": "NODE_SOCKET_COUNT", "key": key, "count": 0}))
}

/// Says that all sockets that the worker sent with that key are closed. Its `server.close()` waits for it.
pub fn sockets_closed(key: &str) -> Vec<u8> {
    line(&json!({"cmd": "NODE_SOCKET_ALL_CLOSED", "key": key}))
}

/// Node's own way to end a worker.
pub fn disconnect() -> Vec<u8> {
    line(&json!({"cmd": "NODE_CLUSTER", "act": "disconnect"}))
}

/// Hands the worker's server on `key` a connection, which goes along
/// (`onconnection` in `lib/internal/cluster/child.js`).
pub fn new_connection(key: &str, seq: u64) -> Vec<u8> {
    line(&json!({
        "cmd": "NODE_HANDLE",
        "type": "net.Native",
        "msg": {"cmd": "NODE_CLUSTER", "act": "newconn", "key": key, "seq": seq},
    }))
}

/// The same for a health check: the server takes it although it has as many connections as it may have.
pub fn health_check(key: &str, seq: u64) -> Vec<u8> {
    line(&json!({
        "cmd": "NODE_HANDLE",
        "type": "net.Native",
        "msg": {"cmd": "NODE_CLUSTER", "act": "newconn", "key": key, "seq": seq, "check": true},
    }))
}

/// Gives the worker a queue, which goes along: connections for its server on `key` come through it.
pub fn queue(key: &str) -> Vec<u8> {
    line(&json!({
        "cmd": "NODE_HANDLE",
        "type": "net.Native",
        "msg": {"cmd": "NODE_RCLUSTER", "act": "queue", "key": key},
    }))
}

/// The worker closes its inspector, if it was opened by a look into it.
pub fn close_inspector() -> Vec<u8> {
    line(&json!({"cmd": "NODE_RCLUSTER", "act": "uninspect"}))
}

/// Tells a spare which slot it has taken.
pub fn slot(slot: u32) -> Vec<u8> {
    line(&json!({"cmd": "NODE_RCLUSTER", "act": "slot", "slot": slot}))
}

/// The shim's way to drain. Requests are cut `limit` from now, which takes up to `closing` more.
pub fn drain(limit: Duration, closing: Duration) -> Vec<u8> {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    line(&json!({
        "cmd": "NODE_RCLUSTER", "act": "drain", "deadline_ms": ms(limit), "closing_ms": ms(closing),
    }))
}
