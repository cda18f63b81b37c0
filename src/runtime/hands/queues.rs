//! The queues of connections that lead to workers: one for each worker and address, made when it is first needed.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    sync::Arc,
    task::{Context, Poll},
};

use serde::{Deserialize, Serialize};

use crate::runtime::{
    listeners::GroupId,
    upgrade::{Fd, Packing, Unpacking},
};
use rcluster_core::supervisor::WorkerId;
use rcluster_sys::fd_queue::FdQueue;

/// The number that asks for nothing but an echo.
const PING: u64 = 0;
/// What a worker's shim answers (`queue.cjs`).
const TOOK: u8 = 0;

/// What a worker said in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Its event loop turns.
    Turns,
    /// It took the connection, or would not.
    Connection { seq: u64, took: bool },
}

#[derive(Debug)]
struct Queue {
    /// The worker's name for the address.
    key: String,
    fds: FdQueue,
    /// An echo is awaited.
    pinged: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Queues(BTreeMap<(WorkerId, GroupId), Queue>);

/// One [`Queue`] written out.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct QueueState {
    worker: WorkerId,
    group: GroupId,
    key: String,
    ours: Fd,
    theirs: Fd,
    pinged: bool,
}

impl Queues {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes sure that there is a queue to a worker's server; returns the worker's end if it is new, and what the worker had
    /// not read of the one for an earlier server of it.
    ///
    /// # Errors
    /// The errno of `socketpair(2)`.
    pub(super) fn open(
        &mut self,
        to: (WorkerId, GroupId),
        key: &str,
    ) -> io::Result<Option<(Arc<OwnedFd>, Vec<u64>)>> {
        if self.0.get(&to).is_some_and(|queue| queue.key == key) {
            return Ok(None);
        }
        let fds = FdQueue::new()?;
        let theirs = Arc::clone(fds.theirs());
        let key = key.to_owned();
        let pinged = false;
        let before = self.0.insert(to, Queue { key, fds, pinged });
        let mut unread = before.map_or_else(Vec::new, |queue| queue.fds.take_back());
        unread.retain(|seq| *seq != PING);
        Ok(Some((theirs, unread)))
    }

    /// Puts a connection at the end of a queue.
    ///
    /// # Errors
    /// The errno of `sendmsg(2)`.
    pub(super) fn push(
        &self,
        to: (WorkerId, GroupId),
        seq: u64,
        socket: &OwnedFd,
    ) -> io::Result<()> {
        let queue = self.0.get(&to).ok_or(io::ErrorKind::NotFound)?;
        queue.fds.push(seq, Some(socket))
    }

    /// Asks whether a worker turns; its [`Said::Turns`] is the answer. Returns whether it could be asked.
    pub(super) fn ping(&mut self, to: (WorkerId, GroupId)) -> bool {
        let Some(queue) = self.0.get_mut(&to) else {
            return false;
        };
        queue.pinged |= queue.fds.push(PING, None).is_ok();
        queue.pinged
    }

    /// Takes out all that a worker has not read; it shall say when it reads again. Returns their numbers, and whether
    /// it was asked.
    pub(super) fn take_back(&mut self, worker: WorkerId) -> (Vec<u64>, bool) {
        let mut taken = vec![];
        let mut asked = false;
        for ((_, _), queue) in self.of(worker) {
            let back = queue.fds.take_back();
            queue.pinged &= !back.contains(&PING);
            if !queue.pinged {
                queue.pinged = queue.fds.push(PING, None).is_ok();
            }
            asked |= queue.pinged;
            taken.extend(back.into_iter().filter(|seq| *seq != PING));
        }
        (taken, asked)
    }

    /// A worker is gone.
    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.0.retain(|(id, _), _| *id != worker);
    }

    /// Ready when somebody may have said something.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let ready = |queue: &Queue| queue.fds.poll_answers(cx).is_ready();
        // All are asked, so that each wakes us.
        if self.0.values().map(ready).fold(false, |a, b| a | b) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// What was said.
    pub(super) fn heard(&mut self) -> Vec<(WorkerId, Said)> {
        let mut heard = vec![];
        for ((worker, _), queue) in &mut self.0 {
            let pinged = &mut queue.pinged;
            queue.fds.answers(|seq, said| {
                if seq == PING {
                    *pinged = false;
                    heard.push((*worker, Said::Turns));
                } else {
                    let took = said == TOOK;
                    heard.push((*worker, Said::Connection { seq, took }));
                }
            });
        }
        heard
    }

    /// Written out.
    pub(super) fn pack(&self, packing: &mut Packing) -> Vec<QueueState> {
        let state = |((worker, group), queue): (&(WorkerId, GroupId), &Queue)| QueueState {
            worker: *worker,
            group: *group,
            key: queue.key.clone(),
            ours: packing.carry(queue.fds.ours()),
            theirs: packing.carry(queue.fds.theirs()),
            pinged: queue.pinged,
        };
        self.0.iter().map(state).collect()
    }

    /// Read back.
    ///
    /// # Errors
    /// `EBADF` for a descriptor that was not left open.
    pub(super) fn unpack(states: Vec<QueueState>, unpacking: &mut Unpacking) -> io::Result<Self> {
        let mut queues = Self::default();
        for state in states {
            // The worker's end may be on its way to it as well.
            let fds = FdQueue::of(unpacking.own(state.ours)?, unpacking.shared(state.theirs)?)?;
            let queue = Queue {
                key: state.key,
                fds,
                pinged: state.pinged,
            };
            queues.0.insert((state.worker, state.group), queue);
        }
        Ok(queues)
    }

    fn of(&mut self, worker: WorkerId) -> impl Iterator<Item = (&(WorkerId, GroupId), &mut Queue)> {
        let first = move |id: &(WorkerId, GroupId)| id.0 == worker;
        self.0.iter_mut().filter(move |(id, _)| first(id))
    }
}
