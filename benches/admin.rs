//! `cargo bench --bench admin [-- SECTION... --out FILE]`: what looking at a master costs.
//!
//! Sections: `status`, `scrape`, `idle`, `deaf`, `memory`. Environment: `RCLUSTER_BENCH_NODES` (a major, default 24),
//! `RCLUSTER_BENCH_ROUNDS` (default 40). `npm ci` in `benches/` installs PM2; without it its row is left out.
//! About two minutes.

#![allow(clippy::disallowed_macros, reason = "a test prints for its author")]

#[path = "admin/doors.rs"]
mod doors;
#[path = "admin/scrape.rs"]
mod scrape;
#[path = "admin/status.rs"]
mod status;
#[allow(dead_code, reason = "each bench uses its part of the shared files")]
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use support::args::Args;
use support::contender::Server;
use support::control;
use support::nodes::Node;
use support::report::Report;

fn main() -> Result<()> {
    let Some(args) = Args::parse()? else {
        return Ok(());
    };
    support::cleanup::on_interrupt()?;
    let major = support::args::number("RCLUSTER_BENCH_NODES", 24)?;
    let node = Node::of_major(u32::try_from(major)?)?;
    let mut report = Report::new("Looking at a master", std::slice::from_ref(&node));
    if args.wants("status") {
        status::run(&mut report, &node)?;
    }
    if args.wants("scrape") {
        scrape::run(&mut report)?;
    }
    if args.wants("idle") {
        doors::idle(&mut report)?;
    }
    if args.wants("deaf") {
        doors::deaf(&mut report)?;
    }
    if args.wants("memory") {
        doors::memory(&mut report, &node)?;
    }
    report.finish(args.out.as_deref())
}

/// The TCP door of a master, as its status names it.
fn door(server: &Server) -> Result<SocketAddr> {
    let status = control::status(&server.control())?;
    let door = status["admin"]
        .as_str()
        .context("find --admin in the status")?;
    Ok(door.parse()?)
}

/// One GET on a connection of its own; the whole answer.
fn get(door: SocketAddr, path: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(door)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(
        answer.starts_with(b"HTTP/1.1 200 "),
        "GET {path}: {}",
        String::from_utf8_lossy(&answer[..answer.len().min(300)])
    );
    Ok(answer)
}
