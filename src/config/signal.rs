//! A signal by its name, for [`Launch`](super::Launch) written out.

use std::str::FromStr;

use nix::sys::signal::Signal;
use serde::{Deserialize, Deserializer, Serializer, de::Error};

// As serde's `with` calls it.
#[expect(clippy::trivially_copy_pass_by_ref)]
pub(super) fn serialize<S: Serializer>(signal: &Signal, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(signal.as_str())
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Signal, D::Error> {
    let name = String::deserialize(from)?;
    Signal::from_str(&name).map_err(|_| D::Error::custom(format!("no signal is called {name}")))
}
