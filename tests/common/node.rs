//! The Node binaries that `npm ci` in tests/ brings.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::app;

/// One of the Node lines under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    V18,
    V20,
    V22,
    V24,
    V26,
}

impl Node {
    /// The path of the binary; panics with what to do when it is not there.
    pub(crate) fn binary(self) -> PathBuf {
        let major = match self {
            Self::V18 => 18,
            Self::V20 => 20,
            Self::V22 => 22,
            Self::V24 => 24,
            Self::V26 => 26,
        };
        let arch = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "x64"
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("tests/node_modules/node-{major}-{arch}/bin/node"));
        assert!(
            path.exists(),
            "{} is missing: run `npm ci` in tests/",
            path.display()
        );
        path
    }
}

/// Runs `script` of tests/apps under plain `node` and gives its standard output, parsed as JSON.
#[track_caller]
pub(crate) fn node_script(node: Node, script: &str, args: &[&str]) -> serde_json::Value {
    let output = Command::new(node.binary())
        .arg(app(script))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("node runs");
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!(
            "{script} {args:?} printed no JSON ({error}): {text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}
