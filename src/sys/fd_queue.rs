//! A queue of descriptors into another process: a connected pair of Unix stream sockets, of which this process keeps
//! both ends.
//!
//! The kernel never joins two messages that carry descriptors (`unix_stream_read_generic`), so each read takes exactly one
//! of them, whoever reads. That is why what the other process has not read can be taken back here, and no message is
//! ever seen by both.

use std::{
    io::{self, IoSlice, IoSliceMut, Read},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    task::{Context, Poll},
};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use tokio::io::{Interest, unix::AsyncFd};

/// A message: a number below 2^56, little-endian. Its last byte is free for an answer.
pub const MESSAGE: usize = 8;

#[cfg(target_os = "linux")]
const FLAGS: MsgFlags = MsgFlags::MSG_NOSIGNAL;
#[cfg(not(target_os = "linux"))]
const FLAGS: MsgFlags = MsgFlags::empty();

/// See the module.
#[derive(Debug)]
pub struct FdQueue {
    ours: AsyncFd<UnixStream>,
    theirs: Arc<OwnedFd>,
    /// The start of an answer that has not come as a whole.
    begun: Vec<u8>,
}

impl FdQueue {
    /// A new one. Both ends are close-on-exec and never block.
    ///
    /// # Errors
    /// The errno of `socketpair(2)` or `fcntl(2)`.
    pub fn new() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        Self::of(ours.into(), Arc::new(theirs.into()))
    }

    /// One that was made before.
    ///
    /// # Errors
    /// The errno of `epoll_ctl(2)` or `fcntl(2)`.
    pub fn of(ours: OwnedFd, theirs: Arc<OwnedFd>) -> io::Result<Self> {
        let ours = UnixStream::from(ours);
        ours.set_nonblocking(true)?;
        // SAFETY: the descriptor lives in the AsyncFd and nowhere else.
        #[expect(unsafe_code)]
        let ours = unsafe { AsyncFd::register_with_interest(ours, Interest::READABLE) }?;
        Ok(Self {
            ours,
            theirs,
            begun: vec![],
        })
    }

    /// The end that the other process reads.
    pub fn theirs(&self) -> &Arc<OwnedFd> {
        &self.theirs
    }

    /// This process' end.
    pub fn ours(&self) -> &impl AsRawFd {
        self.ours.get_ref()
    }

    /// Puts a number at the end, with a descriptor or without.
    ///
    /// # Errors
    /// `WouldBlock` when the queue is full; else the errno of `sendmsg(2)`.
    pub fn push(&self, number: u64, descriptor: Option<&OwnedFd>) -> io::Result<()> {
        let bytes = number.to_le_bytes();
        let fds = descriptor.map(AsRawFd::as_raw_fd);
        let rights = fds.as_ref().map(std::slice::from_ref);
        let rights = rights.map(ControlMessage::ScmRights);
        let ours = self.ours.get_ref().as_raw_fd();
        let message = [IoSlice::new(&bytes)];
        // A Unix socket takes so little as a whole or not at all.
        sendmsg::<UnixAddr>(ours, &message, rights.as_slice(), FLAGS, None)?;
        Ok(())
    }

    /// Takes out what the other process has not read: the numbers. It will never see them.
    pub fn take_back(&self) -> Vec<u64> {
        let mut numbers = vec![];
        let mut bytes = [0; MESSAGE];
        let mut space = nix::cmsg_space!([RawFd; 1]);
        loop {
            let mut buffer = [IoSliceMut::new(&mut bytes)];
            let received = recvmsg::<UnixAddr>(
                self.theirs.as_raw_fd(),
                &mut buffer,
                Some(&mut space),
                MsgFlags::empty(),
            );
            let Ok(message) = received else {
                return numbers;
            };
            let fds = message.cmsgs().into_iter().flatten().filter_map(|c| {
                let ControlMessageOwned::ScmRights(fds) = c else {
                    return None;
                };
                Some(fds)
            });
            let fds = fds.flatten();
            for fd in fds {
                // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
                #[expect(unsafe_code)]
                drop(unsafe { OwnedFd::from_raw_fd(fd) });
            }
            if message.bytes < MESSAGE {
                return numbers;
            }
            numbers.push(u64::from_le_bytes(bytes));
        }
    }

    /// Ready when the other process may have said something.
    pub fn poll_answers(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.ours.poll_read_ready(cx).map(|_| ())
    }

    /// What it has said: each number that it was sent, and its own last byte.
    pub fn answers(&mut self, mut each: impl FnMut(u64, u8)) {
        let mut buffer = [0; 64 * MESSAGE];
        let mut read = 0;
        let _ = self.ours.try_io(Interest::READABLE, |socket| {
            let mut socket: &UnixStream = socket;
            read = socket.read(&mut buffer)?;
            // Less than there is room for: that was all, and the next answer wakes us.
            let all = read < buffer.len();
            if all {
                Err(io::ErrorKind::WouldBlock.into())
            } else {
                Ok(())
            }
        });
        self.begun.extend_from_slice(&buffer[..read]);
        let whole = self.begun.len() / MESSAGE * MESSAGE;
        for message in self.begun[..whole].chunks_exact(MESSAGE) {
            let mut bytes = [0; MESSAGE];
            bytes.copy_from_slice(message);
            let said = std::mem::take(&mut bytes[MESSAGE - 1]);
            each(u64::from_le_bytes(bytes), said);
        }
        self.begun.drain(..whole);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Reads one message as the other process would; returns its number and how many descriptors came with it.
    fn read(queue: &FdQueue) -> Option<(u64, usize)> {
        use sendfd::RecvWithFd;
        let other = UnixStream::from(queue.theirs().try_clone().unwrap());
        let (mut bytes, mut fds) = ([0; 64], [-1; 4]);
        let (read, count) = other.recv_with_fd(&mut bytes, &mut fds).ok()?;
        assert_eq!(read, MESSAGE);
        for fd in &fds[..count] {
            nix::unistd::close(*fd).unwrap();
        }
        let number = bytes[..MESSAGE].try_into().unwrap();
        Some((u64::from_le_bytes(number), count))
    }

    fn heard(queue: &mut FdQueue) -> Vec<(u64, u8)> {
        let mut heard = vec![];
        queue.answers(|number, said| heard.push((number, said)));
        heard
    }

    #[tokio::test]
    async fn what_is_not_read_is_taken_back_and_nothing_is_seen_twice() {
        let queue = FdQueue::new().unwrap();
        let (socket, _other) = UnixStream::pair().unwrap();
        let socket = socket.into();
        for number in 1..=4 {
            queue.push(number, Some(&socket)).unwrap();
        }
        queue.push(0, None).unwrap();
        // A large buffer takes one all the same.
        assert_eq!(read(&queue), Some((1, 1)));
        assert_eq!(queue.take_back(), [2, 3, 4, 0]);
        assert_eq!(read(&queue), None);
        assert_eq!(queue.take_back(), [0; 0]);
    }

    #[tokio::test]
    async fn answers_come_whole_whatever_the_pieces() {
        let mut queue = FdQueue::new().unwrap();
        let mut other = UnixStream::from(queue.theirs().try_clone().unwrap());
        let said = |number: u64, said: u8| {
            let mut bytes = number.to_le_bytes();
            bytes[MESSAGE - 1] = said;
            bytes
        };
        let all = [said(7, 0), said(1 << 50, 1), said(0, 0)].concat();
        other.write_all(&all[..11]).unwrap();
        std::future::poll_fn(|cx| queue.poll_answers(cx)).await;
        assert_eq!(heard(&mut queue), [(7, 0)]);
        other.write_all(&all[11..]).unwrap();
        std::future::poll_fn(|cx| queue.poll_answers(cx)).await;
        assert_eq!(heard(&mut queue), [(1 << 50, 1), (0, 0)]);
        assert_eq!(heard(&mut queue), []);
    }

    #[tokio::test]
    async fn a_full_queue_says_so() {
        let queue = FdQueue::new().unwrap();
        let full = (1..1_000_000).find_map(|number| queue.push(number, None).err());
        assert_eq!(full.map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        assert!(queue.take_back().len() > 16);
    }
}
