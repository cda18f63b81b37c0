//! Durations on the command line.

use std::time::Duration;

/// Longest duration that an option takes: 365 days. Sums of a few of them are far from any overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Units of a duration, the largest first, in milliseconds.
const UNITS: [(&str, u128); 5] = [
    ("d", 24 * 60 * 60 * 1000),
    ("h", 60 * 60 * 1000),
    ("m", 60 * 1000),
    ("s", 1000),
    ("ms", 1),
];

/// `250ms`, `5s`, `1m30s`: whole numbers, each with its unit, the largest unit first, each at most once; a plain number is
/// seconds. At most [`LONGEST`].
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let too_long = || format!("`{text}` is too long: at most 365d");
    let ms = milliseconds(text).ok_or_else(|| {
        format!("invalid duration `{text}`: write whole numbers with d, h, m, s or ms, the largest unit first, as in 250ms, 5s or 1m30s; a plain number is seconds")
    })?;
    let ms = u64::try_from(ms).map_err(|_| too_long())?;
    let duration = Duration::from_millis(ms);
    (duration <= LONGEST)
        .then_some(duration)
        .ok_or_else(too_long)
}

/// The milliseconds of a text in that form; the largest number for one that is too large to be counted.
fn milliseconds(text: &str) -> Option<u128> {
    let (mut rest, mut left) = (text, &UNITS[..]);
    let mut sum = 0u128;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit());
        let (number, after) = rest.split_at(end.unwrap_or(rest.len()));
        if number.is_empty() || (number.len() > 1 && number.starts_with('0')) {
            return None;
        }
        let name = after.find(|c: char| c.is_ascii_digit());
        let (name, after) = after.split_at(name.unwrap_or(after.len()));
        let name = if name.is_empty() && rest == text {
            "s"
        } else {
            name
        };
        let at = left.iter().position(|(unit, _)| *unit == name)?;
        // Digits alone that do not fit are too many.
        let number = number.parse::<u128>().unwrap_or(u128::MAX);
        sum = sum.saturating_add(number.saturating_mul(left[at].1));
        left = &left[at + 1..];
        rest = after;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("0", 0),
            ("5", 5000),
            ("0s", 0),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("90m", 5_400_000),
            ("365d", 31_536_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "", "s", "1s1m", "1s1s", "+5", "-5", "00s", "05", "0.5", "0.5s", "1 s", "5 ", "5sec",
            "1m30", "1e3", "inf", "5S", "\u{665}s",
        ] {
            let told = duration(text).unwrap_err();
            assert!(told.starts_with("invalid duration"), "{text}: {told}");
        }
        let huge = "9".repeat(60);
        for text in ["366d", "365d1ms", "18446744073709551615d", &huge] {
            assert!(
                duration(text).unwrap_err().contains("at most 365d"),
                "{text}"
            );
        }
    }
}
