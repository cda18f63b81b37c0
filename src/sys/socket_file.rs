//! The file of a Unix socket: whose it is, and how it comes back.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::sys::stat::SFlag;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{
    files::plain,
    listener::MAX_PATH,
    path_thread,
    safe_path::{Account, Place, Use},
};

/// A socket file that we made, and a second name for it.
///
/// Many apps remove their socket's path before they listen. In a cluster the
/// second worker would so remove what the first has bound; the second name
/// (a hard link) lets us put it back.
#[derive(Debug)]
pub struct SocketFile(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: SocketFileState,
    /// It is being removed.
    over: AtomicBool,
}

/// Looks after a [`SocketFile`] as long as that lives.
#[derive(Clone, Debug)]
pub struct Care(Weak<Shared>);

/// What became of a socket's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is there.
    There,
    /// Somebody removed it, and it was put back.
    Restored,
    /// Something else is in its place, which is left alone.
    Replaced,
    /// It cannot be put back.
    Lost(String),
}

impl Care {
    /// The path, and what became of it; `None` when it is not ours any more. Puts the path back if somebody has removed
    /// it. May block: for the path thread, which removes it too.
    pub fn look(&self) -> Option<(PathBuf, Fate)> {
        let shared = self.0.upgrade()?;
        if shared.over.load(Ordering::Acquire) {
            return None;
        }
        let fate = shared.state.look();
        let fate = fate.unwrap_or_else(|error| Fate::Lost(plain(&error)));
        Some((shared.state.path.clone(), fate))
    }

    /// Whether there is still something to look after.
    pub fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }
}

/// A [`SocketFile`] written out. It removes nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SocketFileState {
    path: PathBuf,
    spare: PathBuf,
    inode: (u64, u64),
    /// With whose rights. Programs before it wrote none, and used root's.
    #[serde(default)]
    how: Option<Use>,
}

impl SocketFile {
    /// The file of a socket that is bound there.
    ///
    /// # Errors
    /// The errno of `lstat(2)` or `unlink(2)`; `ENOTSOCK` for another file.
    pub fn made(place: &Place, how: &Use) -> io::Result<Self> {
        let stat = place.stat()?;
        if !is_socket(stat.st_mode) {
            return Err(io::Error::from_raw_os_error(libc::ENOTSOCK));
        }
        let name = place.name().to_string_lossy();
        let spare = place.beside(format!(".{name}.rcluster"));
        if is_stale(&spare) {
            spare.remove()?;
        }
        // Without it (a file system without hard links) the path cannot be put back; that is all.
        let _ = place.link(&spare);
        Ok(Self::new(SocketFileState {
            path: place.path().to_owned(),
            spare: place.path().with_file_name(spare.name()),
            inode: (stat.st_dev, stat.st_ino),
            how: Some(how.clone()),
        }))
    }

    /// The file of a socket that another program has bound.
    ///
    /// # Errors
    /// As [`SocketFile::made`]; a [`super::safe_path::Refusal`].
    pub fn found(path: &Path, how: &Use) -> io::Result<Self> {
        how.at(path, |place| Self::made(place, how))
    }

    /// Written out, for the next program of this process.
    pub fn state(&self) -> SocketFileState {
        self.0.state.clone()
    }

    /// To look after it.
    pub fn care(&self) -> Care {
        Care(Arc::downgrade(&self.0))
    }

    fn new(state: SocketFileState) -> Self {
        let over = AtomicBool::new(false);
        Self(Arc::new(Shared { state, over }))
    }

    /// The file that the program before this one made; from now on it is ours to remove. `worker`: whose rights workers
    /// have, if not ours.
    pub fn resume(state: SocketFileState, worker: Option<&Account>) -> Self {
        let how = state.how.or_else(|| Some(Use::option(worker)));
        Self::new(SocketFileState { how, ..state })
    }

    /// Adds permissions.
    ///
    /// # Errors
    /// The errno of `chmod(2)`.
    pub(super) fn allow(&self, place: &Place, mode: u32) -> io::Result<()> {
        place.add_mode(mode, self.0.state.inode)
    }

    /// A job that puts the path back if somebody has removed it, and adds permissions to it. Something else in its
    /// place is left alone.
    pub fn restore(&self, mode: u32) -> impl FnOnce() + Send + use<> {
        let file = self.0.state.clone();
        move || {
            // Nothing to do about a failure: the path is gone, as whoever removed it wanted.
            let _ = file.with_both(|place, spare| {
                if place.stat().is_err() && file.is_ours(spare) {
                    spare.link(place)?;
                }
                place.add_mode(mode, file.inode)
            });
        }
    }
}

impl SocketFileState {
    fn is_ours(&self, place: &Place) -> bool {
        let stat = place.stat();
        stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.inode)
    }

    fn look(&self) -> io::Result<Fate> {
        self.with_both(|place, spare| match place.stat() {
            Ok(_) if self.is_ours(place) => {
                if spare.stat().is_err() {
                    // Without it the path cannot be put back; that is all.
                    let _ = place.link(spare);
                }
                Ok(Fate::There)
            }
            Ok(_) => Ok(Fate::Replaced),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Err(_) if self.is_ours(spare) => spare.link(place).map(|()| Fate::Restored),
            Err(_) => Ok(Fate::Lost("its second name was removed too".to_owned())),
        })
    }

    fn with_both<T: Send>(
        &self,
        work: impl FnOnce(&Place, &Place) -> io::Result<T> + Send,
    ) -> io::Result<T> {
        let how = self.how.as_ref().unwrap_or(&Use::Option(None));
        how.at(&self.path, |place| {
            let spare = self.spare.file_name().unwrap_or_default();
            work(place, &place.beside(spare))
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
        let file = self.0.state.clone();
        path_thread::run(move || {
            // Nothing to do about a failure on the way out.
            let _ = file.with_both(|place, spare| {
                for place in [place, spare] {
                    if file.is_ours(place) {
                        let _ = place.remove();
                    }
                }
                Ok(())
            });
        });
    }
}

fn is_socket(mode: libc::mode_t) -> bool {
    SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) == SFlag::S_IFSOCK
}

/// The socket address of a place: its path, or, where that is too long or could be redirected, the way through its
/// open folder.
///
/// # Errors
/// `ENAMETOOLONG` for a name that does not fit.
pub(super) fn address(place: &Place) -> io::Result<SockAddr> {
    let fits = |path: &Path| path.as_os_str().len() <= MAX_PATH;
    if place.is_nameable() && fits(place.path()) {
        return SockAddr::unix(place.path());
    }
    let path = place.through_folder();
    if fits(&path) {
        SockAddr::unix(path)
    } else {
        Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
    }
}

/// Whether a place holds a socket that nobody listens on any more. Never waits: a full backlog means that somebody does.
pub fn is_stale(place: &Place) -> bool {
    let refused = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&address(place)?)
    };
    place.stat().is_ok_and(|stat| is_socket(stat.st_mode))
        && refused().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
