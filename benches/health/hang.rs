//! One worker of four hangs, under short connections.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rcluster_ledger::{Class, Mode};
use serde_json::Value;

use super::load::{Loads, WORKERS, fleet};
use crate::support::contender::Server;
use crate::support::control;
use crate::support::nodes::Node;
use crate::support::report::Report;

const PHASE: &str = "hang";

pub(crate) fn run(report: &mut Report, node: &Node, seconds: u64) -> Result<()> {
    report.section(
        "One of four hangs",
        &format!(
            "{WORKERS} workers, 16 clients with short connections, 10 s of patience, for {seconds} s from the moment at which one worker gets a request that \
             never ends (`for (;;)`). `--hang-timeout` as by default (30 s). What the hung worker had accepted is counted from its descriptors and \
             /proc/net/tcp while it hangs."
        ),
    );
    let server = fleet(node)?;
    let before: BTreeSet<i32> = pids(&server)?;
    let loads = Loads::start(&server, &[Mode::Short])?;
    std::thread::sleep(Duration::from_secs(2));
    loads.mark(PHASE);
    let began = Instant::now();
    let mut strike = TcpStream::connect(server.address)?;
    strike.write_all(b"GET /spin HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let struck_from = strike.local_addr()?.port();
    // Its own client is among those that it has accepted.
    let (hung, accepted) = loop {
        let found = before.iter().find_map(|pid| {
            let ports = accepted(*pid, server.address.port());
            ports.contains(&struck_from).then_some((*pid, ports))
        });
        match found {
            Some(found) => break found,
            None => ensure!(
                began.elapsed() < Duration::from_secs(20),
                "nobody took the request"
            ),
        }
    };
    // Others may have come into its hands in the same turn of its loop; after a second it has not turned again.
    std::thread::sleep(Duration::from_secs(1));
    let later = self::accepted(hung, server.address.port());
    let held = later
        .union(&accepted)
        .filter(|port| **port != struck_from)
        .count() as u64;
    let mut noticed = None;
    let mut replaced = None;
    while began.elapsed() < Duration::from_secs(seconds) {
        let status = control::status(&server.control())?;
        if noticed.is_none() && incident(&status, hung).is_some() {
            noticed = Some(began.elapsed());
        }
        let serving = control::serving(&status);
        if replaced.is_none() && serving.iter().filter(|(_, pid)| *pid != hung).count() == WORKERS {
            replaced = Some(began.elapsed());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = control::status(&server.control())?;
    let outcome = loads.stop(&server)?;
    outcome.tell(report, PHASE);
    let told = incident(&status, hung);
    let frame = told.and_then(|i| i["stack"].as_str()?.lines().next());
    let seconds_of = |time: Option<Duration>| {
        time.map_or("never".to_owned(), |time| {
            format!("{:.1} s", time.as_secs_f64())
        })
    };
    report.note(&format!(
        "Noticed after {}, replacement ready after {}; first frame of its stack: `{}`.",
        seconds_of(noticed),
        seconds_of(replaced),
        frame.unwrap_or("none").replace(
            &*crate::support::contender::bench_file("").to_string_lossy(),
            ""
        )
    ));
    let lost = outcome.report.lost();
    let refused =
        outcome.report.count(Class::Refused) + outcome.report.count(Class::ConnectTimeout);
    report.target(
        "hang of one of four, short connections: lost, but not accepted by the hung one",
        "0",
        format!(
            "{} ({lost} lost of {}, {held} accepted by the hung one; refused or not connected: {refused})",
            lost.saturating_sub(held),
            outcome.report.total
        ),
        lost <= held && refused == 0,
    );
    if seconds > 35 {
        report.target(
            "hang: noticed, with its stack, and replaced",
            "after 30 s",
            format!("{}, {}", seconds_of(noticed), seconds_of(replaced)),
            noticed.is_some() && replaced.is_some() && frame.is_some(),
        );
    }
    drop(strike);
    Ok(())
}

fn pids(server: &Server) -> Result<BTreeSet<i32>> {
    let serving = control::serving(&control::status(&server.control())?);
    Ok(serving.into_iter().map(|(_, pid)| pid).collect())
}

fn incident(status: &Value, pid: i32) -> Option<&Value> {
    let all = status["incidents"].as_array()?;
    all.iter().find(|i| i["pid"] == pid)
}

/// Ports of the clients whose connections to `port` a process holds.
fn accepted(pid: i32, port: u16) -> BTreeSet<u16> {
    let read = || -> Result<BTreeSet<u16>> {
        let mut inodes = BTreeSet::new();
        for fd in fs::read_dir(format!("/proc/{pid}/fd"))? {
            // Descriptors come and go.
            let Ok(target) = fs::read_link(fd?.path()) else {
                continue;
            };
            let target = target.to_string_lossy().into_owned();
            let inode = target
                .strip_prefix("socket:[")
                .and_then(|t| t.strip_suffix(']'));
            inodes.extend(inode.and_then(|i| i.parse::<u64>().ok()));
        }
        // proc_pid_net(5): slot, local and remote address in hexadecimal, state, ..., inode.
        let table = fs::read_to_string("/proc/net/tcp")?;
        let rows = table.lines().skip(1).filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let port_of = |field: &str| u16::from_str_radix(field.split_once(':')?.1, 16).ok();
            let (local, remote) = (port_of(fields.get(1)?)?, port_of(fields.get(2)?)?);
            let inode = fields.get(9)?.parse::<u64>().ok()?;
            (local == port && remote != 0 && inodes.contains(&inode)).then_some(remote)
        });
        Ok(rows.collect())
    };
    read()
        .context("look at a worker's sockets")
        .unwrap_or_default()
}
