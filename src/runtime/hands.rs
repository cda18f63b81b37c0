//! Connections that pass through the master's hands: accepted from a seat whose worker cannot, or where the master
//! deals out (`--balance least-conn`), and given to a worker.
//!
//! The descriptor stays here until the worker has said that its server took it. A worker that dies or refuses before has
//! not touched it (`onconnection` in `lib/internal/cluster/child.js` answers before it reads), so another one gets it.
//!
//! With the shim connections go through a queue of their own (`queues.rs`), and from a worker that leaves them lie they are
//! taken back; without it, through the channel as those of Node's own primary.

mod carried;
mod load;
mod queues;
mod seats;
mod turns;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};
use tracing::{debug, warn};

pub(super) use self::carried::HandsState;
use self::{load::Load, queues::Queues};
use super::{effects::World, listeners::GroupId};
use rcluster_core::{ipc::outbound, supervisor::WorkerId};
use rcluster_sys::listener;

/// Connections that a worker may have been given and not yet taken: the next one, and a second, so that it need not wait for
/// us between two. Through its channel the second one is still in our hands.
const UNTAKEN: u32 = 2;
/// A worker that has not taken a connection after so long, or not answered, shall not keep others waiting.
const SLOW: Duration = Duration::from_millis(10);
/// Accepted in one turn of the loop.
const TURN: usize = 64;
/// One that all workers refuse is closed after this.
const PATIENCE: Duration = Duration::from_secs(10);
/// A worker that has turned so often has read what it was given before, and said so: if we have not heard it, we never will.
const TURNS: u8 = 3;
/// Time without accepting when there are no descriptors left.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// A connection that no worker has taken yet.
#[derive(Debug)]
struct Connection {
    group: GroupId,
    socket: Arc<OwnedFd>,
    since: Instant,
    /// Since a worker was given it.
    given: Instant,
    /// Who would not have it.
    refused: Vec<WorkerId>,
    /// It was given through a queue.
    queued: bool,
    /// Turns of its worker's event loop that we have heard of since it was given.
    turns: u8,
}

/// A seat that nobody else accepts from.
#[derive(Debug)]
struct Tended {
    group: GroupId,
    seat: u32,
    socket: AsyncFd<OwnedFd>,
}

/// The master's hands.
#[derive(Debug, Default)]
pub(super) struct Hands {
    loads: HashMap<WorkerId, Load>,
    given: BTreeMap<u64, (WorkerId, Connection)>,
    queues: Queues,
    /// Those that came back.
    back: VecDeque<Connection>,
    tended: Vec<Tended>,
    /// The one whose turn it was.
    turn: usize,
    /// No accepting before that.
    pause: Option<Instant>,
    /// When those that came back are tried again, whatever happens.
    again: Option<Instant>,
    /// Connections that workers took from us.
    pub(super) passed: u64,
}

impl Hands {
    /// A worker says what it has.
    pub(super) fn report(&mut self, id: WorkerId, accepted: u64, open: u64) -> u64 {
        let load = self.loads.entry(id).or_default();
        let before = load.said.map_or(accepted, |_| load.accepted);
        load.report(accepted, open);
        accepted.saturating_sub(before)
    }

    /// How busy its event loop was, thousandths.
    pub(super) fn is_busy(&mut self, id: WorkerId, busy: u32) {
        self.loads.entry(id).or_default().busy = busy;
    }

    /// A connection of another kind (a health check) was given to it: its counts will have it.
    pub(super) fn also(&mut self, id: WorkerId) {
        self.loads.entry(id).or_default().given += 1;
    }

    /// Connections that are open at a worker, and how busy it is in thousandths.
    pub(super) fn load(&self, id: WorkerId) -> (u64, u32) {
        self.loads.get(&id).map_or((0, 0), |l| (l.open(), l.busy))
    }

    /// Connections that are open at a worker, if it tells at once.
    pub(super) fn known(&self, id: WorkerId) -> Option<u64> {
        self.loads.get(&id).map(Load::open)
    }

    fn load_of(&self, id: WorkerId) -> Load {
        self.loads.get(&id).copied().unwrap_or_default()
    }

    /// Whether an answer of somebody is awaited.
    pub(super) fn is_waiting(&self) -> bool {
        let waits = |load: &Load| load.slow.is_none() && (load.untaken > 0 || load.asked.is_some());
        self.loads.values().any(waits)
    }

    /// Connections that no worker has taken yet.
    pub(super) fn held(&self) -> usize {
        self.given.len() + self.back.len()
    }

    /// Tends these seats from now on, and no others.
    pub(super) fn tend(&mut self, seats: Vec<(GroupId, u32, Arc<OwnedFd>)>) {
        let wanted = |t: &Tended| seats.iter().any(|(g, s, _)| (*g, *s) == (t.group, t.seat));
        self.tended.retain(wanted);
        for (group, seat, socket) in seats {
            let there = |t: &Tended| (t.group, t.seat) == (group, seat);
            if self.tended.iter().any(there) {
                continue;
            }
            match listener::watch(&socket) {
                Ok(socket) => self.tended.push(Tended {
                    group,
                    seat,
                    socket,
                }),
                Err(error) => {
                    warn!(seat, %error, event = "dispatch_watch_failed", "failed to watch a listening socket");
                }
            }
        }
    }

    /// Ends when a worker said something about what it was given.
    pub(super) async fn answer(&self) {
        std::future::poll_fn(|cx| self.queues.poll(cx)).await;
    }

    /// Something is known that a program of before would misread.
    pub(super) fn has_queues(&self) -> bool {
        !self.queues.is_empty()
    }

    /// When accepting goes on, or one that came back is tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.pause.into_iter().chain(self.again).min()
    }

    /// Ends a pause that is over. Those whom all workers refused may be taken by now (`server.maxConnections`).
    pub(super) fn go_on(&mut self, now: Instant) {
        self.pause = self.pause.filter(|at| *at > now);
        if self.again.is_some_and(|at| at > now) {
            return;
        }
        for connection in &mut self.back {
            connection.refused.clear();
        }
        self.again = (!self.back.is_empty()).then(|| now + EXHAUSTED);
    }

    /// It waits for somebody else, before all that came to us later.
    fn came_back(&mut self, connection: Connection) {
        let at = self.back.partition_point(|c| c.since <= connection.since);
        self.back.insert(at, connection);
    }

    /// A worker's event loop has turned once more. What it has had for long is its own: the answer was lost.
    fn turned(&mut self, id: WorkerId) {
        let mut lost = 0;
        self.given.retain(|_, (worker, connection)| {
            if *worker != id || !connection.queued {
                return true;
            }
            connection.turns += 1;
            lost += u32::from(connection.turns >= TURNS);
            connection.turns < TURNS
        });
        if let Some(load) = self.loads.get_mut(&id) {
            load.untaken = load.untaken.saturating_sub(lost);
        }
        self.passed += u64::from(lost);
    }

    /// After an upgrade: workers that are not among these have ended meanwhile.
    pub(super) fn keep_only(&mut self, living: &[WorkerId]) {
        let workers = self.given.values().map(|(worker, _)| *worker);
        let mut gone: Vec<_> = workers.filter(|id| !living.contains(id)).collect();
        gone.dedup();
        for id in gone {
            self.forget(id);
        }
    }

    /// A worker is gone: what it has not taken is somebody else's.
    fn forget(&mut self, id: WorkerId) {
        let (unread, _) = self.queues.take_back(id);
        self.queues.forget(id);
        self.loads.remove(&id);
        let gone = (self.given).extract_if(.., |_, (worker, _)| *worker == id);
        let gone: Vec<_> = gone
            .map(|(seq, (_, connection))| (seq, connection))
            .collect();
        for (seq, connection) in gone {
            // What it has read, its app may have seen: that ends with it. In a channel nothing is read unseen.
            if !connection.queued || unread.contains(&seq) {
                self.came_back(connection);
            }
        }
    }

    /// Closes all.
    pub(super) fn drop_all(&mut self) {
        *self = Self {
            passed: self.passed,
            ..Self::default()
        };
    }
}

impl World {
    /// Whether there is a worker for one more connection.
    pub(super) fn has_a_hand(&self) -> bool {
        let now = Instant::now();
        let paused = self.hands.pause.is_some_and(|until| until > now);
        !paused
            && self.hands.open_seats().next().is_some()
            && (self.balancer.fit.iter().chain(&self.balancer.draining))
                .any(|id| self.has_room(*id) || self.may_be_asked(*id))
    }

    /// Whether a worker can be given one more. Where the kernel gives to all, only one that is known to have time.
    fn has_room(&self, id: WorkerId) -> bool {
        let load = self.hands.load_of(id);
        if self.is_asked_first(id) {
            load.untaken == 0 && load.turned_lately()
        } else {
            load.slow.is_none() && load.untaken < UNTAKEN
        }
    }

    /// Connections wait at tended seats: takes them, one from each seat in turn, as far as somebody takes them from us.
    pub(super) fn welcome(&mut self) {
        let mut left = TURN;
        // Seats in a row from which nothing came.
        let mut dry = 0;
        let mut next: Option<(GroupId, Option<(WorkerId, String)>)> = None;
        let mut nobody = false;
        while left > 0 && dry < self.hands.tended.len() {
            self.hands.turn = (self.hands.turn + 1) % self.hands.tended.len();
            let Tended { group, socket, .. } = &self.hands.tended[self.hands.turn];
            let group = *group;
            if self.hands.waits(group) {
                dry += 1;
                continue;
            }
            let hand = match next.take() {
                Some((of, hand)) if of == group => hand,
                Some(_) | None => self.next_hand(group, &[]),
            };
            dry += 1;
            let Some((to, key)) = hand else {
                nobody |= !self.ask_all(group);
                next = Some((group, None));
                continue;
            };
            let accepted = socket.try_io(Interest::READABLE, |socket| {
                listener::accept(socket)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
            });
            match accepted {
                Ok(socket) => {
                    left -= 1;
                    dry = 0;
                    self.give(to, &key, Connection::new(group, socket));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    next = Some((group, Some((to, key))));
                }
                Err(error) => {
                    debug!(%error, event = "accept_failed", "failed to accept a connection");
                    self.hands.pause = Some(Instant::now() + EXHAUSTED);
                    return;
                }
            }
        }
        if nobody && left == TURN {
            // Whoever has a hand free serves another address: not at once again.
            self.hands.pause = Some(Instant::now() + SLOW);
        }
    }

    /// Who gets the next connection of a group: the one with the fewest open, by turns among equals.
    fn next_hand(&self, group: GroupId, not: &[WorkerId]) -> Option<(WorkerId, String)> {
        let takers = self.takers(group).into_iter();
        let fit = takers.filter(|(id, _, _)| !not.contains(id) && self.has_room(*id));
        let fit: Vec<_> = fit
            .map(|(id, _, key)| (self.hands.load_of(id), id, key))
            .collect();
        let least = fit.iter().map(|(load, _, _)| load.open()).min()?;
        // Where connections come and go all the time, the figures are only so good.
        let closing = fit.iter().map(|(load, _, _)| load.closing()).max()?;
        let near = least + least / 20 + closing / 50;
        fit.iter()
            .filter(|(load, _, _)| load.open() <= near)
            .min_by_key(|(load, id, _)| (load.untaken, load.given, *id))
            .map(|(_, id, key)| (*id, (*key).to_owned()))
    }

    /// A worker has not seen these, and will not.
    pub(super) fn withdrawn(&mut self, id: WorkerId, sockets: &[Arc<OwnedFd>]) {
        let theirs = |worker: &WorkerId, c: &Connection| {
            *worker == id && sockets.iter().any(|s| Arc::ptr_eq(s, &c.socket))
        };
        let gone = (self.hands.given).extract_if(.., |_, (worker, c)| theirs(worker, c));
        let gone: Vec<_> = gone.map(|(_, (_, connection))| connection).collect();
        if let Some(load) = self.hands.loads.get_mut(&id) {
            load.untaken = load.untaken.saturating_sub(gone.len() as u32);
            load.given = load.given.saturating_sub(gone.len() as u64);
        }
        for connection in gone {
            self.hands.came_back(connection);
        }
        self.give_back();
    }

    fn give(&mut self, to: WorkerId, key: &str, mut connection: Connection) {
        connection.given = Instant::now();
        connection.turns = 0;
        self.probes += 1;
        let seq = self.probes;
        connection.queued = self.put_into_queue(to, key, seq, &connection);
        if !connection.queued
            && let Some(link) = self.links.get(&to)
        {
            let socket = Arc::clone(&connection.socket);
            link.send_handle(outbound::new_connection(key, seq), socket);
        }
        let load = self.hands.loads.entry(to).or_default();
        load.given += 1;
        load.untaken += 1;
        self.hands.given.insert(seq, (to, connection));
        self.balancer.attend();
    }

    /// Puts a connection into the worker's own queue, if it has one.
    fn put_into_queue(&mut self, to: WorkerId, key: &str, seq: u64, what: &Connection) -> bool {
        let way = (to, what.group);
        if !self.queue_to(way, key) {
            return false;
        }
        let put = self.hands.queues.push(way, seq, &what.socket);
        if let Err(error) = &put {
            debug!(worker = %to, %error, event = "dispatch_failed", "failed to queue a connection");
        }
        put.is_ok()
    }

    /// Makes sure that there is a queue to a worker's server, if its shim knows how.
    fn queue_to(&mut self, way: (WorkerId, GroupId), key: &str) -> bool {
        let Some(link) = self.links.get(&way.0).filter(|link| link.has_queues) else {
            return false;
        };
        match self.hands.queues.open(way, key) {
            Ok(Some((theirs, unread))) => {
                link.send_handle(outbound::queue(key), theirs);
                for seq in unread {
                    let Some((_, connection)) = self.hands.given.remove(&seq) else {
                        continue;
                    };
                    if let Some(load) = self.hands.loads.get_mut(&way.0) {
                        load.untaken = load.untaken.saturating_sub(1);
                        load.given = load.given.saturating_sub(1);
                    }
                    self.hands.came_back(connection);
                }
            }
            Ok(None) => {}
            Err(error) => {
                debug!(worker = %way.0, %error, event = "dispatch_queue_failed", "failed to make a queue of connections");
                return false;
            }
        }
        true
    }

    /// A worker says in its channel whether it took a connection.
    pub(super) fn answered(&mut self, id: WorkerId, seq: u64, accepted: bool) {
        self.settle(id, seq, accepted);
        self.give_back();
    }

    fn settle(&mut self, id: WorkerId, seq: u64, accepted: bool) {
        // Not ours: a health check's.
        let Some((worker, mut connection)) = self.hands.given.remove(&seq) else {
            return;
        };
        if worker != id {
            // A worker answers for another: it broke the protocol, and changes nothing.
            self.hands.given.insert(seq, (worker, connection));
            return;
        }
        if let Some(load) = self.hands.loads.get_mut(&id) {
            load.untaken = load.untaken.saturating_sub(1);
            load.given -= u64::from(!accepted);
        }
        if accepted {
            self.hands.passed += 1;
        } else {
            connection.refused.push(id);
            self.hands.came_back(connection);
        }
    }

    /// What came back goes to somebody else.
    pub(super) fn give_back(&mut self) {
        for _ in 0..self.hands.back.len() {
            let Some(connection) = self.hands.back.pop_front() else {
                return;
            };
            match self.next_hand(connection.group, &connection.refused) {
                Some((to, key)) => self.give(to, &key, connection),
                None if self.is_unwanted(&connection) => {
                    warn!(
                        event = "connection_refused",
                        "no worker takes a connection: it is closed"
                    );
                }
                None => {
                    self.hands.back.push_back(connection);
                    let again = Instant::now() + EXHAUSTED;
                    self.hands.again.get_or_insert(again);
                }
            }
        }
    }

    /// Whether all who could take it have refused it, and that for long.
    fn is_unwanted(&self, connection: &Connection) -> bool {
        let mut takers = self.takers(connection.group).into_iter();
        connection.since.elapsed() > PATIENCE
            && takers.all(|(id, _, _)| connection.refused.contains(&id))
    }

    /// A worker is gone.
    pub(super) fn forget_hands(&mut self, id: WorkerId) {
        self.hear_queues();
        self.hands.forget(id);
        self.balancer.fit.retain(|fit| *fit != id);
        self.balancer.draining.retain(|draining| *draining != id);
        self.give_back();
    }
}

impl Connection {
    fn new(group: GroupId, socket: OwnedFd) -> Self {
        Self {
            group,
            socket: Arc::new(socket),
            since: Instant::now(),
            given: Instant::now(),
            refused: vec![],
            queued: false,
            turns: 0,
        }
    }
}
