//! `GET /v1/logs`: what workers printed, and what they print.

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::{mpsc::Sender, oneshot};

use super::types::Request;
use crate::logs::{Style, Wish};

/// The question.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LogsQuery {
    slot: Option<u32>,
    lines: Option<usize>,
    follow: bool,
    json: bool,
    colour: bool,
}

/// Text, or JSON lines; with `follow` it ends with the master. A reader that is slower
/// than the workers misses lines, and is told so.
pub(super) async fn logs(
    State(requests): State<Sender<Request>>,
    Query(query): Query<LogsQuery>,
) -> Response {
    let wish = Wish {
        slot: query.slot,
        lines: query.lines,
        follow: query.follow,
        style: if query.json {
            Style::Json
        } else {
            Style::Prefix {
                colour: query.colour,
            }
        },
    };
    let (reply, answer) = oneshot::channel();
    let failed = |status: StatusCode, error: &str| {
        (status, Json(serde_json::json!({"error": error}))).into_response()
    };
    if requests.send(Request::Logs(wish, reply)).await.is_err() {
        return failed(StatusCode::SERVICE_UNAVAILABLE, "the master is gone");
    }
    let feed = match answer.await {
        Ok(Some(feed)) => feed,
        Ok(None) => {
            return failed(
                StatusCode::NOT_FOUND,
                "workers write to the master's own stdout and stderr, it has no lines of theirs; look where its output goes, or start it with --log-prefix or --log-file",
            );
        }
        Err(_) => return failed(StatusCode::SERVICE_UNAVAILABLE, "the master is gone"),
    };
    let lines = stream::unfold(feed, async |mut feed| {
        let bytes = Bytes::from(feed.next().await?);
        Some((Ok::<_, std::convert::Infallible>(bytes), feed))
    });
    let kind = if query.json {
        "application/x-ndjson"
    } else {
        "text/plain; charset=utf-8"
    };
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(lines)).into_response()
}
