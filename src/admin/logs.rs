//! `GET /v1/logs`: what workers printed, and what they print.

use axum::{
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::{mpsc::Sender, oneshot};

use super::{
    routes::{Gone, problem},
    types::Request,
};
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
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Response {
    let query = match query {
        Ok(Query(query)) => query,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error.body_text()),
    };
    let wish = Wish {
        slot: query.slot,
        lines: query.lines,
        follow: query.follow,
        style: if query.json {
            Style::Json
        } else {
            Style::Prefix {
                colour: query.colour,
                // Whoever shows it escapes it.
                terminal: false,
            }
        },
    };
    let (reply, answer) = oneshot::channel();
    if requests.send(Request::Logs(wish, reply)).await.is_err() {
        return Gone.into_response();
    }
    let feed = match answer.await {
        Ok(Some(feed)) => feed,
        Ok(None) => {
            return problem(
                StatusCode::NOT_FOUND,
                "workers write to the master's own stdout and stderr, it has no lines of theirs; look where its output goes, or start it with --log-prefix or --log-file",
            );
        }
        Err(_) => return Gone.into_response(),
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
