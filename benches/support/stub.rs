//! A worker that costs nothing, made of a small C program.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::contender::bench_file;

/// Compiles apps/stub.c into a folder; none without a C compiler.
pub(crate) fn compile(folder: &Path) -> Result<Option<PathBuf>> {
    let stub = folder.join("stub");
    let compiled = Command::new("cc")
        .args(["-O2", "-Wall", "-o"])
        .arg(&stub)
        .arg(bench_file("apps/stub.c"))
        .status();
    match compiled {
        Ok(status) => ensure!(status.success(), "apps/stub.c does not compile"),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    Ok(Some(stub))
}
