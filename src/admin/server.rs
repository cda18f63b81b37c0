//! Connections: how many, how long they may be silent, how much they may send.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, RawFd},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Extension, Request},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::Response,
};
use hyper::{
    body::{Frame, SizeHint},
    server::conn::http1,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::errno::Errno;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Notify, watch},
    task::{JoinHandle, yield_now},
    time::{Instant, sleep, timeout},
};
use tracing::warn;

use super::{
    access::{self, Token},
    events::Places,
    routes::{Api, problem, router},
    withhold::Stranger,
};
use rcluster_sys::limits;

/// Connections of one door at a time. Another one takes the place of the oldest that waits for no answer.
const CONNECTIONS: usize = 256;
/// A door keeps so many connections even where descriptors are short.
const LEAST: usize = 2;
/// Another user at the control socket is told of once in so long.
const REFUSAL_LOG: Duration = Duration::from_secs(60);
/// A connection may be silent for so long, and a head may take it.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// A body may take so long.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Who has just been accepted may ask so much later when the server ends: it could not know.
const FIRST: Duration = Duration::from_millis(100);
/// After so long, a connection that could not be accepted is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// How often it is looked whether the last connection has ended.
const GOODBYE: Duration = Duration::from_millis(2);
/// Bytes of a body.
const BODY: usize = 16 * 1024;
/// Bytes of a head.
const HEAD: usize = 16 * 1024;
/// Header fields.
const HEADERS: usize = 64;

/// Where connections come from.
pub trait Door {
    /// A connection.
    type Connection: Descriptor + AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. It can be given up without losing one.
    ///
    /// # Errors
    /// The errno of `accept(2)`.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

impl Door for TcpListener {
    type Connection = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        Ok(TcpListener::accept(self).await?.0)
    }
}

/// A connection that may have a descriptor.
pub trait Descriptor {
    /// Its number; `None` in memory.
    fn descriptor(&self) -> Option<RawFd>;
}

impl Descriptor for UnixStream {
    fn descriptor(&self) -> Option<RawFd> {
        Some(self.as_raw_fd())
    }
}

impl Descriptor for TcpStream {
    fn descriptor(&self) -> Option<RawFd> {
        Some(self.as_raw_fd())
    }
}

impl Descriptor for DuplexStream {
    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

/// Accepts only this user and root, whatever the modes of file and folder say.
#[derive(Debug)]
struct SameUser {
    listener: UnixListener,
    /// When the log told of another user last, and how many were refused since.
    told: Option<Instant>,
    refused: u64,
}

impl Door for SameUser {
    type Connection = UnixStream;

    async fn accept(&mut self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let us = nix::unistd::geteuid().as_raw();
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == us || peer.uid() == 0 => return Ok(stream),
                Ok(peer) => {
                    self.refused += 1;
                    if self.told.is_none_or(|at| at.elapsed() >= REFUSAL_LOG) {
                        warn!(
                            uid = peer.uid(),
                            times = self.refused,
                            event = "user_refused",
                            "refused another user on the control socket"
                        );
                        (self.told, self.refused) = (Some(Instant::now()), 0);
                    }
                }
                Err(_) => {}
            }
        }
    }
}

/// Serves the control socket, with all rights, until `stop`; then accepts nobody any more, and ends with the last connection.
pub async fn serve(listener: UnixListener, api: Api, stop: impl Future<Output = ()>) {
    let listener = SameUser {
        listener,
        told: None,
        refused: 0,
    };
    serve_on(listener, router(api), false, stop).await;
}

/// Serves `--admin` until `stop`, as [`serve`]: reading, and with the token everything.
pub async fn serve_tcp(
    listener: impl Door,
    token: Option<Token>,
    api: Api,
    stop: impl Future<Output = ()>,
) {
    let door = middleware::from_fn_with_state(token, access::over_tcp);
    serve_on(listener, router(api).layer(door), true, stop).await;
}

struct Open {
    /// Answers that are under way.
    busy: Arc<AtomicUsize>,
    /// Who asked last has not shown the token.
    stranger: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// An answer that is under way, from its request to the end of its body.
struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }

    async fn of(self, stranger: &AtomicBool, answer: impl Future<Output = Response>) -> Response {
        let (head, body) = answer.await.into_parts();
        let asked = head.extensions.get::<Stranger>().is_some() || head.status.is_client_error();
        stranger.fetch_and(asked, Ordering::Relaxed);
        Response::from_parts(head, Body::new(Answering { body, _busy: self }))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body that knows whose it is.
struct Answering {
    body: Body,
    _busy: Busy,
}

impl hyper::body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Makes room: ends the connection that is idle for longest, or else one of a stranger, and waits until its descriptor is
/// free. Whether there was one.
async fn make_room(open: &mut VecDeque<Open>) -> bool {
    let idle = |c: &Open| c.busy.load(Ordering::Relaxed) == 0;
    let stranger = |c: &Open| c.stranger.load(Ordering::Relaxed);
    let one = open.iter().position(idle);
    let one = one.or_else(|| open.iter().position(stranger));
    let Some(open) = one.and_then(|at| open.remove(at)) else {
        return false;
    };
    open.task.abort();
    let _ = open.task.await;
    true
}

/// Whether accept(2) failed for want of something, rather than for what the client did.
fn is_exhausted(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS)
    )
}

async fn serve_on(
    mut listener: impl Door,
    router: Router,
    strangers: bool,
    stop: impl Future<Output = ()>,
) {
    let router = router.layer(Extension(Places::new()));
    let mut stop = std::pin::pin!(stop);
    let mut open: VecDeque<Open> = VecDeque::new();
    let (end, ending) = watch::channel(());
    let mut spare = limits::spare();
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        open.retain(|connection| !connection.task.is_finished());
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                // One connection can always be served: room comes of another, or of the spare descriptor.
                let room =
                    is_exhausted(&error) && (make_room(&mut open).await || spare.take().is_some());
                if !room && error.kind() != io::ErrorKind::ConnectionAborted {
                    tokio::select! {
                        () = &mut stop => break,
                        () = sleep(RETRY) => {}
                    }
                }
                continue;
            }
        };
        spare = spare.or_else(limits::spare);
        let short = open.len() >= LEAST
            && stream
                .descriptor()
                .is_some_and(|number| limits::is_short(number, strangers));
        if (short || open.len() >= CONNECTIONS) && !make_room(&mut open).await {
            continue;
        }
        let busy = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(Notify::new());
        let stranger = Arc::new(AtomicBool::new(strangers));
        let mark = (busy.clone(), asked.clone(), stranger.clone());
        let mark = middleware::from_fn(move |request, next: Next| {
            mark.1.notify_one();
            let (busy, stranger) = (Busy::new(&mark.0), mark.2.clone());
            async move { busy.of(&stranger, next.run(request)).await }
        });
        // Whoever still sends a body is not busy, and has been let in by its head's size alone.
        let service = router.clone().layer(mark).layer(middleware::from_fn(dress));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let mut ending = ending.clone();
        let task = tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            // Whatever is wrong with a connection is its own business.
            tokio::select! {
                _ = &mut connection => return,
                _ = ending.changed() => {}
            }
            tokio::select! {
                _ = &mut connection => return,
                () = asked.notified() => {}
                () = sleep(FIRST) => {}
            }
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        });
        open.push_back(Open {
            busy,
            stranger,
            task,
        });
        // A request that is there already is read before the next connection may take this one's place.
        yield_now().await;
    }
    // One that waits for the next question gets none; one that was asked still answers.
    drop(end);
    while open.iter().any(|connection| !connection.task.is_finished()) {
        sleep(GOODBYE).await;
    }
}

/// Reads the body within its limits, and marks every answer as one that is not to be kept or guessed at.
async fn dress(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let mut response = match timeout(BODY_TIME, to_bytes(body, BODY)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, Body::from(body))).await,
        Ok(Err(_)) => problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is cut short, or larger than {BODY} bytes"),
        ),
        Err(_) => problem(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
    };
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}
