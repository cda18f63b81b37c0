//! The vocabulary (`lib/internal/cluster/child.js` and `primary.js`).

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use thiserror::Error;

use super::{
    bounds::{MAX_ADDRESS, MAX_DATA, MAX_KEY, MAX_TREE},
    numbers::{name, text},
};

mod shim;

pub use shim::{ShimMessage, Told};

/// A line that is no message.
#[derive(Debug, Error)]
#[error("malformed message: {0}")]
pub struct Malformed(String);

/// What kind of socket a worker asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AddressType {
    /// TCP; 4 in Node, which says so for an unspecified address too.
    Tcp4,
    /// TCP; 6 in Node.
    Tcp6,
    /// A Unix path, abstract when it begins with NUL; -1 in Node.
    Unix,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

impl AddressType {
    /// Whether it is a datagram socket: the handle's `type` differs.
    pub fn is_udp(self) -> bool {
        matches!(self, Self::Udp4 | Self::Udp6)
    }

    fn parse(value: &Value) -> Option<Self> {
        match (value.as_i64(), value.as_str()) {
            (Some(4), _) => Some(Self::Tcp4),
            (Some(6), _) => Some(Self::Tcp6),
            (Some(-1), _) => Some(Self::Unix),
            (None, None) if value.is_null() => Some(Self::Tcp4), // listen({ fd })
            (_, Some("udp4")) => Some(Self::Udp4),
            (_, Some("udp6")) => Some(Self::Udp6),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tcp4 => "4",
            Self::Tcp6 => "6",
            Self::Unix => "-1",
            Self::Udp4 => "udp4",
            Self::Udp6 => "udp6",
        }
    }
}

/// `act: "queryServer"`: a worker wants a listening socket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// To be echoed as `ack`.
    pub seq: Value,
    /// An IP address, a path, or `None` for "any".
    pub address: Option<String>,
    /// The port; 0 for any; -1 with a path.
    pub port: i32,
    /// The message had none, as that of `dgram.bind()`: `port` is 0.
    #[serde(default)]
    pub no_port: bool,
    /// What kind of socket.
    pub address_type: AddressType,
    /// A file descriptor of the primary, if the app asked for one.
    pub fd: Option<i64>,
    /// Tells several `listen(0)` of one worker apart.
    pub index: u64,
    /// libuv's bind flags: 1 is `UV_TCP_IPV6ONLY`, 4 is `UV_UDP_REUSEADDR`.
    pub flags: u32,
    /// The backlog that the app asked for, if it is a positive number.
    pub backlog: Option<u32>,
    /// What the first worker of a key says is echoed to all (TLS ticket keys).
    pub data: Value,
    /// Everybody may read from a Unix socket.
    #[serde(default)]
    pub readable_all: bool,
    /// Everybody may write to a Unix socket.
    #[serde(default)]
    pub writable_all: bool,
}

impl Query {
    /// Permissions that are added to a Unix socket's file (`uv_pipe_chmod` of libuv).
    pub fn file_mode(&self) -> u32 {
        let all = |on: bool, mode| if on { mode } else { 0 };
        all(self.readable_all, 0o444) | all(self.writable_all, 0o222)
    }

    /// The key of its listener, made as Node's primary makes it.
    pub fn key(&self) -> String {
        let address = self.address.as_deref().unwrap_or("null");
        let fd = self
            .fd
            .map_or_else(|| "undefined".to_owned(), |fd| fd.to_string());
        let port = if self.no_port {
            // Node counts the `index` of these apart from those of port 0.
            "undefined".to_owned()
        } else {
            self.port.to_string()
        };
        let mut key = format!("{address}:{port}:{}:{fd}", self.address_type.name());
        if self.port == 0 {
            key.push(':');
            key.push_str(&self.index.to_string());
        }
        key
    }
}

/// `act: "listening"`: a server of the app listens.
#[derive(Clone, Debug, PartialEq)]
pub struct Listening {
    /// As in the query.
    pub address: Option<String>,
    /// The real port, where the query said 0.
    pub port: i32,
    /// As in the query.
    pub address_type: AddressType,
}

/// A message from a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum Inbound {
    /// Node has started.
    Online,
    /// Wants a listening socket.
    Query(Query),
    /// A query whose address or data are too long; it is refused under this seq.
    TooLong(Value),
    /// A server listens.
    Listening(Listening),
    /// It closed the handle of this key.
    Close(String),
    /// The app called `worker.disconnect()` or `.kill()`; waits for an ack of this seq.
    ExitedAfterDisconnect(Value),
    /// It took the handle in flight.
    HandleAck,
    /// It did not take the handle in flight.
    HandleNack,
    /// It sends us a handle.
    Handle,
    /// Asks how many of the sockets that it sent with this key are open here.
    SocketCount(String),
    /// Wants to hear when the last of the sockets that it sent with this key is closed here.
    SocketsClosed(String),
    /// From the shim.
    Shim(ShimMessage),
    /// `process.send('ready')`.
    Ready,
    /// Its answer to a connection that it was handed.
    Connection {
        /// Of the connection.
        seq: u64,
        /// Whether its server took it; if not, it has not touched it.
        accepted: bool,
    },
    /// Any other message of the app.
    App,
    /// An internal message that we do not know.
    Unknown,
}

impl Inbound {
    /// Reads one line. What is kept of it is bounded, see [`bounds`](super::bounds).
    ///
    /// # Errors
    /// It is no JSON.
    pub fn parse(line: &[u8]) -> Result<Self, Malformed> {
        let malformed = |e: serde_json::Error| Malformed(e.to_string());
        if line == br#""ready""# {
            return Ok(Self::Ready);
        }
        // Every internal message holds this; looking is cheaper than parsing,
        // and most lines are the app's own.
        let internal = line.windows(6).any(|w| w == b"\"NODE_");
        let object = line.trim_ascii_start().starts_with(b"{");
        if !internal || !object {
            // RawValue checks the syntax without building anything, at any depth.
            return serde_json::from_slice::<&RawValue>(line)
                .map(|_| Self::App)
                .map_err(malformed);
        }
        let Ok(head) = serde_json::from_slice::<Head<'_>>(line) else {
            // A key that comes twice, or no JSON.
            return serde_json::from_slice::<&RawValue>(line)
                .map(|_| Self::Unknown)
                .map_err(malformed);
        };
        let cmd = head.cmd.and_then(word);
        let act = head.act.and_then(word);
        Ok(match (cmd.as_deref(), act.as_deref()) {
            (Some("NODE_HANDLE_ACK"), _) => Self::HandleAck,
            (Some("NODE_HANDLE_NACK"), _) => Self::HandleNack,
            (Some("NODE_HANDLE"), _) => Self::Handle,
            // `SocketListSend` in `lib/internal/socket_list.js`, of a server whose sockets were sent here.
            (Some("NODE_SOCKET_GET_COUNT" | "NODE_SOCKET_NOTIFY_CLOSE"), _)
                if line.len() > MAX_TREE =>
            {
                Self::Unknown
            }
            (Some("NODE_SOCKET_GET_COUNT"), _) => {
                key(line).map_or(Self::Unknown, Self::SocketCount)
            }
            (Some("NODE_SOCKET_NOTIFY_CLOSE"), _) => {
                key(line).map_or(Self::Unknown, Self::SocketsClosed)
            }
            (Some("NODE_RCLUSTER"), Some("error")) => {
                serde_json::from_slice(line).map_or(Self::Unknown, |error: ErrorText| {
                    Self::Shim(ShimMessage::Error {
                        name: error.name,
                        message: error.message,
                        stack: error.stack,
                        handled: error.handled,
                    })
                })
            }
            (Some("NODE_RCLUSTER"), Some("fault")) => {
                serde_json::from_slice(line).map_or(Self::Unknown, |error: ErrorText| {
                    Self::Shim(ShimMessage::Fault {
                        message: error.message,
                        stack: error.stack,
                    })
                })
            }
            (Some("NODE_CLUSTER"), Some("queryServer")) if line.len() > MAX_TREE => head
                .seq
                .and_then(number)
                .map_or(Self::Unknown, Self::TooLong),
            (Some("NODE_CLUSTER" | "NODE_RCLUSTER"), _) if line.len() > MAX_TREE => Self::Unknown,
            (Some("NODE_CLUSTER"), _) => {
                Self::cluster(&serde_json::from_slice(line).map_err(malformed)?)
            }
            (Some("NODE_RCLUSTER"), _) => serde_json::from_slice::<Value>(line)
                .and_then(ShimMessage::deserialize)
                .map_or(Self::Unknown, Self::Shim),
            (Some(cmd), _) if cmd.starts_with("NODE_") => Self::Unknown,
            (Some(_) | None, _) => Self::App,
        })
    }

    fn cluster(value: &Value) -> Self {
        match value.get("act").and_then(Value::as_str) {
            Some("online") => Self::Online,
            Some("queryServer") => match query(value) {
                Some(query) if is_long(&query) => Self::TooLong(query.seq),
                Some(query) => Self::Query(query),
                None => Self::Unknown,
            },
            Some("listening") => listening(value).map_or(Self::Unknown, Self::Listening),
            Some("close") => value
                .get("key")
                .and_then(Value::as_str)
                .filter(|key| key.len() <= MAX_KEY)
                .map_or(Self::Unknown, |key| Self::Close(key.to_owned())),
            Some("exitedAfterDisconnect") => {
                let seq = value.get("seq").filter(|seq| seq.is_number());
                Self::ExitedAfterDisconnect(seq.cloned().unwrap_or(Value::Null))
            }
            // The only one that says what became of something of ours (`onconnection` in `child.js`).
            None => match (value.get("ack"), value.get("accepted")) {
                (Some(seq), Some(Value::Bool(accepted))) => {
                    seq.as_u64().map_or(Self::Unknown, |seq| Self::Connection {
                        seq,
                        accepted: *accepted,
                    })
                }
                (_, _) => Self::Unknown,
            },
            Some(_) => Self::Unknown,
        }
    }
}

/// What of a message is read first; the rest may be as long as a line.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default)]
    cmd: Option<&'a RawValue>,
    #[serde(borrow, default)]
    act: Option<&'a RawValue>,
    #[serde(borrow, default)]
    seq: Option<&'a RawValue>,
}

/// An error of the app or of the shim.
#[derive(Deserialize)]
struct ErrorText {
    #[serde(default, deserialize_with = "name")]
    name: String,
    #[serde(default, deserialize_with = "text")]
    message: String,
    #[serde(default, deserialize_with = "text")]
    stack: String,
    #[serde(default)]
    handled: bool,
}

/// A short word.
fn word(raw: &RawValue) -> Option<String> {
    let text = raw.get();
    (text.len() <= 64).then(|| serde_json::from_str(text).ok())?
}

/// A whole number.
fn number(raw: &RawValue) -> Option<Value> {
    let number: Option<u64> = raw.get().parse().ok();
    number.map(Value::from)
}

fn is_long(query: &Query) -> bool {
    let length = query.address.as_ref().map_or(0, String::len);
    length > MAX_ADDRESS || (!query.data.is_null() && query.data.to_string().len() > MAX_DATA)
}

fn address(value: &Value) -> Option<String> {
    field(value, "address")
}

fn field(value: &Value, name: &str) -> Option<String> {
    value.get(name).and_then(Value::as_str).map(str::to_owned)
}

fn key(line: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(line).ok()?;
    field(&value, "key")
}

fn port(value: &Value) -> Option<i32> {
    let port = value.get("port")?;
    // Node passes the port as the app wrote it.
    let port = port
        .as_i64()
        .or_else(|| port.as_str().and_then(|p| p.parse().ok()))
        .or_else(|| port.is_null().then_some(-1))?;
    i32::try_from(port)
        .ok()
        .filter(|p| (-1..=65_535).contains(p))
}

fn query(value: &Value) -> Option<Query> {
    let address_type = AddressType::parse(value.get("addressType")?)?;
    // `SharedHandle` in lib/internal/cluster/shared_handle.js passes it on, and `bind` takes nothing for 0.
    let no_port = address_type.is_udp() && value.get("port").is_none_or(Value::is_null);
    Some(Query {
        seq: value.get("seq").filter(|seq| seq.is_number())?.clone(),
        address: address(value),
        port: if no_port {
            0
        } else {
            port(value).unwrap_or(-1)
        },
        no_port,
        address_type,
        fd: value
            .get("fd")
            .and_then(Value::as_i64)
            .filter(|fd| *fd >= 0),
        index: value.get("index").and_then(Value::as_u64).unwrap_or(0),
        flags: value
            .get("flags")
            .and_then(Value::as_u64)
            .and_then(|f| u32::try_from(f).ok())
            .unwrap_or(0),
        backlog: value
            .get("backlog")
            .and_then(Value::as_u64)
            .and_then(|b| u32::try_from(b).ok())
            .filter(|b| *b > 0),
        data: value.get("data").cloned().unwrap_or(Value::Null),
        readable_all: value.get("readableAll") == Some(&Value::Bool(true)),
        writable_all: value.get("writableAll") == Some(&Value::Bool(true)),
    })
}

fn listening(value: &Value) -> Option<Listening> {
    Some(Listening {
        address: address(value).filter(|address| address.len() <= MAX_ADDRESS),
        port: port(value).unwrap_or(-1),
        address_type: AddressType::parse(value.get("addressType")?)?,
    })
}

#[cfg(test)]
mod tests;
