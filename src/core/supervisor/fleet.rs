//! The workers by id: queries only, no decisions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::worker::{Generation, Slot, State, Worker, WorkerId};

/// All workers that were ordered and not yet reaped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub(super) struct Fleet {
    workers: BTreeMap<WorkerId, Worker>,
    /// Whom each slot has, oldest first: each step asks that of each slot.
    #[serde(skip)]
    slots: BTreeMap<Slot, Vec<WorkerId>>,
}

/// A [`Fleet`] written out.
#[derive(Deserialize)]
struct Stored {
    workers: BTreeMap<WorkerId, Worker>,
}

impl From<Stored> for Fleet {
    fn from(stored: Stored) -> Self {
        let mut fleet = Self::default();
        for worker in stored.workers.into_values() {
            fleet.insert(worker);
        }
        fleet
    }
}

impl Fleet {
    pub(super) fn insert(&mut self, worker: Worker) {
        self.settle(worker.id, worker.slot);
        self.workers.insert(worker.id, worker);
    }

    pub(super) fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        let worker = self.workers.remove(&id)?;
        self.unsettle(id, worker.slot);
        Some(worker)
    }

    /// Gives a worker another slot.
    pub(super) fn reseat(&mut self, id: WorkerId, slot: Slot) {
        if let Some(worker) = self.workers.get_mut(&id) {
            let before = std::mem::replace(&mut worker.slot, slot);
            self.unsettle(id, before);
            self.settle(id, slot);
        }
    }

    fn settle(&mut self, id: WorkerId, slot: Slot) {
        let ids = self.slots.entry(slot).or_default();
        let at = ids.partition_point(|other| *other < id);
        ids.insert(at, id);
    }

    fn unsettle(&mut self, id: WorkerId, slot: Slot) {
        if let Some(ids) = self.slots.get_mut(&slot) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.slots.remove(&slot);
            }
        }
    }

    pub(super) fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    /// Its slot is changed by [`reseat`](Self::reseat) only.
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

    /// Workers of this slot, whatever they do, oldest first.
    pub(super) fn of(&self, slot: Slot) -> impl Iterator<Item = &Worker> {
        let ids = self.slots.get(&slot).into_iter().flatten();
        ids.filter_map(|id| self.workers.get(id))
    }

    /// Workers that hold this slot's seat.
    pub(super) fn seated(&self, slot: Slot) -> impl Iterator<Item = &Worker> {
        self.of(slot).filter(|w| w.is_seated())
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
            .any(|w| !wanted(w.generation) && w.state <= State::Draining && w.accepts())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::action::Gate, super::time::Time, *};

    fn worker(id: u64, slot: u32) -> Worker {
        let (id, slot, boot) = (WorkerId(id), Slot(slot), Duration::ZERO);
        Worker::new(id, slot, Generation(1), Gate::Open, Time(0), boot)
    }

    fn of(fleet: &Fleet, slot: u32) -> Vec<u64> {
        fleet.of(Slot(slot)).map(|w| w.id.0).collect()
    }

    #[test]
    fn a_slot_tells_its_workers_oldest_first_whatever_came_first() {
        let mut fleet = Fleet::default();
        for (id, slot) in [(2, 0), (5, 1), (3, 0), (7, 0), (4, 1)] {
            fleet.insert(worker(id, slot));
        }
        assert_eq!((of(&fleet, 0), of(&fleet, 1)), (vec![2, 3, 7], vec![4, 5]));
        fleet.reseat(WorkerId(5), Slot(0));
        assert_eq!((of(&fleet, 0), of(&fleet, 1)), (vec![2, 3, 5, 7], vec![4]));
        assert!(fleet.remove(WorkerId(3)).is_some());
        assert!(fleet.remove(WorkerId(3)).is_none());
        assert_eq!(of(&fleet, 0), [2, 5, 7]);
        let text = serde_json::to_string(&fleet).expect("it can be written");
        let again: Fleet = serde_json::from_str(&text).expect("and read");
        assert_eq!(again, fleet);
    }
}
