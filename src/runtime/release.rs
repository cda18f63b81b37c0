//! A release: what a generation runs, looked up when the generation begins.
//!
//! Paths stay as the operator gave them and are followed anew for each
//! generation, so `current -> releases/42` means what it says at every reload;
//! within a generation, replacements run what the generation began with, for
//! as long as it is there.

#![expect(
    clippy::disallowed_methods,
    reason = "the thread of `prepare.rs` runs all of it that follows a path"
)]

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::{Launch, dotenv};
use rcluster_sys::{
    files::{self, plain},
    safe_path::{self, Account, Need, Use},
    spawn::Either,
};

/// Why a release cannot be used.
#[derive(Debug, Error)]
pub enum ReleaseError {
    /// The script is not there or cannot be read.
    #[error("failed to read the script {path}: {why}")]
    Script {
        /// As the operator gave it.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The working directory is gone.
    #[error("failed to enter the working directory {path}: {why}")]
    Cwd {
        /// As the operator gave it.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is no node.
    #[error("failed to find node in PATH: install Node.js, or name its binary with --node")]
    NoNode,
    /// `--node` cannot be run.
    #[error("failed to run node at {path}: {why}")]
    Node {
        /// As the operator gave it.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing is known of it.
    #[error("{0}")]
    Unread(String),
    /// The environment file.
    #[error("failed to read the environment file {path}: {why}")]
    EnvFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// What one generation runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Release {
    script: PathBuf,
    real_script: PathBuf,
    cwd: PathBuf,
    real_cwd: PathBuf,
    /// Only root can change where the working directory leads. Older states lack it.
    #[serde(default = "yes")]
    safe_cwd: bool,
    /// The node binary.
    pub node: PathBuf,
    /// Variables of the configuration and, after them, of the environment file.
    pub env: Vec<(OsString, OsString)>,
    /// What it was made from.
    pub launch: Launch,
}

impl Release {
    /// Follows all paths as they are now. For a thread that may wait: `reading` is told each path before it is looked at.
    /// `worker` is whose rights workers have, if not ours.
    ///
    /// # Errors
    /// A [`ReleaseError`] for the first thing that is missing.
    pub fn resolve(
        launch: &Launch,
        worker: Option<&Account>,
        reading: impl Fn(&Path),
    ) -> Result<Self, ReleaseError> {
        // What is closed to the worker is said here: node would only say that it finds no module.
        let may = |paths: &[&Path], need| {
            let Some(worker) = worker else { return Ok(()) };
            let closed = paths.iter().try_for_each(|path| worker.may(path, need));
            closed.map_err(|closed| closed.to_string())
        };
        reading(&launch.script);
        let (script, real_script) = script(&launch.script)?;
        may(&[&real_script, &script], Need::Read).map_err(|why| ReleaseError::Script {
            path: launch.script.clone(),
            why,
        })?;
        reading(&launch.cwd);
        let cwd_error = |error: &io::Error| ReleaseError::Cwd {
            path: launch.cwd.clone(),
            why: plain(error),
        };
        let real_cwd = fs::canonicalize(&launch.cwd).map_err(|e| cwd_error(&e))?;
        if !real_cwd.is_dir() {
            return Err(cwd_error(&io::Error::from_raw_os_error(libc::ENOTDIR)));
        }
        let safe_cwd = safe_path::check(&launch.cwd).is_ok();
        if !safe_cwd {
            may(&[&real_cwd, &launch.cwd], Need::Enter).map_err(|why| ReleaseError::Cwd {
                path: launch.cwd.clone(),
                why,
            })?;
        }
        let mut env = launch.env.clone();
        if let Some(path) = &launch.env_file {
            reading(path);
            env.extend(env_file(path, &Use::for_workers(worker))?);
        }
        reading(launch.node.as_deref().unwrap_or(Path::new("node")));
        let node = node(launch.node.as_deref())?;
        may(&[&node], Need::Execute).map_err(|why| ReleaseError::Node {
            path: node.clone(),
            why,
        })?;
        Ok(Self {
            script,
            real_script,
            cwd: launch.cwd.clone(),
            real_cwd,
            safe_cwd,
            node,
            env,
            launch: launch.clone(),
        })
    }

    /// Script and working directory for a worker that starts now. The path as
    /// given, where it still leads to this release; the release's own path,
    /// where a link has moved on; the path as given again, where the release
    /// was deleted.
    pub fn paths(&self) -> (Either, Either) {
        let either = |given: &Path, real: &Path| Either {
            given: given.to_owned(),
            real: real.to_owned(),
        };
        (
            either(&self.script, &self.real_script),
            either(&self.cwd, &self.real_cwd),
        )
    }

    /// Whether a worker may be put into its working directory with root's rights, which need not be the worker's: the
    /// operator may stand in a closed folder.
    pub fn has_safe_cwd(&self) -> bool {
        self.safe_cwd
    }

    /// The folder that the script is in, links followed.
    pub fn folder(&self) -> &Path {
        self.real_script.parent().unwrap_or(Path::new("/"))
    }

    /// Whether its script is still there.
    pub fn exists(&self) -> bool {
        self.real_script.is_file()
    }
}

fn yes() -> bool {
    true
}

fn script(given: &Path) -> Result<(PathBuf, PathBuf), ReleaseError> {
    let wrong = |why: String| ReleaseError::Script {
        path: given.to_owned(),
        why,
    };
    let mut path = given.to_owned();
    if !path.exists() && path.extension().is_none() {
        // As `node server` finds server.js.
        let with_js = path.with_extension("js");
        if with_js.is_file() {
            path = with_js;
        }
    }
    let meta = fs::metadata(&path).map_err(|e| wrong(plain(&e)))?;
    if meta.is_dir() {
        return Err(wrong(
            "it is a folder; name the file that node should run".to_owned(),
        ));
    }
    files::open(&path).map_err(|e| wrong(e.to_string()))?;
    let real = fs::canonicalize(&path).map_err(|e| wrong(plain(&e)))?;
    Ok((path, real))
}

fn node(given: Option<&Path>) -> Result<PathBuf, ReleaseError> {
    let name = given.unwrap_or(Path::new("node"));
    if name.components().count() > 1 {
        return runnable(name)
            .map(|()| name.to_owned())
            .map_err(|why| ReleaseError::Node {
                path: name.to_owned(),
                why,
            });
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|candidate| runnable(candidate).is_ok())
        .ok_or_else(|| match given {
            Some(name) => ReleaseError::Node {
                path: name.to_owned(),
                why: "not found in PATH".to_owned(),
            },
            None => ReleaseError::NoNode,
        })
}

fn runnable(path: &Path) -> Result<(), String> {
    let meta = fs::metadata(path).map_err(|e| plain(&e))?;
    if !meta.is_file() {
        return Err("not a file".to_owned());
    }
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK)
        .map_err(|_| "not executable (chmod +x)".to_owned())
}

/// See [`dotenv`]. What is not UTF-8 becomes U+FFFD, as in Node.
fn env_file(path: &Path, how: &Use) -> Result<Vec<(OsString, OsString)>, ReleaseError> {
    let bytes = how.run(path, || Ok(files::read(path, files::LONGEST)));
    let bytes = bytes.unwrap_or_else(|error| Err(error.into()));
    let bytes = bytes.map_err(|error| ReleaseError::EnvFile {
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    let variables = dotenv::parse(&String::from_utf8_lossy(&bytes));
    let words = variables.into_iter();
    Ok(words.map(|(k, v)| (k.into(), v.into())).collect())
}
