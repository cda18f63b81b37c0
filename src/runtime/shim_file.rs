//! The shim as a file that node can `--require`: the binary carries its text.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const TEXT: &str = include_str!("../../node-shim/shim.cjs");

/// The file, removed with this value.
#[derive(Debug)]
pub(super) struct ShimFile(PathBuf);

impl ShimFile {
    /// Writes the shim beside the control socket.
    pub(super) fn beside(control: &Path) -> io::Result<Self> {
        let file = Self(control.with_extension("shim.cjs"));
        file.write()?;
        Ok(file)
    }

    fn write(&self) -> io::Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&self.0)?
            .write_all(TEXT.as_bytes())
    }

    /// The path, after making sure that nobody has cleaned the file away.
    pub(super) fn path(&self) -> io::Result<&Path> {
        if !self.0.is_file() {
            self.write()?;
        }
        Ok(&self.0)
    }
}

impl Drop for ShimFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
