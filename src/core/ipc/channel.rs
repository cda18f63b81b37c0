//! The order of messages to one worker: a handle blocks what is behind it
//! until the worker has taken it (`target._send` in `lib/internal/child_process.js`).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::bounds::MAX_QUEUED;
/// How often a refused handle is sent again (`MAX_HANDLE_RETRANSMISSIONS` in Node).
const MAX_RESENDS: u32 = 3;

/// A message to a worker, with or without a handle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing<H> {
    /// The line, newline included.
    #[serde(with = "super::text")]
    pub line: Vec<u8>,
    /// The handle that goes with it.
    pub handle: Option<H>,
}

/// More waits for the worker than it may: it does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("does not read its channel")]
pub struct Overflow;

/// The worker acknowledged a handle that was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("acknowledged a handle that was not sent")]
pub struct UnexpectedAck;

/// What becomes of a handle that the worker did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused<H> {
    /// It is to be written again.
    Again(Outgoing<H>),
    /// It was written often enough: the worker will not have it.
    ForGood(Outgoing<H>),
}

/// Messages to one worker. `H` is a handle; this type never looks into it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Channel<H> {
    queue: VecDeque<Outgoing<H>>,
    queued: usize,
    /// Sent with its handle, not yet acknowledged; the count of resends.
    in_flight: Option<(Outgoing<H>, u32)>,
}

impl<H> Outgoing<H> {
    /// The same with another kind of handle.
    ///
    /// # Errors
    /// What `with` says.
    pub fn map<T, E>(&self, with: impl FnOnce(&H) -> Result<T, E>) -> Result<Outgoing<T>, E> {
        Ok(Outgoing {
            line: self.line.clone(),
            handle: self.handle.as_ref().map(with).transpose()?,
        })
    }
}

impl<H> Channel<H> {
    /// The same with another kind of handle.
    ///
    /// # Errors
    /// What `with` says first.
    pub fn map<T, E>(&self, mut with: impl FnMut(&H) -> Result<T, E>) -> Result<Channel<T>, E> {
        let queue = self.queue.iter().map(|message| message.map(&mut with));
        let queue = queue.collect::<Result<_, E>>()?;
        let in_flight = self.in_flight.as_ref();
        let in_flight = in_flight.map(|(message, resends)| Ok((message.map(with)?, *resends)));
        Ok(Channel {
            queue,
            queued: self.queued,
            in_flight: in_flight.transpose()?,
        })
    }
}

impl<H> Default for Channel<H> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            queued: 0,
            in_flight: None,
        }
    }
}

impl<H: Clone> Channel<H> {
    /// Adds a message behind all others.
    pub fn push(&mut self, message: Outgoing<H>) -> Result<(), Overflow> {
        if self.queued + message.line.len() > MAX_QUEUED {
            return Err(Overflow);
        }
        self.queued += message.line.len();
        self.queue.push_back(message);
        Ok(())
    }

    /// Adds an acknowledgement: it overtakes what a handle in flight holds back,
    /// or two sides that send each other handles would wait for ever.
    pub fn push_ack(&mut self, line: Vec<u8>) -> Result<(), Overflow> {
        if self.queued + line.len() > MAX_QUEUED {
            return Err(Overflow);
        }
        self.queued += line.len();
        let acks = self.queue.iter().take_while(|m| is_ack(&m.line)).count();
        self.queue.insert(acks, Outgoing { line, handle: None });
        Ok(())
    }

    /// Takes back what has not been written yet.
    pub fn withdraw(&mut self, mut which: impl FnMut(&Outgoing<H>) -> bool) -> Vec<Outgoing<H>> {
        let (gone, kept): (Vec<_>, _) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition(|message| which(message));
        self.queue = VecDeque::from(kept);
        self.queued -= gone.iter().map(|message| message.line.len()).sum::<usize>();
        gone
    }

    /// Takes the next message that may be written now.
    pub fn pop(&mut self) -> Option<Outgoing<H>> {
        let head = self.queue.front()?;
        if self.in_flight.is_some() && !is_ack(&head.line) {
            return None;
        }
        let message = self.queue.pop_front()?;
        self.queued -= message.line.len();
        if message.handle.is_some() {
            self.in_flight = Some((message.clone(), 0));
        }
        Some(message)
    }

    /// The worker took the handle in flight.
    pub fn acknowledged(&mut self) -> Result<(), UnexpectedAck> {
        self.in_flight.take().map(|_| ()).ok_or(UnexpectedAck)
    }

    /// The worker did not take the handle in flight.
    ///
    /// # Errors
    /// [`UnexpectedAck`] when none is.
    pub fn refused(&mut self) -> Result<Refused<H>, UnexpectedAck> {
        let (message, resends) = self.in_flight.take().ok_or(UnexpectedAck)?;
        if resends >= MAX_RESENDS {
            return Ok(Refused::ForGood(message));
        }
        self.in_flight = Some((message.clone(), resends + 1));
        Ok(Refused::Again(message))
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

fn is_ack(line: &[u8]) -> bool {
    line.starts_with(br#"{"cmd":"NODE_HANDLE_ACK"}"#)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(text: &str) -> Outgoing<u32> {
        Outgoing {
            line: text.as_bytes().to_vec(),
            handle: None,
        }
    }

    fn with_handle(text: &str, handle: u32) -> Outgoing<u32> {
        Outgoing {
            handle: Some(handle),
            ..plain(text)
        }
    }

    #[test]
    fn nothing_but_an_ack_overtakes_a_handle_in_flight() {
        let mut channel = Channel::default();
        channel.push(with_handle("a", 1)).unwrap();
        channel.push(plain("b")).unwrap();
        assert_eq!(channel.pop(), Some(with_handle("a", 1)));
        assert_eq!(channel.pop(), None);
        let ack = super::super::outbound::handle_ack();
        channel.push_ack(ack.clone()).unwrap();
        assert_eq!(channel.pop().map(|m| m.line), Some(ack));
        assert_eq!(channel.pop(), None);
        channel.acknowledged().unwrap();
        assert_eq!(channel.pop(), Some(plain("b")));
        assert_eq!(channel.acknowledged(), Err(UnexpectedAck));
    }

    #[test]
    fn a_refused_handle_is_sent_three_times_more() {
        let mut channel = Channel::default();
        channel.push(with_handle("a", 1)).unwrap();
        channel.pop();
        for _ in 0..3 {
            let again = Refused::Again(with_handle("a", 1));
            assert_eq!(channel.refused(), Ok(again));
        }
        let never = Refused::ForGood(with_handle("a", 1));
        assert_eq!(channel.refused(), Ok(never));
        assert_eq!(channel.refused(), Err(UnexpectedAck));
    }

    #[test]
    fn the_queue_is_capped() {
        let mut channel = Channel::default();
        let half = "x".repeat(MAX_QUEUED / 2);
        channel.push(plain(&half)).unwrap();
        channel.push(plain(&half)).unwrap();
        assert_eq!(channel.push(plain("x")), Err(Overflow));
        channel.pop();
        assert_eq!(channel.push(plain("x")), Ok(()));
    }

    #[test]
    fn what_is_not_written_can_be_taken_back() {
        let mut channel = Channel::default();
        channel.push(with_handle("a", 1)).unwrap();
        channel.push(with_handle("b", 2)).unwrap();
        channel.push(plain("c")).unwrap();
        channel.pop();
        let gone = channel.withdraw(|m| m.handle.is_some());
        assert_eq!(gone, [with_handle("b", 2)]);
        assert_eq!(channel.withdraw(|m| m.handle.is_some()), []);
        channel.acknowledged().unwrap();
        assert_eq!(channel.pop(), Some(plain("c")));
        assert_eq!((channel.len(), channel.queued), (0, 0));
    }

    proptest! {
        /// Whatever the order of pushes and acks: messages leave in the order
        /// in which they came, and never two handles without an ack between.
        #[test]
        fn order_is_kept(script in proptest::collection::vec(0..4u8, 0..60)) {
            let mut channel = Channel::default();
            let (mut pushed, mut sent, mut flying) = (0u32, 0u32, false);
            for step in script {
                match step {
                    0 => { channel.push(plain(&pushed.to_string())).unwrap(); pushed += 1; }
                    1 => { channel.push(with_handle(&pushed.to_string(), pushed)).unwrap(); pushed += 1; }
                    2 => { prop_assert_eq!(channel.acknowledged().is_ok(), flying); flying = false; }
                    _ => while let Some(message) = channel.pop() {
                        prop_assert!(!flying);
                        prop_assert_eq!(&message.line, &sent.to_string().into_bytes());
                        flying = message.handle.is_some();
                        sent += 1;
                    }
                }
            }
        }
    }
}
