//! Where a worker may make the master listen, beyond what `--bind` declares.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use rcluster_core::supervisor::Pid;
use rcluster_sys::{
    identity::Identity,
    listener::{BindError, Endpoint},
    safe_path::{Account, Use},
};

/// The bind rights of all workers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Rights {
    /// `--strict-bind`.
    strict: bool,
    /// The master is root: it must not lend that to the app.
    root: bool,
    /// Folders in which a root master makes sockets for workers that are root, too.
    folders: Vec<PathBuf>,
    /// Who workers are, if they are not root while the master is. Programs before it wrote none.
    #[serde(default)]
    worker: Option<Account>,
}

impl Rights {
    pub(super) fn new(strict: bool, cwd: &Path, identity: Option<&Identity>) -> Self {
        Self {
            strict,
            root: nix::unistd::geteuid().is_root(),
            folders: vec![cwd.to_owned(), std::env::temp_dir()],
            worker: identity.and_then(Identity::account),
        }
    }

    /// As the program before this one wrote them.
    pub(super) fn resume(self, identity: Option<&Identity>) -> Self {
        Self {
            worker: identity.and_then(Identity::account),
            ..self
        }
    }

    /// With whose rights a path of an option is used.
    pub(super) fn of_option(&self) -> Use {
        Use::option(self.worker.as_ref())
    }

    /// Who workers are, if they are not root while the master is.
    pub(super) fn worker(&self) -> Option<&Account> {
        self.worker.as_ref()
    }

    /// With whose rights a path is used that a worker chose: with its own. `pid` is not reaped yet.
    ///
    /// # Errors
    /// The errno of reading who it is.
    pub(super) fn of_worker(&self, pid: Pid) -> io::Result<Use> {
        if !self.root {
            return Ok(Use::Own);
        }
        if let Some(worker) = &self.worker {
            return Ok(Use::As(worker.clone()));
        }
        // The app may have become another user by itself.
        let account = Account::of_process(pid)?;
        Ok(if account.uid == 0 {
            Use::Own
        } else {
            Use::As(account)
        })
    }

    /// Whether a path is where a root master makes sockets for workers that are root, too. May block.
    ///
    /// # Errors
    /// That it is not.
    pub(super) fn check_folder(&self, path: &Path, how: &Use) -> Result<(), BindError> {
        if !self.root || *how != Use::Own || self.is_within(path) {
            return Ok(());
        }
        Err(BindError::refused(
            Endpoint::Path(path.to_owned()),
            libc::EACCES,
            "a master that runs as root makes sockets in the working directory and the temp folder only; declare others by --bind unix:PATH",
        ))
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
            Endpoint::Tcp { .. }
            | Endpoint::Udp { .. }
            | Endpoint::Path(_)
            | Endpoint::Abstract(_) => Ok(()),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the path thread runs it")]
    fn is_within(&self, path: &Path) -> bool {
        // Symbolic links and `..` lead out of a folder.
        let real = |path: &Path| path.canonicalize().ok();
        let Some(parent) = path.parent().and_then(real) else {
            // The bind itself will say that the folder is missing.
            return true;
        };
        // The root holds everything: that is not what a working directory grants.
        let mut folders = self.folders.iter().filter_map(|folder| real(folder));
        folders.any(|folder| folder.parent().is_some() && parent.starts_with(folder))
    }
}
