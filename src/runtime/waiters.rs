//! Clients that wait for an answer which an event will bring.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::{overview::Bus, verdict::Verdict};
use crate::admin::{ReloadReply, StopReply};
use rcluster_core::supervisor::{Generation, ReloadOutcome, Supervisor, Ticket, Time};

/// Everybody who waits for the end of a reload or of the master.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    reloads: BTreeMap<Ticket, Waiter>,
    /// For the last worker of generations older than this one.
    drains: Vec<(Generation, Waiter)>,
    stops: Vec<oneshot::Sender<StopReply>>,
    last_ticket: u64,
}

/// Who waits for a reload, and until when.
#[derive(Debug)]
struct Waiter {
    /// Until old workers have ended, too.
    drained: bool,
    since: Time,
    reply: oneshot::Sender<ReloadReply>,
}

impl Waiter {
    /// Tells how the reload ended, and which old workers ended in the middle of their drain.
    fn answer(self, id: Option<String>, outcome: &ReloadOutcome, supervisor: &Supervisor) {
        let mut reply = ReloadReply::new(id, outcome);
        if let ReloadOutcome::Done { generation } = outcome {
            reply.warnings = supervisor.undrained(*generation, self.since);
        }
        // Fails where nobody waits any more.
        let _ = self.reply.send(reply);
    }
}

impl Waiters {
    /// Goes on counting after this ticket.
    pub(super) fn resume(last_ticket: u64) -> Self {
        Self {
            last_ticket,
            ..Self::default()
        }
    }

    /// The number of the last ticket.
    pub(super) fn last_ticket(&self) -> u64 {
        self.last_ticket
    }

    /// Somebody waits for a reload that is asked for now.
    pub(super) fn add_reload(
        &mut self,
        drained: bool,
        since: Time,
        reply: oneshot::Sender<ReloadReply>,
    ) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let waiter = Waiter {
            drained,
            since,
            reply,
        };
        self.reloads.insert(ticket, waiter);
        ticket
    }

    /// Somebody waits for the end of the master.
    pub(super) fn add_stop(&mut self, reply: oneshot::Sender<StopReply>) {
        self.stops.push(reply);
    }

    /// Whether somebody waits for a reload.
    pub(super) fn any_for_a_reload(&self) -> bool {
        let reloads = self.reloads.values().map(|waiter| &waiter.reply);
        let drains = self.drains.iter().map(|(_, waiter)| &waiter.reply);
        reloads.chain(drains).any(|reply| !reply.is_closed())
    }

    /// A reload ended.
    pub(super) fn reload_ended(
        &mut self,
        tickets: &[Ticket],
        id: Option<&String>,
        outcome: &ReloadOutcome,
        supervisor: &Supervisor,
    ) {
        for ticket in tickets {
            let Some(waiter) = self.reloads.remove(ticket) else {
                continue;
            };
            match outcome {
                ReloadOutcome::Done { generation } if waiter.drained => {
                    self.drains.push((*generation, waiter));
                }
                ReloadOutcome::Done { .. }
                | ReloadOutcome::Failed { .. }
                | ReloadOutcome::Superseded { .. } => {
                    waiter.answer(id.cloned(), outcome, supervisor);
                }
            }
        }
    }

    /// Answers those whose last old worker is gone.
    pub(super) fn answer_drained(&mut self, supervisor: &Supervisor, bus: &Bus) {
        let over =
            |(generation, _): &mut (Generation, Waiter)| !supervisor.has_older_than(*generation);
        for (generation, waiter) in self.drains.extract_if(.., over) {
            let id = Some(bus.reload_id(generation));
            waiter.answer(id, &ReloadOutcome::Done { generation }, supervisor);
        }
    }

    /// The master ends.
    pub(super) fn stopped(&mut self, verdict: &Verdict) {
        for reply in self.stops.drain(..) {
            // The answer is written by the connection's task.
            let _ = reply.send(verdict.into());
        }
    }
}
