//! What the master has in its hands, over its own upgrade.

use std::io;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Connection, Hands,
    queues::{QueueState, Queues},
};
use crate::runtime::{
    listeners::GroupId,
    upgrade::{Fd, Packing, Unpacking},
};
use rcluster_core::supervisor::WorkerId;

/// [`Hands`] written out.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::runtime) struct HandsState {
    given: Vec<(u64, WorkerId, GroupId, Fd)>,
    /// Those of them that went through a queue.
    #[serde(default)]
    queued: Vec<u64>,
    back: Vec<(GroupId, Fd)>,
    passed: u64,
    #[serde(default)]
    queues: Vec<QueueState>,
}

impl HandsState {
    /// Connections that no worker has taken yet.
    #[cfg(test)]
    pub(in crate::runtime) fn held(&self) -> usize {
        self.given.len() + self.back.len()
    }
}

impl Hands {
    /// Written out.
    pub(in crate::runtime) fn pack(&self, packing: &mut Packing) -> HandsState {
        let given = self.given.iter();
        let given = given.map(|(seq, (id, c))| (*seq, *id, c.group, packing.carry(&c.socket)));
        let given = given.collect();
        let back = self.back.iter();
        let queued = self.given.iter().filter(|(_, (_, c))| c.queued);
        HandsState {
            given,
            queued: queued.map(|(seq, _)| *seq).collect(),
            back: back.map(|c| (c.group, packing.carry(&c.socket))).collect(),
            passed: self.passed,
            queues: self.queues.pack(packing),
        }
    }

    /// Read back.
    ///
    /// # Errors
    /// `EBADF` for a connection that was not left open.
    pub(in crate::runtime) fn unpack(
        state: HandsState,
        unpacking: &mut Unpacking,
    ) -> io::Result<Self> {
        let mut hands = Self {
            passed: state.passed,
            queues: Queues::unpack(state.queues, unpacking)?,
            ..Self::default()
        };
        let connection = |group, socket| Connection {
            group,
            socket,
            since: Instant::now(),
            given: Instant::now(),
            refused: vec![],
            queued: false,
            turns: 0,
        };
        for (seq, id, group, fd) in state.given {
            let load = hands.loads.entry(id).or_default();
            load.given += 1;
            load.untaken += 1;
            let mut one = connection(group, unpacking.shared(fd)?);
            one.queued = state.queued.contains(&seq);
            hands.given.insert(seq, (id, one));
        }
        for (group, fd) in state.back {
            hands
                .back
                .push_back(connection(group, unpacking.shared(fd)?));
        }
        Ok(hands)
    }
}
