//! Making a connection, and what can go wrong in it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::Error;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::ServerName;

use super::context::{Context, Failure};
use super::wire::{Io, Socket, Wire};
use super::{Class, Load, Scheme, Target};

/// A connection, ready for the first request.
pub(super) async fn connect(context: &Context) -> Result<Io, Failure> {
    let limit = context.load.request_timeout;
    match timeout(limit, open(context)).await {
        Ok(Ok(io)) => {
            context.count_connection();
            Ok(io)
        }
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(Failure::new(
            Class::ConnectTimeout,
            format!("no connection within {limit:?}"),
        )),
    }
}

async fn open(context: &Context) -> Result<Io, Failure> {
    // The SYN takes half a round trip, and so does the answer to it.
    let half = context.load.latency / 2;
    delay(half).await;
    let socket = dial(&context.load.target).await;
    delay(half).await;
    let socket = socket
        .map_err(|error| Failure::new(class_of(error.kind()), format!("connect: {error}")))?;
    let wire = Wire::new(socket, context.load.latency);
    let Some(tls) = &context.tls else {
        return Ok(Io::Plain(wire));
    };
    let name = ServerName::try_from("localhost").expect("a valid name");
    match tls.connect(name, wire).await {
        Ok(stream) => Ok(Io::Tls(Box::new(stream))),
        Err(error) => Err(Failure::new(
            Class::ResetBeforeConnect,
            format!("TLS handshake: {error}"),
        )),
    }
}

async fn delay(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

async fn dial(target: &Target) -> io::Result<Socket> {
    match target {
        Target::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Socket::Tcp(stream))
        }
        Target::Unix(path) => loop {
            // unix(7), connect(2): a full queue is EAGAIN at once on a non-blocking socket, where a blocking one would wait.
            match UnixStream::connect(path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    sleep(Duration::from_millis(1)).await;
                }
                done => break done.map(Socket::Unix),
            }
        },
    }
}

fn class_of(kind: io::ErrorKind) -> Class {
    use io::ErrorKind as Kind;
    if matches!(kind, Kind::ConnectionRefused | Kind::NotFound) {
        Class::Refused
    } else if kind == Kind::TimedOut {
        Class::ConnectTimeout
    } else if matches!(
        kind,
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe
    ) {
        Class::ResetBeforeConnect
    } else {
        Class::Local
    }
}

/// A TLS client that accepts any certificate.
pub(super) fn tls(load: &Load) -> Result<TlsConnector, Error> {
    let mut config = rcluster_tls::trusting()?;
    // Each connection stands for another client: a full handshake.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![if load.scheme == Scheme::H2 {
        b"h2".to_vec()
    } else {
        b"http/1.1".to_vec()
    }];
    Ok(TlsConnector::from(Arc::new(config)))
}
