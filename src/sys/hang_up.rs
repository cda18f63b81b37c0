//! Hearing that a listening socket was shut down.

use std::{io, os::fd::OwnedFd, sync::Arc};

use tokio::io::{Interest, unix::AsyncFd};

/// Waits until somebody shuts a listening socket down; at once if it is. Connections wake nobody.
///
/// # Errors
/// The errno of `epoll_ctl(2)`.
pub async fn wait(socket: &Arc<OwnedFd>) -> io::Result<()> {
    // Urgent data, which no listener has, is the one interest that connections do not meet; a hang-up is told
    // to everybody (epoll_ctl(2)). Registered for each wait: a hang-up that was told once counts for good.
    // SAFETY: the descriptor is open, and the same one, for as long as the `Arc` that is given away lives.
    #[expect(unsafe_code)]
    let watched =
        unsafe { AsyncFd::register_with_interest(Arc::clone(socket), Interest::PRIORITY) };
    let watched = watched.map_err(io::Error::from)?;
    watched.ready(Interest::PRIORITY).await.map(|_| ())
}
