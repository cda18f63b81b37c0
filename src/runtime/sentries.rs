//! Watches over the listening sockets: whoever holds one can shut it down for
//! all (`shutdown(2)`), and then clients are refused. `listen(2)` repairs that.

use std::{
    collections::BTreeMap,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tracing::{error, warn};

use rcluster_sys::{
    hang_up::HangUps,
    listener::{self, SockAddr},
};

/// Least time between two repairs of one socket: a worker may shut it down in a loop.
const PAUSE: Duration = Duration::from_millis(10);
/// Least time between two words about it in the log.
const TELL: Duration = Duration::from_mins(1);

#[derive(Debug)]
struct Post {
    socket: Arc<OwnedFd>,
    address: SockAddr,
    repaired: Option<Instant>,
    told: Option<Instant>,
}

/// Sleeps until the kernel reports a hang-up: connections do not wake it.
#[derive(Debug)]
pub(super) struct Sentries {
    hang_ups: Option<HangUps>,
    posts: BTreeMap<RawFd, Post>,
    backlog: i32,
    /// One that was shut down and is not repaired yet.
    broken: Option<RawFd>,
}

impl Sentries {
    pub(super) fn new(backlog: i32) -> Self {
        Self {
            hang_ups: None,
            posts: BTreeMap::new(),
            backlog,
            broken: None,
        }
    }

    /// Watches over these sockets from now on, and over no others.
    pub(super) fn follow<'a>(&mut self, sockets: impl Iterator<Item = &'a Arc<OwnedFd>>) {
        // One socket may have several names.
        let now: BTreeMap<RawFd, _> = sockets.map(|socket| (socket.as_raw_fd(), socket)).collect();
        // We hold each open, so a number that is still there is the same one's.
        if now.keys().eq(self.posts.keys()) {
            return;
        }
        let Some(hang_ups) = self.hang_ups.take().or_else(|| HangUps::new().ok()) else {
            return;
        };
        let gone = self.posts.extract_if(.., |fd, _| !now.contains_key(fd));
        gone.for_each(|(_, post)| hang_ups.remove(&post.socket));
        for (fd, socket) in now {
            let Ok(address) = listener::bound_to(socket) else {
                continue;
            };
            let name = u64::from(fd.unsigned_abs());
            if self.posts.contains_key(&fd) || hang_ups.add(socket, name).is_err() {
                continue;
            }
            let post = Post {
                socket: Arc::clone(socket),
                address,
                repaired: None,
                told: None,
            };
            self.posts.insert(fd, post);
        }
        self.hang_ups = Some(hang_ups);
    }

    /// The next socket that was shut down and listens again. May be dropped at any time.
    pub(super) async fn repaired(&mut self) -> RawFd {
        loop {
            let Some(hang_ups) = &self.hang_ups else {
                return std::future::pending().await;
            };
            let fd = match self.broken {
                Some(fd) => fd,
                None => match hang_ups.next().await.map(RawFd::try_from) {
                    Ok(Ok(fd)) => *self.broken.insert(fd),
                    Ok(Err(_)) => continue,
                    Err(error) => {
                        warn!(%error, event = "listener_watch_failed", "listening sockets are not watched any more");
                        self.hang_ups = None;
                        continue;
                    }
                },
            };
            let Some(post) = self.posts.get_mut(&fd) else {
                self.broken = None;
                continue;
            };
            if let Some(at) = post.repaired {
                sleep_until(at + PAUSE).await;
            }
            self.broken = None;
            if post.repair(self.backlog) {
                return fd;
            }
        }
    }
}

impl Post {
    /// Returns whether it listens again.
    fn repair(&mut self, backlog: i32) -> bool {
        let now = Instant::now();
        self.repaired = Some(now);
        if let Err(why) = listener::reopen(&self.socket, &self.address, backlog) {
            error!(
                error = %why, event = "listener_shut_down",
                "a worker has shut down a listening socket for all (shutdown(2)), and it cannot be opened again: restart rcluster"
            );
            return false;
        }
        if self.told.is_none_or(|at| at + TELL <= now) {
            warn!(
                event = "listener_reopened",
                "a worker has shut down a listening socket for all (shutdown(2)); it listens again"
            );
            self.told = Some(now);
        }
        true
    }
}
