//! How fast a warm spare stands in for a worker that was killed, beside the start of a plain node.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::contender::{Kind, Server, Start};
use crate::support::control;
use crate::support::nodes::Node;
use crate::support::report::Report;
use crate::support::stats::Samples;

/// Deaths for one master: further ones in a row are held back on purpose.
const DEATHS: u64 = 3;
const APP: &str = "apps/accepts.js";
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(report: &mut Report, node: &Node, rounds: u64) -> Result<()> {
    report.section(
        "A spare's promotion",
        &format!(
            "One worker and one spare (`-w 1 --spares 1`), so that after `kill -9` nobody but the spare can accept. A client connects right after \
             the kill and waits in the queue. `reaped` is the last moment at which the dead process was seen to be there: the master reaped it no \
             sooner. {rounds} rounds, interleaved with the start of one plain node; medians (quartiles)."
        ),
    );
    let mut reaped = Samples::default();
    let mut listens = Samples::default();
    let mut accepts = Samples::default();
    let mut answers = Samples::default();
    let mut total = Samples::default();
    let mut plain = Samples::default();
    while (answers.len() as u64) < rounds {
        let mut start = Start::app(Kind::Rcluster, &node.path, 1, APP);
        start.options = vec!["--spares".to_owned(), "1".to_owned()];
        let mut server = start.run()?;
        for _ in 0..DEATHS.min(rounds - answers.len() as u64) {
            wait_spare(&server)?;
            let victim = server.ready.last().context("a worker")?.1;
            let killed = Instant::now();
            kill(Pid::from_raw(victim), Signal::SIGKILL)?;
            let mut waits = TcpStream::connect(server.address)?;
            waits.set_read_timeout(Some(PATIENCE))?;
            let client = std::thread::spawn(move || -> Result<Instant> {
                waits
                    .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
                let mut first = [0];
                waits.read_exact(&mut first).context("an answer")?;
                Ok(Instant::now())
            });
            let gone = last_seen(victim)?;
            let answered = client.join().map_err(|_| anyhow::anyhow!("the client"))??;
            server.wait_ready(2)?;
            let [.., (listening, _), (accepted, _)] = server.ready[..] else {
                bail!("no promotion");
            };
            reaped.push(ms(gone - killed));
            listens.push(ms(listening.saturating_duration_since(gone)));
            accepts.push(ms(accepted.saturating_duration_since(gone)));
            answers.push(ms(answered.saturating_duration_since(gone)));
            total.push(ms(answered - killed));
            let single = Start::app(Kind::Plain, &node.path, 1, APP).run()?;
            plain.push(ms(single.ready[0].0 - single.started));
        }
    }
    let row = |what: &str, times: &Samples| {
        vec![
            what.to_owned(),
            times.show(2),
            format!("{:.2}", times.quantile(0.9)),
            times.over(&plain).show(3),
        ]
    };
    report.table(
        &["", "ms", "90 %", "of a plain start"],
        &[
            row("`kill -9` to reaped", &reaped),
            row("reaped to the spare's `listen` callback", &listens),
            row("reaped to its first `connection` event", &accepts),
            row("reaped to the first byte of the answer", &answers),
            row("`kill -9` to the first byte of the answer", &total),
            row("one plain node, start to `listen` callback", &plain),
        ],
    );
    report.target(
        "spare: from the reaped exit to the first connection accepted",
        "<= 10 ms",
        format!("{} ms", accepts.show(2)),
        accepts.median() <= 10.0,
    );
    Ok(())
}

/// A spare waits at the gate.
fn wait_spare(server: &Server) -> Result<()> {
    let began = Instant::now();
    loop {
        let status = control::status(&server.control())?;
        if control::workers_in(&status, "held") == 1 && control::workers_in(&status, "ready") == 1 {
            return Ok(());
        }
        ensure!(
            began.elapsed() < PATIENCE,
            "no spare: {}",
            server.log_tail()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// When a process that is about to be reaped was last seen.
pub(crate) fn last_seen(pid: i32) -> Result<Instant> {
    let mut seen = Instant::now();
    let began = seen;
    while kill(Pid::from_raw(pid), None).is_ok() {
        seen = Instant::now();
        ensure!(began.elapsed() < PATIENCE, "process {pid} is never reaped");
        std::thread::sleep(Duration::from_micros(50));
    }
    Ok(seen)
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
