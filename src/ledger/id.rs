//! Names of requests.

use std::fmt;
use std::str::FromStr;

/// Bits of the sequence number; the rest is the client's number.
const SEQ_BITS: u32 = 40;

/// One request: the number of its client and its sequence number there, from 1. Written `CLIENT.SEQ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

impl Id {
    /// An id. The client's number has 24 bits, the sequence number 40; higher bits are dropped.
    pub const fn new(client: u32, seq: u64) -> Self {
        Self(((client as u64) << SEQ_BITS) | (seq & ((1 << SEQ_BITS) - 1)))
    }

    /// The client's number.
    pub const fn client(self) -> u32 {
        (self.0 >> SEQ_BITS) as u32
    }

    /// The sequence number within its client, from 1.
    pub const fn seq(self) -> u64 {
        self.0 & ((1 << SEQ_BITS) - 1)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.client(), self.seq())
    }
}

impl serde::Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text is no id.
#[derive(Debug, thiserror::Error)]
#[error("not an id of the form CLIENT.SEQ")]
pub struct BadId;

impl FromStr for Id {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let (client, seq) = text.split_once('.').ok_or(BadId)?;
        let client: u32 = client.parse().map_err(|_| BadId)?;
        let seq: u64 = seq.parse().map_err(|_| BadId)?;
        if client >= 1 << (64 - SEQ_BITS) || seq >= 1 << SEQ_BITS {
            return Err(BadId);
        }
        Ok(Self::new(client, seq))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trip(client in 0u32..1 << 24, seq in 0u64..1 << 40) {
            let id = Id::new(client, seq);
            prop_assert_eq!((id.client(), id.seq()), (client, seq));
            prop_assert_eq!(id.to_string().parse::<Id>().unwrap(), id);
        }

        #[test]
        fn any_text_is_an_id_or_an_error(text in ".{0,30}") {
            if let Ok(id) = text.parse::<Id>() {
                prop_assert!(id.to_string().len() <= text.len());
            }
        }
    }

    #[test]
    fn out_of_range_is_refused() {
        for text in [
            "",
            ".",
            "1",
            "1.",
            ".1",
            "16777216.1",
            "1.1099511627776",
            "-1.1",
            "1.1.1",
        ] {
            assert!(text.parse::<Id>().is_err(), "{text}");
        }
    }
}
