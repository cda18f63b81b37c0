//! A bounded queue with a thread that writes: the only place that blocks.
//!
//! Whoever has lines waits for room, as at a plain pipe. If the thread gets
//! nothing written for [`PATIENCE`], nobody waits any more: whole lines are
//! dropped and counted, until it moves again.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, IoSlice},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::files::{Key, Target};

/// What a queue holds at most, bytes.
const LIMIT: usize = 1024 * 1024;
/// What the master's own lines may take beyond it.
const OWN_LIMIT: usize = 64 * 1024;
/// A target that takes nothing for so long is blocked.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// The end of the process waits at most so long for a reader that is slow.
const DRAIN: Duration = Duration::from_secs(5);
/// Most chunks and bytes in one system call. Few bytes: only a call that returns shows that a reader is alive.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 128 * 1024;

/// Rendered lines on their way.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) key: Key,
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

/// Lines that were dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) lines: u64,
    pub(super) why: String,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Chunk>,
    /// Bytes in the queue and in the thread's hands.
    bytes: usize,
    /// When it last moved, or last had nothing to do.
    moved: Option<Instant>,
    loss: Loss,
    reopen: bool,
    failed_reopens: Vec<String>,
    closing: bool,
    closed: bool,
}

impl State {
    fn stuck(&self) -> bool {
        self.bytes > 0 && self.moved.is_some_and(|at| at.elapsed() >= PATIENCE)
    }

    fn push(&mut self, chunk: Chunk) {
        if self.bytes == 0 {
            self.moved = Some(Instant::now());
        }
        self.bytes += chunk.bytes.len();
        self.queue.push_back(chunk);
    }

    fn lose(&mut self, lines: u64, why: &str) {
        self.loss.lines += lines;
        if self.loss.why != why {
            why.clone_into(&mut self.loss.why);
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// For the thread: there is something to do.
    work: Condvar,
    /// For those who wait: there is room, or the end.
    room: Notify,
    /// For the collector: something was lost, or could not be opened.
    news: Arc<Notify>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody panics with it in hand; if somebody did, the numbers are still good enough.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The near end of the queue.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    shared: Arc<Shared>,
    /// For people.
    pub(super) name: &'static str,
    /// Makes the line that says how many were lost, where no collector does.
    tells: Option<fn(u64) -> Vec<u8>>,
}

impl Sink {
    /// Starts the thread. `news` is told when [`Sink::loss`] or [`Sink::failed_reopens`] have something.
    pub(super) fn start(name: &'static str, target: Target, news: Arc<Notify>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            news,
            ..Shared::default()
        });
        let theirs = Arc::clone(&shared);
        thread::Builder::new()
            .name(format!("log-{name}"))
            .stack_size(256 * 1024)
            .spawn(move || write_all_of_it(&theirs, target))?;
        Ok(Self {
            shared,
            name,
            tells: None,
        })
    }

    /// The same for lines of the master's own alone; `notice` makes the line that says how many were lost.
    pub(super) fn telling(self, notice: fn(u64) -> Vec<u8>) -> Self {
        Self {
            tells: Some(notice),
            ..self
        }
    }

    /// Waits until all is written or it is stuck, at most [`DRAIN`]. Blocks; for the very end.
    pub(super) fn drain(&self) {
        let end = Instant::now() + DRAIN;
        loop {
            let mut state = self.shared.lock();
            self.tell_loss(&mut state);
            if state.bytes == 0 || state.stuck() || Instant::now() >= end {
                return;
            }
            drop(state);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// No more lines: the thread ends when it has written what there is. Does not wait.
    pub(super) fn end(&self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
    }

    /// Says how many lines were lost, once there is room.
    fn tell_loss(&self, state: &mut State) {
        if let Some(notice) = self.tells
            && state.loss.lines > 0
            && state.bytes + OWN_LIMIT <= LIMIT
        {
            let lost = std::mem::take(&mut state.loss).lines;
            state.push(Chunk {
                key: (0, super::render::Stream::Stdout),
                bytes: notice(lost),
                lines: 1,
            });
            self.shared.work.notify_one();
        }
    }

    /// Puts lines into the queue; waits while it is full and moves.
    pub(super) async fn put(&self, chunk: Chunk) {
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            // Before the look: a notice between the look and the wait is not missed.
            room.as_mut().enable();
            let left = {
                let mut state = self.shared.lock();
                if state.bytes == 0 || state.bytes + chunk.bytes.len() <= LIMIT {
                    state.push(chunk);
                    self.shared.work.notify_one();
                    return;
                }
                if state.stuck() {
                    state.lose(chunk.lines, "its reader takes nothing");
                    self.shared.news.notify_one();
                    return;
                }
                let since = state.moved.map_or(Duration::ZERO, |at| at.elapsed());
                PATIENCE.saturating_sub(since)
            };
            let _ = tokio::time::timeout(left, room).await;
        }
    }

    /// Puts a line of the master's own into the queue; never waits.
    pub(super) fn push_own(&self, line: &[u8]) {
        let mut state = self.shared.lock();
        self.tell_loss(&mut state);
        if state.bytes + line.len() <= LIMIT + OWN_LIMIT {
            state.push(Chunk {
                key: (0, super::render::Stream::Stdout),
                bytes: line.to_vec(),
                lines: 1,
            });
            self.shared.work.notify_one();
        } else {
            state.lose(1, "its reader takes nothing");
            self.shared.news.notify_one();
        }
    }

    /// What was lost since the last question.
    pub(super) fn loss(&self) -> Option<Loss> {
        let loss = std::mem::take(&mut self.shared.lock().loss);
        (loss.lines > 0).then_some(loss)
    }

    /// Whether nothing waits to be written.
    pub(super) fn is_empty(&self) -> bool {
        self.shared.lock().bytes == 0
    }

    /// Opens files anew, in turn with the lines.
    pub(super) fn reopen(&self) {
        self.shared.lock().reopen = true;
        self.shared.work.notify_one();
    }

    /// Files that could not be opened anew since the last question, and why.
    pub(super) fn failed_reopens(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().failed_reopens)
    }

    /// No more lines: waits until all are written, or until it is stuck, at most `limit`.
    pub(super) async fn close(&self, limit: Duration) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
        let end = Instant::now() + limit;
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let state = self.shared.lock();
                if state.closed || state.stuck() || Instant::now() >= end {
                    return;
                }
            }
            let _ = tokio::time::timeout(Duration::from_millis(50), room).await;
        }
    }
}

/// The thread.
fn write_all_of_it(shared: &Shared, mut target: Target) {
    // Places where a line was begun and could not be ended.
    let mut mid_line = BTreeSet::new();
    loop {
        let mut state = shared.lock();
        while state.queue.is_empty() && !state.reopen && !state.closing {
            state = shared
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if std::mem::take(&mut state.reopen) {
            drop(state);
            let failed = target.reopen();
            if !failed.is_empty() {
                let failed = failed
                    .iter()
                    .map(|(path, why)| format!("{}: {why}", path.display()));
                shared.lock().failed_reopens.extend(failed);
                shared.news.notify_one();
            }
            continue;
        }
        let batch = next_batch(&mut state.queue);
        if batch.is_empty() {
            state.closed = true;
            shared.room.notify_waiters();
            return;
        }
        drop(state);
        write_batch(shared, &mut target, &batch, &mut mid_line);
    }
}

/// Neighbours that go to the same place.
fn next_batch(queue: &mut VecDeque<Chunk>) -> Vec<Chunk> {
    let mut batch: Vec<Chunk> = vec![];
    let mut bytes = 0;
    while let Some(next) = queue.front() {
        let fits = batch.len() < BATCH && bytes + next.bytes.len() <= BATCH_BYTES;
        if batch
            .first()
            .is_some_and(|first| first.key != next.key || !fits)
        {
            break;
        }
        bytes += next.bytes.len();
        batch.extend(queue.pop_front());
    }
    batch
}

/// Writes a batch. On an error (a full disk, a reader that is gone) what is left of it
/// is lost and counted; a line that was begun gets its newline before the next one.
fn write_batch(
    shared: &Shared,
    target: &mut Target,
    batch: &[Chunk],
    mid_line: &mut BTreeSet<Key>,
) {
    let key = batch[0].key;
    let newline: &[u8] = if mid_line.contains(&key) { b"\n" } else { b"" };
    let mut slices: Vec<IoSlice<'_>> = std::iter::once(newline)
        .chain(batch.iter().map(|chunk| &chunk.bytes[..]))
        .filter(|bytes| !bytes.is_empty())
        .map(IoSlice::new)
        .collect();
    let mut left = &mut slices[..];
    let mut failure = None;
    let total: usize = batch.iter().map(|chunk| chunk.bytes.len()).sum();
    let mut released = 0;
    let mut wrote = false;
    while !left.is_empty() {
        match target.write(key, left) {
            Ok(0) => {
                failure = Some(io::Error::from(io::ErrorKind::WriteZero));
                break;
            }
            Ok(count) => {
                IoSlice::advance_slices(&mut left, count);
                wrote = true;
                mid_line.remove(&key);
                let freed = count.min(total - released);
                released += freed;
                let mut state = shared.lock();
                state.bytes -= freed;
                state.moved = Some(Instant::now());
                drop(state);
                shared.room.notify_waiters();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                target.wait(key);
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    let mut state = shared.lock();
    if let Some(error) = failure {
        let lost: u64 = left
            .iter()
            .map(|slice| memchr::memchr_iter(b'\n', slice).count() as u64)
            .sum();
        let unwritten: usize = left.iter().map(|slice| slice.len()).sum();
        if wrote && !at_line_start(batch, total - unwritten.min(total)) {
            mid_line.insert(key);
        }
        // The newline that was owed is no line.
        let owed = !wrote && !newline.is_empty();
        state.lose(lost - u64::from(owed), &error.to_string());
        shared.news.notify_one();
    }
    state.bytes -= total - released;
    state.moved = Some(Instant::now());
    drop(state);
    shared.room.notify_waiters();
}

/// Whether so many bytes of a batch end with a whole line.
fn at_line_start(batch: &[Chunk], mut bytes: usize) -> bool {
    for chunk in batch {
        if bytes == 0 {
            return true;
        }
        if bytes <= chunk.bytes.len() {
            return chunk.bytes[bytes - 1] == b'\n';
        }
        bytes -= chunk.bytes.len();
    }
    true
}
