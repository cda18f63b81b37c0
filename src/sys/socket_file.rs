//! The file of a Unix socket: whose it is, and how it comes back.

use std::{
    io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// A socket file that we made, and a second name for it.
///
/// Many apps remove their socket's path before they listen. In a cluster the
/// second worker would so remove what the first has bound; the second name
/// (a hard link) lets us put it back.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    spare: PathBuf,
    inode: (u64, u64),
}

/// A [`SocketFile`] written out. It removes nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SocketFileState {
    path: PathBuf,
    spare: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    /// The file of a socket that is bound there.
    ///
    /// # Errors
    /// The errno of `lstat(2)` or `unlink(2)`.
    pub fn made(path: &Path) -> io::Result<Self> {
        let meta = std::fs::symlink_metadata(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let spare = path.with_file_name(format!(".{name}.rcluster"));
        if is_stale(&spare) {
            std::fs::remove_file(&spare)?;
        }
        // Without it (a file system without hard links) the path cannot be put back; that is all.
        let _ = std::fs::hard_link(path, &spare);
        Ok(Self {
            path: path.to_owned(),
            spare,
            inode: (meta.dev(), meta.ino()),
        })
    }

    /// Written out, for the next program of this process.
    pub fn state(&self) -> SocketFileState {
        SocketFileState {
            path: self.path.clone(),
            spare: self.spare.clone(),
            inode: self.inode,
        }
    }

    /// The file that the program before this one made; from now on it is ours to remove.
    pub fn resume(state: SocketFileState) -> Self {
        let SocketFileState { path, spare, inode } = state;
        Self { path, spare, inode }
    }

    fn is_ours(&self, path: &Path) -> bool {
        std::fs::symlink_metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == self.inode)
    }

    /// Puts the path back if somebody has removed it. Something else in its
    /// place is left alone.
    pub fn restore(&self) {
        if !self.path.exists() && self.is_ours(&self.spare) {
            let _ = std::fs::hard_link(&self.spare, &self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        for path in [&self.path, &self.spare] {
            if self.is_ours(path) {
                // Nothing to do about a failure on the way out.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// Whether a path is a socket file that nobody listens on any more.
pub fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    is_socket
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
