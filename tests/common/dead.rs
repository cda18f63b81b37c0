//! A file system that never answers, as of an NFS server that is gone.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{is_root, skip};

/// A mounted folder in which every look takes for ever. FUSE without anybody who serves it.
pub(crate) struct Dead {
    folder: PathBuf,
    _fuse: File,
}

impl Dead {
    /// Mounts one at a new folder; `None` (and says so) where that cannot be had.
    pub(crate) fn mount(folder: PathBuf) -> Option<Self> {
        if !is_root() {
            skip("only root mounts a dead file system");
            return None;
        }
        fs::create_dir(&folder).expect("a folder");
        let fuse = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .and_then(|fuse| {
                let number = fuse.as_raw_fd();
                let data = format!("fd={number},rootmode=40000,user_id=0,group_id=0");
                let flags = MsFlags::empty();
                mount(Some("dead"), &folder, Some("fuse"), flags, Some(&*data))?;
                Ok(fuse)
            });
        match fuse {
            Ok(fuse) => Some(Self {
                folder,
                _fuse: fuse,
            }),
            Err(error) => {
                skip(&format!("no dead file system: {error}"));
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        // Whoever waits is let go with an error.
        let _ = umount2(&self.folder, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
    }
}
