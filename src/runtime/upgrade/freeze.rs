//! Standing still: every link hands itself over, between two reads and two writes.

use std::collections::BTreeMap;

use tokio::sync::mpsc::Receiver;

use crate::runtime::{
    effects::World,
    link::{FromLink, Frozen},
};
use rcluster_core::supervisor::WorkerId;

/// Links that stand still.
pub(super) type Still = BTreeMap<WorkerId, Frozen>;

/// Freezes the links that are not frozen yet. Returns what they and others had
/// to say before: nobody may wait for room in the inbox meanwhile. Bounded: a
/// link waits for nothing but that room.
pub(super) async fn freeze(
    world: &World,
    inbox: &mut Receiver<(WorkerId, FromLink)>,
    still: &mut Still,
) -> Vec<(WorkerId, FromLink)> {
    let mut heard = vec![];
    still.retain(|id, _| world.links.contains_key(id));
    let moving = world.links.iter().filter(|(id, _)| !still.contains_key(id));
    let answers: Vec<_> = moving.map(|(id, link)| (*id, link.freeze())).collect();
    for (id, mut answer) in answers {
        loop {
            tokio::select! {
                frozen = &mut answer => {
                    if let Ok(frozen) = frozen {
                        still.insert(id, frozen);
                    }
                    break;
                }
                Some(message) = inbox.recv() => heard.push(message),
            }
        }
    }
    while let Ok(message) = inbox.try_recv() {
        heard.push(message);
    }
    heard
}

/// Lets all go on.
pub(super) fn thaw(still: Still) {
    for frozen in still.into_values() {
        frozen.thaw();
    }
}
