//! Watches over the listening sockets: whoever holds one can shut it down for
//! all (`shutdown(2)`), and then clients are refused. `listen(2)` repairs that.

use std::{
    collections::BTreeMap,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
};
use tracing::{error, warn};

use crate::sys::{hang_up, listener};

/// Least time between two repairs of one socket: a worker may shut it down in a loop.
const PAUSE: Duration = Duration::from_millis(10);
/// Least time between two words about it in the log.
const TELL: Duration = Duration::from_mins(1);

/// One task a socket. It sleeps until the kernel reports a hang-up: connections do not wake it.
#[derive(Debug)]
pub(super) struct Sentries {
    tasks: BTreeMap<RawFd, JoinHandle<()>>,
    backlog: i32,
    repaired: (UnboundedSender<RawFd>, UnboundedReceiver<RawFd>),
}

impl Sentries {
    pub(super) fn new(backlog: i32) -> Self {
        Self {
            tasks: BTreeMap::new(),
            backlog,
            repaired: unbounded_channel(),
        }
    }

    /// The next socket that listens again.
    pub(super) async fn repaired(&mut self) -> Option<RawFd> {
        self.repaired.1.recv().await
    }

    /// Watches over these sockets from now on, and over no others.
    pub(super) fn follow<'a>(&mut self, sockets: impl Iterator<Item = &'a Arc<OwnedFd>>) {
        // One socket may have several names.
        let now: BTreeMap<RawFd, _> = sockets.map(|socket| (socket.as_raw_fd(), socket)).collect();
        // A task holds its socket open, so a number that is still there is the same one's.
        if now.keys().eq(self.tasks.keys()) {
            return;
        }
        let mut before = std::mem::take(&mut self.tasks);
        for (fd, socket) in now {
            let task = before.remove(&fd);
            let task = task.unwrap_or_else(|| {
                let told = self.repaired.0.clone();
                tokio::spawn(guard(Arc::clone(socket), self.backlog, told))
            });
            self.tasks.insert(fd, task);
        }
        before.values().for_each(JoinHandle::abort);
    }
}

async fn guard(socket: Arc<OwnedFd>, backlog: i32, repaired: UnboundedSender<RawFd>) {
    let Ok(address) = listener::bound_to(&socket) else {
        return;
    };
    let mut told: Option<Instant> = None;
    loop {
        if hang_up::wait(&socket).await.is_err() {
            return;
        }
        if let Err(why) = listener::reopen(&socket, &address, backlog) {
            error!(
                error = %why,
                "a worker has shut down a listening socket for all (shutdown(2)), and it cannot be opened again: restart rcluster"
            );
            return;
        }
        // Fails only when the loop has ended.
        let _ = repaired.send(socket.as_raw_fd());
        if told.is_none_or(|at| at.elapsed() >= TELL) {
            warn!(
                "a worker has shut down a listening socket for all (shutdown(2)); it listens again"
            );
            told = Some(Instant::now());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
