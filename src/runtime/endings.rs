//! The end of a worker comes in two parts, in any order: its channel's end of
//! file, and its exit. Its last words stand in the channel, so an exit waits
//! for the end of file; and an end of file waits a moment for the exit,
//! because a worker that closes its channel and lives is another matter.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::supervisor::{Event, Exit, Fact, WorkerId};

/// How long one part waits for the other.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long an exit waits for the end of the channel. It is there already, unless a process that the worker left behind
/// holds the channel; but a master that gets no processor may not have read what stands before it.
const LAST_WORDS: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Ending {
    closed: bool,
    exit: Option<Exit>,
    /// `None`: its closed channel was told of, and the exit may come at any time.
    due: Option<Instant>,
}

/// Workers of which one part has come.
#[derive(Debug, Default)]
pub(super) struct Endings(BTreeMap<WorkerId, Ending>);

impl Endings {
    /// What has come of each, for a master that is replaced in place.
    pub(super) fn parts(&self) -> Vec<(WorkerId, bool, Option<Exit>)> {
        // A closed channel that was told of is not told of again.
        let open = self.0.iter().filter(|(_, e)| e.due.is_some());
        open.map(|(id, e)| (*id, e.closed, e.exit)).collect()
    }

    /// The same in the next program; their patience begins anew.
    pub(super) fn resume(parts: Vec<(WorkerId, bool, Option<Exit>)>) -> Self {
        let mut endings = Self::default();
        for (id, closed, exit) in parts {
            let ending = endings.entry(id);
            (ending.closed, ending.exit) = (closed, exit);
        }
        endings
    }

    fn entry(&mut self, id: WorkerId) -> &mut Ending {
        self.0.entry(id).or_insert_with(|| Ending {
            closed: false,
            exit: None,
            due: Some(Instant::now() + PATIENCE),
        })
    }

    /// The channel reached its end.
    pub(super) fn closed(&mut self, id: WorkerId) -> Option<Event> {
        self.entry(id).closed = true;
        self.complete(id)
    }

    /// The process was reaped.
    pub(super) fn exited(&mut self, id: WorkerId, exit: Exit) -> Option<Event> {
        let ending = self.entry(id);
        ending.exit = Some(exit);
        if !ending.closed {
            ending.due = Some(Instant::now() + LAST_WORDS);
        }
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

    /// Those that have waited long enough.
    pub(super) fn overdue(&mut self) -> Vec<Event> {
        let now = Instant::now();
        let ids: Vec<_> = self
            .0
            .iter()
            .filter(|(_, e)| e.due.is_some_and(|due| due <= now))
            .map(|(id, _)| *id)
            .collect();
        ids.into_iter()
            .filter_map(|id| {
                let ending = self.0.get_mut(&id)?;
                ending.due = None;
                Some(match ending.exit {
                    Some(exit) => {
                        self.0.remove(&id);
                        Event::Exited { id, exit }
                    }
                    // It is kept: an exit that comes later waits for nothing.
                    None => Event::Worker {
                        id,
                        fact: Fact::ChannelClosed,
                    },
                })
            })
            .collect()
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
    fn last_words_are_waited_for_although_the_master_stood_still() {
        let (id, exit) = (WorkerId(1), Exit::Code(0));
        for stood_still in [true, false] {
            let mut endings = Endings::default();
            assert_eq!(endings.exited(id, exit), None);
            std::thread::sleep(LAST_WORDS);
            if stood_still {
                endings.delay(2 * LAST_WORDS);
                assert_eq!(endings.overdue(), []);
                assert_eq!(endings.closed(id), Some(Event::Exited { id, exit }));
            } else {
                assert_eq!(endings.overdue(), [Event::Exited { id, exit }]);
            }
            assert_eq!(endings.due(), None);
        }
    }
}
