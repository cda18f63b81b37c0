//! What a slot's record must not forget, counted without its help.

use std::collections::BTreeMap;

use super::{
    super::{Action, Backoff, Event, Fact, Report, Slot, Supervisor, Time},
    invariants::{Verdict, ensure},
};

/// Deaths in each slot since a worker of it last served for a minute.
#[derive(Clone, Debug, Default)]
pub(super) struct Deaths(BTreeMap<Slot, Tally>);

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Of the app's own doing.
    own: u32,
    all: u32,
    last: Time,
}

impl Deaths {
    /// Counts the death that this step was told of, if its slot waits for a restart now: the
    /// death of one that is replaced anyway, or of a reload's, has other consequences.
    pub(super) fn note(
        &mut self,
        before: &Supervisor,
        now: Time,
        event: &Event,
        actions: &[Action],
    ) {
        let (id, exit) = if let Event::Exited { id, exit } = event {
            (*id, Some(*exit))
        } else if let Event::Worker {
            id,
            fact: Fact::ChannelClosed,
        } = event
        {
            // One that leaves by itself has its service counted here.
            (*id, None)
        } else {
            return;
        };
        let Some(worker) = before.worker(id) else {
            return;
        };
        let tally = self.0.entry(worker.slot).or_default();
        if worker.ready_for(now).is_some_and(|d| d >= Backoff::RESET) {
            *tally = Tally::default();
        }
        let counts = |a: &Action| {
            matches!(
                a,
                Action::Report(Report::Ended {
                    retry_ms: Some(_),
                    ..
                })
            )
        };
        if let Some(exit) = exit.filter(|_| actions.iter().any(counts)) {
            let outside =
                exit.is_kill() && worker.oom_kills.is_none() && worker.condemned.is_none();
            tally.own += u32::from(!outside);
            tally.all += 1;
            tally.last = now;
        }
    }

    /// The app's own deaths double the delay of a restart, whatever was served in between; and
    /// from the second death on there is one, whoever killed.
    pub(super) fn were_waited_for(&self, slot: Slot, now: Time) -> Verdict {
        let Some(tally) = self.0.get(&slot).filter(|t| t.all > 1) else {
            return Ok(());
        };
        let doublings = tally.own.saturating_sub(2).min(16);
        let full = (Backoff::BASE * 2u32.pow(doublings)).min(Backoff::CAP);
        // Jitter takes at most a quarter.
        let due = tally.last + full * 3 / 4;
        ensure(due <= now, || {
            format!("slot {slot} filled before {due}: {tally:?}")
        })
    }
}
