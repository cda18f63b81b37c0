//! Which masters run on this host, and which of them a command means.

#![expect(clippy::disallowed_methods, reason = "commands use it, no master does")]

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::join_all;
use serde::Deserialize;
use tokio::net::UnixStream;

use super::client::{Client, ClientError};
use rcluster_sys::{control_dir, identity, procfs};

/// How long masters may take to say their names, all together.
const PATIENCE: Duration = Duration::from_secs(2);

/// Control sockets of all masters of this host that this user may ask: also those with a `--control` of their own, and for root everybody's.
/// Our own come first.
pub async fn all_masters() -> Vec<PathBuf> {
    let us = identity::effective();
    // Beside the socket of a master that lives are its lock and its guard.
    let beside = |path: &PathBuf| {
        let is_there = |what: &str| path.with_extension(what).exists();
        is_there("lock") && is_there("guard")
    };
    let mut paths = procfs::unix_listeners();
    paths.retain(beside);
    // One in another network namespace is not listed, but its socket is in the folder.
    paths.extend(in_folder(&control_dir::default_folder()).await);
    let mut found: Vec<_> = (paths.into_iter())
        .filter_map(|path| {
            let owner = std::fs::metadata(&path).ok()?.uid();
            (us == 0 || owner == us).then_some((owner != us, path))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// Control sockets in a folder on which somebody listens.
async fn in_folder(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if path.extension().is_some_and(|e| e == "sock") && UnixStream::connect(&path).await.is_ok()
        {
            found.push(path);
        }
    }
    found
}

/// The control path of the only master.
///
/// # Errors
/// [`ClientError::NoneRuns`] or [`ClientError::Several`].
pub(super) async fn only() -> Result<PathBuf, ClientError> {
    let none = || ClientError::NoneRuns(control_dir::default_folder());
    one_of(all_masters().await, none)
}

/// The control path of the master with this name. Without one it is the path that such a master would have by default.
///
/// # Errors
/// [`ClientError::Several`] where more than one has the name.
pub(super) async fn by_name(name: &str) -> Result<PathBuf, ClientError> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let usual = control_dir::default_folder().join(format!("{name}.sock"));
    if usual.exists() {
        return Ok(usual);
    }
    let ask = async |path: PathBuf| {
        let answer = Client::at(path.clone());
        let answer = answer.get::<Named>("/v1/status");
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        match answer {
            Ok(Ok(Named { name: own })) => (own == name).then_some(path),
            // The file of one that does not answer has the name, as a rule.
            Ok(Err(_)) | Err(_) => (path.file_stem()? == name).then_some(path),
        }
    };
    let named = join_all(all_masters().await.into_iter().map(ask)).await;
    let named = named.into_iter().flatten().collect();
    match one_of(named, || ClientError::NoneRuns(usual.clone())) {
        Err(ClientError::NoneRuns(usual)) => Ok(usual),
        found => found,
    }
}

fn one_of(
    mut paths: Vec<PathBuf>,
    none: impl FnOnce() -> ClientError,
) -> Result<PathBuf, ClientError> {
    let us = identity::effective();
    if paths.len() > 1 {
        // Root may ask everybody's: its own go first, since others choose the names of theirs.
        let own = |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|meta| meta.uid() == us);
        let own: Vec<_> = paths.iter().filter(own).cloned().collect();
        if own.len() == 1 {
            paths = own;
        }
    }
    match (paths.pop(), paths.is_empty()) {
        (None, _) => Err(none()),
        (Some(path), true) => Ok(path),
        (Some(last), false) => {
            let paths: Vec<_> = paths.iter().chain([&last]).collect();
            let paths: Vec<_> = paths
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            Err(ClientError::Several(paths.join(", ")))
        }
    }
}
