//! Hearing that a listening socket was shut down.

use std::{io, os::fd::OwnedFd};

/// Watches sockets for a hang-up and for nothing else.
#[derive(Debug)]
pub struct HangUps(#[cfg(target_os = "linux")] linux::Watch);

#[cfg(target_os = "linux")]
mod linux {
    use super::OwnedFd;
    use nix::sys::epoll::Epoll;
    use tokio::io::unix::AsyncFd;

    #[derive(Debug)]
    pub(super) struct Watch {
        pub(super) epoll: Epoll,
        pub(super) ready: AsyncFd<OwnedFd>,
    }
}

/// A set of its own: no interest that tokio knows is met by a hang-up alone. With "urgent data", which no listener has,
/// each connection would still wake the thread, to find nothing (`sock_def_readable` of the kernel). With no interest at
/// all only errors and hang-ups count (`epoll_ctl(2)`).
#[cfg(target_os = "linux")]
impl HangUps {
    /// Nobody is watched yet.
    ///
    /// # Errors
    /// The errno of `epoll_create1(2)`.
    pub fn new() -> io::Result<Self> {
        use nix::sys::epoll::{Epoll, EpollCreateFlags};
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let ready = super::listener::watch(&epoll.0)?;
        Ok(Self(linux::Watch { epoll, ready }))
    }

    /// Watches a socket, too; a hang-up that has been is told at once. `name` is told by [`next`](Self::next).
    ///
    /// # Errors
    /// The errno of `epoll_ctl(2)`.
    pub fn add(&self, socket: &OwnedFd, name: u64) -> io::Result<()> {
        use nix::sys::epoll::{EpollEvent, EpollFlags};
        let event = EpollEvent::new(EpollFlags::EPOLLET, name);
        Ok(self.0.epoll.add(socket, event)?)
    }

    /// Watches it no more.
    pub fn remove(&self, socket: &OwnedFd) {
        // Fails for one that was not watched.
        let _ = self.0.epoll.delete(socket);
    }

    /// The next one that was shut down; each shutdown is told once.
    ///
    /// # Errors
    /// The errno of `epoll_wait(2)`.
    pub async fn next(&self) -> io::Result<u64> {
        use nix::sys::epoll::{EpollEvent, EpollTimeout};
        loop {
            let mut ready = self.0.ready.readable().await?;
            let mut events = [EpollEvent::empty()];
            match self.0.epoll.wait(&mut events, EpollTimeout::ZERO) {
                Ok(1..) => return Ok(events[0].data()),
                Ok(0) => ready.clear_ready(),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Elsewhere nobody hears of it.
#[cfg(not(target_os = "linux"))]
impl HangUps {
    /// # Errors
    /// Never.
    pub fn new() -> io::Result<Self> {
        Ok(Self())
    }

    /// # Errors
    /// Never.
    pub fn add(&self, _socket: &OwnedFd, _name: u64) -> io::Result<()> {
        Ok(())
    }

    /// Nothing to do.
    pub fn remove(&self, _socket: &OwnedFd) {}

    /// Never.
    ///
    /// # Errors
    /// Never.
    pub async fn next(&self) -> io::Result<u64> {
        std::future::pending().await
    }
}
