//! Names for numbers that the kernel gives us, and for what has none.

/// Stands for all sockets that a worker bound by itself (`exclusive`, `reusePort`), among its addresses.
pub const OWN_SOCKET: &str = "its own socket";

/// The name of a signal, `SIGKILL` style; `signal N` for one without a name.
pub fn signal(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number)
        .map_or_else(|_| format!("signal {number}"), |s| s.as_str().to_owned())
}

/// A duration as people write it: `250ms`, `30s`, `1.5s`.
pub fn duration(duration: std::time::Duration) -> String {
    let ms = duration.as_millis();
    if ms.is_multiple_of(1000) {
        format!("{}s", ms / 1000)
    } else if ms < 1000 {
        format!("{ms}ms")
    } else {
        format!("{:.1}s", duration.as_secs_f64())
    }
}
