//! Sockets' paths that somebody removed or replaced: an app that unlinks its path when it ends, a cleaner of temporary
//! files. They are put back where nothing else is in their place, and the log tells of it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::oneshot,
    task::AbortHandle,
    time::{MissedTickBehavior, interval},
};
use tracing::warn;

use rcluster_sys::{
    path_thread,
    socket_file::{Care, Fate},
};

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// Time between two lines about one path.
const QUIET: Duration = Duration::from_secs(10);

/// The sockets' files of all listeners.
#[derive(Clone, Debug, Default)]
pub(super) struct SocketFiles(Arc<Mutex<Vec<Care>>>);

impl SocketFiles {
    pub(super) fn add(&self, file: Care) {
        self.lock().push(file);
    }

    fn alive(&self) -> Vec<Care> {
        let mut files = self.lock();
        files.retain(|file| !file.is_over());
        files.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Care>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks after them as long as it lives.
#[derive(Debug)]
pub(super) struct Keeper(AbortHandle);

impl Keeper {
    pub(super) fn start(files: SocketFiles) -> Self {
        Self(tokio::spawn(keep(files)).abort_handle())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep(files: SocketFiles) {
    let mut told: BTreeMap<PathBuf, (Fate, Instant)> = BTreeMap::new();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let alive = files.alive();
        if alive.is_empty() {
            told.clear();
            continue;
        }
        let (done, result) = oneshot::channel();
        path_thread::run(move || {
            let fates: Vec<_> = alive.iter().filter_map(Care::look).collect();
            // Nobody awaits it at the end.
            let _ = done.send(fates);
        });
        let fates = result.await.unwrap_or_default();
        told.retain(|path, _| fates.iter().any(|(seen, _)| seen == path));
        for (path, fate) in fates {
            let before = told.get(&path);
            let again = before.is_some_and(|(before, at)| {
                at.elapsed() < QUIET || *before == fate && fate != Fate::Restored
            });
            if fate != Fate::There && !again {
                tell(&path.display(), &fate);
                told.insert(path, (fate, Instant::now()));
            } else if fate == Fate::There && before.is_some_and(|(_, at)| at.elapsed() >= QUIET) {
                told.remove(&path);
            }
        }
    }
}

fn tell(path: &dyn std::fmt::Display, fate: &Fate) {
    match fate {
        Fate::There => {}
        Fate::Restored => {
            warn!(event = "socket_path_restored", %path, "a socket's path was removed, and is put back");
        }
        Fate::Replaced => {
            warn!(event = "socket_path_replaced", %path, "something else is at a socket's path: clients that connect now do not reach the workers; remove it, and the path is put back");
        }
        Fate::Lost(why) => {
            warn!(event = "socket_path_lost", %path, why, "a socket's path was removed and cannot be put back: new clients do not reach the workers; restart the master");
        }
    }
}
