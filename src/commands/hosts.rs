//! `rcluster ls`

use std::{io::stdout, path::PathBuf, time::Duration};

use comfy_table::{Cell, ContentArrangement, Table, presets};
use serde::Serialize;

use super::{
    age,
    paint::{self, Paint},
    print_json, say,
};
use crate::{
    admin::{Client, Status, all_masters},
    cli::{LsArgs, WhichMaster},
    exit_code::ExitCode,
};

/// A master that is stopped (SIGSTOP) answers nothing.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Found {
    control: PathBuf,
    #[serde(flatten)]
    status: Status,
}

/// `rcluster ls`: every master of this host that this user may ask.
pub async fn ls(args: &LsArgs) -> ExitCode {
    let mut found = vec![];
    for control in all_masters() {
        let which = WhichMaster {
            name: None,
            control: Some(control.clone()),
        };
        let answer = async {
            let client = Client::find(&which).await?;
            client.get("/v1/status").await
        };
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(status)) => found.push(Found { control, status }),
            // It may have ended just now.
            Ok(Err(error)) => eprintln!("rcluster: {error}"),
            Err(_) => eprintln!("rcluster: {} does not answer", control.display()),
        }
    }
    if args.json {
        print_json(&found);
        return ExitCode::Ok;
    }
    if found.is_empty() {
        say("no rcluster runs here");
        return ExitCode::Ok;
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header([
            "NAME",
            "PID",
            "STATE",
            "GENERATION",
            "READY",
            "UPTIME",
            "LISTENS",
            "CONTROL",
        ]);
    let paint = Paint::of(&stdout());
    if paint.is_on() {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    for Found { control, status } in &found {
        let fleet = &status.fleet;
        let ready = fleet
            .workers
            .iter()
            .filter(|w| w.state.name() == "ready" && !w.spare);
        let listeners: Vec<_> = status
            .listeners
            .iter()
            .map(|l| l.address.as_str())
            .collect();
        table.add_row([
            Cell::new(plain(&status.name)),
            Cell::new(status.pid),
            Cell::new(plain(&fleet.state)).fg(paint::tone(&fleet.state)),
            Cell::new(fleet.generation),
            Cell::new(format!("{}/{}", ready.count(), fleet.wanted)),
            Cell::new(age(status.clock_ms)),
            Cell::new(plain(&listeners.join(" "))),
            Cell::new(plain(&control.to_string_lossy())),
        ]);
    }
    say(&table.trim_fmt());
    ExitCode::Ok
}

/// What another user's program says must not steer root's terminal.
fn plain(text: &str) -> String {
    let safe = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(safe).collect()
}
