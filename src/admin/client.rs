//! The client side: finding a master and asking it.

use std::{
    io,
    ops::ControlFlow,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::net::UnixStream;

use super::{masters, types::Readiness};
use crate::cli::WhichMaster;
use rcluster_core::{escape, supervisor::Pid};

/// Longest answer that is read, bytes: the status of 1,024 workers is 2 MiB.
const LONGEST: usize = 8 * 1024 * 1024;

/// Why a master could not be asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no rcluster answers at {path}: {why}")]
    NoMaster {
        /// The control path.
        path: PathBuf,
        /// What happened instead.
        why: String,
    },
    /// No master runs at all.
    #[error("no rcluster runs here (looked in {0}); name one with --name or --control")]
    NoneRuns(PathBuf),
    /// More than one runs.
    #[error("several masters run here; name one with --name or --control: {0}")]
    Several(String),
    /// The master cannot do that, and says why.
    #[error("{0}")]
    Refused(String),
    /// The connection broke, or the answer makes no sense.
    #[error("failed to read the answer of {path}: {why}")]
    Answer {
        /// The control path.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Asks one master.
///
/// Whoever listens there is not trusted: answers have a bound, and every text in a document is escaped
/// for a terminal, unless the caller wants it [`faithful`](Self::faithful).
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    faithful: bool,
    longest: usize,
    /// User id of the process that listened there when it was last asked; ours until then.
    owner: AtomicU32,
}

impl Client {
    /// Asks the master at this control path.
    pub fn at(path: PathBuf) -> Self {
        Self {
            path,
            faithful: false,
            longest: LONGEST,
            owner: AtomicU32::new(nix::unistd::geteuid().as_raw()),
        }
    }

    /// The user id of the process that answered last (`SO_PEERCRED`, unix(7)).
    pub fn owner(&self) -> u32 {
        self.owner.load(Ordering::Relaxed)
    }

    /// Leaves texts as they are: for output that a program reads, by [`say::json`](crate::say::json).
    #[must_use]
    pub fn faithful(self, faithful: bool) -> Self {
        Self { faithful, ..self }
    }

    /// Reads no longer answer than this, bytes.
    #[must_use]
    pub fn at_most(self, longest: usize) -> Self {
        Self { longest, ..self }
    }

    /// Finds the master that is meant: by control path, by name, or the only one that this user may ask.
    ///
    /// # Errors
    /// [`ClientError::NoneRuns`] or [`ClientError::Several`].
    pub async fn find(which: &WhichMaster) -> Result<Self, ClientError> {
        let path = match (&which.control, &which.name) {
            (Some(path), _) => path.clone(),
            (None, Some(name)) => masters::by_name(name).await?,
            (None, None) => masters::only().await?,
        };
        Ok(Self::at(path))
    }

    /// `GET`.
    ///
    /// # Errors
    /// [`ClientError::NoMaster`] or [`ClientError::Answer`].
    pub async fn get<T: DeserializeOwned>(&self, route: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, route, Bytes::new()).await
    }

    /// Whether new traffic should come; 503 says so with the same document.
    ///
    /// # Errors
    /// [`ClientError::NoMaster`] or [`ClientError::Answer`].
    pub async fn readiness(&self) -> Result<Readiness, ClientError> {
        let (_, bytes) = self.exchange(Method::GET, "/readyz", Bytes::new()).await?;
        self.parse(&bytes)
    }

    /// `POST` with a JSON body.
    ///
    /// # Errors
    /// [`ClientError::NoMaster`] or [`ClientError::Answer`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        route: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| self.answer_error(&e))?;
        self.ask(Method::POST, route, body.into()).await
    }

    /// `POST` where the answer is the same document whatever its status says.
    ///
    /// # Errors
    /// [`ClientError::NoMaster`] or [`ClientError::Answer`].
    pub async fn post_for_any_status<T: DeserializeOwned>(
        &self,
        route: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| self.answer_error(&e))?;
        let (status, bytes) = self.exchange(Method::POST, route, body.into()).await?;
        // An older master does not know the route.
        self.parse(&bytes)
            .map_err(|_| self.unexpected(status, &bytes))
    }

    /// `GET`, given out as it comes until `each` breaks it off.
    ///
    /// # Errors
    /// [`ClientError::NoMaster`], [`ClientError::Answer`], or [`ClientError::Refused`] with the master's own words.
    pub async fn stream(
        &self,
        route: &str,
        mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), ClientError> {
        let response = self.send(Method::GET, route, Bytes::new()).await?;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let bytes = self.collect(body).await?;
            let words = own_words(&bytes);
            return Err(ClientError::Refused(
                words.unwrap_or_else(|| status.to_string()),
            ));
        }
        while let Some(frame) = body.frame().await {
            // A master that was killed ends it, too.
            let Ok(frame) = frame else { break };
            if let Some(bytes) = frame.data_ref()
                && each(bytes).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn answer_error(&self, why: &impl ToString) -> ClientError {
        ClientError::Answer {
            path: self.path.clone(),
            why: escape::line(&why.to_string()).into_owned(),
        }
    }

    fn unexpected(&self, status: StatusCode, bytes: &[u8]) -> ClientError {
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        escape::cut(&mut text, 1024);
        self.answer_error(&format!("{status}: {text}"))
    }

    fn parse<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, ClientError> {
        if self.faithful {
            return serde_json::from_slice(bytes).map_err(|e| self.answer_error(&e));
        }
        let document = serde_json::from_slice(bytes).and_then(|mut document| {
            escape::document(&mut document);
            T::deserialize(document)
        });
        document.map_err(|e| self.answer_error(&e))
    }

    async fn collect(&self, body: Incoming) -> Result<Bytes, ClientError> {
        let body = Limited::new(body, self.longest);
        let body = body.collect().await.map_err(|e| self.answer_error(&e))?;
        Ok(body.to_bytes())
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        route: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let (status, bytes) = self.exchange(method, route, body).await?;
        if !status.is_success() {
            if let Some(words) = own_words(&bytes).filter(|_| status.is_client_error()) {
                return Err(ClientError::Refused(words));
            }
            return Err(self.unexpected(status, &bytes));
        }
        self.parse(&bytes)
    }

    async fn exchange(
        &self,
        method: Method,
        route: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let response = self.send(method, route, body).await?;
        let status = response.status();
        Ok((status, self.collect(response.into_body()).await?))
    }

    /// The process that listens on the control socket, as this process sees it: `None` for one in a pid namespace
    /// that cannot be seen from here.
    ///
    /// # Errors
    /// [`ClientError::NoMaster`].
    pub async fn listener(&self) -> Result<Option<Pid>, ClientError> {
        let peer = self.connect().await?.peer_cred().ok();
        let pid = peer.and_then(|peer| peer.pid()).filter(|pid| *pid > 0);
        Ok(pid.map(Pid))
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let stream = UnixStream::connect(&self.path).await;
        stream.map_err(|error| ClientError::NoMaster {
            path: self.path.clone(),
            why: why_no_master(&error),
        })
    }

    async fn send(
        &self,
        method: Method,
        route: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = self.connect().await?;
        let us = nix::unistd::geteuid().as_raw();
        let peer = stream.peer_cred().map(|peer| peer.uid());
        if let Ok(uid) = peer {
            self.owner.store(uid, Ordering::Relaxed);
        }
        // In /tmp anybody may have made the folder before us.
        if us != 0 && peer.is_ok_and(|uid| uid != us && uid != 0) {
            return Err(ClientError::NoMaster {
                path: self.path.clone(),
                why: "another user listens there".to_owned(),
            });
        }
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.answer_error(&e))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(route)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| self.answer_error(&e))?;
        sender
            .send_request(request)
            .await
            .map_err(|e| self.answer_error(&e))
    }
}

/// What a refusal says.
fn own_words(bytes: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    Some(escape::line(value["error"].as_str()?).into_owned())
}

fn why_no_master(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "there is no such socket".to_owned(),
        Some(libc::ECONNREFUSED) => "its master has died (the next start cleans up)".to_owned(),
        Some(libc::EACCES) => "it belongs to another user".to_owned(),
        _ => error.to_string(),
    }
}
