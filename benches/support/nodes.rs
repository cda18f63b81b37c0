//! Where the Node binaries are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// One Node binary.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) path: PathBuf,
    /// As `node --version` says it, with the `v`.
    pub(crate) version: String,
}

impl Node {
    /// The binary of one major: `RCLUSTER_BENCH_NODE_<major>` if set, else the npm alias under
    /// `tests/node_modules`, else `node` in PATH if it is of that major.
    pub(crate) fn of_major(major: u32) -> Result<Self> {
        let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node_modules");
        let candidates = match std::env::var_os(format!("RCLUSTER_BENCH_NODE_{major}")) {
            Some(path) => vec![PathBuf::from(path)],
            None => ["", "-x64", "-arm64"]
                .iter()
                .map(|suffix| installed.join(format!("node-{major}{suffix}/bin/node")))
                .chain([PathBuf::from("node")])
                .collect(),
        };
        for path in candidates {
            if let Some(version) = version_of(&path)
                && version.starts_with(&format!("v{major}."))
            {
                // Contenders start with other working directories and PATHs: fix the path now.
                let path = if path.is_absolute() {
                    path
                } else {
                    in_path(&path).context("find node in PATH")?
                };
                return Ok(Self { path, version });
            }
        }
        bail!("no Node {major}: run `npm ci` in tests/, or set RCLUSTER_BENCH_NODE_{major}")
    }
}

fn version_of(path: &Path) -> Option<String> {
    let output = Command::new(path).arg("--version").output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn in_path(name: &Path) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}
