//! The file that `--pidfile` names.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::PathBuf,
};

use nix::fcntl::OFlag;

use super::{
    control_dir::PID_LENGTH,
    files::{self, ReadError},
    safe_path::{Place, Use},
};

/// A file with our pid, removed with this value unless somebody has written another one.
#[derive(Debug)]
pub struct Pidfile(PathBuf);

impl Pidfile {
    /// Writes it. Who can redirect its path could let root overwrite any file, or kill any process: a root master
    /// refuses it.
    ///
    /// # Errors
    /// The errno of `open(2)` or `write(2)`; a [`super::safe_path::Refusal`]; something else than a regular file.
    pub fn write(path: PathBuf) -> io::Result<Self> {
        Use::option(None).at(&path, |place| {
            let mut file = open(place, OFlag::O_WRONLY | OFlag::O_CREAT)?;
            file.set_len(0)?;
            file.write_all(format!("{}\n", std::process::id()).as_bytes())
        })?;
        Ok(Self(path))
    }

    /// The one that the program before this one of this process wrote.
    pub fn resume(path: PathBuf) -> Self {
        Self(path)
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        // Nothing to do about a failure on the way out.
        let _ = Use::option(None).at(&self.0, |place| {
            let mut text = String::new();
            let file = open(place, OFlag::O_RDONLY)?;
            file.take(PID_LENGTH).read_to_string(&mut text)?;
            if text.trim().parse() == Ok(std::process::id()) {
                place.remove()?;
            }
            Ok(())
        });
    }
}

fn open(place: &Place, flags: OFlag) -> io::Result<File> {
    let file = place.open(flags, 0o644)?;
    match files::is_regular(&file.metadata()?) {
        Ok(()) => Ok(file),
        Err(ReadError::Io(error)) => Err(error),
        Err(error) => Err(io::Error::other(error)),
    }
}
