//! The routes: the same on the control socket and on `--admin`.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{FromRef, Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{broadcast, mpsc::Sender, oneshot};

use super::{
    events,
    metrics::{self, Form},
    types::{
        Happening, IncidentList, Outcome, Readiness, ReloadReply, ReloadWish, Request, ScaleWish,
        SlotStatus, Status, StopReply, StopWish, UpgradeWish,
    },
    withhold::{Texts, Withhold as _},
};
use rcluster_core::supervisor::Slot;

/// The API's description of itself.
const OPENAPI: &str = include_str!("openapi.json");

/// What routes need: where to ask, and where to hear.
#[derive(Clone, Debug)]
pub struct Api {
    /// Requests to the loop.
    pub requests: Sender<Request>,
    /// What happens.
    pub happenings: broadcast::Sender<Arc<Happening>>,
}

impl FromRef<Api> for Sender<Request> {
    fn from_ref(api: &Api) -> Self {
        api.requests.clone()
    }
}

/// All routes.
pub(super) fn router(api: Api) -> Router {
    Router::new()
        .route("/", get(super::dashboard::page))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .route("/v1/openapi.json", get(openapi))
        .route("/v1/status", get(status))
        .route("/v1/incidents", get(incidents))
        .route("/v1/events", get(events::events))
        .route("/v1/logs", get(super::logs::logs))
        .route("/v1/workers/{slot}", get(worker))
        .route("/v1/workers/{slot}/restart", post(restart))
        .route("/v1/reload", post(reload))
        .route("/v1/rollback", post(rollback))
        .route("/v1/scale", post(scale))
        .route("/v1/upgrade", post(upgrade))
        .route("/v1/stop", post(stop))
        .fallback(async || {
            problem(
                StatusCode::NOT_FOUND,
                "there is no such route; see /v1/openapi.json",
            )
        })
        .method_not_allowed_fallback(async || {
            problem(
                StatusCode::METHOD_NOT_ALLOWED,
                "this route has another method; see /v1/openapi.json",
            )
        })
        .with_state(api)
}

/// An error for whoever asked.
pub(super) fn problem(status: StatusCode, error: impl Into<String>) -> Response {
    #[derive(Serialize)]
    struct Problem {
        error: String,
    }
    let error = error.into();
    (status, Json(Problem { error })).into_response()
}

/// The loop has ended, or ends while it is asked.
pub(super) struct Gone;

impl IntoResponse for Gone {
    fn into_response(self) -> Response {
        problem(StatusCode::SERVICE_UNAVAILABLE, "the master is gone")
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

/// What is to be seen now.
pub(super) async fn look(requests: &Sender<Request>) -> Result<Status, Gone> {
    ask(requests, Request::Status)
        .await
        .map(|Json(status)| status)
}

/// A body that may be left out.
fn wish<T: Default + DeserializeOwned>(body: &Bytes) -> Result<T, Box<Response>> {
    if body.is_empty() {
        return Ok(T::default());
    }
    // Alone, serde would take a list of the values for it.
    let object = serde_json::from_slice::<serde_json::Map<_, _>>(body);
    let wish = object.and_then(|object| T::deserialize(serde_json::Value::Object(object)));
    wish.map_err(|e| {
        let why = format!("the body is not what is expected: {e}");
        Box::new(problem(StatusCode::BAD_REQUEST, why))
    })
}

type Asked = State<Sender<Request>>;

/// The loop turns: it answers.
async fn livez(State(requests): Asked) -> Result<Json<serde_json::Value>, Gone> {
    let _ = ask(&requests, Request::Readiness).await?;
    Ok(Json(serde_json::json!({"live": true})))
}

async fn readyz(State(requests): Asked) -> Result<Response, Gone> {
    let Json(readiness): Json<Readiness> = ask(&requests, Request::Readiness).await?;
    let code = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Ok((code, Json(readiness)).into_response())
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn status(State(requests): Asked, texts: Texts) -> Result<Json<Status>, Gone> {
    let status = look(&requests).await?;
    Ok(Json(status.shown(texts)))
}

async fn incidents(State(requests): Asked, texts: Texts) -> Result<Json<IncidentList>, Gone> {
    let status = look(&requests).await?;
    let list = IncidentList {
        clock_ms: status.clock_ms,
        incidents: status.fleet.incidents,
    };
    Ok(Json(list.shown(texts)))
}

async fn worker(
    State(requests): Asked,
    texts: Texts,
    Path(slot): Path<String>,
) -> Result<Response, Gone> {
    let status = look(&requests).await?;
    let slot = slot.parse().map(Slot).ok();
    let workers = status.fleet.workers.into_iter();
    let workers: Vec<_> = workers.filter(|w| Some(w.slot) == slot).collect();
    let figures = status.figures.into_iter().find(|f| Some(f.slot) == slot);
    let known = !workers.is_empty() || figures.is_some();
    Ok(match slot.filter(|_| known) {
        Some(slot) => {
            let document = SlotStatus {
                slot,
                workers,
                figures,
            };
            Json(document.shown(texts)).into_response()
        }
        None => problem(
            StatusCode::NOT_FOUND,
            "there is no such slot; see /v1/status",
        ),
    })
}

async fn scrape(State(requests): Asked, headers: HeaderMap) -> Result<Response, Gone> {
    let status = look(&requests).await?;
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    let form = Form::accepted(accept.unwrap_or_default());
    // Megabytes of text for many workers: not on the loop's thread.
    let text = tokio::task::spawn_blocking(move || metrics::text(&status, form)).await;
    Ok(match text {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, form.content_type())], text).into_response(),
        Ok(Err(_)) | Err(_) => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "failed to write the metrics",
        ),
    })
}

async fn start_reload(
    requests: &Sender<Request>,
    body: &Bytes,
    rollback: bool,
) -> Result<Response, Gone> {
    let mut wish: ReloadWish = match wish(body) {
        Ok(wish) => wish,
        Err(problem) => return Ok(*problem),
    };
    wish.rollback = rollback;
    for address in &mut wish.allow_drop {
        match crate::config::may_drop(address) {
            Ok(known) => *address = known,
            Err(error) => return Ok(problem(StatusCode::BAD_REQUEST, error)),
        }
    }
    let reply: Json<ReloadReply> = ask(requests, |reply| Request::Reload(wish, reply)).await?;
    let code = if reply.outcome == Outcome::Accepted {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    Ok((code, reply).into_response())
}

async fn reload(State(requests): Asked, body: Bytes) -> Result<Response, Gone> {
    start_reload(&requests, &body, false).await
}

async fn rollback(State(requests): Asked, body: Bytes) -> Result<Response, Gone> {
    start_reload(&requests, &body, true).await
}

async fn scale(State(requests): Asked, body: Bytes) -> Result<Response, Gone> {
    let wish: ScaleWish = match wish(&body) {
        Ok(wish) => wish,
        Err(problem) => return Ok(*problem),
    };
    match wish.parse() {
        Ok(scale) => {
            let force = wish.force;
            let request = |reply| Request::Scale {
                scale,
                force,
                reply,
            };
            let Json(reply) = ask(&requests, request).await?;
            Ok(match reply {
                Ok(reply) => Json(reply).into_response(),
                Err(reason) => problem(StatusCode::CONFLICT, reason),
            })
        }
        Err(error) => Ok(problem(StatusCode::BAD_REQUEST, error)),
    }
}

async fn restart(State(requests): Asked, Path(slot): Path<String>) -> Result<Response, Gone> {
    let reply = match slot.parse() {
        Ok(slot) => {
            ask(&requests, |reply| Request::Restart(Slot(slot), reply))
                .await?
                .0
        }
        Err(_) => None,
    };
    Ok(match reply {
        Some(reply) => Json(reply).into_response(),
        None => problem(
            StatusCode::NOT_FOUND,
            format!("no worker serves in slot {slot}, or it is being replaced already"),
        ),
    })
}

/// Runs a binary of the caller's choice: over TCP the door refuses it.
async fn upgrade(State(requests): Asked, body: Bytes) -> Result<Response, Gone> {
    let wish: UpgradeWish = match wish(&body) {
        Ok(wish) => wish,
        Err(problem) => return Ok(*problem),
    };
    let Json(reply) = ask(&requests, |reply| Request::Upgrade(wish, reply)).await?;
    let code = if reply.accepted {
        StatusCode::ACCEPTED
    } else {
        StatusCode::CONFLICT
    };
    Ok((code, Json(reply)).into_response())
}

async fn stop(State(requests): Asked, body: Bytes) -> Result<Response, Gone> {
    let StopWish { now } = match wish(&body) {
        Ok(wish) => wish,
        Err(problem) => return Ok(*problem),
    };
    let reply: Json<StopReply> = ask(&requests, |reply| Request::Stop { now, reply }).await?;
    Ok(reply.into_response())
}
