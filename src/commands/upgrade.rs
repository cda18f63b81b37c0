//! `rcluster upgrade`: another program for a running master.

use std::time::Duration;

use super::{ask_status, failed, print_json};
use crate::{
    admin::{Client, ClientError, Status, UpgradeReply, UpgradeWish},
    cli::UpgradeArgs,
    config, say,
};
use rcluster_core::exit_code::ExitCode;

/// How often the status is asked.
const POLL: Duration = Duration::from_millis(10);

/// Returns when the new program itself says that it goes on: an answer of the
/// old one could only be a promise.
pub async fn upgrade(args: &UpgradeArgs) -> ExitCode {
    match tokio::time::timeout(args.timeout, run(args)).await {
        Ok(Ok(Outcome::Done(status))) => {
            if args.json {
                print_json(&status.upgrade);
            } else {
                say::out(&format!(
                    "upgraded in place: rcluster {} (pid {})",
                    status.program, status.pid
                ));
            }
            ExitCode::Ok
        }
        Ok(Ok(Outcome::Refused(reason))) => {
            say::error(format_args!(
                "not upgraded, all goes on as before: {reason}"
            ));
            ExitCode::Refused
        }
        Ok(Err(error)) => failed(&error),
        Err(_) => {
            say::error(format_args!(
                "the master does not say how the upgrade went within {}; see rcluster status --json, `upgrade`",
                humantime::format_duration(args.timeout)
            ));
            ExitCode::ReloadTimedOut
        }
    }
}

enum Outcome {
    Done(Box<Status>),
    Refused(String),
}

async fn run(args: &UpgradeArgs) -> Result<Outcome, ClientError> {
    let client = Client::find(&args.which).await?.faithful(args.json);
    let here = config::logical_pwd().unwrap_or_default();
    let wish = UpgradeWish {
        binary: args
            .binary
            .as_deref()
            .map(|path| config::absolute(&here, path)),
    };
    let reply: UpgradeReply = client.post_for_any_status("/v1/upgrade", &wish).await?;
    if !reply.accepted {
        return Ok(Outcome::Refused(reply.reason.unwrap_or_default()));
    }
    loop {
        match ask_status(&client).await {
            Ok(status) if status.upgrade.answered >= reply.attempt => {
                return Ok(match status.upgrade.refused.clone() {
                    Some(reason) if status.upgrade.answered == reply.attempt => {
                        Outcome::Refused(reason)
                    }
                    Some(_) | None => Outcome::Done(Box::new(status)),
                });
            }
            // A connection of the moment in between.
            Ok(_) | Err(ClientError::Answer { .. }) => {}
            Err(error) => return Err(error),
        }
        tokio::time::sleep(POLL).await;
    }
}
