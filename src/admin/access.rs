//! Who may do what over TCP. A browser is an unwitting go-between: a page may
//! point a name at 127.0.0.1 (DNS rebinding) or post a form, so names are
//! refused, foreign origins too, and there is no CORS.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use thiserror::Error;

use super::{routes::problem, withhold::Stranger};
use rcluster_sys::files::{self, ReadError};

/// Shortest token, bytes.
const SHORTEST: usize = 16;
/// Longest token, bytes.
const LONGEST: usize = 4096;

/// Why a token file is not used.
#[derive(Debug, Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("failed to read the token file {0}: {1}")]
    Read(PathBuf, #[source] ReadError),
    /// Others could have written or read it.
    #[error(
        "refused the token file {path}: {why}; chown it to the user of the master and chmod 0600"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Too short, too long, or not printable.
    #[error(
        "refused the token file {0}: it must hold one line of {SHORTEST} to {LONGEST} printable characters without spaces; `openssl rand -hex 32` makes one"
    )]
    Weak(PathBuf),
}

/// What must be shown to change something over TCP. Serialised it is the secret itself: only for the
/// next program of this process.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Token(Arc<[u8]>);

impl From<String> for Token {
    fn from(text: String) -> Self {
        Self(text.into_bytes().into())
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        // It is printable ASCII: `Token::read` takes no other.
        Self::from_utf8_lossy(&token.0).into_owned()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Reads it; the file must belong to this user or root, and be closed to all others.
    ///
    /// # Errors
    /// A [`TokenError`].
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let read = |e| TokenError::Read(path.to_owned(), e);
        let (file, meta) = files::open(path).map_err(read)?;
        let us = nix::unistd::geteuid().as_raw();
        let why = if meta.uid() != us && meta.uid() != 0 {
            Some(format!("it belongs to uid {}", meta.uid()))
        } else if meta.mode() & 0o077 != 0 {
            Some(format!("its mode is {:04o}", meta.mode() & 0o7777))
        } else {
            None
        };
        if let Some(why) = why {
            let path = path.to_owned();
            return Err(TokenError::Open { path, why });
        }
        let text = match files::rest(file, LONGEST as u64 + 2) {
            Ok(bytes) => String::from_utf8(bytes).unwrap_or_default(),
            Err(ReadError::TooLong(_)) => return Err(TokenError::Weak(path.to_owned())),
            Err(error) => return Err(read(error)),
        };
        let token = text.trim();
        let good = (SHORTEST..=LONGEST).contains(&token.len())
            && token.bytes().all(|b| b.is_ascii_graphic());
        if good {
            Ok(Self(token.as_bytes().into()))
        } else {
            Err(TokenError::Weak(path.to_owned()))
        }
    }

    /// Takes as long for a wrong token as for the right one; its length is no secret.
    fn matches(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(given), None) = (given.next(), given.next()) else {
            return false;
        };
        let bearer = given.as_bytes().split_at_checked(7);
        bearer.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(token.ct_eq(&self.0))
        })
    }
}

/// An IP literal or exactly `localhost`, with or without a port: what no name server can point elsewhere.
fn is_literal(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        Some((ip, port)) if ip.parse::<Ipv6Addr>().is_ok() => ("localhost", port),
        Some(_) => return false,
        None => host.find(':').map_or((host, ""), |at| host.split_at(at)),
    };
    let port_is_good = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok());
    let is_v4 = matches!(name.parse(), Ok(IpAddr::V4(_)));
    port_is_good && (name == "localhost" || is_v4)
}

/// The one value of a header; `Err` if there are several, or it is no text.
fn single(headers: &HeaderMap, name: header::HeaderName) -> Result<Option<&str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| ()),
        (Some(_), Some(_)) => Err(()),
    }
}

/// What is wrong with where the request says that it comes from and goes to.
fn foreign(authority: Option<&Authority>, headers: &HeaderMap) -> Option<&'static str> {
    let host = match single(headers, header::HOST) {
        Ok(Some(host)) if is_literal(host) => host,
        Ok(_) | Err(()) => {
            return Some(
                "the Host header must be one IP address or localhost: names are refused, since a web page could choose one",
            );
        }
    };
    if authority.is_some_and(|authority| authority.as_str() != host) {
        return Some("the target names another host than the Host header");
    }
    match single(headers, header::ORIGIN) {
        Ok(None) => None,
        Ok(Some(origin)) if origin.strip_prefix("http://") == Some(host) => None,
        Ok(Some(_)) | Err(()) => Some("requests from other origins are refused"),
    }
}

/// The door of `--admin`: everybody may look, whoever has the token may change.
pub(super) async fn over_tcp(
    State(token): State<Option<Token>>,
    mut request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    if let Some(why) = foreign(request.uri().authority(), headers) {
        return problem(StatusCode::FORBIDDEN, why);
    }
    let looks = matches!(*request.method(), Method::GET | Method::HEAD);
    // It runs a program of the caller's choice: the token is for the fleet, not for the machine.
    if request.uri().path() == "/v1/upgrade" && *request.method() == Method::POST {
        return problem(
            StatusCode::FORBIDDEN,
            "the master's own program is replaced over the control socket only",
        );
    }
    // What apps print may be anything.
    let private = request.uri().path() == "/v1/logs";
    if token.as_ref().is_some_and(|token| token.matches(headers)) {
        return next.run(request).await;
    }
    if looks && !private {
        request.extensions_mut().insert(Stranger);
        let mut response = next.run(request).await;
        response.extensions_mut().insert(Stranger);
        return response;
    }
    if token.is_none() {
        return problem(
            StatusCode::FORBIDDEN,
            "over TCP this needs --admin-token-file; the control socket has all rights",
        );
    }
    let refusal = problem(
        StatusCode::UNAUTHORIZED,
        "this needs the token: Authorization: Bearer TOKEN",
    );
    ([(header::WWW_AUTHENTICATE, "Bearer")], refusal).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in [
            "localhost",
            "localhost:80",
            "127.0.0.1",
            "10.1.2.3:9000",
            "[::1]",
            "[::1]:80",
        ] {
            assert!(is_literal(good), "{good}");
        }
        for bad in [
            "",
            "evil.com",
            "localhost6",
            "localhost.evil.com",
            "LOCALHOST.",
            "0x7f.1",
            "127.1",
            "2130706433",
            "127.0.0.1.evil.com",
            "127.0.0.1:80:80",
            "127.0.0.1:x",
            "127.0.0.1@evil.com",
            "::1",
            "[::1",
            "[::1]x",
            "[evil.com]",
            "localhost:99999",
            "user@localhost",
            "127.0.0.1:+80",
        ] {
            assert!(!is_literal(bad), "{bad}");
        }
    }
}
