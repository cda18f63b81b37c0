//! Clients over HTTP/2, one stream at a time.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::time::{Instant, timeout_at};

use super::book::Ticket;
use super::check::Checker;
use super::connect::connect;
use super::connection::check_head;
use super::context::{Context, Failure};
use super::http1::body_of;
use super::{Check, Class, Id, Mode};

/// A client: one request at a time, until the load is over.
pub(super) async fn client(context: Rc<Context>, number: u32) {
    let mut rng = fastrand::Rng::with_seed(context.load.seed ^ (u64::from(number) << 32));
    let mut kept: Option<Connection> = None;
    while let Some(ticket) = context.commit(number) {
        let body = match context.load.check {
            Check::Echo => {
                let padding = &context.padding[body_of(&context, &mut rng)];
                let mut body = format!("{}:", ticket.id()).into_bytes();
                body.extend_from_slice(padding);
                Bytes::from(body)
            }
            Check::Complete | Check::Served => Bytes::new(),
        };
        kept = exchange(&context, kept, ticket, body).await;
        context.think(&mut rng).await;
    }
}

struct Connection {
    send: SendRequest<Bytes>,
    last: Option<Id>,
    uses: u64,
}

async fn exchange(
    context: &Rc<Context>,
    kept: Option<Connection>,
    ticket: Ticket,
    body: Bytes,
) -> Option<Connection> {
    let id = ticket.id();
    let limit = context.load.request_timeout;
    let mut connection = match still_open(context, kept).await {
        Some(connection) => connection,
        None => match open(context).await {
            Ok(connection) => connection,
            Err(failure) => {
                context.close_failed(ticket, failure).await;
                return None;
            }
        },
    };
    connection.uses += 1;
    let mut bytes = 0;
    let answer = timeout_at(
        Instant::now() + limit,
        request(context, &mut connection, id, body, &mut bytes),
    )
    .await;
    let failure = match answer {
        Ok(Ok(())) => {
            let at = context.answered();
            let short = context.load.mode == Mode::Short;
            context.close_ok(ticket, if short { Class::OkClose } else { Class::Ok }, at);
            connection.last = (!short).then_some(id);
            return (!short).then_some(connection);
        }
        Ok(Err(failure)) => failure,
        Err(_) if bytes == 0 => {
            if connection.uses == 1 {
                context.count_dead_connection();
            }
            Failure::new(Class::NeverAnswered, format!("not a byte within {limit:?}"))
        }
        Err(_) => Failure::new(Class::Truncated, format!("incomplete after {limit:?}")),
    };
    // A refused stream says nothing about the connection, any other failure does.
    let keep = matches!(
        failure.class,
        Class::RefusedRetryable | Class::Status | Class::WrongBody
    );
    context.close_failed(ticket, failure).await;
    keep.then_some(connection)
}

/// The kept connection, unless the client has noticed its end: it reads all the time, as HTTP/2 clients do (SETTINGS, PING).
async fn still_open(context: &Context, kept: Option<Connection>) -> Option<Connection> {
    let mut kept = kept?;
    // Time for the task of the connection, so that what has arrived is noticed.
    tokio::task::yield_now().await;
    match poll_fn(|cx| kept.send.poll_ready(cx)).await {
        Ok(()) => Some(kept),
        Err(error) => {
            if !(error.is_go_away() && error.is_remote()) {
                context.count_idle_drop();
            } else if error.reason() == Some(h2::Reason::NO_ERROR)
                && let Some(last) = kept.last
            {
                context.closed_in_order(last);
            }
            None
        }
    }
}

async fn open(context: &Rc<Context>) -> Result<Connection, Failure> {
    let io = connect(context).await?;
    let (send, connection) = h2::client::handshake(io).await.map_err(|error| {
        Failure::new(
            Class::ResetBeforeConnect,
            format!("HTTP/2 preface: {error}"),
        )
    })?;
    // Ends by itself when the sender is dropped and its streams are done; errors reach the streams.
    context.drive(async move {
        drop(connection.await);
    });
    Ok(Connection {
        send,
        last: None,
        uses: 0,
    })
}

async fn request(
    context: &Context,
    connection: &mut Connection,
    id: Id,
    body: Bytes,
    bytes: &mut u64,
) -> Result<(), Failure> {
    let load = &context.load;
    let mut head = http::Request::builder()
        .method(if load.check == Check::Echo {
            "POST"
        } else {
            "GET"
        })
        .uri(format!(
            "{}://localhost{}",
            if load.tls { "https" } else { "http" },
            load.path
        ))
        .header("x-id", id.to_string());
    if load.check == Check::Echo {
        head = head
            .header("content-type", "text/plain")
            .header("content-length", body.len());
    }
    if let Some(delay) = load.server_delay {
        head = head.header("x-delay-ms", delay.as_millis().to_string());
    }
    let head = head
        .body(())
        .map_err(|error| Failure::new(Class::Local, error.to_string()))?;
    let fail = |error: &h2::Error, bytes: u64| classify(error, bytes);
    let (answer, mut upload) = connection
        .send
        .send_request(head, body.is_empty())
        .map_err(|e| fail(&e, 0))?;
    if !body.is_empty() {
        // The library sends it as the windows allow. Its error is the answer's as well.
        drop(upload.send_data(body.clone(), true));
    }
    let answer = answer.await.map_err(|e| fail(&e, 0))?;
    *bytes += 1;
    let echoed = answer
        .headers()
        .get("x-id")
        .and_then(|value| value.to_str().ok())
        .map(String::from);
    check_head(load.check, answer.status().as_u16(), id, echoed.as_deref())?;
    let mut checker = if load.check == Check::Echo {
        Checker::bytes(&body)
    } else {
        Checker::Any
    };
    let mut stream = answer.into_body();
    while let Some(piece) = stream.data().await {
        let piece = piece.map_err(|e| fail(&e, *bytes))?;
        *bytes += piece.len() as u64;
        checker
            .feed(&piece)
            .map_err(|seen| Failure::new(Class::WrongBody, seen))?;
        stream
            .flow_control()
            .release_capacity(piece.len())
            .map_err(|e| fail(&e, *bytes))?;
    }
    stream.trailers().await.map_err(|e| fail(&e, *bytes))?;
    checker
        .end()
        .map_err(|seen| Failure::new(Class::WrongBody, seen))
}

/// RFC 9113 sections 6.8 and 8.7: a stream with a higher id than a GOAWAY's last one, and one refused, were not processed. The library
/// gives the GOAWAY as the error of exactly those streams.
fn classify(error: &h2::Error, bytes: u64) -> Failure {
    let refused = (error.is_remote() && error.is_go_away())
        || (error.is_remote()
            && error.is_reset()
            && error.reason() == Some(h2::Reason::REFUSED_STREAM));
    let class = if refused && bytes == 0 {
        Class::RefusedRetryable
    } else if bytes > 0 {
        Class::Truncated
    } else if error.is_reset()
        || error
            .get_io()
            .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
    {
        Class::RstBeforeByte
    } else {
        Class::FinBeforeByte
    };
    Failure::new(class, format!("HTTP/2: {error}"))
}
