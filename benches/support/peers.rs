//! How the peers that need more than a command line are set up.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::contender::bench_file;
use super::kind;

/// Watt with one application of that script in so many worker threads; all else as it is by default. `folder` is made for it.
pub(crate) fn watt(node: &Path, folder: &Path, script: &Path, workers: usize) -> Result<Command> {
    fs::create_dir(folder).context("make Watt's folder")?;
    // It finds its own packages from the application's folder.
    symlink(bench_file("node_modules"), folder.join("node_modules"))?;
    let write = |name: &str, value: Value| fs::write(folder.join(name), value.to_string());
    write("package.json", json!({ "name": "bench", "private": true }))?;
    let schema = format!(
        "https://schemas.platformatic.dev/@platformatic/node/{}.json",
        version("@platformatic/node")
    );
    write(
        "watt.json",
        json!({
            "$schema": schema,
            "node": { "main": "index.js" },
            "runtime": {
                "logger": { "level": "warn" },
                "server": { "hostname": "127.0.0.1", "port": "{PORT}" },
                "workers": { "static": workers },
            },
        }),
    )?;
    fs::write(
        folder.join("index.js"),
        format!("require({});\n", json!(script.to_string_lossy())),
    )?;
    let mut command = Command::new(node);
    command
        .arg(bench_file("node_modules/wattpm/bin/cli.js"))
        .arg("start")
        .current_dir(folder);
    Ok(command)
}

/// One Bun process, which shares its port with its siblings.
pub(crate) fn bun() -> Command {
    let mut command = Command::new(bench_file(kind::bun()));
    command.arg(bench_file("apps/share-bun.js"));
    command
}

/// The installed version of a package of `benches/`, for the report.
pub(crate) fn version(package: &str) -> String {
    let path = bench_file(&format!("node_modules/{package}/package.json"));
    let manifest: Value =
        serde_json::from_slice(&fs::read(path).unwrap_or_default()).unwrap_or_default();
    manifest["version"]
        .as_str()
        .unwrap_or("(not installed)")
        .to_owned()
}
