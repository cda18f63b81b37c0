//! `rcluster logs`

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    ops::ControlFlow,
};

use super::failed;
use crate::{admin::Client, cli::LogsArgs, exit_code::ExitCode};

/// `rcluster logs`: prints what the master has; with `-f` until it ends, or whoever reads this.
pub async fn logs(args: &LogsArgs) -> ExitCode {
    let client = match Client::find(&args.which).await {
        Ok(client) => client,
        Err(error) => return failed(&error),
    };
    let mut stdout = io::stdout();
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let mut route = format!(
        "/v1/logs?follow={}&json={}&colour={}",
        args.follow,
        args.json,
        stdout.is_terminal() && !plain && !args.json
    );
    for (name, value) in [
        ("slot", args.slot.map(u64::from)),
        ("lines", args.lines.map(|n| n as u64)),
    ] {
        if let Some(value) = value {
            // Into a String: cannot fail.
            let _ = write!(route, "&{name}={value}");
        }
    }
    let print = |bytes: &[u8]| match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => ControlFlow::Continue(()),
        // `rcluster logs | head`
        Err(_) => ControlFlow::Break(()),
    };
    match client.stream(&route, print).await {
        Ok(()) => ExitCode::Ok,
        Err(error) => failed(&error),
    }
}
