//! The last lines of each slot, and those who follow.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::broadcast;

use super::{
    carried::Kept,
    render::{Origin, Style},
};

/// What is kept of a slot at least, bytes.
const RING: usize = 64 * 1024;
/// Pieces that a follower may be behind; then it is told what it missed.
const BEHIND: usize = 64;

/// What was read at one time.
#[derive(Debug)]
pub struct Entry {
    origin: Origin,
    bytes: Vec<u8>,
    cut: bool,
    order: u64,
}

#[derive(Debug, Default)]
struct Rings {
    slots: BTreeMap<u32, (usize, VecDeque<Arc<Entry>>)>,
    next: u64,
}

/// Keeps and spreads.
#[derive(Debug)]
pub(super) struct Hub {
    rings: Mutex<Rings>,
    live: broadcast::Sender<Arc<Entry>>,
}

/// What somebody wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Only this slot.
    pub slot: Option<u32>,
    /// The last lines of what is kept; `None`: all of it.
    pub lines: Option<usize>,
    /// And what comes.
    pub follow: bool,
    /// How.
    pub style: Style,
}

/// Lines, as they are wished for.
#[derive(Debug)]
pub struct Feed {
    wish: Wish,
    past: Option<Vec<Arc<Entry>>>,
    live: broadcast::Receiver<Arc<Entry>>,
}

impl Hub {
    pub(super) fn new() -> Self {
        Self {
            rings: Mutex::default(),
            live: broadcast::Sender::new(BEHIND),
        }
    }

    pub(super) fn add(&self, origin: Origin, bytes: &[u8], cut: bool) {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let order = rings.next;
        rings.next += 1;
        let entry = Arc::new(Entry {
            origin,
            bytes: bytes.to_vec(),
            cut,
            order,
        });
        let (size, ring) = rings.slots.entry(origin.slot).or_default();
        *size += bytes.len();
        ring.push_back(Arc::clone(&entry));
        // An entry goes when enough is left without it: at most twice as much is held.
        while ring
            .front()
            .is_some_and(|old| *size - old.bytes.len() >= RING)
        {
            *size -= ring.pop_front().map_or(0, |old| old.bytes.len());
        }
        drop(rings);
        // Nobody may be listening.
        let _ = self.live.send(entry);
    }

    /// All that is kept, oldest first.
    pub(super) fn kept(&self) -> Vec<Kept> {
        let feed = self.feed(Wish {
            slot: None,
            lines: None,
            follow: false,
            style: Style::Raw,
        });
        let entries = feed.past.into_iter().flatten();
        let kept = entries.map(|entry| Kept {
            origin: entry.origin,
            bytes: entry.bytes.clone(),
            cut: entry.cut,
        });
        kept.collect()
    }

    pub(super) fn feed(&self, wish: Wish) -> Feed {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.live.subscribe();
        let mut past: Vec<Arc<Entry>> = rings
            .slots
            .iter()
            .filter(|(slot, _)| wish.slot.is_none_or(|wanted| wanted == **slot))
            .flat_map(|(_, (_, ring))| ring.iter().cloned())
            .collect();
        past.sort_by_key(|entry| entry.order);
        Feed {
            wish,
            past: Some(past),
            live,
        }
    }
}

impl Feed {
    /// The next lines, rendered; `None` at the end: of what is kept, or of the master.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        let mut out = vec![];
        if let Some(past) = self.past.take() {
            for entry in &past {
                self.render(entry, &mut out);
            }
            if let Some(lines) = self.wish.lines {
                // The end of the last line is no start of another.
                let ends = memchr::memrchr_iter(b'\n', &out);
                if let Some(at) = ends.into_iter().nth(lines) {
                    out.drain(..=at);
                }
            }
            if !out.is_empty() {
                return Some(out);
            }
        }
        while self.wish.follow && out.is_empty() {
            match self.live.recv().await {
                Ok(entry) if self.wish.slot.is_none_or(|slot| slot == entry.origin.slot) => {
                    self.render(&entry, &mut out);
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(pieces)) => {
                    out = format!("rcluster: {pieces} pieces of the log were missed: they came faster than they were read\n").into();
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
        (!out.is_empty()).then_some(out)
    }

    fn render(&self, entry: &Entry, out: &mut Vec<u8>) {
        self.wish
            .style
            .render(entry.origin, &entry.bytes, entry.cut, out);
    }
}
