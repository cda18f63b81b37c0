//! Bytes as text, for what is written out: each byte is the character of its
//! number (ISO 8859-1). Most bytes here are JSON and stay readable.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    to.serialize_str(&text)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(from)?;
    let bytes = text.chars().map(u8::try_from);
    bytes.collect::<Result<_, _>>().map_err(D::Error::custom)
}
