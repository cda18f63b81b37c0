//! One worker's socket: reads lines, writes messages and handles, keeps their
//! order. The only task that touches it; the loop sees messages.

use std::{
    cell::RefCell,
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::Interest,
    net::UnixStream,
    sync::{
        mpsc::{self, Sender, UnboundedReceiver, UnboundedSender},
        oneshot,
    },
};
use tracing::{debug, trace};

use super::port_owner::Taken;
use rcluster_core::{
    ipc::{Channel, Inbound, Line, LineDecoder, Outgoing, Refused, outbound},
    supervisor::{Fact, WorkerId},
};
use rcluster_sys::{
    fd_pass,
    listener::{BindError, Bound},
};

/// Bytes read at a time; then it is another task's turn.
const READ: usize = 64 * 1024;
/// Bytes read at most of what a worker that was reaped has left. Its socket holds less (`net.core.wmem_max`, socket(7)):
/// what comes after them a process writes that it has left behind.
const MAX_LEFT: usize = 4 * 1024 * 1024;
/// Malformed lines in a minute above which a worker is replaced.
const MAX_MALFORMED: u32 = 100;

thread_local! {
    /// One for all links: between two reads nothing stays in it.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// What a link tells the loop.
#[derive(Debug)]
pub(super) enum FromLink {
    /// A message that concerns the master.
    Message(Inbound),
    /// The worker breaks the protocol.
    Misbehaves(String),
    /// Handles that were given back: the worker has not seen them.
    Withdrawn(Vec<Arc<OwnedFd>>),
    /// A handle that the worker cannot take: it has no descriptor left, or will not.
    Refused(Arc<OwnedFd>),
    /// What the master has found out by itself.
    Fact(Fact),
    /// What came of the file of a path that it asked for: a socket, if it is a new one.
    AtPath {
        key: String,
        outcome: Result<Option<Bound>, BindError>,
    },
    /// Who has a port that it asked for is found, or not.
    Taken(Box<Taken>),
    /// End of file, or everything is read that a reaped worker has left.
    Closed,
}

type Receive = fn(&UnixStream, &mut [u8]) -> io::Result<(usize, usize)>;

/// A message to a worker.
pub(super) type ToWorker = Outgoing<Arc<OwnedFd>>;

/// What the loop wants of a link's task.
#[derive(Debug)]
pub(super) enum Order {
    /// That it sends a message.
    Send(ToWorker),
    /// That it gives these back, unless they are on their way.
    Withdraw(Vec<Arc<OwnedFd>>),
    /// That it reads what the worker, which was reaped, has left, and closes.
    Finish,
    /// That it stands still and hands everything over.
    Freeze(oneshot::Sender<Frozen>),
}

/// A link that stands still, between two lines of neither side.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) task: Box<Task>,
    /// What it was not told any more.
    pub(super) orders: UnboundedReceiver<Order>,
}

impl Frozen {
    /// Lets it go on as if nothing had been.
    pub(super) fn thaw(self) {
        tokio::spawn(self.task.run(self.orders));
    }
}

/// The loop's end of a link. Dropping it closes the channel.
#[derive(Debug)]
pub(super) struct Link {
    orders: UnboundedSender<Order>,
    /// The worker has said hello through the shim.
    pub(super) has_shim: bool,
    /// Its shim takes connections from a queue of their own.
    pub(super) has_queues: bool,
    /// Its shim tells where it hangs when it gets SIGUSR1.
    pub(super) has_stack: bool,
}

impl Link {
    /// Starts the task of a worker's socket.
    pub(super) fn open(
        id: WorkerId,
        stream: UnixStream,
        inbox: Sender<(WorkerId, FromLink)>,
    ) -> Self {
        Self::start(Task {
            id,
            stream,
            inbox,
            decoder: LineDecoder::default(),
            channel: Channel::default(),
            writing: None,
            resend: None,
            again: vec![],
            malformed: (Instant::now(), 0),
            complained: false,
            ended: false,
            closed: false,
        })
    }

    /// Lets a task go.
    pub(super) fn start(task: Task) -> Self {
        let (orders, receiver) = mpsc::unbounded_channel();
        tokio::spawn(Box::new(task).run(receiver));
        Self {
            orders,
            has_shim: false,
            has_queues: false,
            has_stack: false,
        }
    }

    /// Asks the task to stand still. What it is told from then on it hears when it goes on.
    pub(super) fn freeze(&self) -> oneshot::Receiver<Frozen> {
        let (frozen, answer) = oneshot::channel();
        let _ = self.orders.send(Order::Freeze(frozen));
        answer
    }

    /// Sends a message. To a worker that is gone it goes nowhere.
    pub(super) fn tell(&self, message: ToWorker) {
        let _ = self.orders.send(Order::Send(message));
    }

    /// Asks for handles back; answered by [`FromLink::Withdrawn`], for those that were not yet written.
    pub(super) fn withdraw(&self, handles: Vec<Arc<OwnedFd>>) {
        let _ = self.orders.send(Order::Withdraw(handles));
    }

    /// The worker was reaped: asks for what is left in its channel, up to [`FromLink::Closed`], which does not wait for
    /// other processes that hold the channel.
    pub(super) fn finish(&self) {
        let _ = self.orders.send(Order::Finish);
    }

    /// Sends a line. To a worker that is gone it goes nowhere.
    pub(super) fn send(&self, line: Vec<u8>) {
        self.tell(Outgoing { line, handle: None });
    }

    /// Sends a line with a descriptor.
    pub(super) fn send_handle(&self, line: Vec<u8>, handle: Arc<OwnedFd>) {
        let handle = Some(handle);
        self.tell(Outgoing { line, handle });
    }
}

/// All of a link; it has no other owner than its task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: WorkerId,
    pub(super) stream: UnixStream,
    pub(super) inbox: Sender<(WorkerId, FromLink)>,
    pub(super) decoder: LineDecoder,
    pub(super) channel: Channel<Arc<OwnedFd>>,
    /// The message on the wire and how much of it is written.
    pub(super) writing: Option<(ToWorker, usize)>,
    pub(super) resend: Option<ToWorker>,
    /// What it was told while it stood still.
    pub(super) again: Vec<ToWorker>,
    pub(super) malformed: (Instant, u32),
    pub(super) complained: bool,
    /// The worker was reaped.
    pub(super) ended: bool,
    /// Its end was read and told.
    pub(super) closed: bool,
}

impl Task {
    async fn run(mut self: Box<Self>, mut orders: UnboundedReceiver<Order>) {
        for message in std::mem::take(&mut self.again) {
            self.queue(message).await;
        }
        while !self.closed {
            if self.ended {
                self.read_rest().await;
                break;
            }
            if self.writing.is_none() {
                let next = self.resend.take().or_else(|| self.channel.pop());
                self.writing = next.map(|message| (message, 0));
            }
            let interest = match self.writing {
                Some(_) => Interest::READABLE | Interest::WRITABLE,
                None => Interest::READABLE,
            };
            tokio::select! {
                // What was read makes orders, and only what they put into the channel is bounded: they go first, or
                // a worker that asks and reads no answer fills memory with them.
                biased;
                order = orders.recv() => match order {
                    Some(Order::Send(message)) => self.queue(message).await,
                    Some(Order::Withdraw(handles)) => self.withdraw(&handles).await,
                    Some(Order::Finish) => self.ended = true,
                    Some(Order::Freeze(to)) => return self.hand_over(orders, to),
                    // The worker was reaped.
                    None => return,
                },
                ready = self.stream.ready(interest) => {
                    let Ok(ready) = ready else {
                        self.close().await;
                        continue;
                    };
                    if ready.is_writable() && self.write().is_err() {
                        // It no longer reads; what it still says is worth hearing.
                        self.writing = None;
                    }
                    if ready.is_readable() || ready.is_read_closed() {
                        match self.read(fd_pass::receive).await {
                            Ok(1..) => {}
                            Err(error) if is_passing(&error) => {}
                            Ok(0) | Err(_) => self.close().await,
                        }
                    }
                }
            }
        }
        // Orders to a closed channel go nowhere, until the worker is reaped.
        while let Some(order) = orders.recv().await {
            if let Order::Freeze(to) = order {
                return self.hand_over(orders, to);
            }
        }
    }

    fn hand_over(self: Box<Self>, orders: UnboundedReceiver<Order>, to: oneshot::Sender<Frozen>) {
        // Nobody waits any more only when the master ends.
        let _ = to.send(Frozen { task: self, orders });
    }

    async fn close(&mut self) {
        self.closed = true;
        self.tell(FromLink::Closed).await;
    }

    /// All that is in the socket now: the worker has written it, for it is reaped.
    async fn read_rest(&mut self) {
        let mut read = 0;
        while read < MAX_LEFT {
            match self.read(fd_pass::receive_now).await {
                Ok(bytes @ 1..) => read += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        self.close().await;
    }

    async fn tell(&self, what: FromLink) {
        // Fails only when the loop has ended.
        let _ = self.inbox.send((self.id, what)).await;
    }

    async fn complain(&mut self, reason: String) {
        if !std::mem::replace(&mut self.complained, true) {
            self.tell(FromLink::Misbehaves(reason)).await;
        }
    }

    async fn withdraw(&mut self, handles: &[Arc<OwnedFd>]) {
        let asked = |handle: &Arc<OwnedFd>| handles.iter().any(|h| Arc::ptr_eq(h, handle));
        let gone = (self.channel).withdraw(|m| m.handle.as_ref().is_some_and(asked));
        let gone: Vec<_> = gone.into_iter().filter_map(|m| m.handle).collect();
        if !gone.is_empty() {
            self.tell(FromLink::Withdrawn(gone)).await;
        }
    }

    async fn queue(&mut self, message: ToWorker) {
        trace!(worker = %self.id, line = %show(&message.line), handle = message.handle.is_some(), event = "message_sent", "to worker");
        if let Err(overflow) = self.channel.push(message) {
            self.complain(overflow.to_string()).await;
        }
    }

    async fn reply(&mut self, line: Vec<u8>) {
        self.queue(Outgoing { line, handle: None }).await;
    }

    /// Writes what the socket takes.
    fn write(&mut self) -> io::Result<()> {
        while let Some((message, written)) = &mut self.writing {
            let handle = message.handle.as_deref().filter(|_| *written == 0);
            match fd_pass::send(&self.stream, &message.line[*written..], handle) {
                Ok(n) => {
                    *written += n;
                    if *written < message.line.len() {
                        continue;
                    }
                    self.writing = self
                        .resend
                        .take()
                        .or_else(|| self.channel.pop())
                        .map(|m| (m, 0));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads one buffer and passes on what concerns the master. Returns the bytes read: 0 at the end of file.
    async fn read(&mut self, receive: Receive) -> io::Result<usize> {
        let mut messages = vec![];
        let mut malformed = 0;
        let (id, stream, decoder) = (self.id, &self.stream, &mut self.decoder);
        let received = BUFFER.with_borrow_mut(|buffer| {
            let (bytes, fds) = receive(stream, buffer)?;
            if fds > 0 {
                debug!(worker = %id, fds, event = "descriptors_closed", "closed descriptors that a worker sent");
            }
            decoder.feed(&buffer[..bytes], |line| match line {
                Line::Whole(line) => match Inbound::parse(line) {
                    // Most traffic, and none of our business.
                    Ok(Inbound::App) => {}
                    Ok(message) => {
                        trace!(worker = %id, line = %show(line), event = "message_received", "from worker");
                        messages.push(message);
                    }
                    Err(_) => malformed += 1,
                },
                Line::TooLong => debug!(worker = %id, event = "message_too_long", "dropped a line of more than 1 MiB"),
            });
            Ok::<_, io::Error>(bytes)
        });
        let bytes = received?;
        if malformed > 0 {
            self.count_malformed(malformed).await;
        }
        for message in messages {
            self.take(message).await;
        }
        if bytes == READ {
            // There may be more, without end: others first.
            tokio::task::yield_now().await;
        }
        Ok(bytes)
    }

    /// What is settled between the two ends stays here; the rest goes to the loop.
    async fn take(&mut self, message: Inbound) {
        let wrong = match message {
            Inbound::HandleAck => self.channel.acknowledged().err(),
            Inbound::HandleNack => match self.channel.refused() {
                Ok(Refused::Again(message)) => {
                    self.resend = Some(message);
                    None
                }
                Ok(Refused::ForGood(message)) => {
                    debug!(worker = %self.id, event = "handle_refused", "a handle was refused four times");
                    if let Some(handle) = message.handle {
                        self.tell(FromLink::Refused(handle)).await;
                    }
                    None
                }
                Err(unexpected) => Some(unexpected),
            },
            Inbound::Handle => {
                // The descriptor is closed already. Unacknowledged, the
                // worker's whole queue would stall behind it.
                if let Err(overflow) = self.channel.push_ack(outbound::handle_ack()) {
                    self.complain(overflow.to_string()).await;
                }
                None
            }
            // What it sends is closed when it comes.
            Inbound::SocketCount(key) => {
                self.reply(outbound::socket_count(&key)).await;
                None
            }
            Inbound::SocketsClosed(key) => {
                self.reply(outbound::sockets_closed(&key)).await;
                None
            }
            Inbound::App => None,
            Inbound::Unknown => {
                debug!(worker = %self.id, event = "message_unknown", "ignored an unknown internal message");
                None
            }
            message @ (Inbound::Online
            | Inbound::Query(_)
            | Inbound::TooLong(_)
            | Inbound::Listening(_)
            | Inbound::Close(_)
            | Inbound::ExitedAfterDisconnect(_)
            | Inbound::Shim(_)
            | Inbound::Connection { .. }
            | Inbound::Ready) => {
                self.tell(FromLink::Message(message)).await;
                None
            }
        };
        if let Some(unexpected) = wrong {
            debug!(worker = %self.id, event = "message_unexpected", "{unexpected}");
        }
    }

    async fn count_malformed(&mut self, count: u32) {
        let (since, total) = &mut self.malformed;
        if since.elapsed() > Duration::from_mins(1) {
            (*since, *total) = (Instant::now(), 0);
        }
        *total = total.saturating_add(count);
        debug!(worker = %self.id, count, event = "message_malformed", "malformed lines");
        if *total > MAX_MALFORMED {
            self.complain(format!(
                "more than {MAX_MALFORMED} malformed messages in a minute"
            ))
            .await;
        }
    }
}

/// Whether the same read may bring something later.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// The start of a line, for the log. Ticket keys stand further back, in `data`;
/// they are never shown.
fn show(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned();
    text.split("\"data\"").next().unwrap_or("").to_owned()
}
