//! What the clients of one load share.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::book::{Book, Ticket};
use super::load::{LedgerError, Load};
use super::report::Line;
use super::{Class, Control, Id, Scheme};
use super::{check, connect};

/// How long a client reads on after the last answer of a connection.
const LINGER: Duration = Duration::from_secs(1);
/// Pause after a failure: a server that is down is asked, not stormed.
const AFTER_FAILURE: Duration = Duration::from_millis(5);

/// Why there is no right answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) class: Class,
    pub(super) seen: String,
    /// The connection on which it was asked, if that is known.
    pub(super) line: Option<Line>,
}

impl Failure {
    pub(super) fn new(class: Class, seen: impl Into<String>) -> Self {
        Self {
            class,
            seen: seen.into(),
            line: None,
        }
    }
}

pub(super) struct Context {
    pub(super) load: Load,
    pub(super) tls: Option<TlsConnector>,
    /// Printable bytes from which bodies are cut.
    pub(super) padding: Vec<u8>,
    /// Hash of an upload's body.
    pub(super) upload_hash: u32,
    book: RefCell<Book>,
    left: Cell<u64>,
    stop: watch::Sender<bool>,
    tasks: RefCell<JoinSet<()>>,
    drivers: RefCell<JoinSet<()>>,
}

impl Context {
    pub(super) fn new(load: Load, control: Control) -> Result<Self, LedgerError> {
        load.validate()?;
        let tls = if load.tls {
            Some(connect::tls(&load)?)
        } else {
            None
        };
        let mut rng = fastrand::Rng::with_seed(load.seed);
        let padding = (0..load.body.end() + 4096)
            .map(|_| rng.alphanumeric() as u8)
            .collect();
        let upload_hash = match load.scheme {
            Scheme::Upload { bytes, .. } => check::fnv1a((0..bytes).map(check::pattern)),
            Scheme::Http1
            | Scheme::H2
            | Scheme::WebSocket
            | Scheme::Sse { .. }
            | Scheme::Download { .. } => 0,
        };
        Ok(Self {
            tls,
            padding,
            upload_hash,
            book: RefCell::new(Book::new(control, load.clients, load.first_client)),
            left: Cell::new(load.limit.requests.unwrap_or(u64::MAX)),
            stop: watch::Sender::new(false),
            tasks: RefCell::new(JoinSet::new()),
            drivers: RefCell::new(JoinSet::new()),
            load,
        })
    }

    /// The next request of a client, unless the load is over.
    pub(super) fn commit(&self, client: u32) -> Option<Ticket> {
        if *self.stop.borrow() || self.left.get() == 0 {
            return None;
        }
        self.left.set(self.left.get() - 1);
        Some(self.book.borrow_mut().commit(client))
    }

    /// Answered right, just now; the class may follow.
    pub(super) fn answered(&self) -> Instant {
        let now = Instant::now();
        self.book.borrow_mut().answered(now);
        now
    }

    /// Answered right at that moment (see [`Context::answered`]), with this class.
    pub(super) fn close_ok(&self, ticket: Ticket, class: Class, at: Instant) {
        self.book.borrow_mut().close(ticket, class, at, String::new);
    }

    /// Answered at that moment, and then more bytes came.
    pub(super) fn close_duplicate(&self, ticket: Ticket, at: Instant) {
        self.book
            .borrow_mut()
            .close(ticket, Class::Duplicate, at, || {
                "bytes after the answer".into()
            });
    }

    /// Failed just now. Returns after a short pause.
    pub(super) async fn close_failed(&self, ticket: Ticket, failure: Failure) {
        {
            let mut book = self.book.borrow_mut();
            book.on_line(ticket.id(), failure.line);
            book.close(ticket, failure.class, Instant::now(), || failure.seen);
        }
        self.or_stop(tokio::time::sleep(AFTER_FAILURE)).await;
    }

    pub(super) fn duplicate(&self, id: Id, seen: &str) {
        self.book.borrow_mut().duplicate(id, || seen.into());
    }

    pub(super) fn closed_in_order(&self, id: Id) {
        self.book.borrow_mut().closed_in_order(id);
    }

    pub(super) fn count_connection(&self) {
        self.book.borrow_mut().connections += 1;
    }

    pub(super) fn count_dead_connection(&self) {
        self.book.borrow_mut().dead_connections += 1;
    }

    pub(super) fn count_idle_drop(&self) {
        self.book.borrow_mut().idle_drops += 1;
    }

    /// The pause before the next request.
    pub(super) fn think_time(&self, rng: &mut fastrand::Rng) -> Duration {
        if self.load.think.is_zero() {
            Duration::ZERO
        } else {
            self.load.think.mul_f64(0.5 + rng.f64())
        }
    }

    pub(super) async fn think(&self, rng: &mut fastrand::Rng) {
        let pause = self.think_time(rng);
        if !pause.is_zero() {
            self.or_stop(tokio::time::sleep(pause)).await;
        }
    }

    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(super) async fn stopped(&self) {
        // Cannot fail: the sender lives in self.
        drop(self.stop.subscribe().wait_for(|stop| *stop).await);
    }

    async fn or_stop(&self, wait: impl Future<Output = ()>) {
        tokio::select! {
            () = wait => {}
            () = self.stopped() => {}
        }
    }

    /// Ends a connection besides the load, within a bounded time: none if it took longer.
    pub(super) fn aside<F, D>(self: &Rc<Self>, end: F, done: D)
    where
        F: AsyncFnOnce() -> End + 'static,
        D: FnOnce(&Self, Option<End>) + 'static,
    {
        let context = Rc::clone(self);
        let mut tasks = self.tasks.borrow_mut();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(async move {
            let end = timeout(LINGER + context.load.latency * 2, end()).await;
            done(&context, end.ok());
        });
    }

    /// Drives a connection besides the load, until soon after its end.
    pub(super) fn drive(&self, connection: impl Future<Output = ()> + 'static) {
        let mut drivers = self.drivers.borrow_mut();
        while drivers.try_join_next().is_some() {}
        drivers.spawn_local(connection);
    }

    /// Waits for what goes on besides the load.
    pub(super) async fn settle(&self) {
        let (mut tasks, mut drivers) = (self.tasks.take(), self.drivers.take());
        let farewell = async { while drivers.join_next().await.is_some() {} };
        drop(timeout(LINGER, farewell).await);
        while let Some(done) = tasks.join_next().await {
            if let Err(error) = done
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }

    pub(super) fn into_book(self) -> Book {
        self.book.into_inner()
    }
}

/// How a connection ended after its last answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Fin,
    Rst,
    /// Bytes that nobody asked for.
    Extra,
}
