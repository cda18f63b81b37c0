//! What masters of this user left that were killed together with their guards, and are not started again under their names:
//! control sockets, locks and files of the guard in the default folder, and folders of the shim. Only where no lock is held
//! and no process is left.

#![expect(clippy::disallowed_methods, reason = "on a thread of its own")]

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use tracing::{debug, info};

use super::shim_file;
use rcluster_sys::{
    control_dir::{self, Abandoned},
    guard, procfs,
};

/// Looks for it on a thread: nobody waits for that. `folder` is the folder of control sockets, if it is the default one.
pub(super) fn clear(folder: Option<PathBuf>) {
    let job = move || {
        let names = folder.map_or(0, |folder| clear_names(&folder));
        let shims = clear_shims();
        if names + shims > 0 {
            info!(
                event = "stale_files_removed",
                names, shims, "removed files of masters that were killed"
            );
        }
    };
    let thread = thread::Builder::new().name("stale".to_owned());
    if let Err(error) = thread.stack_size(256 * 1024).spawn(job) {
        debug!(%error, event = "stale_files_failed", "failed to look for files of masters that were killed");
    }
}

/// How many names were cleared.
fn clear_names(folder: &Path) -> usize {
    let locks = entries(folder).into_iter();
    let locks = locks.filter(|path| path.extension().is_some_and(|e| e == "lock"));
    locks
        .filter(|lock| clear_name(folder, lock) == Some(true))
        .count()
}

fn clear_name(folder: &Path, lock: &Path) -> Option<bool> {
    // Under the lock nobody else takes the name.
    let abandoned = Abandoned::take(lock)?;
    let guard = lock.with_extension("guard");
    if guard::left_somebody(&guard) {
        return None;
    }
    let stem = lock.file_stem()?.to_str()?;
    let of_shim = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| shim_file::is_of(name, stem))
    };
    let shims: Vec<_> = entries(folder).into_iter().filter(of_shim).collect();
    if shims.iter().any(|shim| is_used(shim))
        || !control_dir::remove_stale_socket(&lock.with_extension("sock"))
    {
        return None;
    }
    for shim in shims {
        shim_file::remove(&shim);
    }
    let _ = fs::remove_file(guard);
    Some(abandoned.remove())
}

/// How many folders of the shim were removed, of those that all users can read.
fn clear_shims() -> usize {
    let mut stale = shim_file::in_open_folder();
    stale.retain(|(_, control)| !control_dir::is_held(&control.with_extension("lock")));
    let folders: Vec<_> = (stale.iter())
        .filter_map(|(folder, _)| folder.to_str().map(str::to_owned))
        .collect();
    if folders.is_empty() {
        return 0;
    }
    // Workers have it in their command line as long as they live, and their threads read it again.
    let Some(used) = procfs::in_command_lines(&folders) else {
        return 0;
    };
    let unused = folders
        .iter()
        .filter(|folder| !used.contains(folder.as_str()));
    unused
        .filter(|folder| shim_file::remove(Path::new(folder)))
        .count()
}

fn is_used(folder: &Path) -> bool {
    let text = folder.to_string_lossy().into_owned();
    procfs::in_command_lines(&[text]).is_none_or(|used| !used.is_empty())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
