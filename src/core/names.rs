//! Names for numbers that the kernel gives us, and for what has none.

/// Stands for all sockets that a worker bound by itself (`exclusive`, `reusePort`), among its addresses.
pub const OWN_SOCKET: &str = "its own socket";

/// The names of signals 1 to 31 on x86-64 and arm64 (signal(7), "Signal numbering for standard signals").
const SIGNALS: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// The name of a signal, `SIGKILL` style; `signal N` for one without a name.
pub fn signal(number: i32) -> String {
    usize::try_from(number)
        .ok()
        .and_then(|number| SIGNALS.get(number.checked_sub(1)?))
        .map_or_else(|| format!("signal {number}"), |&name| name.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_names_are_the_systems() {
        for number in -1..70 {
            let expected = nix::sys::signal::Signal::try_from(number)
                .map_or_else(|_| format!("signal {number}"), |s| s.as_str().to_owned());
            assert_eq!(signal(number), expected);
        }
    }
}
