//! The commands to a running master: ask, print, and an honest exit code.

use std::{
    fmt::Write as _,
    io::{IsTerminal as _, Write as _, stderr, stdout},
    time::{Duration, Instant},
};

use crate::{
    admin::Readiness,
    admin::{
        Client, ClientError, Outcome, ReloadReply, ReloadWish, RestartReply, ScaleReply, ScaleWish,
        Status, StopReply, StopWish,
    },
    cli::{ReloadArgs, RestartArgs, ScaleArgs, StatusArgs, StopArgs},
    say, units,
};
use rcluster_core::{
    escape,
    exit_code::ExitCode,
    supervisor::{Incident, State, WorkerView},
};
use rcluster_sys::process::Watch;

mod events;
mod hosts;
mod logs;
mod paint;
mod progress;
mod table;
mod upgrade;

pub use events::events;
pub use hosts::ls;
pub use logs::logs;
use paint::Paint;
use table::render;
pub use upgrade::upgrade;

pub(crate) fn failed(error: &ClientError) -> ExitCode {
    say::error(error);
    match error {
        ClientError::NoMaster { .. } | ClientError::NoneRuns(_) => ExitCode::NoMaster,
        ClientError::Several(_) | ClientError::Refused(_) => ExitCode::Usage,
        ClientError::Answer { .. } => ExitCode::Internal,
    }
}

fn print_json(value: &impl serde::Serialize) {
    match serde_json::to_string_pretty(value) {
        // Who reads this may have gone.
        Ok(text) => drop(say::json(&text)),
        Err(error) => say::error(format_args!("failed to write JSON: {error}")),
    }
}

async fn ask_status(client: &Client) -> Result<Status, ClientError> {
    client.get("/v1/status").await
}

/// `rcluster status`
pub async fn status(args: &StatusArgs) -> ExitCode {
    if args.ready {
        return readiness(args).await;
    }
    let status = match Client::find(&args.which).await {
        Ok(client) => ask_status(&client.faithful(args.json)).await,
        Err(error) => Err(error),
    };
    match status {
        Ok(status) if args.json => print_json(&status),
        Ok(status) => say::out(render(&status, Paint::of(&stdout())).trim_end()),
        Err(error) => return failed(&error),
    }
    ExitCode::Ok
}

async fn readiness(args: &StatusArgs) -> ExitCode {
    let readiness = match Client::find(&args.which).await {
        // 503 has the same document.
        Ok(client) => client.faithful(args.json).readiness().await,
        Err(error) => Err(error),
    };
    match readiness {
        Ok(readiness) if args.json => print_json(&readiness),
        Ok(Readiness { ready: true, .. }) => say::out("ready"),
        Ok(Readiness { leaving: true, .. }) => say::out("not ready: it is stopping"),
        Ok(_) => say::out("not ready: no worker is"),
        Err(ref error) => return failed(error),
    }
    match readiness {
        Ok(Readiness { ready: true, .. }) => ExitCode::Ok,
        Ok(_) | Err(_) => ExitCode::NotReady,
    }
}

/// `rcluster stop`
pub async fn stop(args: &StopArgs) -> ExitCode {
    match try_stop(args).await {
        Ok(reply) => {
            if args.json {
                print_json(&reply);
            } else if let Some(reason) = &reply.reason {
                say::out(&format!("stopped: {}", escape::block(reason)));
            } else {
                say::out("stopped");
            }
            if reply.code == ExitCode::Killed as u8 {
                ExitCode::Killed
            } else {
                ExitCode::Ok
            }
        }
        Err(error) => failed(&error),
    }
}

/// How long the master may take to end after its answer, which comes last.
const LAST_STEPS: Duration = Duration::from_secs(5);

async fn try_stop(args: &StopArgs) -> Result<StopReply, ClientError> {
    let client = Client::find(&args.which).await?.faithful(args.json);
    // What the status says may be the number of another process here: a container has numbers of its own.
    let watch = client.listener().await?.map(Watch::on);
    let reply = client.post("/v1/stop", &StopWish { now: args.now }).await;
    // The next start must find the name free.
    let end = Instant::now() + LAST_STEPS;
    let mut lives = true;
    while lives && Instant::now() < end {
        lives = match &watch {
            Some(watch) => watch.lives(),
            None => client.listener().await.is_ok(),
        };
        if lives {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    match reply {
        Err(ClientError::Answer { .. }) if !lives => Err(client.answer_error(
            &"the master ended without saying how; its workers may have been killed: see its log",
        )),
        other => other,
    }
}

/// `rcluster reload` and `rcluster rollback`
pub async fn reload(args: &ReloadArgs, rollback: bool) -> ExitCode {
    let client = match Client::find(&args.which).await {
        Ok(client) => client.faithful(args.json),
        Err(error) => return failed(&error),
    };
    let route = if rollback {
        "/v1/rollback"
    } else {
        "/v1/reload"
    };
    let wish = ReloadWish {
        drained: args.drained,
        wait: args.no_wait.then_some(false),
        allow_drop: args.allow_drop.clone(),
        rollback: false,
    };
    let answer = client.post::<ReloadReply>(route, &wish);
    // Whoever does not wait has nothing to see.
    let bar = stderr().is_terminal() && !args.json && !args.no_wait;
    let answer = progress::shown(&client, bar, answer);
    let reply = match args.timeout {
        Some(limit) => match tokio::time::timeout(limit, answer).await {
            Ok(reply) => reply,
            Err(_) => return timed_out(&client, limit).await,
        },
        None => answer.await,
    };
    match reply {
        Ok(reply) => {
            if args.json {
                print_json(&reply);
            } else {
                for warning in &reply.warnings {
                    say::note(format_args!("warning: {warning}"));
                }
                let id = reply.id.as_deref().unwrap_or("none");
                match (&reply.generation, &reply.reason) {
                    _ if reply.outcome == Outcome::Accepted => {
                        say::out(&format!("reload {id} asked for"));
                    }
                    (Some(generation), _) => {
                        say::out(&format!("generation {generation} serves (reload {id})"));
                    }
                    (None, reason) => {
                        let reason = reason.as_deref().unwrap_or("no reason given");
                        say::error(format_args!("reload {}: {reason}", reply.outcome));
                    }
                }
            }
            reply.code()
        }
        Err(error) => failed(&error),
    }
}

/// `rcluster incidents`
pub async fn incidents(args: &StatusArgs) -> ExitCode {
    let status = match Client::find(&args.which).await {
        Ok(client) => ask_status(&client.faithful(args.json)).await,
        Err(error) => Err(error),
    };
    match status {
        Ok(status) => {
            let incidents = &status.fleet.incidents;
            if args.json {
                print_json(incidents);
            } else if incidents.is_empty() {
                say::out("no incidents");
            }
            if !args.json {
                for incident in incidents {
                    say::out(story(incident, status.clock_ms).trim_end());
                }
            }
            ExitCode::Ok
        }
        Err(error) => failed(&error),
    }
}

/// An incident for people: what, who, why, and what is known of it.
fn story(incident: &Incident, now_ms: u64) -> String {
    let ago = units::span(now_ms.saturating_sub(incident.at.0));
    let pid = incident
        .pid
        .map_or_else(String::new, |pid| format!(", pid {pid}"));
    let mut text = format!(
        "{ago} ago: {}: slot {}, worker {}{pid}, generation {}: {}\n",
        incident.kind.name(),
        incident.slot,
        incident.worker,
        incident.generation,
        escape::block(&incident.reason)
    );
    if let Some(exit) = incident.exit {
        let _ = writeln!(text, "    ended: {exit}");
    }
    for (title, lines) in [("error", &incident.error), ("it hung", &incident.stack)] {
        if let Some(lines) = lines {
            let _ = writeln!(text, "    {title}:");
            for line in lines.lines() {
                let _ = writeln!(text, "        {}", line.trim());
            }
        }
    }
    text
}

/// `rcluster scale`
pub async fn scale(args: &ScaleArgs) -> ExitCode {
    let wish = ScaleWish {
        workers: args.workers.clone(),
        force: args.force,
    };
    if let Err(error) = wish.parse() {
        say::error(error);
        return ExitCode::Usage;
    }
    let reply = async {
        let client = Client::find(&args.which).await?.faithful(args.json);
        client.post::<ScaleReply>("/v1/scale", &wish).await
    };
    match reply.await {
        Ok(reply) => {
            if args.json {
                print_json(&reply);
            } else {
                say::out(&format!("{} workers wanted", reply.workers));
            }
            ExitCode::Ok
        }
        Err(error) => failed(&error),
    }
}

/// `rcluster restart`: returns when a new worker serves in the slot.
pub async fn restart(args: &RestartArgs) -> ExitCode {
    match tokio::time::timeout(args.timeout, try_restart(args)).await {
        Ok(Ok(worker)) => {
            if args.json {
                print_json(&worker);
            } else {
                say::out(&format!(
                    "worker {} serves in slot {}",
                    worker.id, worker.slot
                ));
            }
            ExitCode::Ok
        }
        Ok(Err(error)) => failed(&error),
        Err(_) => {
            say::error(format_args!(
                "no new worker serves in slot {} after {}; see rcluster status",
                args.slot,
                humantime::format_duration(args.timeout)
            ));
            ExitCode::ReloadTimedOut
        }
    }
}

async fn try_restart(args: &RestartArgs) -> Result<WorkerView, ClientError> {
    let client = Client::find(&args.which).await?.faithful(args.json);
    let route = format!("/v1/workers/{}/restart", args.slot);
    let old: RestartReply = client.post(&route, &serde_json::json!({})).await?;
    loop {
        let status = ask_status(&client).await?;
        let mut seated = status
            .fleet
            .workers
            .into_iter()
            .filter(|w| w.slot == old.slot && w.state == State::Ready);
        if let Some(worker) = seated.next()
            && worker.id != old.worker
        {
            return Ok(worker);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn timed_out(client: &Client, limit: Duration) -> ExitCode {
    say::error(format_args!(
        "the reload is not done after {}; it goes on. Generations now:",
        humantime::format_duration(limit)
    ));
    match ask_status(client).await {
        Ok(status) => drop(write!(
            stderr(),
            "{}",
            render(&status, Paint::of(&stderr()))
        )),
        Err(error) => say::error(error),
    }
    ExitCode::ReloadTimedOut
}
