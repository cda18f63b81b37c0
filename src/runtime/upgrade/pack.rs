//! A master written out: what it holds, with the numbers of its descriptors.

use std::{convert::Infallible, sync::Arc};

use super::{
    Hold, Packing,
    freeze::Still,
    state::{self, AdminState, GuardState, Header, LinkState, LogState, State, StreamState},
};
use crate::{
    admin::UpgradeView,
    logs::Held,
    runtime::{
        link::{Frozen, Order, ToWorker},
        master::Master,
        shim_file::ShimFile,
    },
};
use rcluster_core::ipc::{Channel, LineDecoder, Outgoing};
use rcluster_sys::handover;

/// A variable that makes debug builds misbehave on purpose, for tests.
const TEST: &str = "RCLUSTER_TEST_UPGRADE";

/// Whether a test asks a debug build to do something wrong.
pub(super) fn is_asked_to(what: &str) -> bool {
    cfg!(debug_assertions) && std::env::var_os(TEST).is_some_and(|value| value == what)
}

/// Writes as another version would: with fields of which this one knows nothing.
#[cfg(debug_assertions)]
pub(super) fn pretend(state: &State) -> Result<Option<Vec<u8>>, serde_json::Error> {
    let by = match std::env::var(TEST).as_deref() {
        Ok("newer") => 1,
        Ok("much-newer") => 2,
        Ok(_) | Err(_) => return Ok(None),
    };
    let mut value = serde_json::to_value(state)?;
    for path in [
        "",
        "/config",
        "/config/launch",
        "/supervisor",
        "/supervisor/policy",
        "/links/0",
        "/listeners/keys/0",
        "/header",
    ] {
        if let Some(object) = value.pointer_mut(path).and_then(|v| v.as_object_mut()) {
            let news = serde_json::json!({"a": [1, {"b": null}]});
            object.insert("of_a_later_version".to_owned(), news);
        }
    }
    value["header"]["version"] = (state::VERSION + by).into();
    value["header"]["readable_from"] = (state::VERSION + by - 1).into();
    serde_json::to_vec(&value).map(Some)
}

fn message(message: &ToWorker, packing: &mut Packing) -> Outgoing<super::Fd> {
    let Ok(packed) = message.map(|handle| Ok::<_, Infallible>(packing.carry(handle)));
    packed
}

fn link(frozen: &mut Frozen, packing: &mut Packing) -> LinkState {
    let mut orders: Vec<ToWorker> = vec![];
    // Into the queue of the task itself they may not fit.
    while let Ok(order) = frozen.orders.try_recv() {
        match order {
            Order::Send(message) => orders.push(message),
            Order::Finish => frozen.task.ended = true,
            Order::Withdraw(_) | Order::Freeze(_) => {}
        }
    }
    let task = &frozen.task;
    let Ok(channel) = task
        .channel
        .map(|handle: &Arc<_>| Ok::<_, Infallible>(packing.carry(handle)));
    let mut state = LinkState {
        id: task.id,
        stream: packing.carry(&task.stream),
        has_shim: false,
        has_queues: false,
        has_stack: false,
        decoder: task.decoder.clone(),
        channel,
        writing: task
            .writing
            .as_ref()
            .map(|(m, written)| (message(m, packing), *written)),
        resend: task.resend.as_ref().map(|m| message(m, packing)),
        orders: (task.again.iter().chain(&orders))
            .map(|m| message(m, packing))
            .collect(),
        malformed: task.malformed.1,
        complained: task.complained,
        closed: task.closed,
    };
    // Should the exec fail, it goes on with them.
    frozen.task.again.extend(orders);
    if is_asked_to("forget-buffers") {
        state.decoder = LineDecoder::default();
        state.channel = Channel::default();
        (state.writing, state.resend, state.orders) = (None, None, vec![]);
    }
    state
}

fn stream(held: &Held, packing: &mut Packing) -> StreamState {
    StreamState {
        pipe: packing.carry(&held.pipe),
        begun: held.begun.clone(),
    }
}

/// Everything, while the links stand still.
pub(super) fn pack(
    master: &Master,
    hold: &Hold,
    program: std::path::PathBuf,
    upgrade: UpgradeView,
    still: &mut Still,
    streams: &[Held],
    packing: &mut Packing,
) -> State {
    let world = &master.world;
    let links = still.iter_mut().map(|(id, frozen)| {
        let of = world.links.get(id);
        let mut state = link(frozen, packing);
        state.has_shim = of.is_some_and(|link| link.has_shim);
        state.has_queues = of.is_some_and(|link| link.has_queues);
        state.has_stack = of.is_some_and(|link| link.has_stack);
        state
    });
    let links = links.collect();
    let then = handover::monotonic().as_micros();
    let listeners = world.listeners.pack(packing);
    let hands = world.hands.pack(packing);
    let has_queues = world.hands.has_queues();
    let balance = has_queues || listeners.has_seats() || world.hands.held() > 0;
    // What a program of before version 2 would lose without a word.
    let news = [
        (balance, "--balance"),
        (world.logs.is_some(), "--log-prefix and --log-file"),
        (hold.admin.is_some(), "--admin"),
    ];
    let news: Vec<_> = news.iter().filter(|n| n.0).map(|n| n.1).collect();
    let readable_from = if has_queues {
        state::QUEUES_FROM
    } else if news.is_empty() {
        state::READABLE_FROM
    } else {
        state::RICH_FROM
    };
    State {
        header: Header::new(readable_from),
        clock: (master.clock.now(), u64::try_from(then).unwrap_or(u64::MAX)),
        supervisor: master.supervisor.clone(),
        config: world.config.clone(),
        reread: world.reread.clone(),
        releases: world
            .releases
            .iter()
            .map(|(g, release)| (*g, release.clone()))
            .collect(),
        pids: world.pids.iter().map(|(pid, id)| (*pid, *id)).collect(),
        links,
        listeners,
        hands,
        withheld: world
            .withheld
            .iter()
            .map(|(id, queries)| (*id, queries.clone()))
            .collect(),
        endings: world.endings.parts(),
        refused: world.refused.iter().cloned().collect(),
        oom: world.oom.clone(),
        probes: world.probes,
        next_ticket: world.waiters.last_ticket(),
        shim: world.shim.as_ref().map(ShimFile::state),
        guard: world.guard.as_ref().map(|guard| GuardState {
            pid: guard.pid(),
            pipe: packing.carry(&guard.pipe()),
        }),
        guarding: world.guarding.clone(),
        control: (
            packing.carry(&hold.socket),
            packing.carry(&hold.lock.file()),
        ),
        control_inode: hold.socket_file.inode(),
        pidfile: hold.pidfile.is_some(),
        admin: hold.admin.as_ref().map(|(listener, token)| AdminState {
            listener: packing.carry(listener),
            token: token.clone(),
        }),
        figures: world.figures.state(),
        bus: Some(world.bus.state()),
        logs: world.logs.as_ref().map(|logs| LogState {
            kept: logs.kept(),
            streams: streams.iter().map(|s| stream(s, packing)).collect(),
        }),
        program,
        upgrade,
        news,
    }
}
