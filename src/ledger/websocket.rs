//! Clients over WebSocket (RFC 6455): messages that are echoed.

use std::io;
use std::rc::Rc;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::connect::connect;
use super::context::{Context, End, Failure};
use super::http1::body_of;
use super::wire::Io;
use super::{Class, Id, Mode};

/// A client: one message at a time, until the load is over. Between messages it reads, as WebSocket clients do: a close frame that it has
/// noticed before it sends costs nothing.
pub(super) async fn client(context: Rc<Context>, number: u32) {
    let mut rng = fastrand::Rng::with_seed(context.load.seed ^ (u64::from(number) << 32));
    let mut kept: Option<Connection> = None;
    while let Some(ticket) = context.commit(number) {
        let id = ticket.id();
        // The padding is ASCII.
        let padding = String::from_utf8_lossy(&context.padding[body_of(&context, &mut rng)]);
        let text = Utf8Bytes::from(format!("{id}:{padding}"));
        let done = match kept.take() {
            Some(mut connection) => connection
                .message(&context, id, &text)
                .await
                .map(|()| connection),
            None => match open(&context, id).await {
                Ok(mut connection) => connection
                    .message(&context, id, &text)
                    .await
                    .map(|()| connection),
                Err(failure) => Err(failure),
            },
        };
        match done {
            Ok(connection) => {
                let at = context.answered();
                context.close_ok(ticket, Class::Ok, at);
                if context.load.mode == Mode::Short {
                    leave(&context, connection, true);
                    context.think(&mut rng).await;
                } else {
                    let until = Instant::now() + context.think_time(&mut rng);
                    kept = listen(&context, connection, until).await;
                }
            }
            Err(failure) => {
                context.close_failed(ticket, failure).await;
                context.think(&mut rng).await;
            }
        }
    }
    if let Some(connection) = kept {
        leave(&context, connection, true);
    }
}

struct Connection {
    socket: WebSocketStream<Io>,
    /// The first and the last message; all before the last were answered right.
    first: Id,
    last: Option<Id>,
}

async fn open(context: &Context, first: Id) -> Result<Connection, Failure> {
    let io = connect(context).await?;
    let timeout = context.load.request_timeout;
    let url = format!(
        "{}://localhost{}",
        if context.load.tls { "wss" } else { "ws" },
        context.load.path
    );
    match timeout_at(
        Instant::now() + timeout,
        tokio_tungstenite::client_async(url, io),
    )
    .await
    {
        Ok(Ok((socket, _))) => Ok(Connection {
            socket,
            first,
            last: None,
        }),
        Ok(Err(error)) => Err(classify(&error)),
        Err(_) => {
            context.count_dead_connection();
            Err(Failure::new(
                Class::NeverAnswered,
                format!("the upgrade was not answered within {timeout:?}"),
            ))
        }
    }
}

impl Connection {
    /// Sends a message and waits for its echo.
    async fn message(
        &mut self,
        context: &Context,
        id: Id,
        text: &Utf8Bytes,
    ) -> Result<(), Failure> {
        let timeout = context.load.request_timeout;
        let limit = Instant::now() + timeout;
        // A failed write shows in what is read, unless nothing can be read any more.
        let sent = timeout_at(limit, self.socket.send(Message::Text(text.clone()))).await;
        loop {
            match timeout_at(limit, self.socket.next()).await {
                Ok(Some(Ok(Message::Text(answer)))) if answer == *text => {
                    self.last = Some(id);
                    return Ok(());
                }
                Ok(Some(Ok(Message::Text(answer)))) => match self.earlier(&answer, id) {
                    Some(earlier) => context.duplicate(earlier, "answered once more"),
                    None => return Err(Failure::new(Class::WrongBody, "another message")),
                },
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => {}
                Ok(Some(Ok(Message::Binary(_)))) => {
                    return Err(Failure::new(Class::WrongBody, "a binary message"));
                }
                Ok(Some(Ok(Message::Close(frame)))) => {
                    let code = frame.map_or_else(
                        || "no code".into(),
                        |frame| u16::from(frame.code).to_string(),
                    );
                    return Err(Failure::new(
                        Class::CloseFrame,
                        format!("close frame, {code}"),
                    ));
                }
                Ok(Some(Err(error))) => {
                    return Err(match sent {
                        Ok(Err(Error::Io(sent))) => {
                            Failure::new(Class::RstBeforeByte, sent.to_string())
                        }
                        _ => classify(&error),
                    });
                }
                Ok(None) => return Err(Failure::new(Class::FinBeforeByte, "FIN")),
                Err(_) => {
                    return Err(Failure::new(
                        Class::NeverAnswered,
                        format!("no message within {timeout:?}"),
                    ));
                }
            }
        }
    }

    /// The earlier message of this connection that this answer belongs to.
    fn earlier(&self, answer: &str, id: Id) -> Option<Id> {
        let earlier: Id = answer.split(':').next()?.parse().ok()?;
        (self.first <= earlier && earlier < id).then_some(earlier)
    }
}

/// Reads until the next message is due. Returns the connection if it is still there then.
async fn listen(
    context: &Rc<Context>,
    mut connection: Connection,
    until: Instant,
) -> Option<Connection> {
    loop {
        let event = if until <= Instant::now() {
            // At least what has arrived is noticed.
            match connection.socket.next().now_or_never() {
                Some(event) => event,
                None => return Some(connection),
            }
        } else {
            tokio::select! {
                event = connection.socket.next() => event,
                () = sleep_until(until) => continue,
                () = context.stopped() => return Some(connection),
            }
        };
        match event {
            Some(Ok(Message::Close(_))) => {
                if let Some(last) = connection.last {
                    context.closed_in_order(last);
                }
                leave(context, connection, false);
                return None;
            }
            Some(Ok(Message::Text(_) | Message::Binary(_))) => {
                if let Some(last) = connection.last {
                    context.duplicate(last, "a message after the answer");
                }
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Err(_)) | None => {
                context.count_idle_drop();
                return None;
            }
        }
    }
}

/// Ends a connection by the closing handshake, which the client begins or, having got a close frame, completes.
fn leave(context: &Rc<Context>, mut connection: Connection, begin: bool) {
    // After a close frame nothing can follow.
    let last = connection.last.filter(|_| begin);
    context.aside(
        async move || {
            if begin {
                drop(connection.socket.close(None).await);
            }
            let mut end = End::Fin;
            while let Some(Ok(message)) = connection.socket.next().await {
                if matches!(message, Message::Text(_) | Message::Binary(_)) {
                    end = End::Extra;
                }
            }
            end
        },
        move |context, end| {
            if let (Some(End::Extra), Some(last)) = (end, last) {
                context.duplicate(last, "a message after the answer");
            }
        },
    );
}

fn classify(error: &Error) -> Failure {
    let ended = matches!(
        error,
        Error::ConnectionClosed
            | Error::AlreadyClosed
            | Error::Protocol(
                ProtocolError::ResetWithoutClosingHandshake | ProtocolError::HandshakeIncomplete
            )
    );
    let class = if let Error::Http(answer) = error {
        let status = answer.status().as_u16();
        return Failure::new(Class::Status, format!("status {status} to the upgrade"));
    } else if let Error::Io(error) = error {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Class::FinBeforeByte
        } else {
            Class::RstBeforeByte
        }
    } else if ended {
        Class::FinBeforeByte
    } else {
        Class::WrongBody
    };
    Failure::new(class, format!("WebSocket: {error}"))
}
