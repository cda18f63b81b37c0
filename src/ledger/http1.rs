//! Clients over HTTP/1.1: echoes, event streams, uploads, downloads.

use std::io::{self, Write as _};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::book::Ticket;
use super::check::{self, Checker, Events};
use super::connect::connect;
use super::context::{Context, End, Failure};
use super::decode::{Decoder, Head, Step};
use super::wire::Io;
use super::{Check, Class, Id, Mode, Scheme};

/// A client: one request at a time, until the load is over.
pub(super) async fn client(context: Rc<Context>, number: u32) {
    let mut rng = fastrand::Rng::with_seed(context.load.seed ^ (u64::from(number) << 32));
    let mut kept = None;
    let mut request = Vec::new();
    while let Some(ticket) = context.commit(number) {
        let body = write_request(&context, ticket.id(), &mut rng, &mut request);
        kept = exchange(&context, kept, ticket, &request, body).await;
        context.think(&mut rng).await;
    }
    if let Some(connection) = kept {
        leave(&context, connection);
    }
}

/// One request on the kept connection or a new one, and its class. Returns the connection if it stays.
async fn exchange(
    context: &Rc<Context>,
    kept: Option<Connection>,
    ticket: Ticket,
    request: &[u8],
    body: usize,
) -> Option<Connection> {
    let id = ticket.id();
    let reused = kept.and_then(|connection| {
        if connection.may_be_reused() {
            Some(connection)
        } else {
            leave(context, connection);
            None
        }
    });
    let mut connection = match reused {
        Some(connection) => connection,
        None => match connect(context).await {
            Ok(io) => Connection::new(io, id),
            Err(failure) => {
                context.close_failed(ticket, failure).await;
                return None;
            }
        },
    };
    let mut checker = checker(context, request, body);
    let upload;
    if let Scheme::Upload { bytes, .. } = context.load.scheme {
        upload = format!("{id} {bytes} {:08x}", context.upload_hash).into_bytes();
        checker = Checker::bytes(&upload);
    }
    let written = connection.write(context, request).await;
    match connection
        .read(context, id, &mut checker, written.err())
        .await
    {
        Ok(Answer::Kept) => {
            let at = context.answered();
            context.close_ok(ticket, Class::Ok, at);
            Some(connection)
        }
        Ok(Answer::Close) => {
            let at = context.answered();
            close(context, connection, ticket, at);
            None
        }
        Ok(Answer::Left) => {
            let at = context.answered();
            context.close_ok(ticket, Class::Ok, at);
            None
        }
        Err(mut failure) => {
            if failure.class == Class::NeverAnswered && connection.uses == 1 {
                context.count_dead_connection();
            }
            if connection.uses > 1 {
                failure.seen = format!(
                    "{} (request {} of its connection)",
                    failure.seen, connection.uses
                );
            }
            context.close_failed(ticket, failure).await;
            None
        }
    }
}

/// Writes the head, and the body if it is sent at once; returns where the body begins.
fn write_request(
    context: &Context,
    id: Id,
    rng: &mut fastrand::Rng,
    request: &mut Vec<u8>,
) -> usize {
    let load = &context.load;
    request.clear();
    let mut body = 0..0;
    let method = match (load.scheme, load.check) {
        (Scheme::Http1, Check::Echo) | (Scheme::Upload { .. }, _) => "POST",
        _ => "GET",
    };
    let put = |request: &mut Vec<u8>, text: std::fmt::Arguments<'_>| {
        request.write_fmt(text).expect("memory is writable");
    };
    put(request, format_args!("{method} {}", load.path));
    let mark = if load.path.contains('?') { '&' } else { '?' };
    let mut length = None;
    match load.scheme {
        Scheme::Sse { events, every } => put(
            request,
            format_args!("{mark}n={events}&every={}", every.as_millis()),
        ),
        Scheme::Download { bytes, over } => put(
            request,
            format_args!("{mark}bytes={bytes}&ms={}", over.as_millis()),
        ),
        Scheme::Upload { bytes, .. } => length = Some(bytes),
        Scheme::Http1 | Scheme::H2 | Scheme::WebSocket => {
            if load.check == Check::Echo {
                body = body_of(context, rng);
            }
        }
    }
    put(
        request,
        format_args!(" HTTP/1.1\r\nhost: localhost\r\nx-id: {id}\r\n"),
    );
    if load.mode == Mode::Short {
        put(request, format_args!("connection: close\r\n"));
    }
    if let Some(delay) = load.server_delay {
        put(
            request,
            format_args!("x-delay-ms: {}\r\n", delay.as_millis()),
        );
    }
    if method == "POST" && length.is_none() {
        length = Some((id_prefix(id) + body.len()) as u64);
    }
    if let Some(length) = length {
        put(
            request,
            format_args!("content-type: text/plain\r\ncontent-length: {length}\r\n"),
        );
    }
    put(request, format_args!("\r\n"));
    let start = request.len();
    if !body.is_empty() || (method == "POST" && load.scheme == Scheme::Http1) {
        put(request, format_args!("{id}:"));
        request.extend_from_slice(&context.padding[body]);
    }
    start
}

/// Where in the padding the body of the next request is, after its id.
pub(super) fn body_of(context: &Context, rng: &mut fastrand::Rng) -> std::ops::Range<usize> {
    let size = rng.usize(context.load.body.clone());
    let start = rng.usize(..4096);
    start..start + size
}

/// Length of `ID:`.
fn id_prefix(id: Id) -> usize {
    let digits = |n: u64| n.checked_ilog10().unwrap_or(0) as usize + 1;
    digits(u64::from(id.client())) + digits(id.seq()) + 2
}

fn checker<'a>(context: &Context, request: &'a [u8], body: usize) -> Checker<'a> {
    match context.load.scheme {
        _ if context.load.check == Check::Complete => Checker::Any,
        Scheme::Sse { .. } => Checker::Events(Events::default()),
        Scheme::Download { bytes, .. } => Checker::Pattern { want: bytes, at: 0 },
        Scheme::Http1 | Scheme::H2 | Scheme::WebSocket | Scheme::Upload { .. } => {
            Checker::bytes(&request[body..])
        }
    }
}

/// Is the status the expected one, and the id ours?
pub(super) fn check_head(
    check: Check,
    status: u16,
    id: Id,
    echoed: Option<&str>,
) -> Result<(), Failure> {
    let expected = match check {
        Check::Echo => status == 200,
        Check::Complete => (200..400).contains(&status),
    };
    if !expected {
        return Err(Failure::new(Class::Status, format!("status {status}")));
    }
    if check == Check::Echo && echoed.and_then(|echoed| echoed.parse().ok()) != Some(id) {
        let echoed = echoed.unwrap_or("none");
        return Err(Failure::new(
            Class::WrongBody,
            format!("the answer to another request (x-id: {echoed})"),
        ));
    }
    Ok(())
}

/// A complete and right answer, and then?
enum Answer {
    /// The connection stays.
    Kept,
    /// The server closes.
    Close,
    /// The load is over, the client has left an endless stream.
    Left,
}

struct Connection {
    io: Io,
    decoder: Decoder,
    /// The first and the last request; all before the last were answered right.
    first: Id,
    last: Id,
    uses: u64,
    idle_since: Instant,
    /// How long the server keeps an idle connection, if it says so.
    keep: Option<Duration>,
}

impl Connection {
    fn new(io: Io, first: Id) -> Self {
        let decoder = Decoder::new();
        Self {
            io,
            decoder,
            first,
            last: first,
            uses: 0,
            idle_since: Instant::now(),
            keep: None,
        }
    }

    /// Judged by what the client knows without looking at the socket.
    fn may_be_reused(&self) -> bool {
        let idle = self.idle_since.elapsed();
        self.decoder.left() == 0
            && self
                .keep
                .is_none_or(|keep| idle + Duration::from_secs(1) <= keep)
    }

    async fn write(&mut self, context: &Context, request: &[u8]) -> io::Result<()> {
        self.uses += 1;
        let limit = Instant::now() + context.load.request_timeout;
        let written = timeout_at(limit, async {
            self.io.write_all(request).await?;
            self.io.flush().await
        });
        written
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        if let Scheme::Upload { bytes, over } = context.load.scheme {
            self.upload(context, bytes, over).await?;
        }
        Ok(())
    }

    /// The body of an upload, in slices; never looks whether the server still wants it.
    async fn upload(&mut self, context: &Context, bytes: u64, over: Duration) -> io::Result<()> {
        let start = Instant::now();
        let slices = u64::try_from(over.as_millis() / 10)
            .unwrap_or(u64::MAX)
            .clamp(1, bytes.max(1));
        let mut sent = 0;
        let mut piece = Vec::new();
        for slice in 1..=slices {
            let end = (u128::from(bytes) * u128::from(slice) / u128::from(slices)) as u64;
            while sent < end {
                let next = end.min(sent + 64 * 1024);
                piece.clear();
                piece.extend((sent..next).map(check::pattern));
                let limit = Instant::now() + context.load.request_timeout;
                let written = timeout_at(limit, async {
                    self.io.write_all(&piece).await?;
                    self.io.flush().await
                });
                written
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                sent = next;
            }
            if slice < slices {
                sleep_until(start + over.mul_f64(slice as f64 / slices as f64)).await;
            }
        }
        Ok(())
    }

    /// Reads the answer. A failed write matters only if there is none: a server may answer early.
    async fn read(
        &mut self,
        context: &Context,
        id: Id,
        checker: &mut Checker<'_>,
        write_error: Option<io::Error>,
    ) -> Result<Answer, Failure> {
        self.decoder.begin();
        let timeout = context.load.request_timeout;
        let stream = matches!(
            context.load.scheme,
            Scheme::Sse { .. } | Scheme::Download { .. }
        );
        let endless = matches!(context.load.scheme, Scheme::Sse { .. });
        let mut limit = Instant::now() + timeout;
        let mut head: Option<Head> = None;
        loop {
            loop {
                match self
                    .decoder
                    .step()
                    .map_err(|error| Failure::new(Class::WrongBody, error.to_string()))?
                {
                    Step::Need => break,
                    Step::Head(found) => {
                        if let Some(earlier) = self.earlier(&found, id) {
                            context.duplicate(earlier, "answered once more");
                            self.skip_answer(limit).await?;
                            self.decoder.begin();
                            continue;
                        }
                        check_head(context.load.check, found.status, id, found.id.as_deref())?;
                        head = Some(found);
                    }
                    Step::Body(range) => {
                        let fed = checker.feed(self.decoder.bytes(range));
                        fed.map_err(|seen| Failure::new(Class::WrongBody, seen))?;
                    }
                    Step::End => return self.complete(context, id, head.take(), checker),
                }
            }
            let read = tokio::select! {
                read = timeout_at(limit, self.io.read_buf(self.decoder.buffer())) => read,
                () = context.stopped(), if endless && head.is_some() => return Ok(Answer::Left),
            };
            let seen = self.decoder.seen();
            match read {
                Ok(Ok(n)) if n > 0 => {
                    if stream {
                        limit = Instant::now() + timeout;
                    }
                }
                Ok(end) => {
                    let end = if unclean_tls(&end) { Ok(0) } else { end };
                    if end.is_ok() && self.decoder.may_end() {
                        return self.complete(context, id, head.take(), checker);
                    }
                    return Err(cut(seen, end.err().or(write_error)));
                }
                Err(_) if seen == 0 => {
                    return Err(Failure::new(
                        Class::NeverAnswered,
                        format!("not a byte within {timeout:?}"),
                    ));
                }
                Err(_) => {
                    return Err(Failure::new(
                        Class::Truncated,
                        format!("{seen} bytes, then silence for {timeout:?}"),
                    ));
                }
            }
        }
    }

    /// The earlier request of this connection that this answer belongs to.
    fn earlier(&self, head: &Head, id: Id) -> Option<Id> {
        let earlier: Id = head.id.as_deref()?.parse().ok()?;
        (self.first <= earlier && earlier < id).then_some(earlier)
    }

    /// Reads over an answer that nobody asked for.
    async fn skip_answer(&mut self, limit: Instant) -> Result<(), Failure> {
        let surplus = |seen: &str| {
            Failure::new(
                Class::Truncated,
                format!("an earlier answer once more, {seen}"),
            )
        };
        loop {
            match self
                .decoder
                .step()
                .map_err(|error| Failure::new(Class::WrongBody, error.to_string()))?
            {
                Step::End => return Ok(()),
                Step::Head(_) | Step::Body(_) => continue,
                Step::Need => {}
            }
            match timeout_at(limit, self.io.read_buf(self.decoder.buffer())).await {
                Ok(Ok(n)) if n > 0 => {}
                Ok(_) => return Err(surplus("then the end")),
                Err(_) => return Err(surplus("then silence")),
            }
        }
    }

    fn complete(
        &mut self,
        context: &Context,
        id: Id,
        head: Option<Head>,
        checker: &Checker<'_>,
    ) -> Result<Answer, Failure> {
        checker
            .end()
            .map_err(|seen| Failure::new(Class::WrongBody, seen))?;
        let head = head.unwrap_or_default();
        self.last = id;
        self.keep = head.keep;
        self.idle_since = Instant::now();
        let close = head.close || context.load.mode == Mode::Short;
        Ok(if close { Answer::Close } else { Answer::Kept })
    }

    /// Reads on after the last answer.
    async fn drain(&mut self) -> End {
        if self.decoder.left() > 0 {
            return End::Extra;
        }
        match self.io.read(&mut [0; 64]).await {
            Ok(0) => End::Fin,
            Ok(_) => End::Extra,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => End::Fin,
            Err(_) => End::Rst,
        }
    }
}

/// A TLS connection that ended without `close_notify`: a FIN. Lengths and chunks say whether the answer was complete.
fn unclean_tls(end: &io::Result<usize>) -> bool {
    end.as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
}

/// The connection ended within the answer.
fn cut(seen: u64, error: Option<io::Error>) -> Failure {
    match (seen, error) {
        (0, None) => Failure::new(Class::FinBeforeByte, "FIN"),
        (0, Some(error)) if error.kind() == io::ErrorKind::TimedOut => {
            Failure::new(Class::NeverAnswered, "the server did not read the request")
        }
        (0, Some(error)) => Failure::new(Class::RstBeforeByte, error.to_string()),
        (n, None) => Failure::new(Class::Truncated, format!("{n} bytes, then FIN")),
        (n, Some(error)) => Failure::new(Class::Truncated, format!("{n} bytes, then {error}")),
    }
}

/// The server has said that it closes; the class depends on how.
fn close(context: &Rc<Context>, mut connection: Connection, ticket: Ticket, at: Instant) {
    context.aside(
        async move || connection.drain().await,
        move |context, end| {
            // None: the server waits for the client to close (RFC 9112 section 9.6: it must); so it does now.
            let class = match end {
                Some(End::Fin) | None => Class::OkClose,
                Some(End::Rst) => Class::OkReset,
                Some(End::Extra) => Class::Duplicate,
            };
            if class == Class::Duplicate {
                context.close_duplicate(ticket, at);
            } else {
                context.close_ok(ticket, class, at);
            }
        },
    );
}

/// The client closes; bytes that still come are an answer too many.
fn leave(context: &Rc<Context>, mut connection: Connection) {
    let last = connection.last;
    context.aside(
        async move || {
            // Fails if the server has closed already, which reading shows.
            drop(connection.io.shutdown().await);
            connection.drain().await
        },
        move |context, end| {
            if end == Some(End::Extra) {
                context.duplicate(last, "bytes after the answer");
            }
        },
    );
}
