//! The end of a worker comes in two parts, in any order: its channel's end, and its exit. Its last words stand in the
//! channel, so an exit waits until its link has read them; the link is asked to, and waits for nobody. An end of file
//! waits a moment for the exit, because a worker that closes its channel and lives is another matter.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use rcluster_core::supervisor::{Event, Exit, Fact, WorkerId};

/// How long an end of file waits for the exit.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct Ending {
    closed: bool,
    exit: Option<Exit>,
    /// When an end of file has waited long enough. `None`: an exit waits, or the closed channel was told of.
    due: Option<Instant>,
}

/// Workers of which one part has come.
#[derive(Debug, Default)]
pub(super) struct Endings(BTreeMap<WorkerId, Ending>);

impl Endings {
    /// What has come of each, for a master that is replaced in place.
    pub(super) fn parts(&self) -> Vec<(WorkerId, bool, Option<Exit>)> {
        // A closed channel that was told of is not told of again.
        let open = self.0.iter();
        let open = open.filter(|(_, e)| e.due.is_some() || e.exit.is_some());
        open.map(|(id, e)| (*id, e.closed, e.exit)).collect()
    }

    /// The same in the next program; their patience begins anew. `told` have a closed channel.
    pub(super) fn resume(
        parts: Vec<(WorkerId, bool, Option<Exit>)>,
        told: impl Iterator<Item = WorkerId>,
    ) -> Self {
        let mut endings = Self::default();
        for id in told {
            endings.0.entry(id).or_default().closed = true;
        }
        for (id, closed, exit) in parts {
            let ending = endings.0.entry(id).or_default();
            (ending.closed, ending.exit) = (closed, exit);
            ending.due = exit.is_none().then(|| Instant::now() + PATIENCE);
        }
        endings
    }

    /// Those that were reaped, and whose channel is not read to its end.
    pub(super) fn unread(&self) -> impl Iterator<Item = WorkerId> {
        let unread = self.0.iter().filter(|(_, e)| e.exit.is_some() && !e.closed);
        unread.map(|(id, _)| *id)
    }

    /// The channel reached its end.
    pub(super) fn closed(&mut self, id: WorkerId) -> Option<Event> {
        let ending = self.0.entry(id).or_default();
        ending.closed = true;
        ending.due = Some(Instant::now() + PATIENCE);
        self.complete(id)
    }

    /// The process was reaped.
    pub(super) fn exited(&mut self, id: WorkerId, exit: Exit) -> Option<Event> {
        let ending = self.0.entry(id).or_default();
        (ending.exit, ending.due) = (Some(exit), None);
        self.complete(id)
    }

    /// Nothing more is waited for: the process never ran its program.
    pub(super) fn forget(&mut self, id: WorkerId) {
        self.0.remove(&id);
    }

    fn complete(&mut self, id: WorkerId) -> Option<Event> {
        let ending = self.0.get(&id)?;
        let exit = ending.exit.filter(|_| ending.closed)?;
        self.0.remove(&id);
        Some(Event::Exited { id, exit })
    }

    /// The master stood still: what is waited for may be there and not yet read.
    pub(super) fn delay(&mut self, by: Duration) {
        for due in self.0.values_mut().filter_map(|e| e.due.as_mut()) {
            *due += by;
        }
    }

    /// When the next one has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().filter_map(|e| e.due).min()
    }

    /// Those that have waited long enough. They are kept: an exit that comes later waits for nothing.
    pub(super) fn overdue(&mut self) -> Vec<Event> {
        let now = Instant::now();
        let overdue = self.0.iter_mut();
        let overdue = overdue.filter(|(_, e)| e.due.is_some_and(|due| due <= now));
        let overdue = overdue.map(|(id, ending)| {
            ending.due = None;
            let fact = Fact::ChannelClosed;
            Event::Worker { id: *id, fact }
        });
        overdue.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_long_after_the_end_of_the_channel_is_told_at_once() {
        let (id, exit) = (WorkerId(1), Exit::Code(0));
        let mut endings = Endings::default();
        assert_eq!(endings.closed(id), None);
        std::thread::sleep(PATIENCE);
        let closed = Event::Worker {
            id,
            fact: Fact::ChannelClosed,
        };
        assert_eq!(endings.overdue(), [closed]);
        assert_eq!((endings.due(), endings.overdue()), (None, vec![]));
        assert_eq!(endings.exited(id, exit), Some(Event::Exited { id, exit }));
        assert!(endings.parts().is_empty());
    }

    #[test]
    fn an_exit_waits_for_the_end_of_the_channel_and_for_no_clock() {
        let (id, exit) = (WorkerId(1), Exit::Code(0));
        let mut endings = Endings::default();
        assert_eq!(endings.exited(id, exit), None);
        assert_eq!((endings.due(), endings.overdue()), (None, vec![]));
        let mut endings = Endings::resume(endings.parts(), [].into_iter());
        assert_eq!(endings.unread().collect::<Vec<_>>(), [id]);
        assert_eq!(endings.closed(id), Some(Event::Exited { id, exit }));
        assert!(endings.parts().is_empty());
    }

    #[test]
    fn an_end_of_file_waits_although_the_master_stood_still() {
        let id = WorkerId(1);
        let mut endings = Endings::default();
        assert_eq!(endings.closed(id), None);
        std::thread::sleep(PATIENCE);
        endings.delay(std::time::Duration::from_hours(1));
        assert_eq!(endings.overdue(), []);
        assert!(endings.due().is_some());
    }

    #[test]
    fn a_closed_channel_that_was_told_of_is_known_to_the_next_program() {
        let (id, exit) = (WorkerId(1), Exit::Code(0));
        let mut endings = Endings::default();
        assert_eq!(endings.closed(id), None);
        std::thread::sleep(PATIENCE);
        assert_eq!(endings.overdue().len(), 1);
        let mut endings = Endings::resume(endings.parts(), [id].into_iter());
        assert_eq!(endings.due(), None);
        assert_eq!(endings.exited(id, exit), Some(Event::Exited { id, exit }));
    }
}
