//! What git ignores (gitignore(5)), read as files that somebody else may have put there: regular and bounded.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use ignore::{
    Match,
    gitignore::{Gitignore, GitignoreBuilder},
};
use tracing::warn;

use rcluster_sys::files::{self, ReadError};

/// Most bytes of one file of patterns.
const FILE: u64 = 64 * 1024;
/// Most bytes of all of them: a compiled pattern takes far more memory than its text.
const ALL: u64 = 256 * 1024;

/// Patterns by the folder that they are for.
#[derive(Debug)]
pub(super) struct Ignored {
    folders: BTreeMap<PathBuf, Gitignore>,
    read: BTreeSet<PathBuf>,
    /// Bytes that may still be read.
    left: u64,
}

impl Ignored {
    /// With the patterns of the folders above this one, up to the root of its repository.
    pub(super) fn above(root: &Path) -> Self {
        let mut ignored = Self {
            folders: BTreeMap::new(),
            read: BTreeSet::new(),
            left: ALL,
        };
        for folder in root.ancestors() {
            ignored.read(folder);
            if folder.join(".git").exists() {
                break;
            }
        }
        ignored
    }

    /// Reads a folder's patterns, once.
    pub(super) fn read(&mut self, folder: &Path) {
        if !self.read.insert(folder.to_owned()) {
            return;
        }
        let mut builder = GitignoreBuilder::new(folder);
        // What comes last counts most.
        for name in [".git/info/exclude", ".gitignore"] {
            let path = folder.join(name);
            let text = match files::read(&path, FILE.min(self.left)) {
                Ok(text) => text,
                Err(ReadError::Io(error)) if is_missing(&error) => continue,
                Err(error) => {
                    let path = path.display();
                    warn!(event = "gitignore_skipped", %path, %error, "a file of ignored paths is not read");
                    continue;
                }
            };
            self.left = self.left.saturating_sub(text.len() as u64);
            let text = String::from_utf8_lossy(&text);
            for line in text.trim_start_matches('\u{feff}').lines() {
                // A pattern that is none ignores nothing.
                let _ = builder.add_line(None, line);
            }
        }
        match builder.build() {
            Ok(patterns) if !patterns.is_empty() => {
                self.folders.insert(folder.to_owned(), patterns);
            }
            Ok(_) => {}
            Err(error) => {
                let folder = folder.display();
                warn!(event = "gitignore_skipped", %folder, %error, "patterns of ignored paths are not used");
            }
        }
    }

    /// Whether a path is ignored that no ignored folder holds. The patterns of the nearest folder count most.
    pub(super) fn ignores(&self, path: &Path, is_folder: bool) -> bool {
        let folders = path.ancestors().skip(1);
        let mut patterns = folders.filter_map(|folder| self.folders.get(folder));
        let verdict = patterns.find_map(|patterns| match patterns.matched(path, is_folder) {
            Match::None => None,
            Match::Ignore(_) => Some(true),
            Match::Whitelist(_) => Some(false),
        });
        verdict.unwrap_or(false)
    }

    /// The same for any file.
    pub(super) fn ignores_file(&self, path: &Path) -> bool {
        let mut folders = path.ancestors().skip(1);
        self.ignores(path, false) || folders.any(|folder| self.ignores(folder, true))
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}
