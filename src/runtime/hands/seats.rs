//! From which seats the master takes connections.

use std::task::Poll;

use super::{Hands, Tended};
use crate::runtime::listeners::GroupId;

impl Hands {
    /// Whether connections of an address came back: those behind them stay where they are.
    pub(super) fn waits(&self, group: GroupId) -> bool {
        self.back.iter().any(|connection| connection.group == group)
    }

    /// Seats from which more may be taken.
    pub(super) fn open_seats(&self) -> impl Iterator<Item = &Tended> {
        self.tended.iter().filter(|t| !self.waits(t.group))
    }

    /// Ends when a connection waits at such a seat; never, when there is none.
    pub(in crate::runtime) async fn arrival(&self) {
        std::future::poll_fn(|cx| {
            let ready = |t: &Tended| t.socket.poll_read_ready(cx).is_ready();
            if self.open_seats().map(ready).fold(false, |a, b| a | b) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}
