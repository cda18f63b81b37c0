//! Command line and environment of a bench: sections to run, where to write, how long.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::cleanup;

/// How a bench was asked to run.
pub(crate) struct Args {
    /// Sections to run; empty means all.
    sections: Vec<String>,
    /// Markdown goes to this file too.
    pub(crate) out: Option<PathBuf>,
}

impl Args {
    /// Reads the command line. `None` when cargo runs the target as a test (`cargo test --all-targets`), where a
    /// bench has nothing to do: only `cargo bench` passes `--bench`.
    pub(crate) fn parse() -> Result<Option<Self>> {
        let mut args = Self {
            sections: Vec::new(),
            out: std::env::var_os("RCLUSTER_BENCH_OUT").map(PathBuf::from),
        };
        let mut as_bench = false;
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--bench" => as_bench = true,
                cleanup::GUARD => {
                    cleanup::guard(&words.next().context("--guard needs a run")?);
                    return Ok(None);
                }
                "--out" => args.out = Some(words.next().context("--out needs a file")?.into()),
                flag if flag.starts_with('-') => {
                    bail!("unknown option {flag}: known is --out FILE")
                }
                section => args.sections.push(section.to_owned()),
            }
        }
        Ok(as_bench.then_some(args))
    }

    /// Whether the section of that name is to run.
    pub(crate) fn wants(&self, section: &str) -> bool {
        self.sections.is_empty() || self.sections.iter().any(|s| s == section)
    }
}

/// A number from the environment, or its default.
pub(crate) fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("read {name}={text} as a number")),
        Err(_) => Ok(default),
    }
}
