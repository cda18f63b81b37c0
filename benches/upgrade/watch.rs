//! `--watch` beside nodemon.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::support::cleanup;
use crate::support::contender::{bench_file, free_address, rcluster};
use crate::support::nodes::Node;
use crate::support::report::Report;
use crate::support::stats::Samples;

const PATIENCE: Duration = Duration::from_secs(30);
/// Changes in each round.
const CHANGES: u32 = 3;

#[derive(Clone, Copy)]
enum Who {
    Rcluster,
    Nodemon,
    Plain,
}

/// What each of them took, milliseconds.
#[derive(Default)]
struct Took {
    first: Samples,
    change: Samples,
}

pub(crate) fn run(report: &mut Report, node: &Node, rounds: u64) -> Result<()> {
    let nodemon = bench_file("node_modules/nodemon");
    let version = fs::read_to_string(nodemon.join("package.json"))
        .context("find nodemon: run `npm ci` in benches/")?;
    let version: serde_json::Value = serde_json::from_str(&version)?;
    report.section(
        "--watch",
        &format!(
            "One app that answers with a word. First: from the start of the command to the first answer. Change: from the moment at which the file has another \
             word to the first answer with it; nodemon {} as it is installed. A client asks every millisecond. {rounds} interleaved rounds, {CHANGES} changes each.",
            version["version"].as_str().unwrap_or("?")
        ),
    );
    let mut all = [Took::default(), Took::default(), Took::default()];
    for _ in 0..rounds {
        for (who, took) in [Who::Rcluster, Who::Nodemon, Who::Plain]
            .into_iter()
            .zip(&mut all)
        {
            one(who, node, took)?;
        }
    }
    let [ours, theirs, plain] = &all;
    let (first, change) = (
        ours.first.over(&theirs.first),
        ours.change.over(&theirs.change),
    );
    report.table(
        &["", "first answer ms", "after a change ms"],
        &[
            vec![
                "rcluster --watch".to_owned(),
                ours.first.show(0),
                ours.change.show(0),
            ],
            vec![
                "nodemon".to_owned(),
                theirs.first.show(0),
                theirs.change.show(0),
            ],
            vec!["plain node".to_owned(), plain.first.show(0), String::new()],
            vec![
                "rcluster of nodemon".to_owned(),
                first.show(2),
                change.show(2),
            ],
        ],
    );
    for (what, ratio) in [("first answer", &first), ("answer after a change", &change)] {
        report.target(
            format!("--watch: {what}, of nodemon's"),
            "< 1",
            ratio.show(2),
            ratio.median() < 1.0,
        );
    }
    Ok(())
}

fn one(who: Who, node: &Node, took: &mut Took) -> Result<()> {
    let dir = tempfile::Builder::new()
        .prefix(&crate::support::cleanup::folders())
        .tempdir()?;
    let app = dir.path().join("app.js");
    write(&app, 0)?;
    let address = free_address()?;
    let mut command = match who {
        Who::Rcluster => {
            let mut command = Command::new(rcluster());
            command
                .args(["--watch", "--log-level", "warn", "--control"])
                .arg(dir.path().join("c.sock"))
                .arg("--node")
                .arg(&node.path);
            command
        }
        Who::Nodemon => {
            let mut command = Command::new(&node.path);
            command
                .arg(bench_file("node_modules/nodemon/bin/nodemon.js"))
                .arg("--exec")
                .arg(&node.path);
            command
        }
        Who::Plain => Command::new(&node.path),
    };
    cleanup::mark(&mut command)
        .arg(&app)
        .current_dir(dir.path())
        .env("PORT", address.port().to_string())
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let began = Instant::now();
    let child = command
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let result = measure(who, &app, address, began, took);
    end(child)?;
    result
}

fn measure(
    who: Who,
    app: &Path,
    address: SocketAddr,
    began: Instant,
    took: &mut Took,
) -> Result<()> {
    took.first.push(wait(address, 0, began)?);
    if matches!(who, Who::Plain) {
        return Ok(());
    }
    for change in 1..=CHANGES {
        // Both are watching by then.
        sleep(Duration::from_millis(500));
        write(app, change)?;
        took.change.push(wait(address, change, Instant::now())?);
    }
    Ok(())
}

/// As editors save: a new file in the old one's place.
fn write(app: &Path, number: u32) -> Result<()> {
    let code = format!(
        "require('node:http').createServer((_, res) => res.end('word {number}.')).listen(process.env.PORT, '127.0.0.1')\n"
    );
    let fresh = app.with_extension("new~");
    fs::write(&fresh, code)?;
    Ok(fs::rename(&fresh, app)?)
}

/// Milliseconds until the answer is that one.
fn wait(address: SocketAddr, number: u32, began: Instant) -> Result<f64> {
    let wanted = format!("word {number}.");
    while began.elapsed() < PATIENCE {
        // Refused or reset while nobody listens.
        if ask(address).is_ok_and(|text| text.ends_with(&wanted)) {
            return Ok(began.elapsed().as_secs_f64() * 1e3);
        }
        sleep(Duration::from_millis(1));
    }
    bail!("no answer `{wanted}` within {PATIENCE:?}")
}

fn ask(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn end(mut child: Child) -> Result<()> {
    let group = Pid::from_raw(child.id().cast_signed());
    killpg(group, Signal::SIGTERM)?;
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        if began.elapsed() > Duration::from_secs(10) {
            killpg(group, Signal::SIGKILL)?;
        }
        sleep(Duration::from_millis(2));
    }
    // What a supervisor leaves behind.
    let _ = killpg(group, Signal::SIGKILL);
    Ok(())
}
