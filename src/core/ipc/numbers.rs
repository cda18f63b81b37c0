//! Values of a message as they are read: cut at their bounds, so that nothing longer is ever kept.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};

use super::bounds::{MAX_BUCKETS, MAX_CLASSES, MAX_COUNT, MAX_NAME, MAX_TEXT};
use crate::escape;

/// A count. Sums of some thousand of the largest would not fit: whoever adds them up saturates.
pub(super) fn count<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    Ok(u64::deserialize(from)?.min(MAX_COUNT))
}

/// A share in thousandths.
pub(super) fn thousandths<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    Ok(u32::deserialize(from)?.min(1000))
}

/// Counts by class.
pub(super) fn classes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
    from.deserialize_seq(First(MAX_CLASSES))
}

/// Counts by bucket.
pub(super) fn buckets<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
    from.deserialize_seq(First(MAX_BUCKETS))
}

/// A short name.
pub(super) fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    cut(from, MAX_NAME)
}

/// A message or a stack.
pub(super) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    cut(from, MAX_TEXT)
}

fn cut<'de, D: Deserializer<'de>>(from: D, max: usize) -> Result<String, D::Error> {
    let mut text = String::deserialize(from)?;
    escape::cut(&mut text, max);
    Ok(text)
}

/// The first counts of a list; the rest is read and dropped.
struct First(usize);

impl<'de> Visitor<'de> for First {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of counts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u64>, A::Error> {
        let mut counts = Vec::new();
        while counts.len() < self.0 {
            match list.next_element::<u64>()? {
                Some(count) => counts.push(count.min(MAX_COUNT)),
                None => return Ok(counts),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(counts)
    }
}
