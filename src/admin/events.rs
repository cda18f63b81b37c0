//! `GET /v1/events`: server-sent events (WHATWG HTML, 9.2), one a transition.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Extension, Query, State},
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use serde::Deserialize;
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        broadcast::{Receiver, error::RecvError},
    },
    time::{Interval, MissedTickBehavior, interval},
};

use super::{
    routes::{Api, look, problem},
    types::Happening,
    withhold::{Texts, Withhold as _},
};

/// Readers at a time of one door; as many more that have not shown the token.
const READERS: usize = 64;
/// A comment in so long, so that nobody in between takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Status is not sent more often than this.
const SHORTEST_MS: u64 = 200;

/// The places for readers of one door. Strangers take none of those for whoever may do everything.
#[derive(Clone, Debug)]
pub(super) struct Places {
    known: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            known: Arc::new(Semaphore::new(READERS)),
            strangers: Arc::new(Semaphore::new(READERS)),
        }
    }
}

/// The question.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Send the status document too, at once and every so many milliseconds.
    status_ms: Option<u64>,
}

struct Reader {
    greeted: bool,
    texts: Texts,
    happenings: Receiver<Arc<Happening>>,
    api: Api,
    status: Option<Interval>,
    _permit: OwnedSemaphorePermit,
}

/// The reader's buffer is the channel's, which all share: whoever is too slow is told what it missed.
pub(super) async fn events(
    State(api): State<Api>,
    Extension(places): Extension<Places>,
    texts: Texts,
    query: Result<Query<EventsQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Query(query) = match query {
        Ok(query) => query,
        Err(error) => return problem(StatusCode::BAD_REQUEST, error.body_text()),
    };
    let places = if texts.0 {
        places.known
    } else {
        places.strangers
    };
    let Ok(permit) = places.try_acquire_owned() else {
        let error = format!("{READERS} readers follow the events already");
        return problem(StatusCode::SERVICE_UNAVAILABLE, error);
    };
    let reader = Reader {
        greeted: false,
        texts,
        happenings: api.happenings.subscribe(),
        api,
        status: query.status_ms.map(|ms| {
            let mut interval = interval(Duration::from_millis(ms.clamp(SHORTEST_MS, 3_600_000)));
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }),
        _permit: permit,
    };
    Sse::new(stream::unfold(reader, async |mut reader| {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    }))
    .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
    .into_response()
}

impl Reader {
    /// The next event; none when the master ends.
    async fn next(&mut self) -> Option<Event> {
        if !std::mem::replace(&mut self.greeted, true) {
            // From here on nothing is missed.
            return Some(
                Event::default()
                    .event("listening")
                    .data(r#"{"event":"listening"}"#),
            );
        }
        let status = async {
            match &mut self.status {
                Some(interval) => interval.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            happening = self.happenings.recv() => match happening {
                Ok(happening) => Some(tell(&Happening::clone(&happening).shown(self.texts))),
                Err(RecvError::Lagged(missed)) => {
                    let missed = serde_json::json!({"event": "lagged", "missed": missed});
                    Some(Event::default().event("lagged").data(missed.to_string()))
                }
                Err(RecvError::Closed) => None,
            },
            _ = status => {
                let status = look(&self.api.requests).await.ok()?.shown(self.texts);
                Event::default().event("status").json_data(&status).ok()
            }
        }
    }
}

fn tell(happening: &Happening) -> Event {
    let value = serde_json::to_value(happening).unwrap_or_default();
    let name = value["event"].as_str().unwrap_or("unknown").to_owned();
    Event::default()
        .id(happening.seq.to_string())
        .event(name)
        .data(value.to_string())
}
