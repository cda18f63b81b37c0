//! The workers by id: queries only, no decisions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::worker::{Generation, Slot, State, Worker, WorkerId};

/// All workers that were ordered and not yet reaped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fleet {
    workers: BTreeMap<WorkerId, Worker>,
}

impl Fleet {
    pub(super) fn insert(&mut self, worker: Worker) {
        self.workers.insert(worker.id, worker);
    }

    pub(super) fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        self.workers.remove(&id)
    }

    pub(super) fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    pub(super) fn worker_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.workers.get_mut(&id)
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    pub(super) fn ids(&self, mut wanted: impl FnMut(&Worker) -> bool) -> Vec<WorkerId> {
        self.iter().filter(|w| wanted(w)).map(|w| w.id).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.workers.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// Workers that hold this slot's seat.
    pub(super) fn seated(&self, slot: Slot) -> impl Iterator<Item = &Worker> {
        self.iter().filter(move |w| w.slot == slot && w.is_seated())
    }

    /// The sound worker of a generation that holds this slot's seat.
    pub(super) fn sound(&self, slot: Slot, generation: Generation) -> Option<&Worker> {
        self.seated(slot)
            .find(|w| w.generation == generation && w.is_sound())
    }

    pub(super) fn any_ready(&self) -> bool {
        self.iter().any(Worker::is_ready)
    }

    pub(super) fn any_seated(&self) -> bool {
        self.iter().any(Worker::is_seated)
    }

    /// Whether any worker of a generation that is not wanted may still accept a connection.
    pub(super) fn others_accept(&self, wanted: impl Fn(Generation) -> bool) -> bool {
        self.iter()
            .any(|w| !wanted(w.generation) && w.state <= State::Draining && !w.listening.is_empty())
    }
}
