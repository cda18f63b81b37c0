//! `rcluster ls`

use std::{
    io::stdout,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use comfy_table::{Cell, ContentArrangement, Table, presets};
use serde::Serialize;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::paint::{self, Paint};
use crate::{
    admin::{Client, ClientError, Status, all_masters},
    cli::LsArgs,
    say, units,
};
use rcluster_core::{escape, exit_code::ExitCode, supervisor::State};
use rcluster_sys::identity;

/// All masters together have so long: one that is stopped (SIGSTOP) answers nothing.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer of one master, bytes. Somebody else's program may pose as one.
const LONGEST: usize = 4 * 1024 * 1024;
/// Masters that are asked at the same time, and of which an answer may be in memory.
const AT_ONCE: usize = 8;
/// Most masters that are asked; our own come first.
const MOST: usize = 256;
/// Most JSON text that is kept of all answers, bytes.
const BUDGET: usize = 64 * 1024 * 1024;
/// Longest text in a cell, bytes.
const CELL: usize = 256;

#[derive(Serialize)]
struct Found {
    control: PathBuf,
    /// The user id of the process that answered.
    uid: u32,
    /// It runs as another user than this command: what it says may be made up.
    foreign: bool,
    #[serde(flatten)]
    status: Status,
}

/// What is kept of an answer.
enum Shown {
    Row(Vec<Cell>),
    Json(String),
}

/// `rcluster ls`: every master of this host that this user may ask.
pub async fn ls(args: &LsArgs) -> ExitCode {
    let controls = all_masters().await;
    if let Some(more) = controls.len().checked_sub(MOST + 1) {
        say::error(format_args!("{} masters are left out", more + 1));
    }
    let (turns, end) = (Arc::new(Semaphore::new(AT_ONCE)), Instant::now() + PATIENCE);
    let mut asking = JoinSet::new();
    for (number, control) in controls.into_iter().take(MOST).enumerate() {
        let (turns, json) = (turns.clone(), args.json);
        asking.spawn(async move {
            let answer = timeout_at(end, async {
                // It is closed never.
                let _turn = turns.acquire_owned().await;
                ask(&control, json).await
            });
            (number, answer.await, control)
        });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(number, ..)| *number);
    let (mut found, mut length) = (vec![], 0);
    for (_, answer, control) in answers {
        if let Ok(Ok(Shown::Json(text))) = &answer {
            length += text.len();
            if length > BUDGET {
                say::error(format_args!(
                    "{} is left out: the answers are longer than {BUDGET} bytes",
                    control.display()
                ));
                continue;
            }
        }
        match answer {
            Ok(Ok(shown)) => found.push(shown),
            // It may have ended just now.
            Ok(Err(error)) => say::error(error),
            Err(_) => say::error(format_args!("{} does not answer", control.display())),
        }
    }
    print(args.json, found);
    ExitCode::Ok
}

async fn ask(control: &Path, json: bool) -> Result<Shown, ClientError> {
    let client = Client::at(control.to_owned())
        .faithful(json)
        .at_most(LONGEST);
    let status = client.get("/v1/status").await?;
    let uid = client.owner();
    let found = Found {
        control: control.to_owned(),
        uid,
        foreign: uid != identity::effective(),
        status,
    };
    if json {
        let text = serde_json::to_string_pretty(&found);
        return Ok(Shown::Json(text.map_err(|e| client.answer_error(&e))?));
    }
    Ok(Shown::Row(row(&found)))
}

fn row(found: &Found) -> Vec<Cell> {
    let Found { status, uid, .. } = found;
    let fleet = &status.fleet;
    let ready = fleet
        .workers
        .iter()
        .filter(|w| w.state == State::Ready && !w.spare);
    let listeners: Vec<_> = status
        .listeners
        .iter()
        .map(|l| l.address.as_str())
        .collect();
    let user = identity::name_of(*uid).unwrap_or_else(|| uid.to_string());
    let user = if found.foreign {
        format!("{user} (another user)")
    } else {
        user
    };
    vec![
        cell(&status.name),
        Cell::new(status.pid),
        cell(&user),
        cell(fleet.state.name()).fg(paint::tone(fleet.state.name())),
        Cell::new(fleet.generation),
        Cell::new(format!("{}/{}", ready.count(), fleet.wanted)),
        Cell::new(units::span(status.clock_ms)),
        cell(&listeners.join(" ")),
        cell(&found.control.to_string_lossy()),
    ]
}

fn cell(text: &str) -> Cell {
    let mut text = escape::line(text).into_owned();
    escape::cut(&mut text, CELL);
    Cell::new(text)
}

fn print(json: bool, found: Vec<Shown>) {
    if json {
        let texts = found.into_iter().filter_map(|shown| match shown {
            Shown::Json(text) => Some(text.replace('\n', "\n  ")),
            Shown::Row(_) => None,
        });
        let texts: Vec<_> = texts.collect();
        let list = if texts.is_empty() {
            "[]".to_owned()
        } else {
            format!("[\n  {}\n]", texts.join(",\n  "))
        };
        // Who reads this may have gone.
        return drop(say::json(&list));
    }
    if found.is_empty() {
        return say::out("no rcluster runs here");
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header([
            "NAME",
            "PID",
            "USER",
            "STATE",
            "GENERATION",
            "READY",
            "UPTIME",
            "LISTENS",
            "CONTROL",
        ]);
    if Paint::of(&stdout()).is_on() {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    for shown in found {
        if let Shown::Row(cells) = shown {
            table.add_row(cells);
        }
    }
    say::out(&table.trim_fmt());
}
