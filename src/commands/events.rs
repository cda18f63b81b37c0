//! `rcluster events`

use std::ops::ControlFlow;

use serde_json::Value;

use super::failed;
use crate::{admin::Client, cli::EventsArgs, say};
use rcluster_core::{escape, exit_code::ExitCode};

/// Longest event that is put together, bytes.
const LONGEST: usize = 1024 * 1024;

/// `rcluster events`: one line a transition, until the master ends, or whoever reads this.
pub async fn events(args: &EventsArgs) -> ExitCode {
    let client = match Client::find(&args.which).await {
        Ok(client) => client,
        Err(error) => return failed(&error),
    };
    let mut pending: Vec<u8> = vec![];
    let print = |bytes: &[u8]| {
        pending.extend_from_slice(bytes);
        while let Some(end) = pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let Some(data) = line.strip_prefix(b"data: ") else {
                continue;
            };
            let text = String::from_utf8_lossy(data.trim_ascii_end());
            let text = if args.json {
                text.into_owned()
            } else {
                story(&text)
            };
            // `rcluster events | head`
            if say::json(&text).is_err() {
                return ControlFlow::Break(());
            }
        }
        if pending.len() > LONGEST {
            pending.clear();
        }
        ControlFlow::Continue(())
    };
    match client.stream("/v1/events", print).await {
        Ok(()) => ExitCode::Ok,
        Err(error) => failed(&error),
    }
}

/// An event for people: when, what, and all that is known, as in the log.
fn story(text: &str) -> String {
    let Ok(Value::Object(event)) = serde_json::from_str(text) else {
        return escape::line(text).into_owned();
    };
    let at = event.get("at_ms").and_then(Value::as_u64);
    let at = at.map_or_else(String::new, |ms| format!("{:>10.3} ", ms as f64 / 1000.0));
    let kind = event
        .get("event")
        .and_then(Value::as_str)
        .unwrap_or("unknown");
    let rest = event.iter().filter(|(key, value)| {
        !["at_ms", "unix_ms", "seq", "event"].contains(&key.as_str()) && !value.is_null()
    });
    let rest: Vec<_> = rest.map(|(key, value)| format!("{key}={value}")).collect();
    let story = format!("{at}{kind} {}", rest.join(" "));
    escape::line(&story).into_owned()
}
