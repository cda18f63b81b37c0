//! Is the answer the right one?

/// The byte at this place of an upload's or download's body.
pub(super) fn pattern(place: u64) -> u8 {
    (place % 251) as u8
}

/// FNV-1a, 32 bit.
pub(super) fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u32 {
    bytes.into_iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// Compares a body with what it must be, piece by piece.
pub(super) enum Checker<'a> {
    /// Exactly these bytes.
    Bytes { want: &'a [u8], at: usize },
    /// This many bytes of the pattern.
    Pattern { want: u64, at: u64 },
    /// Server-sent events with consecutive ids.
    Events(Events),
    /// Anything.
    Any,
}

impl<'a> Checker<'a> {
    pub(super) fn bytes(want: &'a [u8]) -> Self {
        Self::Bytes { want, at: 0 }
    }

    /// The next piece of the body.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<(), String> {
        match self {
            Self::Bytes { want, at } => {
                let rest = &want[*at..];
                if !rest.starts_with(piece) {
                    let same = rest.iter().zip(piece).take_while(|(a, b)| a == b).count();
                    return Err(format!("another body from byte {} on", *at + same));
                }
                *at += piece.len();
                Ok(())
            }
            Self::Pattern { want, at } => {
                for byte in piece {
                    if *at >= *want || *byte != pattern(*at) {
                        return Err(format!("another body from byte {at} on"));
                    }
                    *at += 1;
                }
                Ok(())
            }
            Self::Events(events) => piece.iter().try_for_each(|byte| events.feed(*byte)),
            Self::Any => Ok(()),
        }
    }

    /// The end of the body.
    pub(super) fn end(&self) -> Result<(), String> {
        match self {
            Self::Bytes { want, at } if *at < want.len() => {
                Err(format!("{at} bytes instead of {}", want.len()))
            }
            Self::Pattern { want, at } if at < want => Err(format!("{at} bytes instead of {want}")),
            Self::Events(events) => events.end(),
            Self::Bytes { .. } | Self::Pattern { .. } | Self::Any => Ok(()),
        }
    }
}

/// Longest line of an event stream, in bytes.
const MAX_LINE: usize = 64 * 1024;

/// Reads an event stream (WHATWG HTML, 9.2.6), as far as its ids and ends go.
pub(super) struct Events {
    /// Events that were asked for; `u64::MAX`: as many as come.
    want: u64,
    seen: u64,
    line: Vec<u8>,
    last: Option<u64>,
    /// After the first byte of an event and before its empty line.
    within: bool,
}

impl Events {
    /// A stream that must have this many events with an id; `u64::MAX`: any number.
    pub(super) fn new(want: u64) -> Self {
        Self {
            want,
            seen: 0,
            line: vec![],
            last: None,
            within: false,
        }
    }

    fn end(&self) -> Result<(), String> {
        let Self { want, seen, .. } = *self;
        if self.within {
            Err("the stream ends within an event".into())
        } else if seen < want && want != u64::MAX {
            Err(format!("{seen} events instead of {want}"))
        } else {
            Ok(())
        }
    }

    fn feed(&mut self, byte: u8) -> Result<(), String> {
        if byte != b'\n' {
            self.within = true;
            if byte != b'\r' {
                self.line.push(byte);
            }
            return if self.line.len() > MAX_LINE {
                Err("a line of over 64 KiB".into())
            } else {
                Ok(())
            };
        }
        if self.line.is_empty() {
            self.within = false;
        } else if let Some(id) = self.line.strip_prefix(b"id:") {
            let id: u64 = std::str::from_utf8(id)
                .ok()
                .and_then(|id| id.trim_start().parse().ok())
                .ok_or("an event whose id is no number")?;
            if let Some(last) = self.last
                && last.checked_add(1) != Some(id)
            {
                return Err(format!("event {id} after event {last}"));
            }
            self.last = Some(id);
            self.seen += 1;
        }
        self.line.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a body in pieces of each size.
    fn verdict(make: impl Fn() -> Checker<'static>, body: &[u8]) -> Result<(), String> {
        let mut verdicts: Vec<_> = (1..=body.len().max(1))
            .map(|size| {
                let mut checker = make();
                body.chunks(size)
                    .try_for_each(|piece| checker.feed(piece))
                    .and_then(|()| checker.end())
            })
            .collect();
        verdicts.dedup();
        assert_eq!(verdicts.len(), 1, "pieces make no difference: {verdicts:?}");
        verdicts.remove(0)
    }

    #[test]
    fn bytes() {
        let make = || Checker::bytes(b"hello");
        assert_eq!(verdict(make, b"hello"), Ok(()));
        assert_eq!(verdict(make, b"hell").unwrap_err(), "4 bytes instead of 5");
        assert_eq!(
            verdict(make, b"hellO").unwrap_err(),
            "another body from byte 4 on"
        );
        assert_eq!(
            verdict(make, b"hello!").unwrap_err(),
            "another body from byte 5 on"
        );
        assert!(verdict(make, b"").is_err());
    }

    #[test]
    fn patterns() {
        let make = || Checker::Pattern { want: 300, at: 0 };
        let body: Vec<u8> = (0..301).map(pattern).collect();
        assert_eq!(verdict(make, &body[..300]), Ok(()));
        assert!(verdict(make, &body[..299]).is_err());
        assert!(verdict(make, &body).is_err());
        assert!(verdict(make, &body[1..]).is_err());
    }

    #[test]
    fn events() {
        let make = || Checker::Events(Events::new(u64::MAX));
        let two = || Checker::Events(Events::new(2));
        assert_eq!(verdict(make, b""), Ok(()));
        assert_eq!(verdict(two, b"id: 1\n\nid: 2\n\n"), Ok(()));
        assert_eq!(
            verdict(two, b"id: 1\n\n").unwrap_err(),
            "1 events instead of 2"
        );
        assert_eq!(
            verdict(
                make,
                b": hi\n\nid: 4\r\ndata: x\r\n\r\nid:5\n\ndata: no id\n\nid: 6\n\n"
            ),
            Ok(())
        );
        assert_eq!(
            verdict(make, b"id: 4\n\nid: 6\n\n").unwrap_err(),
            "event 6 after event 4"
        );
        assert_eq!(
            verdict(make, b"id: 4\n\nid: 4\n\n").unwrap_err(),
            "event 4 after event 4"
        );
        assert_eq!(
            verdict(make, b"id: x\n\n").unwrap_err(),
            "an event whose id is no number"
        );
        assert_eq!(
            verdict(make, b"id: 4\n").unwrap_err(),
            "the stream ends within an event"
        );
        assert_eq!(
            verdict(make, b"id: 4\n\ndat").unwrap_err(),
            "the stream ends within an event"
        );
    }

    #[test]
    fn the_hash_is_fnv1a() {
        assert_eq!(fnv1a(*b""), 0x811c_9dc5);
        assert_eq!(fnv1a(*b"foobar"), 0xbf9c_f968);
    }
}
