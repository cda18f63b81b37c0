//! Just enough HTTP over a Unix socket to ask a master for its status.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// `GET /v1/status`.
pub(crate) fn status(socket: &Path) -> Result<Value> {
    request(socket, "GET", "/v1/status")
}

/// One request, one JSON answer.
pub(crate) fn request(socket: &Path, method: &str, path: &str) -> Result<Value> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("find the end of the headers")?;
    ensure!(
        head.starts_with("HTTP/1.1 2"),
        "{method} {path} failed: {head}\n{body}"
    );
    serde_json::from_str(body)
        .with_context(|| format!("parse the answer to {method} {path}: {body}"))
}

/// How many workers are in that state.
pub(crate) fn workers_in(status: &Value, state: &str) -> usize {
    status["workers"].as_array().map_or(0, |workers| {
        workers.iter().filter(|w| w["state"] == state).count()
    })
}

/// The ready workers, those that serve longest first: slot and pid.
pub(crate) fn serving(status: &Value) -> Vec<(u64, i32)> {
    let all = status["workers"].as_array().into_iter().flatten();
    let mut ready: Vec<_> = all.filter(|w| w["state"] == "ready").collect();
    ready.sort_by_key(|w| w["id"].as_u64());
    ready
        .iter()
        .filter_map(|w| Some((w["slot"].as_u64()?, w["pid"].as_i64()?.try_into().ok()?)))
        .collect()
}
