//! The book: each request is entered once and closed once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::control::UnderWay;
use super::report::{Latency, Line, Phase, Report, Sample, Slot, micros};
use super::{Class, Control, Id};

const SAMPLES: usize = 20;
const MAX_FAILURES: usize = 1 << 20;
const SLOT: Duration = Duration::from_millis(100);
/// Bounds the timeline (a year of slots would not fit): later requests are entered in the last slot, of the 28th day.
const MAX_SLOTS: usize = 10 * 86_400 * 28;

/// A request that has no class yet. Consumed by [`Book::close`], so that it cannot get two; a ticket that is lost is found by [`Book::finish`].
#[must_use]
#[derive(Debug)]
pub(super) struct Ticket {
    id: Id,
    at: Instant,
    epoch: usize,
}

impl Ticket {
    pub(super) fn id(&self) -> Id {
        self.id
    }
}

/// Everything that is known about the requests of a load.
pub(super) struct Book {
    control: Control,
    start: Instant,
    last_answer: Instant,
    last_close: Instant,
    gap: (Duration, Instant),
    counts: [u64; Class::ALL.len()],
    /// Requests sent, by client.
    sent: Vec<u64>,
    first_client: u32,
    phases: Vec<Phase>,
    under_way: UnderWay,
    /// The phase of each epoch.
    epochs: Vec<usize>,
    timeline: Vec<Slot>,
    samples: Vec<Sample>,
    failures: Vec<(Id, Class)>,
    failures_dropped: u64,
    lines: HashMap<Id, Line>,
    duplicates: HashSet<Id>,
    pub(super) connections: u64,
    pub(super) dead_connections: u64,
    pub(super) idle_drops: u64,
}

impl Book {
    pub(super) fn new(control: Control, clients: u32, first_client: u32) -> Self {
        let start = Instant::now();
        Self {
            under_way: UnderWay::new(&control),
            control,
            start,
            last_answer: start,
            last_close: start,
            gap: (Duration::ZERO, start),
            counts: [0; Class::ALL.len()],
            sent: vec![0; clients as usize],
            first_client,
            phases: Vec::new(),
            epochs: Vec::new(),
            timeline: Vec::new(),
            samples: Vec::new(),
            failures: Vec::new(),
            failures_dropped: 0,
            lines: HashMap::new(),
            duplicates: HashSet::new(),
            connections: 0,
            dead_connections: 0,
            idle_drops: 0,
        }
    }

    /// A client (its place in the load, from 0) has decided to send its next request.
    pub(super) fn commit(&mut self, client: u32) -> Ticket {
        let sent = &mut self.sent[client as usize];
        *sent += 1;
        Ticket {
            id: Id::new(self.first_client + client, *sent),
            at: Instant::now(),
            epoch: self.under_way.begin(&self.control),
        }
    }

    /// An answer is complete; its class may follow later.
    pub(super) fn answered(&mut self, at: Instant) {
        let gap = at.duration_since(self.last_answer);
        if gap > self.gap.0 {
            self.gap = (gap, self.last_answer);
        }
        self.last_answer = at;
    }

    /// The class of a request that ended at `at`; `seen` describes a failure.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a ticket is used up: one class each"
    )]
    pub(super) fn close(
        &mut self,
        ticket: Ticket,
        class: Class,
        at: Instant,
        seen: impl FnOnce() -> String,
    ) {
        let Ticket {
            id,
            at: begin,
            epoch,
        } = ticket;
        self.counts[class.index()] += 1;
        self.last_close = self.last_close.max(Instant::now());
        let phase = self.phase_since(epoch);
        self.phases[phase].requests += 1;
        self.control.count_done();
        self.under_way.end(epoch);
        let slot = self.slot(at);
        if class.is_ok() {
            let latency = at.duration_since(begin);
            slot.ok += 1;
            slot.worst_us = slot.worst_us.max(micros(latency));
            slot.sum_us += micros(latency);
            self.phases[phase].latency.record(latency);
        } else {
            self.failed(id, class, at, phase, seen);
        }
    }

    /// The connection of a request that fails.
    pub(super) fn on_line(&mut self, id: Id, line: Option<Line>) {
        if let Some(line) = line.filter(|_| self.failures.len() < MAX_FAILURES) {
            self.lines.insert(id, line);
        }
    }

    /// A request that had been answered right turns out to have been answered twice. Told once or often: it counts once.
    pub(super) fn duplicate(&mut self, id: Id, seen: impl FnOnce() -> String) {
        if self.duplicates.insert(id) {
            self.counts[Class::Ok.index()] -= 1;
            self.counts[Class::Duplicate.index()] += 1;
            let now = Instant::now();
            let phase = self.phase_since(self.control.epoch());
            self.failed(id, Class::Duplicate, now, phase, seen);
        }
    }

    /// The server closed in order after the answer to this request, which is [`Class::Ok`] so far.
    pub(super) fn closed_in_order(&mut self, id: Id) {
        if !self.duplicates.contains(&id) {
            self.counts[Class::Ok.index()] -= 1;
            self.counts[Class::OkClose.index()] += 1;
        }
    }

    /// The report. Panics if a request has no class, or two: then the ledger is wrong, whatever the server did.
    pub(super) fn finish(mut self) -> Report {
        let sent: u64 = self.sent.iter().sum();
        let closed: u64 = self.counts.iter().sum();
        assert_eq!(sent, closed, "requests sent, and classes given");
        self.phase_since(self.control.epoch());
        let end = self.last_close;
        self.answered(end.max(self.last_answer));
        let mut latency = Latency::new();
        for phase in &self.phases {
            latency.add(&phase.latency);
        }
        let start = self.start.into_std();
        let marks = self.control.marks().clone();
        let classes: BTreeMap<_, _> = Class::ALL
            .into_iter()
            .map(|class| (class, self.counts[class.index()]))
            .filter(|(_, count)| *count > 0)
            .collect();
        let first = self.first_client;
        Report {
            classes,
            total: sent,
            elapsed_ms: millis(end.duration_since(self.start)),
            connections: self.connections,
            dead_connections: self.dead_connections,
            idle_drops: self.idle_drops,
            latency,
            phases: self.phases,
            longest_gap_us: micros(self.gap.0),
            longest_gap_at_ms: millis(self.gap.1.duration_since(self.start)),
            timeline: self.timeline,
            marks: marks
                .into_iter()
                .map(|(at, name)| (millis(at.saturating_duration_since(start)), name))
                .collect(),
            samples: self.samples,
            failures: self.failures,
            failures_dropped: self.failures_dropped,
            lines: self.lines,
            clients: (first..).zip(self.sent).collect(),
        }
    }

    fn failed(
        &mut self,
        id: Id,
        class: Class,
        at: Instant,
        phase: usize,
        seen: impl FnOnce() -> String,
    ) {
        if class.is_loss() {
            self.slot(at).lost += 1;
            self.phases[phase].lost += 1;
            *self.phases[phase].losses.entry(class).or_default() += 1;
            self.control.count_lost();
            if self.samples.len() < SAMPLES {
                let at_ms = millis(at.duration_since(self.start));
                self.samples.push(Sample {
                    id,
                    at_ms,
                    class,
                    seen: seen(),
                });
            }
        } else {
            self.slot(at).retryable += 1;
        }
        if self.failures.len() < MAX_FAILURES {
            self.failures.push((id, class));
        } else {
            self.failures_dropped += 1;
        }
    }

    fn slot(&mut self, at: Instant) -> &mut Slot {
        let index = (at.duration_since(self.start).as_millis() / SLOT.as_millis()) as usize;
        let index = index.min(MAX_SLOTS - 1);
        if self.timeline.len() <= index {
            self.timeline.resize(index + 1, Slot::default());
        }
        &mut self.timeline[index]
    }

    /// The phase of a request that began in this epoch and ends now.
    fn phase_since(&mut self, begin: usize) -> usize {
        let now = self.control.epoch();
        if self.epochs.len() <= now {
            let control = self.control.clone();
            for (_, name) in control.marks().iter().skip(self.epochs.len()) {
                let phase = self
                    .phases
                    .iter()
                    .position(|phase| phase.name == *name)
                    .unwrap_or_else(|| {
                        self.phases.push(Phase {
                            name: name.clone(),
                            requests: 0,
                            lost: 0,
                            losses: BTreeMap::new(),
                            latency: Latency::new(),
                        });
                        self.phases.len() - 1
                    });
                self.epochs.push(phase);
            }
        }
        self.epochs[begin..=now]
            .iter()
            .copied()
            .find(|phase| *phase != 0)
            .unwrap_or(0)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn book() -> (Book, Control) {
        let control = Control::new();
        (Book::new(control.clone(), 2, 0), control)
    }

    #[test]
    #[should_panic(expected = "requests sent, and classes given")]
    fn a_request_without_a_class_is_found() {
        let (mut book, _) = book();
        drop(book.commit(0));
        book.finish();
    }

    #[test]
    fn a_request_belongs_to_the_first_phase_that_is_not_quiet() {
        let (mut book, control) = book();
        let close =
            |book: &mut Book, ticket| book.close(ticket, Class::Ok, Instant::now(), String::new);
        let ticket = book.commit(0);
        close(&mut book, ticket);
        let across = book.commit(0);
        control.mark("reload");
        control.mark("quiet");
        close(&mut book, across);
        let quiet = book.commit(0);
        close(&mut book, quiet);
        control.mark("kill");
        let kill = book.commit(1);
        control.mark("reload");
        close(&mut book, kill);
        let report = book.finish();
        let requests = |name| report.phase(name).unwrap().requests;
        assert_eq!(
            (requests("quiet"), requests("reload"), requests("kill")),
            (2, 1, 1)
        );
        assert_eq!(report.marks.len(), 5);
        assert_eq!(report.latency.count(), 4);
    }

    #[test]
    fn a_duplicate_counts_once() {
        let (mut book, control) = book();
        let ticket = book.commit(1);
        let id = ticket.id();
        book.close(ticket, Class::Ok, Instant::now(), String::new);
        book.duplicate(id, || "twice".into());
        book.duplicate(id, || "thrice".into());
        book.closed_in_order(id);
        let report = book.finish();
        assert_eq!(report.classes, BTreeMap::from([(Class::Duplicate, 1)]));
        assert_eq!(
            (report.lost(), control.lost(), report.failures.len()),
            (1, 1, 1)
        );
    }

    proptest! {
        /// Whatever becomes of the requests, in whatever order: all counts agree.
        #[test]
        fn all_counts_agree(ends in proptest::collection::vec((0u32..2, 0usize..16, any::<bool>()), 0..200)) {
            let (mut book, control) = book();
            let mut open = Vec::new();
            let mut expected = [0u64; 16];
            for (client, class, later) in ends {
                let ticket = book.commit(client);
                expected[class] += 1;
                if later {
                    open.push((ticket, Class::ALL[class]));
                } else {
                    book.close(ticket, Class::ALL[class], Instant::now(), String::new);
                }
                if open.len() > 3 {
                    control.mark("reload");
                    let (ticket, class) = open.remove(0);
                    book.close(ticket, class, Instant::now(), String::new);
                }
            }
            for (ticket, class) in open {
                book.close(ticket, class, Instant::now(), String::new);
            }
            let report = book.finish();
            let all: u64 = expected.iter().sum();
            prop_assert_eq!(report.total, all);
            prop_assert_eq!(control.done(), all);
            for class in Class::ALL {
                prop_assert_eq!(report.count(class), expected[class.index()]);
            }
            prop_assert_eq!(report.phases.iter().map(|phase| phase.requests).sum::<u64>(), all);
            prop_assert_eq!(report.phases.iter().map(|phase| phase.lost).sum::<u64>(), report.lost());
            prop_assert_eq!(report.latency.count(), report.ok());
            prop_assert_eq!(report.failures.len() as u64, all - report.ok());
            prop_assert_eq!(report.timeline.iter().map(|slot| u64::from(slot.ok)).sum::<u64>(), report.ok());
            prop_assert_eq!(report.timeline.iter().map(|slot| u64::from(slot.lost)).sum::<u64>(), report.lost());
        }
    }
}
