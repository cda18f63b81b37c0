//! The routes, served over the control socket.

use std::{io, path::PathBuf};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::Listener,
};
use tokio::{
    net::{UnixListener, UnixStream, unix::SocketAddr},
    sync::{mpsc::Sender, oneshot},
};
use tracing::warn;

use super::types::{
    ReloadReply, ReloadWish, Request, ScaleWish, Status, StopReply, StopWish, UpgradeWish,
};
use crate::supervisor::Slot;

/// The control socket's file, removed with this value.
#[derive(Debug)]
pub struct SocketFile(pub PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

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

/// Serves the control socket until `stop`; then answers what was asked, accepts nobody any more, and ends.
pub async fn serve(
    listener: UnixListener,
    requests: Sender<Request>,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let router = Router::new()
        .route("/", get(super::dashboard::page))
        .route("/readyz", get(readyz))
        .route("/v1/status", get(status))
        .route("/v1/logs", get(super::logs::logs))
        .route("/v1/reload", post(reload))
        .route("/v1/rollback", post(rollback))
        .route("/v1/scale", post(scale))
        .route("/v1/workers/{slot}/restart", post(restart))
        .route("/v1/upgrade", post(upgrade))
        .route("/v1/stop", post(stop_master))
        .with_state(requests);
    // Never returns an error: accept goes on by itself.
    let _ = axum::serve(SameUser(listener), router)
        .with_graceful_shutdown(stop)
        .await;
}

/// The loop has ended, or ends while it is asked.
struct Gone;

impl IntoResponse for Gone {
    fn into_response(self) -> Response {
        let body = Json(serde_json::json!({"error": "the master is gone"}));
        (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
    }
}

async fn ask<T>(
    requests: &Sender<Request>,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<Json<T>, Gone> {
    let (reply, answer) = oneshot::channel();
    requests.send(request(reply)).await.map_err(|_| Gone)?;
    answer.await.map(Json).map_err(|_| Gone)
}

async fn status(State(requests): State<Sender<Request>>) -> Result<Json<Status>, Gone> {
    ask(&requests, Request::Status).await
}

async fn readyz(State(requests): State<Sender<Request>>) -> Result<Response, Gone> {
    let Json(readiness) = ask(&requests, Request::Readiness).await?;
    let code = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Ok((code, Json(readiness)).into_response())
}

async fn reload(
    State(requests): State<Sender<Request>>,
    wish: Option<Json<ReloadWish>>,
) -> Result<Json<ReloadReply>, Gone> {
    let Json(wish) = wish.unwrap_or_default();
    ask(&requests, |reply| Request::Reload(wish, reply)).await
}

async fn rollback(
    State(requests): State<Sender<Request>>,
    wish: Option<Json<ReloadWish>>,
) -> Result<Json<ReloadReply>, Gone> {
    let Json(mut wish) = wish.unwrap_or_default();
    wish.rollback = true;
    ask(&requests, |reply| Request::Reload(wish, reply)).await
}

async fn scale(
    State(requests): State<Sender<Request>>,
    Json(wish): Json<ScaleWish>,
) -> Result<Response, Gone> {
    match wish.parse() {
        Ok(scale) => ask(&requests, |reply| Request::Scale(scale, reply))
            .await
            .map(IntoResponse::into_response),
        Err(error) => {
            let body = Json(serde_json::json!({"error": error}));
            Ok((StatusCode::BAD_REQUEST, body).into_response())
        }
    }
}

async fn restart(
    State(requests): State<Sender<Request>>,
    Path(slot): Path<u32>,
) -> Result<Response, Gone> {
    let reply = ask(&requests, |reply| Request::Restart(Slot(slot), reply)).await?;
    Ok(if reply.is_some() {
        reply.into_response()
    } else {
        let error = format!("no worker serves in slot {slot}, or it is being replaced already");
        (
            StatusCode::NOT_FOUND,
            Json(serde_json::json!({"error": error})),
        )
            .into_response()
    })
}

/// Runs a binary of the caller's choice: for the control socket only, where the caller could do that anyway.
async fn upgrade(
    State(requests): State<Sender<Request>>,
    wish: Option<Json<UpgradeWish>>,
) -> Result<Response, Gone> {
    let Json(wish) = wish.unwrap_or_default();
    let Json(reply) = ask(&requests, |reply| Request::Upgrade(wish, reply)).await?;
    let code = if reply.accepted {
        StatusCode::ACCEPTED
    } else {
        StatusCode::CONFLICT
    };
    Ok((code, Json(reply)).into_response())
}

async fn stop_master(
    State(requests): State<Sender<Request>>,
    wish: Option<Json<StopWish>>,
) -> Result<Json<StopReply>, Gone> {
    let Json(StopWish { now }) = wish.unwrap_or_default();
    ask(&requests, |reply| Request::Stop { now, reply }).await
}
