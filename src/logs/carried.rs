//! What outlives the program when a master is replaced in place: the pipes with the lines that have not
//! ended, and the last lines of each slot.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::render::Origin;

/// Where a stream stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Who prints.
    pub origin: Origin,
    /// What was read of a line that has not ended.
    #[serde(with = "text")]
    pub rest: Vec<u8>,
}

/// A stream that nobody reads at the moment.
#[derive(Debug)]
pub struct Held {
    /// Our end.
    pub pipe: OwnedFd,
    /// Where it stands.
    pub begun: Begun,
}

/// What was read at one time, and is shown by `rcluster logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub(super) origin: Origin,
    #[serde(with = "text")]
    pub(super) bytes: Vec<u8>,
    #[serde(default)]
    pub(super) cut: bool,
}

/// Bytes as Base64: a third longer, where an array of numbers is four times as long.
mod text {
    use super::{Deserialize, Deserializer, Serializer};
    use data_encoding::BASE64;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        BASE64.decode(text.as_bytes()).map_err(super::wrong)
    }
}

fn wrong<E: Error>(error: data_encoding::DecodeError) -> E {
    E::custom(error)
}
