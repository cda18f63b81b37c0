//! `--watch`: the app's files are looked at, and a change is a reload. For development.
//!
//! Only folders that git does not ignore are watched, `node_modules` never; so
//! the walk is short and the kernel's watches are few.
//!
//! All of it happens on a thread of its own, with the rights of `--user`: whoever can write to the folder could make it
//! wait, or lead it elsewhere.

#![expect(
    clippy::disallowed_methods,
    reason = "the thread of `Watch::start` runs all that looks at files"
)]

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use ignore::overrides::{Override, OverrideBuilder};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::warn;

use crate::{
    admin::Request,
    config::{Config, Launch},
};
use rcluster_core::{names, supervisor::Policy};
use rcluster_sys::{identity::Identity, limits};

mod ignored;

use ignored::Ignored;

/// A change is complete when nothing has happened for so long.
const SILENCE: Duration = Duration::from_millis(8);
/// However busy the folder is, a change is told after this time.
const LONGEST: Duration = Duration::from_millis(500);
/// Most folders: somebody watches their home.
const FOLDERS: usize = 10_000;
/// Paths that may wait to be looked at; what is beyond is part of the same change.
const QUEUE: usize = 1024;
/// What is watched unless a GLOB says otherwise.
const EXTENSIONS: [&str; 12] = [
    "js", "cjs", "mjs", "jsx", "ts", "cts", "mts", "tsx", "json", "node", "wasm", "env",
];

/// Threads that look at files at this moment.
static LOOKING: AtomicUsize = AtomicUsize::new(0);

/// Whether a thread looks at files, or waits for a file system that does not answer.
pub(super) fn is_looking() -> bool {
    LOOKING.load(Ordering::Acquire) > 0
}

struct Looking(());

impl Looking {
    fn begin() -> Self {
        LOOKING.fetch_add(1, Ordering::AcqRel);
        Self(())
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        LOOKING.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What the thread is told.
enum Told {
    Happened(EventKind, PathBuf),
    /// Nobody wants to know any more.
    End,
}

/// The app's files under watch, until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    changes: mpsc::Receiver<PathBuf>,
    tell: SyncSender<Told>,
    over: Arc<AtomicBool>,
}

impl Watch {
    /// Watches the working directory, and the script's folder if that is elsewhere; `None` without `--watch`.
    ///
    /// # Errors
    /// What is wrong, and with what: a glob, the kernel's limit of watches, a file system that does not answer.
    pub(super) async fn start(config: &Config) -> Result<Option<Self>, String> {
        let Some(globs) = config.watch.clone() else {
            return Ok(None);
        };
        let launch = config.launch.clone();
        let worker = config.identity.as_ref().and_then(Identity::account);
        let failed =
            |error: io::Error| format!("failed to start a thread that watches files: {error}");
        let (tell, events) = sync_channel(QUEUE);
        // One that nobody has taken yet is a change that is being told already.
        let (told, changes) = mpsc::channel(1);
        let (ready_in, ready) = oneshot::channel();
        let over = Arc::new(AtomicBool::new(false));
        let watch = Self {
            changes,
            tell: tell.clone(),
            over: Arc::clone(&over),
        };
        let folder = launch.cwd.clone();
        let look = move || {
            let rights = worker.map_or(Ok(()), |worker| worker.assume());
            let files = rights
                .map_err(|error| format!("failed to watch files as --user: {error}"))
                .and_then(|()| Files::find(&launch, &globs, tell, events));
            match files {
                Ok(mut files) => {
                    // Nobody awaits it any more after a stop; then the next line ends it.
                    let _ = ready_in.send(Ok(()));
                    files.follow(&told, &over);
                }
                Err(error) => drop(ready_in.send(Err(error))),
            }
        };
        let thread = thread::Builder::new().name("watch".to_owned());
        thread.spawn(look).map_err(failed)?;
        match timeout(Policy::PREPARATION, ready).await {
            Ok(Ok(result)) => result.map(|()| Some(watch)),
            Ok(Err(_)) => Err("failed to watch files: the thread ended".to_owned()),
            Err(_) => Err(format!(
                "failed to watch the files in {} within {}: its file system does not answer (a dead NFS server, FUSE?)",
                folder.display(),
                names::duration(Policy::PREPARATION)
            )),
        }
    }

    /// Waits for a change, until it is complete. Returns the first file of it.
    pub(super) async fn changed(&mut self) -> Option<PathBuf> {
        self.changes.recv().await
    }

    /// Passes changes on to the loop.
    pub(super) async fn pass_on(mut self, requests: mpsc::Sender<Request>) {
        while let Some(path) = self.changed().await {
            if requests.send(Request::Changed(path)).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Where the queue is full the thread sees the flag.
        let _ = self.tell.try_send(Told::End);
    }
}

/// The thread's side.
struct Files {
    watcher: RecommendedWatcher,
    events: Receiver<Told>,
    watched: HashSet<PathBuf>,
    root: PathBuf,
    ignored: Ignored,
    wanted: Option<Override>,
    env_file: Option<PathBuf>,
}

impl Files {
    fn find(
        launch: &Launch,
        globs: &[String],
        tell: SyncSender<Told>,
        events: Receiver<Told>,
    ) -> Result<Self, String> {
        let _looking = Looking::begin();
        let root = real(&launch.cwd);
        let script = launch.script.parent().map(real);
        // notify panics where its thread cannot be started.
        limits::can_start_thread()
            .map_err(|error| format!("failed to start a thread that watches files: {error}"))?;
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            for path in event.paths {
                // A full queue is a change that is being told already.
                let _ = tell.try_send(Told::Happened(event.kind, path));
            }
        })
        .map_err(|error| format!("failed to watch files: {error}"))?;
        let globs: Vec<_> = globs.iter().filter(|glob| !glob.is_empty()).collect();
        let wanted = if globs.is_empty() {
            None
        } else {
            let mut builder = OverrideBuilder::new(&root);
            for glob in globs {
                builder
                    .add(glob)
                    .map_err(|error| format!("failed to read the glob `{glob}`: {error}"))?;
            }
            Some(builder.build().map_err(|error| error.to_string())?)
        };
        let mut files = Self {
            watcher,
            events,
            watched: HashSet::new(),
            ignored: Ignored::above(&root),
            root,
            wanted,
            env_file: launch.env_file.as_deref().map(real),
        };
        let root = files.root.clone();
        for folder in files.walk(&root) {
            files.add(folder)?;
        }
        let others = [
            script,
            files.env_file.as_deref().and_then(Path::parent).map(real),
        ];
        for folder in others.into_iter().flatten() {
            files.add(folder)?;
        }
        Ok(files)
    }

    fn add(&mut self, folder: PathBuf) -> Result<(), String> {
        if self.watched.len() >= FOLDERS || self.watched.contains(&folder) {
            return Ok(());
        }
        if self.watched.len() + 1 == FOLDERS {
            warn!(
                folders = FOLDERS,
                event = "watch_too_many_folders",
                "too many folders to watch them all; run it where the app is, or use --cwd"
            );
        }
        match self.watcher.watch(&folder, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.watched.insert(folder);
                Ok(())
            }
            // It went while we looked.
            Err(error) if !folder.exists() => {
                let _ = error;
                Ok(())
            }
            Err(error) => Err(format!(
                "failed to watch {}: {error}; see fs.inotify.max_user_watches",
                folder.display()
            )),
        }
    }

    /// Tells changes until nobody wants them.
    fn follow(&mut self, told: &mpsc::Sender<PathBuf>, over: &AtomicBool) {
        let mut first: Option<PathBuf> = None;
        // When the change is told, at the latest; when it is told if nothing happens any more.
        let (mut latest, mut until) = (Instant::now(), Instant::now());
        while !over.load(Ordering::Relaxed) {
            let event = if first.is_none() {
                self.events.recv().ok()
            } else {
                let left = until.min(latest).saturating_duration_since(Instant::now());
                self.events.recv_timeout(left).ok()
            };
            match (event, first.take()) {
                (Some(Told::Happened(kind, path)), before) => {
                    let counts = self.counts(kind, &path);
                    let now = Instant::now();
                    if counts {
                        until = now + SILENCE;
                    }
                    if counts && before.is_none() {
                        latest = now + LONGEST;
                    }
                    first = before.or_else(|| counts.then_some(path));
                }
                // A change that is being told includes this one.
                (None, Some(path)) => drop(told.try_send(path)),
                (Some(Told::End) | None, _) => return,
            }
        }
    }

    fn counts(&mut self, kind: EventKind, path: &Path) -> bool {
        if matches!(kind, EventKind::Access(_)) {
            return false;
        }
        let _looking = Looking::begin();
        if kind.is_create() && path.is_dir() {
            // Files may be in it already.
            let folders = self.walk(path);
            let mut files = folders
                .iter()
                .filter_map(|f| f.read_dir().ok())
                .flatten()
                .flatten();
            let full = files.any(|file| self.is_wanted(&file.path()));
            for folder in folders {
                if let Err(error) = self.add(folder) {
                    warn!(
                        error,
                        event = "watch_folder_failed",
                        "a new folder is not watched"
                    );
                }
            }
            return full;
        }
        self.is_wanted(path)
    }

    fn is_wanted(&self, path: &Path) -> bool {
        if self.env_file.as_deref() == Some(path) {
            return true;
        }
        if path.starts_with(&self.root) && self.ignored.ignores_file(path) {
            return false;
        }
        if let Some(globs) = &self.wanted {
            return globs.matched(path, false).is_whitelist();
        }
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        name == "rcluster.toml"
            || name.starts_with(".env")
            // Editors keep their own files beside ours: `.#x.js`.
            || (EXTENSIONS.contains(&extension) && !name.starts_with('.'))
    }

    /// The folders of a tree that git does not ignore, but for `node_modules` and hidden ones.
    fn walk(&mut self, root: &Path) -> Vec<PathBuf> {
        let mut found = vec![];
        let mut left = vec![root.to_owned()];
        while let Some(folder) = left.pop() {
            self.ignored.read(&folder);
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let (path, name) = (entry.path(), entry.file_name());
                if found.len() + left.len() < FOLDERS
                    && entry.file_type().is_ok_and(|kind| kind.is_dir())
                    && name != "node_modules"
                    && !name.as_encoded_bytes().starts_with(b".")
                    && !self.ignored.ignores(&path, true)
                {
                    left.push(path);
                }
            }
            found.push(folder);
        }
        found
    }
}

fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
