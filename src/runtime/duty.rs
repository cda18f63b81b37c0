//! A primary's duties towards its workers: what Node's own primary answers,
//! and which facts the supervisor learns from it.

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use tracing::{debug, info, warn};

use super::{
    effects::World,
    link::FromLink,
    listeners::{Asker, Grant, Granted},
};
use rcluster_core::{
    escape,
    ipc::bounds::{MAX_REFUSED, MAX_TEXT, MAX_WITHHELD},
    ipc::{Inbound, Query, ShimMessage, outbound},
    names::OWN_SOCKET,
    supervisor::{Beat, Event, Fact, Finding, Gate, Listened, State, Supervisor, Worker, WorkerId},
    thrown,
};
use rcluster_sys::listener::BindError;

/// Said with an error that has this usual cause.
const EARLY_ADDRESS: &str =
    " (server.address() is null until the `listening` event, as in every worker of Node's cluster)";

impl World {
    /// Takes what a link says; returns what the supervisor should know.
    pub(super) fn hear(
        &mut self,
        id: WorkerId,
        what: FromLink,
        supervisor: &Supervisor,
    ) -> Option<Event> {
        let fact = match what {
            FromLink::Closed => return self.endings.closed(id),
            FromLink::Misbehaves(reason) => Fact::Misbehaves(reason),
            FromLink::Withdrawn(handles) => {
                self.withdrawn(id, &handles);
                return None;
            }
            FromLink::Refused(handle) => {
                self.undeliverable(id, &handle);
                return None;
            }
            FromLink::Fact(fact) => {
                if matches!(fact, Fact::Examined(_)) {
                    // Native code was not interrupted, and the signal still waits: should it come to itself, nobody else
                    // shall find its inspector open.
                    self.send(id, outbound::close_inspector());
                }
                bounded(fact)
            }
            FromLink::AtPath { key, outcome } => self.at_path(&key, outcome, supervisor)?,
            FromLink::Taken(taken) => self.taken(id, &taken, supervisor)?,
            FromLink::Message(message) => {
                self.runs(id);
                self.message(id, message, supervisor)?
            }
        };
        Some(Event::Worker { id, fact })
    }

    /// Its program says something: so it runs.
    fn runs(&mut self, id: WorkerId) {
        self.starting.remove(&id);
    }

    fn message(&mut self, id: WorkerId, message: Inbound, supervisor: &Supervisor) -> Option<Fact> {
        match message {
            Inbound::Online => Some(Fact::Online),
            Inbound::Query(query) => {
                self.lacks_shim(id, supervisor);
                let worker = supervisor.worker(id)?;
                if worker.gate == Gate::Closed {
                    let withheld = self.withheld.entry(id).or_default();
                    if withheld.len() < MAX_WITHHELD {
                        withheld.push(query);
                        return Some(Fact::AtGate);
                    }
                    self.send_refusal(id, &query, libc::EMFILE);
                    self.complain(
                        id,
                        &query.key(),
                        format_args!(
                            "more than {MAX_WITHHELD} queries for listeners wait at the gate"
                        ),
                    );
                    return None;
                }
                self.query(worker, query)
            }
            Inbound::TooLong(seq) => {
                self.send(
                    id,
                    outbound::refusal(&seq, "", libc::ENAMETOOLONG, &serde_json::Value::Null),
                );
                if self.chatter.may(id) {
                    warn!(event = "query_too_long", worker = %id, "refused a query for a listener: its address or data is too long");
                }
                None
            }
            Inbound::Listening(told) => {
                let pid = self.pid_of(id);
                let listened = self.listeners.listening(id, pid, &told);
                if listened.is_none() {
                    debug!(worker = %id, event = "listening_unknown", "says that it listens where it was given nothing");
                }
                let fact = listened.map(Fact::Listening)?;
                self.port_owners.hold(id, fact)
            }
            Inbound::Close(key) => {
                let address = self.listeners.release(id, &key, supervisor);
                self.balancer.stale = true;
                address.map(Fact::Closed)
            }
            Inbound::ExitedAfterDisconnect(seq) => {
                self.send(id, outbound::ack(&seq));
                let seated = supervisor
                    .worker(id)
                    .is_some_and(|w| w.state <= State::Ready);
                seated.then_some(Fact::Leaving)
            }
            Inbound::Ready => Some(Fact::SaidReady),
            Inbound::Connection { seq, accepted } => {
                self.answered(id, seq, accepted);
                None
            }
            Inbound::Shim(message) => self.shim(id, message, supervisor),
            Inbound::HandleAck
            | Inbound::HandleNack
            | Inbound::Handle
            | Inbound::SocketCount(_)
            | Inbound::SocketsClosed(_)
            | Inbound::App
            | Inbound::Unknown => None,
        }
    }

    fn shim(
        &mut self,
        id: WorkerId,
        message: ShimMessage,
        supervisor: &Supervisor,
    ) -> Option<Fact> {
        match message {
            ShimMessage::Hello {
                node,
                queues,
                stack,
            } => {
                debug!(worker = %id, node, event = "shim_loaded", "the shim is loaded");
                if let Some(link) = self.links.get_mut(&id) {
                    link.has_shim = true;
                    link.has_queues = queues;
                    link.has_stack = stack;
                }
                Some(Fact::Hello)
            }
            ShimMessage::Beat {
                told,
                connections,
                heap_used,
                heap_limit,
                delay_us,
                delay_p50_us,
                delay_p99_us,
                busy,
            } => {
                self.told(id, &told, supervisor);
                self.told_load(id, told.accepted, connections);
                self.hands.is_busy(id, busy);
                Some(Fact::Beat(Beat {
                    requests: told.requests,
                    connections,
                    heap_used,
                    heap_limit,
                    delay_us,
                    delay_p50_us,
                    delay_p99_us,
                    busy,
                }))
            }
            ShimMessage::Load {
                accepted,
                connections,
            } => {
                self.told_load(id, accepted, connections);
                None
            }
            ShimMessage::Figures(told) => {
                self.told(id, &told, supervisor);
                None
            }
            ShimMessage::Draining { connections } => {
                if self.chatter.may(id) {
                    info!(worker = %id, connections, event = "worker_drain_began", "worker drains");
                }
                Some(Fact::Closed(OWN_SOCKET.to_owned()))
            }
            ShimMessage::Leaving {} => {
                self.listeners.leaves(id);
                None
            }
            ShimMessage::Left { connections } => Some(Fact::Left(connections)),
            ShimMessage::Drained {
                cut,
                silent,
                stopping,
            } => {
                if cut > 0 && self.chatter.may(id) {
                    warn!(
                        event = "connections_cut", worker = %id, cut,
                        "connections had to be cut at the drain timeout"
                    );
                }
                if silent > 0 && self.chatter.may(id) {
                    info!(
                        event = "silent_streams_closed", worker = %id, silent,
                        "closed silent event streams before the drain timeout"
                    );
                }
                Some(Fact::Drained { cut, stopping })
            }
            ShimMessage::Listening {} => Some(Fact::Listening(Listened {
                instead_of: self.listeners.instead_of(None),
                ..Listened::on(OWN_SOCKET)
            })),
            ShimMessage::Error {
                name,
                message,
                stack,
                handled,
            } => {
                let mut text = thrown::compose(&name, &message, &stack);
                escape::cut(&mut text, MAX_TEXT);
                if message.contains("null (reading 'port')") {
                    // In the first line: the master's last word has no other.
                    let end = text.find('\n').unwrap_or(text.len());
                    text.insert_str(end, EARLY_ADDRESS);
                }
                if handled {
                    if self.chatter.may(id) {
                        warn!(worker = %id, error = thrown::one_line(&text), event = "uncaught_error", "uncaught error; the app goes on");
                    }
                    return None;
                }
                Some(Fact::Failed(text))
            }
            ShimMessage::Stack { mut stack } => {
                escape::cut(&mut stack, MAX_TEXT);
                Some(Fact::Examined(Finding::Busy { stack }))
            }
            ShimMessage::Fault { message, stack } => {
                self.shim_failed(
                    id,
                    if stack.is_empty() { message } else { stack },
                    supervisor,
                );
                None
            }
            ShimMessage::Other => None,
        }
    }

    /// Whether the log has yet to tell of a fault of the shim: once a generation, whose workers run the same app.
    fn tells_of_shim(&mut self, id: WorkerId, supervisor: &Supervisor) -> bool {
        let generation = supervisor.worker(id).map(|worker| worker.generation);
        let first = generation > self.shim_fault;
        if first {
            self.shim_fault = generation;
        }
        first
    }

    fn shim_failed(&mut self, id: WorkerId, mut error: String, supervisor: &Supervisor) {
        if self.tells_of_shim(id, supervisor) {
            escape::cut(&mut error, MAX_TEXT);
            warn!(
                event = "shim_fault",
                worker = %id,
                error,
                "the shim failed in a worker: its drain may lose requests; later faults of this generation are not logged"
            );
        }
    }

    /// The shim says hello before the app's first line.
    fn lacks_shim(&mut self, id: WorkerId, supervisor: &Supervisor) {
        let lacks = self.shim.is_some() && self.links.get(&id).is_some_and(|link| !link.has_shim);
        if lacks && self.tells_of_shim(id, supervisor) {
            warn!(
                event = "shim_missing",
                worker = %id,
                "the app listens, but the shim was not loaded: no lossless drain, no hang detection; \
                 check that `--node` passes `--require` on, or use --no-shim"
            );
        }
    }

    fn send_refusal(&self, id: WorkerId, query: &Query, errno: i32) {
        let line = outbound::refusal(&query.seq, &query.key(), errno, &query.data);
        self.send(id, line);
    }

    /// Logs a refusal, once a worker and key: an app may ask in a loop, for ever new keys too. Of a key a number is kept.
    fn complain(&mut self, id: WorkerId, key: &str, error: fmt::Arguments<'_>) {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let digest = format!("{:016x}", hasher.finish());
        if self.refused.len() < MAX_REFUSED
            && self.refused.insert((id, digest))
            && self.chatter.may(id)
        {
            warn!(worker = %id, event = "listen_refused", "{error}");
        }
    }

    /// Closes the listeners that nobody holds or awaits.
    pub(super) fn sweep_listeners(&mut self, supervisor: &Supervisor) {
        let withheld = &self.withheld;
        let asked = |key: &str| withheld.values().flatten().any(|query| query.key() == key);
        let closed = self.listeners.sweep(supervisor, self.bus.now, asked);
        self.tell_closed(&closed);
    }

    fn tell_closed(&mut self, closed: &[String]) {
        if closed.is_empty() {
            return;
        }
        for address in closed {
            // A worker may open and close without end.
            debug!(
                event = "listener_closed",
                address, "listener closed: no worker listens on it"
            );
        }
        // Nothing else may hold the sockets: their addresses may be bound again at once.
        self.sentries.follow(self.listeners.streams());
        self.balancer.stale = true;
    }

    /// Answers a query with its socket, or with an error for the app.
    pub(super) fn answer(&mut self, worker: &Worker, query: &Query) -> Option<Fact> {
        let id = worker.id;
        let release = self.releases.get(&worker.generation);
        let asker = Asker {
            id,
            slot: worker.slot,
            generation: worker.generation,
            balance: release.map_or(self.config.launch.balance, |r| r.launch.balance),
        };
        let closed = self.listeners.make_way(query);
        self.tell_closed(&closed);
        match self.listeners.grant(asker, query) {
            Ok(granted) => {
                let Granted {
                    key,
                    what,
                    data,
                    udp,
                } = granted;
                self.balancer.stale = true;
                match what {
                    Grant::Socket(socket) => {
                        let line = outbound::listener(&query.seq, &key, &data, udp);
                        if let Some(link) = self.links.get(&id) {
                            link.send_handle(line, socket);
                        }
                    }
                    Grant::ByHand(local) => {
                        self.send(id, outbound::by_hand(&query.seq, &key, &data, local));
                    }
                }
                None
            }
            Err(error) => self.refuse_later(id, query, error),
        }
    }

    pub(super) fn refuse(
        &mut self,
        id: WorkerId,
        query: &Query,
        error: &BindError,
    ) -> Option<Fact> {
        // As libuv's `uv_pipe_bind2` tells the app of a missing folder.
        let errno = match error.errno {
            libc::ENOENT => libc::EACCES,
            other => other,
        };
        self.send_refusal(id, query, errno);
        self.complain(id, &query.key(), format_args!("{error}"));
        // The app may ask twice for one key; only a new bind can fail for good.
        (!self.listeners.has(&query.key())).then(|| Fact::BindFailed(error.to_string()))
    }
}

/// What the master found out by asking a worker's own servers is a worker's text, too.
fn bounded(mut fact: Fact) -> Fact {
    if let Fact::Examined(Finding::Busy { stack: text } | Finding::Unknown(text))
    | Fact::Probed(Err(text)) = &mut fact
    {
        escape::cut(text, MAX_TEXT);
    }
    fact
}
