//! `rcluster ls`

use comfy_table::{ContentArrangement, Table, presets};

use super::{age, print_json};
use crate::{
    admin::{Client, Status, find_masters},
    cli::{LsArgs, WhichMaster},
    exit_code::ExitCode,
    sys::control_dir,
};

/// `rcluster ls`: every master of this user that answers. With `--control` elsewhere one is not found.
pub async fn ls(args: &LsArgs) -> ExitCode {
    let mut found: Vec<Status> = vec![];
    for (name, path) in find_masters(&control_dir::default_folder()).await {
        let which = WhichMaster {
            name: None,
            control: Some(path),
        };
        let status = match Client::find(&which).await {
            Ok(client) => client.get("/v1/status").await,
            Err(error) => Err(error),
        };
        match status {
            Ok(status) => found.push(status),
            // It may have ended just now.
            Err(error) => eprintln!("rcluster: {name}: {error}"),
        }
    }
    if args.json {
        print_json(&found);
        return ExitCode::Ok;
    }
    if found.is_empty() {
        println!("no rcluster runs here");
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
        ]);
    for status in &found {
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
            status.name.clone(),
            status.pid.to_string(),
            fleet.state.clone(),
            fleet.generation.to_string(),
            format!("{}/{}", ready.count(), fleet.wanted),
            age(status.clock_ms),
            listeners.join(" "),
        ]);
    }
    println!("{}", table.trim_fmt());
    ExitCode::Ok
}
