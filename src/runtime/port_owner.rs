//! Who has a port that a query asks for. A walk of `/proc` takes as long as the host has processes and descriptors, so a
//! thread does it. The query is answered afterwards: the supervisor hears who has the port before the worker ends.

use std::{collections::BTreeMap, sync::Arc, thread, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout_at},
};

use super::{effects::World, link::FromLink};
use rcluster_core::{
    ipc::{Query, bounds::MAX_WITHHELD},
    supervisor::{Fact, Supervisor, WorkerId},
};
use rcluster_sys::{listener::BindError, procfs};

/// How long an answer waits for a walk, from the beginning of the walk.
const LIMIT: Duration = Duration::from_secs(2);
/// How long what a walk found is used. So workers cannot make the master walk more often.
const FRESH: Duration = Duration::from_secs(1);

/// A walk of `/proc`, and what it found.
#[derive(Clone, Debug)]
struct Walk {
    since: Instant,
    owners: watch::Receiver<BTreeMap<u16, String>>,
}

impl Walk {
    /// Starts a thread. Where there can be none, nothing is found.
    fn start() -> Self {
        let (told, owners) = watch::channel(BTreeMap::new());
        let thread = thread::Builder::new().name("port-owners".to_owned());
        // It is not joined: a walk may not end.
        let _ = thread.spawn(move || told.send(procfs::port_owners()));
        Self {
            since: Instant::now(),
            owners,
        }
    }

    fn is_running(&self) -> bool {
        // An error if the thread has dropped its end.
        self.owners.has_changed().is_ok()
    }

    /// Adds the owner of the port to an error, if the walk finds it in time.
    async fn complete(mut self, error: BindError) -> BindError {
        let found = timeout_at(self.since + LIMIT, self.owners.changed()).await;
        if found.is_err() {
            return error;
        }
        error.with_owner(&self.owners.borrow())
    }
}

/// Adds the owner of the port to the error of a bind before the loop begins.
pub(super) async fn complete(error: BindError) -> BindError {
    match error.taken_port() {
        Some(_) => Walk::start().complete(error).await,
        None => error,
    }
}

/// The last walk. There is one at a time, for all ports and workers.
#[derive(Debug)]
pub(super) struct PortOwners {
    walk: Option<Walk>,
    /// A permit for each query that waits.
    waiting: Arc<Semaphore>,
    /// Workers that wait, how many of their queries do, and where they listen meanwhile: a worker must not count as
    /// complete before the supervisor knows that a bind has failed.
    held: BTreeMap<WorkerId, (usize, Vec<Fact>)>,
}

impl Default for PortOwners {
    fn default() -> Self {
        Self {
            walk: None,
            waiting: Arc::new(Semaphore::new(MAX_WITHHELD)),
            held: BTreeMap::new(),
        }
    }
}

impl PortOwners {
    fn walk(&mut self) -> Walk {
        let usable = |walk: &Walk| walk.is_running() || walk.since.elapsed() < FRESH;
        let last = self.walk.take().filter(usable);
        self.walk.insert(last.unwrap_or_else(Walk::start)).clone()
    }

    /// Keeps back where a worker listens while a query of its waits. At most as many as it may have listeners.
    pub(super) fn hold(&mut self, id: WorkerId, fact: Fact) -> Option<Fact> {
        match self.held.get_mut(&id) {
            Some((_, facts)) if facts.len() < MAX_WITHHELD => {
                facts.push(fact);
                None
            }
            Some(_) | None => Some(fact),
        }
    }

    /// What was kept back, once no query of the worker waits any more.
    fn release(&mut self, id: WorkerId) -> Vec<Fact> {
        let Some((queries, _)) = self.held.get_mut(&id) else {
            return vec![];
        };
        *queries -= 1;
        if *queries > 0 {
            return vec![];
        }
        self.held.remove(&id).map_or(vec![], |(_, facts)| facts)
    }

    /// A worker is gone.
    pub(super) fn forget(&mut self, id: WorkerId) {
        self.held.remove(&id);
    }

    /// Whether a thread walks, or a query waits.
    pub(super) fn is_busy(&self) -> bool {
        self.waiting.available_permits() < MAX_WITHHELD
            || self.walk.as_ref().is_some_and(Walk::is_running)
    }
}

/// A query for a taken port, when the search for its owner is over.
#[derive(Debug)]
pub(super) struct Taken {
    query: Query,
    error: BindError,
    _permit: OwnedSemaphorePermit,
}

impl World {
    /// Refuses a query; one for a taken port, when the search for its owner is over.
    pub(super) fn refuse_later(
        &mut self,
        id: WorkerId,
        query: &Query,
        error: BindError,
    ) -> Option<Fact> {
        let permit = error.taken_port().and_then(|_| {
            let waiting = Arc::clone(&self.port_owners.waiting);
            waiting.try_acquire_owned().ok()
        });
        let Some(permit) = permit else {
            return self.refuse(id, query, &error);
        };
        let walk = self.port_owners.walk();
        self.port_owners.held.entry(id).or_default().0 += 1;
        let (query, inbox) = (query.clone(), self.inbox.clone());
        tokio::spawn(async move {
            let taken = Taken {
                query,
                error: walk.complete(error).await,
                _permit: permit,
            };
            // Fails only when the loop has ended.
            let _ = inbox.send((id, FromLink::Taken(Box::new(taken)))).await;
        });
        None
    }

    /// The search for the owner of a port is over.
    pub(super) fn taken(
        &mut self,
        id: WorkerId,
        taken: &Taken,
        supervisor: &Supervisor,
    ) -> Option<Fact> {
        let held = self.port_owners.release(id);
        // The worker may be gone.
        supervisor.worker(id)?;
        if !held.is_empty() {
            let inbox = self.inbox.clone();
            tokio::spawn(async move {
                for fact in held {
                    // Fails only when the loop has ended.
                    let _ = inbox.send((id, FromLink::Fact(fact))).await;
                }
            });
        }
        self.refuse(id, &taken.query, &taken.error)
    }
}
