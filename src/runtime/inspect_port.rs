//! The inspector's port of each worker, where `--inspect` or one of its kin is in `NODE_OPTIONS` or on node's command line.
//!
//! As under Node's cluster (`createWorkerProcess` in lib/internal/cluster/primary.js) workers count up from the port that
//! was asked for. There the primary has that port itself; here the first worker has it.

use std::ffi::OsString;

use rcluster_core::supervisor::WorkerId;

/// Node's own (`debug_options` in `src/node_options.h`).
const DEFAULT: u16 = 9229;
/// Where the count goes on after 65535.
const LOWEST: u64 = 1024;

/// The port of the first worker; `None`: nobody asked for an inspector. What node reads later counts: its command line.
pub(super) fn asked(node_options: &str, args: &[OsString]) -> Option<u16> {
    let words = node_options
        .split_whitespace()
        .map(|word| word.trim_matches('"').to_owned());
    let args = args.iter().map(|arg| arg.to_string_lossy().into_owned());
    let mut words = words.chain(args).peekable();
    let mut port = None;
    while let Some(word) = words.next() {
        let (name, value) = word
            .split_once('=')
            .map_or((&*word, None), |(name, value)| {
                (name, Some(value.to_owned()))
            });
        let value = match name {
            "--inspect" | "--inspect-brk" | "--inspect-wait" => value,
            "--inspect-port" | "--debug-port" => value.or_else(|| words.next()),
            // `--inspect-publish-uid`, and what is to come.
            name if name.starts_with("--inspect") => None,
            _ => continue,
        };
        let given = value.and_then(|value| {
            let (_, port) = value.rsplit_once(':').unwrap_or(("", &value));
            port.parse().ok()
        });
        port = given.or(port).or(Some(DEFAULT));
    }
    port
}

/// A worker's port. 0 lets the kernel choose for each.
pub(super) fn of_worker(base: u16, id: WorkerId) -> u16 {
    if base == 0 {
        return 0;
    }
    let above = u64::from(base) + id.0.saturating_sub(1);
    let most = u64::from(u16::MAX);
    if above <= most {
        return above as u16;
    }
    (LOWEST + (above - most - 1) % (most - LOWEST + 1)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_port_that_is_named_is_the_first_workers() {
        let of = |options: &str, args: &[&str]| {
            asked(
                options,
                &args.iter().map(OsString::from).collect::<Vec<_>>(),
            )
        };
        assert_eq!(of("--max-old-space-size=100", &["--require", "x"]), None);
        assert_eq!(of("--inspect", &[]), Some(9229));
        assert_eq!(of("--inspect=0", &[]), Some(0));
        assert_eq!(of("--inspect=9300", &[]), Some(9300));
        assert_eq!(of("--inspect-brk=127.0.0.1:9300", &[]), Some(9300));
        assert_eq!(of("--inspect-wait=[::1]:9300", &[]), Some(9300));
        assert_eq!(of("\"--inspect=0.0.0.0\"", &[]), Some(9229));
        assert_eq!(of("--inspect --inspect-port 9300", &[]), Some(9300));
        assert_eq!(of("--inspect=9300", &["--inspect-port=9400"]), Some(9400));
        assert_eq!(
            of("--inspect=9300", &["--inspect-publish-uid=http"]),
            Some(9300)
        );
    }

    #[test]
    fn workers_count_up_and_go_on_at_1024() {
        let of = |base, id| of_worker(base, WorkerId(id));
        assert_eq!([of(9229, 1), of(9229, 2), of(9229, 40)], [9229, 9230, 9268]);
        assert_eq!([of(0, 1), of(0, 7)], [0, 0]);
        assert_eq!(
            [of(65535, 1), of(65535, 2), of(65535, 3)],
            [65535, 1024, 1025]
        );
        assert_eq!(of(65535, 1 + 64512), 65535);
        assert_eq!(of(65535, 2 + 64512), 1024);
    }
}
