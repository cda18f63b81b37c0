//! A whole reload beside the boot of one app.

use std::time::Instant;

use anyhow::Result;

use crate::Effort;
use crate::support::contender::{Kind, Start};
use crate::support::nodes::Node;
use crate::support::report::Report;
use crate::support::stats::Samples;

const WORKERS: usize = 4;

pub(crate) fn run(report: &mut Report, node: &Node, effort: &Effort) -> Result<()> {
    report.section(
        "A reload beside one boot",
        &format!(
            "`rcluster reload` of {WORKERS} idle workers with `--surge 100% --min-uptime 0`, from the command to the last new worker \
             serving, beside the boot of one plain node and of {WORKERS} at once; {} interleaved rounds. An app whose boot is pure CPU cannot boot \
             {WORKERS} times in the time of one on fewer than {WORKERS} cores: {WORKERS} at once are the limit there. The second app waits 500 ms \
             before it listens, as for a database.",
            effort.boots
        ),
    );
    let mut rows = Vec::new();
    for (app, script) in [
        ("boot is CPU only", "apps/hello.js"),
        ("boot waits 500 ms", "apps/slow-boot.js"),
    ] {
        let start = |kind| Start {
            options: ["--surge", "100%", "--min-uptime", "0s"]
                .map(String::from)
                .to_vec(),
            ..Start::app(kind, &node.path, WORKERS, script)
        };
        let mut server = start(Kind::Rcluster).run()?;
        let (mut reload, mut one, mut four) =
            (Samples::default(), Samples::default(), Samples::default());
        for _ in 0..effort.boots {
            let began = Instant::now();
            server.reload()?;
            server.wait_ready(WORKERS)?;
            let last = server.ready.last().map_or(began, |&(at, _)| at);
            reload.push((last - began).as_secs_f64() * 1e3);
            for (kind, times) in [(Kind::Plain, &mut one), (Kind::Plains, &mut four)] {
                let peer = start(kind).run()?;
                let last = peer.ready.last().map_or(peer.started, |&(at, _)| at);
                times.push((last - peer.started).as_secs_f64() * 1e3);
            }
        }
        let (of_one, of_four) = (reload.over(&one), reload.over(&four));
        rows.push(vec![
            app.to_owned(),
            reload.show(0),
            one.show(0),
            four.show(0),
            of_one.show(2),
            of_four.show(2),
        ]);
        report.target(
            format!("reload of {WORKERS} with --surge 100%, {app}: against one boot"),
            "<= 1.5",
            format!(
                "{} ({} of {WORKERS} plain boots at once)",
                of_one.show(2),
                of_four.show(2)
            ),
            of_one.median() <= 1.5,
        );
    }
    report.table(
        &[
            "app",
            "reload ms",
            "one boot ms",
            "four boots at once ms",
            "of one boot",
            "of four boots",
        ],
        &rows,
    );
    Ok(())
}
