//! The service manager above us: what it is told, and what it keeps (`sd_notify(3)`, `sd_pid_notify_with_fds(3)`).
//!
//! Without `NOTIFY_SOCKET` nothing here does anything.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::debug;

use rcluster_core::supervisor::{Brief, FleetState, Policy};
use rcluster_sys::listener::Endpoint;

/// Time on top of what a step takes at most.
const MARGIN: Duration = Duration::from_secs(5);
/// Names of what the manager keeps for us begin so.
const PREFIX: &str = "rcluster-";

/// What was said, and when the next sign of life is due.
#[derive(Debug, Default)]
pub(super) struct Manager {
    on: bool,
    said: Option<Brief>,
    /// Interval of signs of life, and the next one.
    watchdog: Option<(Duration, Instant)>,
}

impl Manager {
    /// The manager that the environment names, if it does.
    pub(super) fn of_process() -> Self {
        // Twice as often as it is wanted, as sd_watchdog_enabled(3) advises.
        let every = sd_notify::watchdog_enabled().map(|limit| limit / 2);
        Self {
            on: is_there(),
            said: None,
            watchdog: every.map(|every| (every, Instant::now())),
        }
    }

    /// The same in the next program of this process: the manager knows all of it.
    pub(super) fn resumed(brief: Brief) -> Self {
        Self {
            said: Some(brief),
            ..Self::of_process()
        }
    }

    /// When the loop must turn at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        self.watchdog.map(|(_, next)| next)
    }

    /// The loop turns.
    pub(super) fn turn(&mut self) {
        let Some((every, next)) = &mut self.watchdog else {
            return;
        };
        let now = Instant::now();
        if *next <= now {
            *next = now + *every;
            send(&[NotifyState::Watchdog]);
        }
    }

    /// A stop is announced: it begins after `wait`.
    pub(super) fn leaving(&mut self, policy: &Policy, wait: Duration) {
        if self.on {
            let total = wait + policy.drain_timeout + policy.kill_timeout;
            let status = "serving on until the stop begins (--pre-stop)";
            send(&[
                NotifyState::Stopping,
                NotifyState::Status(status),
                extend(total),
            ]);
        }
    }

    /// Says what has changed.
    pub(super) fn follow(&mut self, brief: Brief, policy: &Policy) {
        if !self.on || self.said == Some(brief) {
            return;
        }
        let before = self.said.replace(brief);
        let was = before.map(|b| b.state);
        let status = line(&brief);
        let mut say = vec![NotifyState::Status(&status)];
        match brief.state {
            FleetState::Booting => say.push(extend(policy.ready_timeout)),
            FleetState::Serving if was != Some(FleetState::Serving) => say.push(NotifyState::Ready),
            FleetState::Reloading => {
                // Only the beginning needs the time, by which the manager tells it from an earlier one.
                if before.and_then(|b| b.reload) != brief.reload {
                    if matches!(was, None | Some(FleetState::Booting)) {
                        say.push(NotifyState::Ready);
                        send(&say);
                        say.clear();
                    }
                    say.push(NotifyState::Reloading);
                    say.extend(NotifyState::monotonic_usec_now());
                }
                say.push(extend(
                    policy.ready_timeout + policy.min_uptime + policy.bake,
                ));
            }
            FleetState::Stopping if was != Some(FleetState::Stopping) => {
                say.push(NotifyState::Stopping);
                say.push(extend(policy.drain_timeout + policy.kill_timeout));
            }
            FleetState::Serving | FleetState::Parked | FleetState::Stopping => {}
        }
        send(&say);
    }
}

fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty())
}

fn extend(time: Duration) -> NotifyState<'static> {
    let micros = (time + MARGIN).as_micros();
    NotifyState::ExtendTimeoutUsec(u32::try_from(micros).unwrap_or(u32::MAX))
}

fn line(brief: &Brief) -> String {
    let Brief {
        state,
        generation,
        reload,
        ready,
        wanted,
        workers,
        failed,
        ..
    } = brief;
    let tail = if *failed {
        "; the last reload failed"
    } else {
        ""
    };
    match (*state, reload) {
        (FleetState::Stopping, _) => format!("stopping: {workers} workers left"),
        (_, Some(new)) => {
            format!(
                "reloading from generation {generation} to {new}: {ready} workers ready, {wanted} wanted"
            )
        }
        (state, None) => {
            format!("{state}: {ready} of {wanted} workers ready, generation {generation}{tail}")
        }
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, event = "systemd_notify_failed", "failed to tell the service manager");
    }
}

/// Whether a socket of this name came from the manager's store, where we had put it.
pub(super) fn is_stored(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Gives the manager a copy of a listening socket. It hands it to the next
/// master, if this one dies or is restarted; until then clients queue.
pub(super) fn keep(socket: &OwnedFd, local: &Endpoint, seat: u32) {
    if !is_there() {
        return;
    }
    let name = name(local, seat);
    let states = [NotifyState::FdStore, NotifyState::FdName(&name)];
    if let Err(error) = sd_notify::notify_with_fds(&states, &[socket.as_fd()]) {
        debug!(%error, event = "systemd_store_failed", "failed to give a socket to the service manager");
    }
}

/// Takes a socket out of the manager's store.
pub(super) fn let_go(local: &Endpoint, seat: u32) {
    if is_there() {
        let name = name(local, seat);
        send(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
    }
}

/// The seat in a name for the store.
pub(super) fn seat_of(name: &str) -> u32 {
    let seat = name
        .rsplit_once('-')
        .and_then(|(_, seat)| seat.parse().ok());
    seat.unwrap_or(0)
}

/// A name for the store: no colon, no control character, at most 255 bytes.
fn name(local: &Endpoint, seat: u32) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '.' {
            c
        } else {
            '_'
        }
    };
    let text: String = local.to_string().chars().map(plain).collect();
    if seat == 0 {
        format!("{PREFIX}{text}")
    } else {
        format!("{PREFIX}{text}-{seat}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_allowed_and_told_apart() {
        let tcp = |port| Endpoint::Tcp {
            ip: None,
            scope: 0,
            port,
            v6_only: false,
        };
        assert_eq!(name(&tcp(80), 0), "rcluster-_____80");
        assert_ne!(name(&tcp(80), 0), name(&tcp(81), 0));
        assert!(is_stored(&name(&tcp(80), 2)) && !is_stored("web.socket"));
        assert_eq!(seat_of(&name(&tcp(80), 0)), 0);
        assert_eq!(seat_of(&name(&tcp(80), 12)), 12);
    }
}
