//! `--watch`: the app's files are looked at, and a change is a reload. For development.
//!
//! Only folders that git does not ignore are watched, `node_modules` never; so
//! the walk is short and the kernel's watches are few.

#![expect(
    clippy::disallowed_methods,
    reason = "for development: a slow file system stops the master there"
)]

use std::{
    collections::HashSet,
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use ignore::{
    WalkBuilder,
    gitignore::{Gitignore, GitignoreBuilder},
    overrides::{Override, OverrideBuilder},
};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::mpsc::{self, Receiver},
    time::{Instant, timeout_at},
};
use tracing::warn;

use crate::{config::Launch, sys::limits};

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

/// The app's files under watch.
#[derive(Debug)]
pub(super) struct Watch {
    watcher: RecommendedWatcher,
    events: Receiver<(EventKind, PathBuf)>,
    watched: HashSet<PathBuf>,
    ignored: Gitignore,
    wanted: Option<Override>,
    env_file: Option<PathBuf>,
}

impl Watch {
    /// Watches the working directory, and the script's folder if that is elsewhere.
    ///
    /// # Errors
    /// What is wrong, and with what: a glob, or the kernel's limit of watches.
    pub(super) fn start(launch: &Launch, globs: &[String]) -> Result<Self, String> {
        let root = real(&launch.cwd);
        let script = launch.script.parent().map(real);
        let (tell, events) = mpsc::channel(QUEUE);
        // notify panics where its thread cannot be started.
        limits::can_start_thread()
            .map_err(|error| format!("failed to start a thread that watches files: {error}"))?;
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            for path in event.paths {
                // A full queue is a change that is being told already.
                let _ = tell.try_send((event.kind, path));
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
        let mut ignored = GitignoreBuilder::new(&root);
        let folders = walk(&root);
        for folder in &folders {
            // A missing file is none.
            let _ = ignored.add(folder.join(".gitignore"));
        }
        let mut watch = Self {
            watcher,
            events,
            watched: HashSet::new(),
            ignored: ignored.build().map_err(|error| error.to_string())?,
            wanted,
            env_file: launch.env_file.as_deref().map(real),
        };
        for folder in folders {
            watch.add(folder)?;
        }
        let others = [
            script,
            watch.env_file.as_deref().and_then(Path::parent).map(real),
        ];
        for folder in others.into_iter().flatten() {
            watch.add(folder)?;
        }
        Ok(watch)
    }

    fn add(&mut self, folder: PathBuf) -> Result<(), String> {
        if self.watched.len() >= FOLDERS || self.watched.contains(&folder) {
            return Ok(());
        }
        if self.watched.len() + 1 == FOLDERS {
            warn!(
                folders = FOLDERS,
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

    /// Waits for a change, until it is complete. Returns the first file of it.
    pub(super) async fn changed(&mut self) -> Option<PathBuf> {
        let first = loop {
            let (kind, path) = self.events.recv().await?;
            if self.counts(kind, &path) {
                break path;
            }
        };
        let latest = Instant::now() + LONGEST;
        let mut until = Instant::now() + SILENCE;
        while let Ok(Some((kind, path))) = timeout_at(until.min(latest), self.events.recv()).await {
            if self.counts(kind, &path) {
                until = Instant::now() + SILENCE;
            }
        }
        Some(first)
    }

    fn counts(&mut self, kind: EventKind, path: &Path) -> bool {
        if matches!(kind, EventKind::Access(_)) {
            return false;
        }
        if kind.is_create() && path.is_dir() {
            // Files may be in it already.
            let folders = walk(path);
            let mut files = folders
                .iter()
                .filter_map(|f| f.read_dir().ok())
                .flatten()
                .flatten();
            let full = files.any(|file| self.is_wanted(&file.path()));
            for folder in folders {
                if let Err(error) = self.add(folder) {
                    warn!(error, "a new folder is not watched");
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
        if path.starts_with(self.ignored.path())
            && self
                .ignored
                .matched_path_or_any_parents(path, false)
                .is_ignore()
        {
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
}

fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// The folders of a tree that git does not ignore, but for `node_modules` and hidden ones.
fn walk(root: &Path) -> Vec<PathBuf> {
    WalkBuilder::new(root)
        .require_git(false)
        .follow_links(false)
        .filter_entry(|entry| {
            entry.file_type().is_some_and(|kind| kind.is_dir())
                && entry.file_name() != "node_modules"
        })
        .build()
        .flatten()
        .map(ignore::DirEntry::into_path)
        .take(FOLDERS)
        .collect()
}
