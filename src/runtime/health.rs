//! One health check: a request over a socket whose other end the worker's own
//! server has been handed (`newconn`), so that no port and no other worker is
//! between.

use std::{sync::Arc, time::Duration};

use http_body_util::Empty;
use hyper::{Request, Version, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use crate::config;
use rcluster_sys::listener::Endpoint;

/// What `--health-path` says: the address whose server is asked, if it names one, and the path.
pub(super) fn target(text: &str) -> (Option<Endpoint>, &str) {
    let (address, _) = text.split_once('/').unwrap_or((text, ""));
    (config::health_address(address), &text[address.len()..])
}

/// Asks for `path`; well is an answer of 2xx or 3xx within `limit`. The body is not read.
///
/// # Errors
/// What was wrong, in words.
pub(super) async fn ask(
    stream: UnixStream,
    path: &str,
    tls: bool,
    limit: Duration,
) -> Result<(), String> {
    let asking = async {
        if tls {
            let name = ServerName::try_from("localhost").map_err(|e| e.to_string())?;
            // The other end is our own worker: its certificate is for others.
            let config = rcluster_tls::trusting().map_err(|e| e.to_string())?;
            let stream = TlsConnector::from(Arc::new(config))
                .connect(name, stream)
                .await
                .map_err(|e| format!("no TLS: {e}"))?;
            request(stream, path).await
        } else {
            request(stream, path).await
        }
    };
    let late = |_| format!("no answer within {}", rcluster_core::names::duration(limit));
    tokio::time::timeout(limit, asking).await.map_err(late)?
}

async fn request(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
) -> Result<(), String> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .uri(path)
        .version(Version::HTTP_11)
        .header("host", "localhost")
        .header("connection", "close")
        .header("user-agent", "rcluster-health")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await;
    // What it still sends is of no interest.
    connection.abort();
    let status = answer.map_err(|e| format!("no answer: {e}"))?.status();
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(status.to_string())
    }
}
