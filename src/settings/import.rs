//! `rcluster import`: reads a PM2 ecosystem file, whatever language it is in.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path, process::Command};

use serde_json::Value;
use thiserror::Error;

use super::pm2;
use crate::cli::ImportArgs;
use rcluster_sys::files;

/// Prints what the file exports. A function is called, a promise waited for.
const READ: &str = "const {pathToFileURL: u} = require('node:url');
import(u(process.argv[1]).href).then(async (m) => {
  let v = 'default' in m ? m.default : m;
  if (typeof v === 'function') v = v();
  process.stdout.write('\\n\\u0001' + JSON.stringify(await v));
}).catch((e) => { console.error(e && e.stack || e); process.exit(1); });";

/// A file that cannot be imported.
#[derive(Debug, Error)]
pub enum ImportError {
    /// It cannot be read, or node cannot be run.
    #[error("failed to read {0}: {1}")]
    Read(String, String),
    /// It is not what PM2 would read.
    #[error("failed to import {0}: {1}")]
    Shape(String, String),
    /// The output.
    #[error("failed to write {0}: {1}")]
    Write(String, std::io::Error),
}

/// Reads the file, writes the TOML, and returns what could not be carried over.
///
/// # Errors
/// An [`ImportError`]; then nothing was written.
pub fn import(args: &ImportArgs) -> Result<Vec<String>, ImportError> {
    let name = args.file.display().to_string();
    let value = read(&args.file, &args.node).map_err(|why| ImportError::Read(name.clone(), why))?;
    let made = pm2::convert(&value, args.app.as_deref(), args.env.as_deref())
        .map_err(|why| ImportError::Shape(name, why))?;
    match &args.output {
        None => crate::say::out(made.toml.trim_end()),
        Some(path) => fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            // It may hold secrets that stood in env.
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(made.toml.as_bytes()))
            .map_err(|error| ImportError::Write(path.display().to_string(), error))?,
    }
    Ok(made.lost)
}

fn read(path: &Path, node: &Path) -> Result<Value, String> {
    let text = || files::read_text(path, files::LONGEST).map_err(|error| error.to_string());
    match path.extension().and_then(|e| e.to_str()) {
        Some("json") => serde_json::from_str(&text()?).map_err(|error| error.to_string()),
        Some("yaml" | "yml") => yaml(&text()?),
        Some("js" | "cjs" | "mjs") => evaluate(path, node),
        _ => Err("the name must end in .js, .cjs, .mjs, .json, .yaml or .yml".to_owned()),
    }
}

/// Reads an ecosystem file in YAML.
///
/// # Errors
/// What is wrong with its syntax.
pub fn yaml(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

fn evaluate(path: &Path, node: &Path) -> Result<Value, String> {
    let path = fs::canonicalize(path).map_err(|error| error.to_string())?;
    let output = Command::new(node)
        .args(["--eval", READ, "--"])
        .arg(&path)
        .output()
        .map_err(|error| format!("failed to run {}: {error}", node.display()))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let line = words.lines().find(|line| line.contains("Error"));
        return Err(line
            .or(words.lines().next())
            .unwrap_or("node failed")
            .to_owned());
    }
    // What the file itself prints stands before the mark.
    let text = String::from_utf8_lossy(&output.stdout);
    let json = text.rsplit_once("\n\u{1}").map_or("", |(_, json)| json);
    serde_json::from_str(json).map_err(|_| "it exports nothing that is JSON".to_owned())
}
