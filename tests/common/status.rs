//! The answer of `GET /v1/status`, read strictly: a missing field fails the test.

use serde::Deserialize;

/// The whole answer.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: u32,
    pub(crate) name: String,
    pub(crate) pid: i32,
    pub(crate) state: String,
    pub(crate) generation: u64,
    pub(crate) workers: Vec<Worker>,
    pub(crate) listeners: Vec<Listener>,
}

/// One worker.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Worker {
    pub(crate) slot: u32,
    pub(crate) id: u64,
    /// `None` or 0 where the slot has no process at this moment.
    pub(crate) pid: Option<i32>,
    pub(crate) generation: u64,
    pub(crate) state: String,
    pub(crate) restarts: u64,
    pub(crate) uptime_ms: u64,
}

/// One listening socket.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Listener {
    pub(crate) address: String,
}

impl Worker {
    /// Does it take requests?
    pub(crate) fn is_ready(&self) -> bool {
        self.state == "ready"
    }

    /// Its process id.
    #[track_caller]
    pub(crate) fn process(&self) -> i32 {
        self.pid
            .filter(|pid| *pid > 0)
            .unwrap_or_else(|| panic!("no process: {self:?}"))
    }
}

impl Status {
    /// The ready workers, by slot.
    pub(crate) fn ready(&self) -> Vec<Worker> {
        let mut ready: Vec<_> = self
            .workers
            .iter()
            .filter(|worker| worker.is_ready())
            .cloned()
            .collect();
        ready.sort_by_key(|worker| worker.slot);
        ready
    }

    /// The ready worker of `slot`.
    pub(crate) fn in_slot(&self, slot: u32) -> Option<Worker> {
        self.ready().into_iter().find(|worker| worker.slot == slot)
    }

    /// The addresses of all listeners.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.listeners
            .iter()
            .map(|listener| listener.address.clone())
            .collect()
    }
}
