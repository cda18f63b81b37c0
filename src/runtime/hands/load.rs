//! What is known of a worker's connections.

use std::time::Duration;

use tokio::time::Instant;

/// A worker to which connections come tells of them ten times a second.
const FRESH: Duration = Duration::from_millis(300);
/// What a worker said so lately is still true of most.
const LATELY: Duration = Duration::from_millis(2);

/// What is known of a worker's connections.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    /// What it said last: connections accepted since its start, and open.
    pub(super) accepted: u64,
    open: u64,
    pub(super) said: Option<Instant>,
    /// Connections that it closes, a second.
    closing: u64,
    /// Connections that it was given, and took or may take yet.
    pub(super) given: u64,
    pub(super) untaken: u32,
    /// How busy its event loop was, thousandths.
    pub(super) busy: u32,
    /// Since when it is asked whether it turns, and has not answered.
    pub(super) asked: Option<Instant>,
    /// When it said last that it turns.
    pub(super) turned: Option<Instant>,
    /// Since when it is known not to turn.
    pub(super) slow: Option<Instant>,
}

impl Load {
    /// Connections that are open now, as far as one can know.
    pub(super) fn open(&self) -> u64 {
        let since = self.said.map_or(0, |at| at.elapsed().as_millis() as u64);
        let closed = self.closing().saturating_mul(since) / 1000;
        // What it was given since it last said how many it has.
        let more = self.given.saturating_sub(self.accepted);
        (self.open.saturating_add(more))
            .saturating_sub(closed)
            .max(self.untaken.into())
    }

    /// Connections that it closes a second; one that says nothing any more closes none.
    pub(super) fn closing(&self) -> u64 {
        if self.is_fresh() { self.closing } else { 0 }
    }

    /// Whether it has said something a moment ago.
    pub(super) fn is_fresh(&self) -> bool {
        self.said.is_some_and(|at| at.elapsed() < FRESH)
    }

    /// Whether it has just said that its event loop turns.
    pub(super) fn turned_lately(&self) -> bool {
        self.turned.is_some_and(|at| at.elapsed() < LATELY)
    }

    pub(super) fn report(&mut self, accepted: u64, open: u64) {
        if let Some(at) = self.said {
            let elapsed = at.elapsed().as_millis() as u64;
            let came = accepted.saturating_sub(self.accepted);
            let closed = self.open.saturating_add(came).saturating_sub(open);
            let closed = closed.saturating_mul(1000);
            if let Some(closing) = closed.checked_div(elapsed) {
                self.closing = u64::midpoint(self.closing, closing);
            }
        }
        self.accepted = accepted;
        self.open = open;
        self.said = Some(Instant::now());
    }
}
