//! Connections: how many, how long they may be silent, how much they may send.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::Response,
    serve::Listener,
};
use hyper::{
    body::{Frame, SizeHint},
    server::conn::http1,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{UnixListener, UnixStream, unix::SocketAddr},
    sync::{Notify, watch},
    task::AbortHandle,
    time::{sleep, timeout},
};
use tracing::warn;

use super::{
    access::{self, Token},
    routes::{Api, problem, router},
};

/// Connections of one door at a time. Another one takes the place of the oldest that waits for no answer.
const CONNECTIONS: usize = 256;
/// A connection may be silent for so long, and a head may take it.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// A body may take so long.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Who has just been accepted may ask so much later when the server ends: it could not know.
const FIRST: Duration = Duration::from_millis(100);
/// How often it is looked whether the last connection has ended.
const GOODBYE: Duration = Duration::from_millis(2);
/// Bytes of a body.
const BODY: usize = 16 * 1024;
/// Bytes of a head.
const HEAD: usize = 16 * 1024;
/// Header fields.
const HEADERS: usize = 64;

/// Accepts only this user and root, whatever the modes of file and folder say.
#[derive(Debug)]
struct SameUser(UnixListener);

impl Listener for SameUser {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            // axum's own implementation knows how to go on after EMFILE.
            let (stream, address) = Listener::accept(&mut self.0).await;
            let us = nix::unistd::geteuid().as_raw();
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == us || peer.uid() == 0 => return (stream, address),
                Ok(peer) => warn!(
                    uid = peer.uid(),
                    "refused another user on the control socket"
                ),
                Err(_) => {}
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Serves the control socket, with all rights, until `stop`; then accepts nobody any more, and ends with the last connection.
pub async fn serve(listener: UnixListener, api: Api, stop: impl Future<Output = ()>) {
    serve_on(SameUser(listener), router(api), stop).await;
}

/// Serves `--admin` until `stop`, as [`serve`]: reading, and with the token everything.
pub async fn serve_tcp(
    listener: impl Listener,
    token: Option<Token>,
    api: Api,
    stop: impl Future<Output = ()>,
) {
    let door = middleware::from_fn_with_state(token, access::over_tcp);
    serve_on(listener, router(api).layer(door), stop).await;
}

struct Open {
    /// Answers that are under way.
    busy: Arc<AtomicUsize>,
    task: AbortHandle,
}

/// An answer that is under way, from its request to the end of its body.
struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }

    async fn of(self, answer: impl Future<Output = Response>) -> Response {
        let (head, body) = answer.await.into_parts();
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

async fn serve_on(mut listener: impl Listener, router: Router, stop: impl Future<Output = ()>) {
    let mut stop = std::pin::pin!(stop);
    let mut open: VecDeque<Open> = VecDeque::new();
    let (end, ending) = watch::channel(());
    loop {
        let (stream, _) = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        open.retain(|connection| !connection.task.is_finished());
        if open.len() >= CONNECTIONS {
            let idle = |c: &Open| c.busy.load(Ordering::Relaxed) == 0;
            match open.iter().position(idle).and_then(|at| open.remove(at)) {
                Some(oldest) => oldest.task.abort(),
                None => continue,
            }
        }
        let busy = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(Notify::new());
        let mark = (busy.clone(), asked.clone());
        let mark = middleware::from_fn(move |request, next: Next| {
            mark.1.notify_one();
            Busy::new(&mark.0).of(next.run(request))
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
            task: task.abort_handle(),
        });
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
