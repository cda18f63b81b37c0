//! Clients over HTTP/1.1: echoes, event streams, uploads, downloads.

use std::io::Write as _;
use std::rc::Rc;

use tokio::time::Instant;

use super::book::Ticket;
use super::check::{Checker, Events};
use super::connect::connect;
use super::connection::{Answer, Connection};
use super::context::{Context, End};
use super::{Check, Class, Id, Method, Mode, Scheme};

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
            failure.line = connection.line();
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
        (Scheme::Http1, Check::Served) if load.ask.method == Method::Post => "POST",
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
            } else if method == "POST" {
                length = Some(load.ask.body.len() as u64);
            }
        }
    }
    put(request, format_args!(" HTTP/1.1\r\nx-id: {id}\r\n"));
    if !load.ask.has("host") {
        put(request, format_args!("host: localhost\r\n"));
    }
    for (name, value) in &load.ask.headers {
        put(request, format_args!("{name}: {value}\r\n"));
    }
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
        put(request, format_args!("content-length: {length}\r\n"));
        if load.check != Check::Served {
            put(request, format_args!("content-type: text/plain\r\n"));
        }
    }
    put(request, format_args!("\r\n"));
    let start = request.len();
    if load.check == Check::Served {
        if method == "POST" {
            request.extend_from_slice(load.ask.body.as_bytes());
        }
    } else if !body.is_empty() || (method == "POST" && load.scheme == Scheme::Http1) {
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
        _ if context.load.check != Check::Echo => Checker::Any,
        Scheme::Sse { events, .. } => Checker::Events(Events::new(events)),
        Scheme::Download { bytes, .. } => Checker::Pattern { want: bytes, at: 0 },
        Scheme::Http1 | Scheme::H2 | Scheme::WebSocket | Scheme::Upload { .. } => {
            Checker::bytes(&request[body..])
        }
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
        async move || connection.leave().await,
        move |context, end| {
            if end == Some(End::Extra) {
                context.duplicate(last, "bytes after the answer");
            }
        },
    );
}
