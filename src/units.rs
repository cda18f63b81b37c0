//! Numbers for people, the same in every command.

use std::time::Duration;

/// Bytes, in three digits or so.
pub(crate) fn bytes(n: u64) -> String {
    bytesize::ByteSize(n).display().iec_short().to_string()
}

/// A time span in its two largest units.
pub(crate) fn span(ms: u64) -> String {
    let whole = if ms < 1000 { ms } else { ms / 1000 * 1000 };
    let text = humantime::format_duration(Duration::from_millis(whole)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Microseconds as milliseconds.
pub(crate) fn delay(us: u64) -> String {
    if us < 10_000 {
        format!("{}.{}ms", us / 1000, us % 1000 / 100)
    } else {
        format!("{}ms", us / 1000)
    }
}

/// A number a second.
pub(crate) fn rate(per_s: f64) -> String {
    if per_s < 9.95 {
        format!("{per_s:.1}")
    } else {
        format!("{per_s:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(span(90_061_001), "1day 1h");
        assert_eq!(span(512), "512ms");
        assert_eq!(delay(1_250), "1.2ms");
        assert_eq!(delay(45_999), "45ms");
        assert_eq!(
            (rate(0.04), rate(9.94), rate(9.96)),
            ("0.0".into(), "9.9".into(), "10".into())
        );
        assert_eq!(bytes(64 * 1024 * 1024), "64.0M");
    }
}
