//! What can become of a request.

use std::fmt;

/// What became of one request. Each request has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Class {
    /// Answered in full, everything as expected, the connection stays.
    Ok,
    /// Answered in full, and the server said that it closes (`Connection: close`, GOAWAY, a WebSocket close frame) and did so in order.
    OkClose,
    /// Answered in full with `Connection: close`, but then a RST instead of a FIN: on a network that loses packets the RST can destroy the
    /// answer (RFC 9112 section 9.6). Reported, not a loss.
    OkReset,
    /// HTTP/2: `REFUSED_STREAM`, or GOAWAY with a last id below this stream: not processed and safe to send again (RFC 9113 section 8.7).
    /// Reported, not a loss.
    RefusedRetryable,
    /// Connection refused, or the unix socket file is missing.
    Refused,
    /// No connection within the timeout.
    ConnectTimeout,
    /// The connection ended while it was being made (connect or TLS handshake).
    ResetBeforeConnect,
    /// Connected, request written, and not one byte until the timeout.
    NeverAnswered,
    /// FIN instead of an answer.
    FinBeforeByte,
    /// RST instead of an answer.
    RstBeforeByte,
    /// The answer began and did not end: FIN, RST or the timeout within it.
    Truncated,
    /// The answer is complete but wrong: another id, another body, or no valid HTTP.
    WrongBody,
    /// Answered more than once, or bytes after the answer.
    Duplicate,
    /// 5xx, or any other status than the expected one.
    Status,
    /// WebSocket: a close frame instead of the answer to a message.
    CloseFrame,
    /// The load generator itself lacked something (file descriptors, local ports): the run proves nothing. A loss, so that it is seen.
    Local,
}

impl Class {
    /// All classes, in the order of their values.
    pub const ALL: [Self; 16] = [
        Self::Ok,
        Self::OkClose,
        Self::OkReset,
        Self::RefusedRetryable,
        Self::Refused,
        Self::ConnectTimeout,
        Self::ResetBeforeConnect,
        Self::NeverAnswered,
        Self::FinBeforeByte,
        Self::RstBeforeByte,
        Self::Truncated,
        Self::WrongBody,
        Self::Duplicate,
        Self::Status,
        Self::CloseFrame,
        Self::Local,
    ];

    /// Answered in full and right.
    pub const fn is_ok(self) -> bool {
        matches!(self, Self::Ok | Self::OkClose | Self::OkReset)
    }

    /// Counts as lost: neither answered right nor safe to send again.
    pub const fn is_loss(self) -> bool {
        !self.is_ok() && !matches!(self, Self::RefusedRetryable)
    }

    /// A short name, for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::OkClose => "ok+close",
            Self::OkReset => "ok+reset",
            Self::RefusedRetryable => "refused-retryable",
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect timeout",
            Self::ResetBeforeConnect => "reset before connect",
            Self::NeverAnswered => "never answered",
            Self::FinBeforeByte => "FIN before a byte",
            Self::RstBeforeByte => "RST before a byte",
            Self::Truncated => "truncated",
            Self::WrongBody => "wrong body",
            Self::Duplicate => "duplicate",
            Self::Status => "status",
            Self::CloseFrame => "close frame",
            Self::Local => "local",
        }
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Class;

    #[test]
    fn all_is_complete_and_in_order() {
        for (index, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), index);
            assert!(!(class.is_ok() && class.is_loss()));
        }
    }
}
