//! Where a worker may make the master listen, beyond what `--bind` declares.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sys::listener::{BindError, Endpoint};

/// The bind rights of all workers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Rights {
    /// `--strict-bind`.
    strict: bool,
    /// The master is root: it must not lend that to the app.
    root: bool,
    /// Folders in which a root master makes sockets.
    folders: Vec<PathBuf>,
}

impl Rights {
    pub(super) fn new(strict: bool, cwd: &Path) -> Self {
        Self {
            strict,
            root: nix::unistd::geteuid().is_root(),
            folders: vec![cwd.to_owned(), std::env::temp_dir()],
        }
    }

    /// # Errors
    /// Why an address that nobody has declared is not bound.
    pub(super) fn check(&self, endpoint: &Endpoint) -> Result<(), BindError> {
        let refused = |hint: &str| Err(BindError::refused(endpoint, libc::EACCES, hint));
        if self.strict {
            return refused("with --strict-bind workers listen only where --bind says");
        }
        if !self.root {
            return Ok(());
        }
        match endpoint {
            Endpoint::Tcp { port: 1..1024, .. } => refused(
                "a master that runs as root binds a port below 1024 only where --bind declares it",
            ),
            Endpoint::Udp { port: 1..1024, .. } => refused(
                "a master that runs as root binds a port below 1024 only where --bind udp:HOST:PORT declares it",
            ),
            Endpoint::Path(path) if !self.is_within(path) => refused(
                "a master that runs as root makes sockets in the working directory and the temp folder only; declare others by --bind unix:PATH",
            ),
            Endpoint::Tcp { .. }
            | Endpoint::Udp { .. }
            | Endpoint::Path(_)
            | Endpoint::Abstract(_) => Ok(()),
        }
    }

    fn is_within(&self, path: &Path) -> bool {
        // Symbolic links and `..` lead out of a folder.
        let real = |path: &Path| path.canonicalize().ok();
        let Some(parent) = path.parent().and_then(real) else {
            // The bind itself will say that the folder is missing.
            return true;
        };
        let mut folders = self.folders.iter().filter_map(|folder| real(folder));
        folders.any(|folder| parent.starts_with(folder))
    }
}
